package jetstream

import (
	"context"
	"fmt"
	"hash/maphash"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// streamCheck is how often a Store that saves looks whether the stream is still the
	// one that it knows.
	streamCheck = time.Second
	// staleWait is how long an answer of the leader that is less than this Store knows is
	// asked for again before it is believed. A leader that was replaced answers until it
	// has heard so, which takes less than a second once its links are whole.
	staleWait = 5 * time.Second
)

// anchor is the newest message that a Store knows of: in another stream of the same
// name something else is at its place, or nothing.
type anchor struct {
	sequence uint64
	// id is the hash of its Nats-Msg-Id.
	id uint64
}

// messageID is the hash of the id that a message has for JetStream; 0 for none.
func messageID(header nats.Header) uint64 {
	values := header[nats.MsgIdHdr]
	if len(values) == 0 {
		return 0
	}
	return maphash.String(seed, values[0])
}

// trustsHeads looks from time to time whether the stream is still the one whose heads
// are remembered: deleted and made again it has new sequences, and JetStream may take an
// old one for a new one. It forgets all heads where it is another, and says false where
// that cannot be found out.
func (s *Store) trustsHeads(ctx context.Context) bool {
	known, due := s.heads.dueAnchor(time.Now())
	if !due {
		return true
	}
	try, cancel := tryContext(ctx)
	defer cancel()
	get := getRequest{Sequence: known.sequence}
	m, err := s.directGet(try, s.config.EventsStream, get)
	if err == nil && m == nil {
		// The replica may be behind.
		m, err = s.leaderGet(try, s.config.EventsStream, get)
	}
	if err != nil {
		s.heads.checkSoon()
		return false
	}
	if m == nil || messageID(m.Header) != known.id {
		// Or the message was erased: then where actors stand is asked for once more.
		s.heads.forget()
	}
	return true
}

// leaderLast gets the last message of a subject from the leader of a stream, where this
// Store knows of one at a sequence, 0 for none. Who answers may have been replaced as
// the leader and not know yet. So an answer that is less is asked for again for a while,
// unless the leader shows that the known one is gone and what came later is there.
// Believed at last, it says that the stream is another one, or that its end was erased.
func (s *Store) leaderLast(ctx context.Context, stream, subject string, known uint64) (m *message, believed bool, err error) {
	last := getRequest{LastBySubject: subject}
	for began := time.Now(); ; {
		m, err := s.leaderGet(ctx, stream, last)
		if err != nil || known == 0 || m != nil && m.Sequence >= known {
			return m, false, err
		}
		next, err := s.leaderGet(ctx, stream, getRequest{Sequence: known, NextBySubject: ">"})
		if err != nil {
			return nil, false, err
		}
		if next != nil && next.Sequence > known {
			// It was another leader that has answered before, perhaps.
			m, err := s.leaderGet(ctx, stream, last)
			return m, false, err
		}
		if next == nil && time.Since(began) > staleWait {
			return m, true, nil
		}
		if err := pause(ctx, retryWait); err != nil {
			return nil, false, fmt.Errorf("%w: the leader answers less than was stored before", err)
		}
	}
}
