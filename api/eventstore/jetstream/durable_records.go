package jetstream

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/group"
)

// durableSubject is where the record of a durable subscription is, in the
// snapshots stream. No actor has this subject, since "%du" is not how EncodeToken
// encodes anything, nor "%wa" of its shards.
func durableSubject(stream, name string) string { return stream + ".snapshots.%durable." + name }

// shardSubject is where one of its shards is. A name has no '%'.
func shardSubject(stream, name string, shard int) string {
	return fmt.Sprintf("%s.snapshots.%%waiting.%s%%%02x", stream, name, shard)
}

// lacks is an error where a shard that was stored is there no more: what waited in it and was
// parked is forgotten, and nobody knows which events that are.
func (s *Store) lacks(main *group.Main, name string, number int, sequence uint64) error {
	if sequence != 0 || !main.Stored.Has(number) {
		return nil
	}
	return fmt.Errorf("%w: the message on %s is gone from stream %s, with what waited and was parked there: delete the durable subscription, and say where to begin",
		eventstore.ErrDurableTorn, shardSubject(s.config.EventsStream, name, number), s.config.SnapshotsStream)
}

// errReplaced: another has written the record meanwhile.
var errReplaced = errors.New("another has written it meanwhile")

// readMain reads the record of a durable subscription, nil where there is none,
// and answers its sequence.
func (s *Store) readMain(ctx context.Context, name string) (*group.Main, uint64, error) {
	m, err := s.leaderGet(ctx, s.config.SnapshotsStream, getRequest{LastBySubject: durableSubject(s.config.EventsStream, name)})
	if err != nil || m == nil {
		return nil, 0, err
	}
	main, err := group.Decode[group.Main](m.Data)
	if err != nil {
		return nil, 0, fmt.Errorf("message %d of stream %s cannot be read, and must be removed: %w", m.Sequence, s.config.SnapshotsStream, err)
	}
	return &main, m.Sequence, nil
}

func (s *Store) readShard(ctx context.Context, name string, number int) (group.Shard, uint64, error) {
	m, err := s.leaderGet(ctx, s.config.SnapshotsStream, getRequest{LastBySubject: shardSubject(s.config.EventsStream, name, number)})
	if err != nil || m == nil {
		return group.Shard{}, 0, err
	}
	shard, err := group.Decode[group.Shard](m.Data)
	if err != nil {
		return shard, 0, fmt.Errorf("message %d of stream %s cannot be read, and must be removed: %w", m.Sequence, s.config.SnapshotsStream, err)
	}
	return shard, m.Sequence, nil
}

// replace writes a record in the place of the one of a sequence, 0 for none, and
// answers its own sequence. It tries until that is decided, the context ends, or
// the server refuses for good. errReplaced says that another was first.
func (s *Store) replace(ctx context.Context, subject string, before uint64, data []byte) (uint64, error) {
	var written uint64
	err := retry(ctx, func() error {
		ack, err := s.publish(ctx, &nats.Msg{
			Subject: subject,
			Header: nats.Header{
				headerContentType:           {eventstore.ContentTypeJSON},
				nats.ExpectedStreamHdr:      {s.config.SnapshotsStream},
				nats.ExpectedLastSubjSeqHdr: {strconv.FormatUint(before, 10)},
			},
			Data: data,
		})
		if err == nil {
			written = ack.Sequence
			return nil
		}
		if !isConflict(err) && !errors.Is(err, errNoAnswer) {
			return err
		}
		written, err = s.outcome(ctx, subject, before, data, err)
		return err
	})
	return written, err
}

// outcome finds out what has become of a write that failed with an error. One
// that may be under way still is written once more: only one of the two can be
// stored.
func (s *Store) outcome(ctx context.Context, subject string, before uint64, data []byte, failed error) (uint64, error) {
	m, err := s.leaderGet(ctx, s.config.SnapshotsStream, getRequest{LastBySubject: subject})
	switch {
	case err != nil:
		return 0, err
	case m != nil && bytes.Equal(m.Data, data):
		return m.Sequence, nil
	case m != nil && m.Sequence > before:
		return 0, fmt.Errorf("%w: message %d of stream %s", errReplaced, m.Sequence, s.config.SnapshotsStream)
	case m == nil && before != 0:
		return 0, fmt.Errorf("%w: it is gone", errReplaced)
	}
	return 0, fmt.Errorf("%w: %v", errAgain, failed)
}

// DeleteDurable forgets a durable subscription, and tells its members.
func (s *Store) DeleteDurable(ctx context.Context, name string) error {
	if err := s.deleteDurable(ctx, name); err != nil {
		return fmt.Errorf("delete durable subscription %.100q of stream %s: %w", name, s.config.EventsStream, err)
	}
	return nil
}

func (s *Store) deleteDurable(ctx context.Context, name string) error {
	if err := eventstore.ValidateDurableName(name); err != nil {
		return err
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	for {
		main, sequence, err := s.readMain(ctx, name)
		if err != nil || main == nil {
			return err
		}
		if main.Deleted {
			// An earlier call may not have come to all shards.
			return s.emptyShards(ctx, name, *main)
		}
		gone := group.Main{Epoch: main.Epoch + 1, Key: main.Key, Deleted: true, Shards: main.Shards}
		_, err = s.replace(ctx, durableSubject(s.config.EventsStream, name), sequence, group.Encode(gone))
		if errors.Is(err, errReplaced) {
			continue
		}
		if err != nil {
			return err
		}
		// It fails when the connection is closed, and then the members find out.
		_ = s.nc.Publish(GroupSubject(s.config.EventsStream, main.Key), []byte(wordLook))
		return s.emptyShards(ctx, name, gone)
	}
}

// emptyShards takes the room of what waits and is parked.
func (s *Store) emptyShards(ctx context.Context, name string, gone group.Main) error {
	for _, number := range gone.Shards.List() {
		for {
			shard, sequence, err := s.readShard(ctx, name, number)
			if err != nil {
				return err
			}
			if shard.Key != gone.Key || shard.Epoch > gone.Epoch {
				break
			}
			empty := group.Encode(group.Shard{Epoch: gone.Epoch, Key: gone.Key})
			if _, err = s.replace(ctx, shardSubject(s.config.EventsStream, name, number), sequence, empty); err == nil {
				break
			} else if !errors.Is(err, errReplaced) {
				return err
			}
		}
	}
	return nil
}

// Parked lists what is parked, as the records have it.
func (d *durable) Parked(ctx context.Context) ([]eventstore.Parked, error) {
	ctx, cancel := d.store.bounded(ctx)
	defer cancel()
	parked, err := d.store.parked(ctx, d.opts.Name, d.key)
	if err != nil {
		return nil, d.failed("list what is parked", err)
	}
	return parked, nil
}

func (s *Store) parked(ctx context.Context, name, key string) ([]eventstore.Parked, error) {
	main, _, err := s.readMain(ctx, name)
	if err != nil || main == nil || main.Key != key {
		return nil, err
	}
	shards, err := s.readShards(ctx, name, main)
	if err != nil {
		return nil, err
	}
	var list []eventstore.Parked
	for _, shard := range shards {
		for _, p := range shard.Parked {
			list = append(list, eventstore.Parked{
				Sequence: p.Sequence, ActorID: actorOfKey(p.Actor), Attempts: p.Attempts, Reason: p.Reason, At: p.At, Replaying: p.Replaying,
			})
		}
	}
	slices.SortFunc(list, func(a, b eventstore.Parked) int { return cmp.Compare(a.Sequence, b.Sequence) })
	return list, nil
}

// readShards reads all shards of a durable subscription.
func (s *Store) readShards(ctx context.Context, name string, main *group.Main) ([]group.Shard, error) {
	shards := map[int]group.Shard{}
	err := atOnce(main.Shards.List(), func(number int) (func(), error) {
		shard, sequence, err := s.readShard(ctx, name, number)
		if err == nil {
			err = s.lacks(main, name, number, sequence)
		}
		return func() {
			if shard.Key == main.Key {
				shards[number] = shard
			}
		}, err
	})
	return slices.Collect(maps.Values(shards)), err
}

// actorOfKey is the actor of the part of a subject that group knows it by. A
// message that is no event has no actor but that.
func actorOfKey(key string) string {
	if actorID, err := decodeActor(eventsPrefix("stream") + key); err == nil {
		return actorID
	}
	return key
}
