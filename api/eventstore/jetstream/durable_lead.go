package jetstream

import (
	"context"
	"errors"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/group"
)

// lead is the member that coordinates its group: it reads the events, and writes
// the records. The lock of its member guards it.
type lead struct {
	d       *durable
	machine *group.Machine
	epoch   uint64
	// life ends when another follows.
	life context.Context
	stop context.CancelFunc
	// sequences are those of the records that were written last.
	main   uint64
	shards map[int]uint64
	// mains takes the next record to be written; wanted wakes the reader.
	mains  chan group.Main
	wanted chan struct{}
	// wrote is when a record was written last.
	wrote time.Time
	// told is called when the group was handed over.
	told func()
	// kept is the memory of the events that the machine keeps.
	kept kept
}

// depose ends what the member does as the coordinator. The lock is held.
func (d *durable) depose() {
	if l := d.lead; l != nil {
		l.stop()
		if l.told != nil {
			l.told()
		}
		l.kept.leave(0)
		d.lead = nil
		d.look = true
	}
}

// handOver ends the lead once all is written. The lock is held.
func (l *lead) handOver(left group.Leave, told func()) {
	l.told = told
	l.machine.Hear(time.Now(), group.ToCoordinator{Epoch: l.epoch, Member: left.Member, Request: &group.Request{Kind: group.KindLeave, Have: left.Have}})
	l.machine.Close()
}

// flush does what the machine wants. The lock is held.
func (l *lead) flush(now time.Time) {
	d := l.d
	if d.lead != l || l.life.Err() != nil {
		return
	}
	for _, w := range l.machine.Shards() {
		d.spawn(func() { l.writeShard(w) })
	}
	if main, is := l.machine.Main(); is {
		l.mains <- main
	}
	for _, find := range l.machine.Finds() {
		d.spawn(func() { l.find(find) })
	}
	for _, said := range l.machine.Messages() {
		if said.Member == d.id {
			d.hearDown(now, said)
		} else {
			d.sendDown(said)
		}
	}
	l.kept.leave(int64(l.machine.Kept()))
	if l.machine.WantMore() {
		select {
		case l.wanted <- struct{}{}:
		default:
		}
	}
}

// write writes the record, one write after another.
func (l *lead) write() {
	d := l.d
	for {
		var main group.Main
		select {
		case <-l.life.Done():
			return
		case main = <-l.mains:
		}
		written, err := d.store.replaceFor(l.life, durableSubject(d.store.config.EventsStream, d.opts.Name), l.main, group.Encode(main))
		d.mu.Lock()
		if l.settled(err) {
			l.main, d.seen, l.wrote = written, written, time.Now()
			l.machine.Committed(l.wrote)
			if l.machine.Closed() {
				_ = d.store.nc.Publish(d.group.Subject, []byte(wordLook))
				d.depose()
			}
			l.flush(l.wrote)
		}
		d.mu.Unlock()
	}
}

func (l *lead) writeShard(w group.ShardWrite) {
	d := l.d
	data := group.Encode(w.Shard)
	d.mu.Lock()
	before := l.shards[w.Number]
	d.mu.Unlock()
	written, err := d.store.replaceFor(l.life, shardSubject(d.store.config.EventsStream, d.opts.Name, w.Number), before, data)
	d.mu.Lock()
	defer d.mu.Unlock()
	if l.settled(err) {
		l.shards[w.Number] = written
		now := time.Now()
		l.machine.ShardCommitted(now, w.Number)
		l.flush(now)
	}
}

// settled says whether a write is stored and the lead goes on. The lock is held.
func (l *lead) settled(err error) bool {
	d := l.d
	if d.lead != l || l.life.Err() != nil {
		return false
	}
	switch {
	case err == nil:
		return true
	case errors.Is(err, errReplaced):
		d.depose()
	default:
		// Trying again is no use.
		d.end(err)
		d.depose()
	}
	d.wake()
	return false
}

// replaceFor is replace for as long as the lead lasts.
func (s *Store) replaceFor(life context.Context, subject string, before uint64, data []byte) (uint64, error) {
	for {
		ctx, cancel := context.WithTimeout(life, s.config.Timeout)
		written, err := s.replace(ctx, subject, before, data)
		cancel()
		// A stream that is full may have room later.
		passes := isAway(err) || errors.Is(err, eventstore.ErrStoreFull)
		if err == nil || life.Err() != nil || s.nc.IsClosed() || !passes {
			return written, err
		}
		if err := pause(life, retryWait); err != nil {
			return 0, err
		}
	}
}
