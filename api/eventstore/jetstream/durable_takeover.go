package jetstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/group"
)

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
	case errors.Is(err, eventstore.ErrNoDurable), errors.Is(err, eventstore.ErrPermissionDenied), errors.Is(err, eventstore.ErrDurableAhead), errors.Is(err, eventstore.ErrDurableTorn), errors.Is(err, eventstore.ErrTooLarge):
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
	l := &lead{d: d, epoch: main.Epoch, main: sequence, shards: map[int]uint64{}, mains: make(chan group.Main, 1), wanted: make(chan struct{}, 1), kept: s.keeping()}
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
	l.machine = group.New(group.Config{Offset: offset, Leased: l.wrote, MaxShardBytes: most - most/10, Window: min(maxWindow, most/windowBytes)}, main, shards, time.Now())
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
		err := atOnce(some, func(number int) (func(), error) {
			shard, written, err := l.d.fence(ctx, *main, number)
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

// Bounds of a record, and of how many events are read ahead: each takes windowBytes at
// most of it, in Out and Attempts or in Open.
const (
	minRecordBytes = 24 << 10
	maxRecordBytes = 900 << 10
	maxWindow      = 4096
	windowBytes    = 8
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
		if err := d.store.lacks(&main, d.opts.Name, number, sequence); err != nil {
			return shard, 0, err
		}
		if shard.Key != main.Key {
			// It is of an earlier one of this name.
			shard = group.Shard{Key: main.Key}
		}
		if shard.Epoch > main.Epoch {
			return shard, 0, errReplaced
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
