package jetstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
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
}

// looksAtOnce is how many records are read or written at once.
const looksAtOnce = 16

// atOnce does something with each number, some at a time. What it answers is done
// one after another.
func atOnce(numbers []int, do func(int) (func(), error)) error {
	var working sync.WaitGroup
	var mu sync.Mutex
	var failed error
	slots := make(chan struct{}, looksAtOnce)
	for _, number := range numbers {
		slots <- struct{}{}
		working.Go(func() {
			defer func() { <-slots }()
			then, err := do(number)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = errors.Join(failed, err)
				return
			}
			then()
		})
	}
	working.Wait()
	return failed
}

// takeOver makes the member the coordinator, if no other is faster.
func (d *durable) takeOver(main group.Main, sequence uint64) {
	l, err := d.win(d.life, main, sequence)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.looking = false
	switch {
	case err == nil && d.life.Err() == nil:
		d.lead = l
		d.spawn(l.write)
		d.spawn(l.read)
		d.spawn(l.watch)
		if d.told != nil {
			l.handOver(d.member.End(), d.told)
		}
		d.speak(time.Now())
	case errors.Is(err, eventstore.ErrNoDurable), errors.Is(err, eventstore.ErrPermissionDenied), errors.Is(err, eventstore.ErrDurableAhead), errors.Is(err, eventstore.ErrTooLarge):
		d.end(err)
	default:
		d.look = true
	}
	d.wake()
}

// win writes the member into the record, and takes over the shards. Each of them
// is written once, so that no earlier coordinator can write it any more.
func (d *durable) win(life context.Context, main group.Main, sequence uint64) (*lead, error) {
	s := d.store
	most, err := s.recordBytes()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(life, s.config.Timeout)
	defer cancel()
	if err := s.sameStream(ctx, &main); err != nil {
		return nil, err
	}
	main.Epoch++
	main.Coordinator = d.id
	l := &lead{d: d, epoch: main.Epoch, main: sequence, shards: map[int]uint64{}, mains: make(chan group.Main, 1), wanted: make(chan struct{}, 1)}
	if err := l.claim(ctx, &main); err != nil {
		return nil, err
	}
	d.mu.Lock()
	d.member.Follow(time.Now(), main.Epoch, d.id)
	d.mu.Unlock()
	offset, err := s.clockOffset(ctx, l.main)
	if err != nil {
		return nil, err
	}
	shards, err := l.takeShards(life, &main)
	if err != nil {
		return nil, err
	}
	l.machine = group.New(group.Config{Offset: offset, Leased: l.wrote, MaxShardBytes: most - most/10}, main, shards, time.Now())
	l.life, l.stop = context.WithCancel(d.life)
	// It fails when the connection is lost, and then they find out.
	_ = s.nc.Publish(d.group.Subject, []byte(wordLook))
	return l, nil
}

// claim writes the record while the member takes over: wrote is when it was sent.
func (l *lead) claim(ctx context.Context, main *group.Main) error {
	sent := time.Now()
	main.Revision++
	written, err := l.d.store.replace(ctx, durableSubject(l.d.store.config.EventsStream, l.d.opts.Name), l.main, group.Encode(*main))
	if err != nil {
		return err
	}
	l.main, l.wrote = written, sent
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	l.d.seen = written
	return nil
}

// takeShards takes over the shards, some at a time. Others wait for as long as the
// record is written meanwhile.
func (l *lead) takeShards(life context.Context, main *group.Main) (map[int]group.Shard, error) {
	shards := map[int]group.Shard{}
	for some := range slices.Chunk(main.Shards.List(), looksAtOnce) {
		ctx, cancel := context.WithTimeout(life, l.d.store.config.Timeout)
		epoch := *main
		err := atOnce(some, func(number int) (func(), error) {
			shard, written, err := l.d.fence(ctx, epoch, number)
			return func() { shards[number], l.shards[number] = shard, written }, err
		})
		if err == nil && time.Since(l.wrote) > group.Stale/3 {
			err = l.claim(ctx, main)
		}
		cancel()
		if err != nil {
			return nil, err
		}
	}
	return shards, nil
}

// Bounds of a record. Out and Open of a full window take the lower one.
const (
	minRecordBytes = 24 << 10
	maxRecordBytes = 900 << 10
)

// recordBytes is how large a record may be, with what else a message has.
func (s *Store) recordBytes() (int, error) {
	most := int(s.nc.MaxPayload()) - 8<<10
	if most < minRecordBytes {
		return 0, fmt.Errorf("%w: the server takes messages of %d bytes at most, and durable subscriptions need %d: raise its max_payload",
			eventstore.ErrTooLarge, s.nc.MaxPayload(), minRecordBytes+8<<10)
	}
	return min(most, maxRecordBytes), nil
}

// fence takes over a shard.
func (d *durable) fence(ctx context.Context, main group.Main, number int) (group.Shard, uint64, error) {
	for {
		shard, sequence, err := d.store.readShard(ctx, d.opts.Name, number)
		if err != nil {
			return shard, 0, err
		}
		if shard.Epoch > main.Epoch {
			return shard, 0, errReplaced
		}
		if shard.Key != main.Key {
			shard = group.Shard{Key: main.Key}
		}
		shard.Epoch = main.Epoch
		shard.Revision++
		written, err := d.store.replace(ctx, shardSubject(d.store.config.EventsStream, d.opts.Name, number), sequence, group.Encode(shard))
		if !errors.Is(err, errReplaced) {
			return shard, written, err
		}
	}
}

// clockOffset is how far the clock of the server is ahead, by a message that was
// stored just now.
func (s *Store) clockOffset(ctx context.Context, sequence uint64) (time.Duration, error) {
	m, err := s.leaderGet(ctx, s.config.SnapshotsStream, getRequest{Sequence: sequence})
	if err != nil || m == nil {
		return 0, err
	}
	return time.Until(m.Time), nil
}

// sameStream says whether the events stream is the one that the record is of. One
// that was made again, or has gone back to an earlier state, has other events at
// the same sequences.
func (s *Store) sameStream(ctx context.Context, main *group.Main) error {
	ahead := func(last uint64) error {
		return fmt.Errorf("%w: it has come to sequence %d, and stream %s, which was made again or has gone back, to %d", eventstore.ErrDurableAhead, main.Top, s.config.EventsStream, last)
	}
	last, err := s.leaderGet(ctx, s.config.EventsStream, getRequest{LastBySubject: ">"})
	if errCode(err) == codeStreamNotFound {
		return fmt.Errorf("%w: %w", eventstore.ErrNoDurable, err)
	}
	if err != nil || last == nil || main.MarkSequence == 0 {
		return err
	}
	if last.Sequence < main.MarkSequence {
		if last.Time.After(main.MarkTime) {
			return ahead(last.Sequence)
		}
		return nil
	}
	mark, err := s.leaderGet(ctx, s.config.EventsStream, getRequest{Sequence: main.MarkSequence})
	if err == nil && mark != nil && !mark.Time.Equal(main.MarkTime) {
		return ahead(last.Sequence)
	}
	return err
}

// depose ends what the member does as the coordinator. The lock is held.
func (d *durable) depose() {
	if l := d.lead; l != nil {
		l.stop()
		if l.told != nil {
			l.told()
		}
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
		passes := errors.Is(err, eventstore.ErrUnavailable) || errors.Is(err, errNoAnswer) || errors.Is(err, eventstore.ErrStoreFull)
		if err == nil || life.Err() != nil || s.nc.IsClosed() || !passes {
			return written, err
		}
		if err := pause(life, retryWait); err != nil {
			return 0, err
		}
	}
}

// find looks for what comes after an event of an actor.
func (l *lead) find(find group.Find) {
	s := l.d.store
	subject := strings.TrimSuffix(EventsSubjects(s.config.EventsStream), ">") + find.Actor
	after := l.passOver(subject, find.After)
	var found uint64
	for {
		m, err := s.leaderGet(l.life, s.config.EventsStream, getRequest{Sequence: after + 1, NextBySubject: subject})
		if l.life.Err() != nil {
			return
		}
		if err != nil {
			if pause(l.life, retryWait) != nil {
				return
			}
			continue
		}
		if m == nil {
			break
		}
		after = m.Sequence
		// What is no event was parked when it was read.
		if event, err := decodeEvent(m); err == nil && l.d.opts.Matches(&event) {
			found = m.Sequence
			break
		}
	}
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	now := time.Now()
	l.machine.Found(now, find.Actor, find.After, found)
	l.flush(now)
}

// passOver answers up to where an actor has nothing that the group wants, as far as
// any replica knows: it has a first part of the stream. Only where events are chosen by
// type there may be many to pass over.
func (l *lead) passOver(subject string, after uint64) uint64 {
	s := l.d.store
	for more := l.d.opts.EventType != ""; more; {
		var messages []*message
		var err error
		if messages, more, err = s.page(l.life, s.config.EventsStream, subject, after+1); err != nil {
			return after
		}
		for _, m := range messages {
			if event, err := decodeEvent(m); err == nil && l.d.opts.Matches(&event) {
				return after
			}
			after = m.Sequence
		}
	}
	return after
}

// read reads the events of the group.
func (l *lead) read() {
	d := l.d
	opts := d.opts.SubscribeOptions
	d.mu.Lock()
	opts.FromNow, opts.FromTime, opts.FromSequence = false, time.Time{}, l.machine.Position()+1
	d.mu.Unlock()
	for l.life.Err() == nil {
		err := l.follow(opts)
		if l.life.Err() != nil {
			return
		}
		d.mu.Lock()
		opts.FromSequence = l.machine.Position() + 1
		switch {
		case errCode(err) == codeStreamNotFound, errors.Is(err, errAbsent):
			d.end(fmt.Errorf("%w: %w", eventstore.ErrNoDurable, err))
			d.depose()
		case errors.Is(err, eventstore.ErrPermissionDenied), errors.Is(err, eventstore.ErrInvalidEvent):
			d.end(err)
			d.depose()
		}
		d.mu.Unlock()
		_ = pause(l.life, retryWait)
	}
}

func (l *lead) follow(opts eventstore.SubscribeOptions) error {
	d := l.d
	sub, err := d.store.subscribe(l.life, opts, true)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Close() }()
	sub.onPassed = l.passed
	for {
		d.mu.Lock()
		wants := l.machine.WantMore()
		d.mu.Unlock()
		if !wants {
			select {
			case <-l.wanted:
				continue
			case <-l.life.Done():
				return nil
			}
		}
		m, err := sub.nextMessage(l.life)
		if m == nil {
			return err
		}
		arrival := group.Arrival{
			Sequence: m.Sequence, Actor: strings.TrimPrefix(m.Subject, strings.TrimSuffix(EventsSubjects(d.store.config.EventsStream), ">")),
			Payload: m, Size: len(m.Data) + len(m.Subject) + 512, At: m.Time,
		}
		if err != nil {
			arrival.Unreadable = err.Error()
		}
		d.mu.Lock()
		now := time.Now()
		l.machine.Arrived(now, arrival)
		l.flush(now)
		d.mu.Unlock()
	}
}

// passed notes that nothing for the group comes up to a sequence.
func (l *lead) passed(through uint64) {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	now := time.Now()
	l.machine.Skip(now, through)
	l.flush(now)
}

// watchEvery is how often a coordinator that writes nothing looks whether it is
// one still, and whether the stream is the same.
const watchEvery = 5 * time.Second

func (l *lead) watch() {
	d := l.d
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-l.life.Done():
			return
		case <-tick.C:
		}
		d.mu.Lock()
		idle := time.Since(l.wrote) >= watchEvery
		d.look = d.look || idle
		mark := l.machine.Mark()
		d.mu.Unlock()
		d.wake()
		ctx, cancel := context.WithTimeout(l.life, watchEvery)
		err := d.store.sameStream(ctx, &mark)
		cancel()
		if errors.Is(err, eventstore.ErrDurableAhead) || errors.Is(err, eventstore.ErrNoDurable) {
			d.mu.Lock()
			d.end(err)
			d.depose()
			d.mu.Unlock()
		}
	}
}
