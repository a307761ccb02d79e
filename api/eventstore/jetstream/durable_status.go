package jetstream

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/internal/group"
)

// ListDurables lists the durable subscriptions that have a record.
func (s *Store) ListDurables(ctx context.Context) ([]string, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	names := map[string]bool{}
	prefix := durableSubject(s.config.EventsStream, "")
	for from, more := uint64(1), true; more; {
		var records []*message
		var err error
		records, more, err = s.page(ctx, s.config.SnapshotsStream, prefix+"*", from, s.config.ReadAheadBytes)
		if err != nil {
			return nil, fmt.Errorf("list durable subscriptions of stream %s: %w", s.config.EventsStream, err)
		}
		for _, m := range records {
			main, err := group.Decode[group.Main](m.Data)
			// One that cannot be read is there all the same.
			names[strings.TrimPrefix(m.Subject, prefix)] = err != nil || !main.Deleted
			from = m.Sequence + 1
		}
		more = more && len(records) > 0
	}
	var list []string
	for name, there := range names {
		if there {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list, nil
}

// GetDurableStatus asks who coordinates a durable subscription how it is doing.
func (s *Store) GetDurableStatus(ctx context.Context, name string) (eventstore.DurableStatus, error) {
	status, err := s.durableStatus(ctx, name)
	if err != nil {
		return eventstore.DurableStatus{}, fmt.Errorf("get the status of durable subscription %.100q of stream %s: %w", name, s.config.EventsStream, err)
	}
	return status, nil
}

func (s *Store) durableStatus(ctx context.Context, name string) (eventstore.DurableStatus, error) {
	if err := eventstore.ValidateDurableName(name); err != nil {
		return eventstore.DurableStatus{}, err
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	of, err := s.groupStatus(ctx, name)
	if err != nil {
		return eventstore.DurableStatus{}, err
	}
	last, err := s.leaderGet(ctx, s.config.EventsStream, getRequest{LastBySubject: ">"})
	if err != nil {
		return eventstore.DurableStatus{}, err
	}
	if last == nil {
		return of.Of(name, 0), nil
	}
	return of.Of(name, last.Sequence), nil
}

// groupStatus asks whoever coordinates, and reads the records where nobody has
// answered in the time in which another takes over.
func (s *Store) groupStatus(ctx context.Context, name string) (*group.Status, error) {
	for until := time.Now().Add(group.Stale); ; {
		main, _, err := s.readMain(ctx, name)
		if err == nil && (main == nil || main.Deleted) {
			err = eventstore.ErrNoDurable
		}
		if err != nil {
			return nil, err
		}
		if main.Coordinator == "" || time.Now().After(until) {
			return s.recordedStatus(ctx, name, main)
		}
		if status, err := s.askStatus(ctx, main); status != nil || err != nil {
			return status, err
		}
	}
}

// askStatus asks a coordinator, nil where it does not answer soon.
func (s *Store) askStatus(ctx context.Context, main *group.Main) (*group.Status, error) {
	asker := rand.Text()
	answers, err := s.nc.SubscribeSync(memberSubject(s.config.EventsStream, main.Key, asker))
	if err != nil {
		return nil, sendError(err)
	}
	// It fails when the connection is closed, and then there is nothing to do.
	defer func() { _ = answers.Unsubscribe() }()
	question, err := json.Marshal(spoken{Up: &group.ToCoordinator{Epoch: main.Epoch, Member: asker, Request: &group.Request{ID: 1, Kind: group.KindStatus}}})
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	if err := s.nc.Publish(memberSubject(s.config.EventsStream, main.Key, main.Coordinator), question); err != nil {
		return nil, sendError(err)
	}
	status := heardStatus(ctx, answers)
	if ctx.Err() != nil {
		return nil, ended(ctx)
	}
	return status, nil
}

// heardStatus waits for an answer as long as a member does that is there.
func heardStatus(ctx context.Context, answers *nats.Subscription) *group.Status {
	ctx, cancel := context.WithTimeout(ctx, group.PingInterval)
	defer cancel()
	for {
		answer, err := answers.NextMsgWithContext(ctx)
		if err != nil {
			// Whatever is wrong, it is not asked again at once.
			<-ctx.Done()
			return nil
		}
		var said spoken
		if json.Unmarshal(answer.Data, &said) == nil && said.Down != nil && said.Down.Answer != nil && said.Down.Answer.Status != nil {
			return said.Down.Answer.Status
		}
	}
}

// recordedStatus is what the records say while nobody coordinates.
func (s *Store) recordedStatus(ctx context.Context, name string, main *group.Main) (*group.Status, error) {
	shards, err := s.readShards(ctx, name, main)
	if err != nil {
		return nil, err
	}
	status := &group.Status{Position: main.Top, Queued: len(main.Open)}
	for _, out := range main.Out {
		status.Queued += len(out)
	}
	for _, shard := range shards {
		status.Waiting += len(shard.Lines)
		status.Parked += len(shard.Parked)
	}
	return status, nil
}
