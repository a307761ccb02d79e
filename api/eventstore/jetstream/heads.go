package jetstream

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/sync/errgroup"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// head is where an actor stands.
type head struct {
	// sequence is that of the actor's last message, 0 where there is none: what a
	// save expects.
	sequence uint64
	// version is the actor's latest.
	version int64
	// prev is the index of the last message as its header has it.
	prev string
	// recent are the ids of the newest events; nil where they are not known.
	recent recentIDs
	// id is the hash of the last message's Nats-Msg-Id, 0 for none.
	id uint64
	// saved: this Store has saved to the actor, and owes its readers that.
	saved bool
}

// next is the index of the message that follows on a head.
func (h head) next() index {
	if h.sequence == 0 {
		return index{}
	}
	x := index{}
	if h.prev != "" {
		var err error
		if x, err = decodeIndex(h.prev, h.sequence); err != nil {
			x = index{partial: true}
		}
	}
	return x.push(h.sequence)
}

// guessNew is where an actor stands that has no event yet. That is a guess: where
// it is wrong, JetStream refuses what follows from it. A snapshot that remembers
// more it would not see, so that one is looked for.
func (s *Store) guessNew(ctx context.Context, actorID string) (head, error) {
	snapshot, err := s.rememberedVersion(ctx, actorID, false)
	return head{version: snapshot}, err
}

// readHead reads where an actor stands: exactly from the leader, or from any
// replica, which may be behind. likelyNew asks for the snapshot at the same time
// as for the last event: it counts where there is none.
func (s *Store) readHead(ctx context.Context, actorID string, fromLeader, likelyNew bool) (head, error) {
	before, _, _ := s.heads.get(actorID)
	var snapshot int64
	asking, askCtx := errgroup.WithContext(ctx)
	askSnapshot := func() (err error) {
		snapshot, err = s.rememberedVersion(askCtx, actorID, fromLeader)
		return err
	}
	var last *message
	asking.Go(func() (err error) {
		if last, err = s.last(askCtx, actorID, fromLeader); err == nil && last == nil && !likelyNew {
			err = askSnapshot()
		}
		return err
	})
	if likelyNew {
		asking.Go(askSnapshot)
	}
	if err := asking.Wait(); err != nil {
		return head{}, err
	}
	if last == nil {
		return head{version: snapshot}, nil
	}
	now, err := s.headOf(ctx, actorID, last)
	if err == nil {
		s.heads.put(actorID, before.sequence, now)
	}
	return now, err
}

// headOf is the head of an actor by its last message.
func (s *Store) headOf(ctx context.Context, actorID string, last *message) (head, error) {
	if event, err := decodeEvent(last); err == nil {
		return headAt(last, event.Version), nil
	}
	version, err := s.latestReadable(ctx, actorID, last)
	return head{sequence: last.Sequence, version: version, prev: index{partial: true}.encode(0)}, err
}

// headAt is the head of an actor whose last message m is, an event at a version.
func headAt(m *message, version int64) head {
	now := head{sequence: m.Sequence, version: version, id: messageID(m.Header)}
	if x := indexOf(m); x.partial || len(x.levels) > 0 {
		now.prev = x.encode(0)
	}
	return now
}

// latestReadable is the latest version of an actor whose last message is no
// event.
func (s *Store) latestReadable(ctx context.Context, actorID string, last *message) (int64, error) {
	var latest int64
	err := s.readHistory(ctx, last, 0, eventstore.ReadOptions{}, func(m *message) bool {
		if event, err := decodeEvent(m); err == nil {
			latest = max(latest, event.Version)
		}
		return true
	})
	if err != nil || latest > 0 {
		return latest, err
	}
	return s.rememberedVersion(ctx, actorID, true)
}

// heads remembers where the actors stood when they were last seen, those used
// most recently. One that is out of date costs a save another try and nothing
// else, since JetStream decides. And it tells a read what this Store has
// acknowledged: a replica that knows less is not asked.
type heads struct {
	mu      sync.Mutex
	recent  *simplelru.LRU[string, head]
	metrics *eventstore.Metrics
	// snapshots are the sequences of the newest snapshots that this Store has saved.
	snapshots *simplelru.LRU[string, uint64]
	// forgot: heads of actors that this Store has saved to were dropped.
	forgot bool
	// anchor is the newest message that was seen, and checked when it was last looked
	// for.
	anchor  anchor
	checked time.Time
}

func newHeads(size int, metrics *eventstore.Metrics) (*heads, error) {
	h := &heads{metrics: metrics}
	var err error
	h.recent, err = simplelru.NewLRU(size, func(_ string, dropped head) {
		h.forgot = h.forgot || dropped.saved
		metrics.HeadsCached.Add(-1)
	})
	if err == nil {
		h.snapshots, err = simplelru.NewLRU[string, uint64](size, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("make the cache of actor heads: %w", err)
	}
	return h, nil
}

// get answers what is known of an actor. Where nothing is, sure says that this
// Store has not saved to the actor.
func (h *heads) get(actorID string) (known head, found, sure bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	known, found = h.recent.Get(actorID)
	return known, found, !h.forgot
}

// put remembers a head that was seen after the one at sequence before was known,
// unless a newer one has come in between. It may be older than that one: when
// the leader has said so, the stream was made anew, or events have expired.
func (h *heads) put(actorID string, before uint64, now head) {
	h.mu.Lock()
	defer h.mu.Unlock()
	known, found := h.recent.Peek(actorID)
	if known.sequence > max(before, now.sequence) {
		return
	}
	if !found {
		h.metrics.HeadsCached.Add(1)
	}
	now.saved = now.saved || known.saved
	if now.recent == nil && now.sequence == known.sequence {
		now.recent = known.recent
	}
	h.recent.Add(actorID, now)
	if now.sequence > h.anchor.sequence && now.id != 0 {
		if h.anchor.sequence == 0 {
			// It was there a moment ago.
			h.checked = time.Now()
		}
		h.anchor = anchor{now.sequence, now.id}
	}
}

// dueAnchor answers the anchor where it is time to look for it again.
func (h *heads) dueAnchor(now time.Time) (known anchor, due bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.anchor.sequence == 0 || now.Sub(h.checked) < streamCheck {
		return anchor{}, false
	}
	h.checked = now
	return h.anchor, true
}

// checkSoon makes the next save look for the anchor.
func (h *heads) checkSoon() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checked = time.Time{}
}

// forget drops all heads: those of a stream that is no more.
func (h *heads) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.recent.Purge()
	h.anchor = anchor{}
}

// snapshot is the sequence of the newest snapshot of an actor that this Store has saved,
// 0 where it knows of none; savedSnapshot and forgetSnapshot change that.
func (h *heads) snapshot(actorID string) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	sequence, _ := h.snapshots.Get(actorID)
	return sequence
}

func (h *heads) savedSnapshot(actorID string, sequence uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if known, _ := h.snapshots.Peek(actorID); sequence > known {
		h.snapshots.Add(actorID, sequence)
	}
}

func (h *heads) forgetSnapshot(actorID string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.snapshots.Remove(actorID)
}

// learn remembers the ids of an actor's newest events, where its last message is
// still the one at sequence.
func (h *heads) learn(actorID string, sequence uint64, ids recentIDs) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if known, found := h.recent.Peek(actorID); found && known.sequence == sequence {
		known.recent = ids
		h.recent.Add(actorID, known)
	}
}
