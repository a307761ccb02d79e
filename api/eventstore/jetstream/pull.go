package jetstream

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// How a subscription asks its consumer for messages.
const (
	// heartbeat is how often the server says that it is there while it has no message.
	heartbeat = 500 * time.Millisecond
	// ahead is how many messages are asked for before they are needed: the next
	// half of them is on its way while the first is worked on.
	ahead = 2 * pageMessages
	// pullExpires is how long one request for messages holds.
	pullExpires = 30 * time.Second
	// probeExpires is the same for one that is made since nothing came on another, which
	// may be there all the same.
	probeExpires = 5 * time.Second
	// maxFormer is how many inboxes are kept on which something may still come.
	maxFormer = 8
)

// When a consumer is silent.
const (
	// silentAfter is how long nothing arrives before the consumer is asked once more:
	// two heartbeats are missing. On a replicated stream the first request is lost about
	// once in a hundred times.
	silentAfter = 2 * heartbeat
	// minPatience is how long it may be silent then, once the leader of the stream has
	// answered, before another is made. It doubles with each that never says anything, up
	// to maxPatience: a server that is slow would have more and more of them to serve.
	minPatience, maxPatience = 2 * time.Second, 8 * time.Second
)

// quiet is what is known of a consumer that says nothing.
type quiet struct {
	// timer runs while a message is waited for, until due.
	timer *time.Timer
	due   time.Time
	// spoke says that it has said something, and mute is how many before it never have.
	spoke bool
	mute  int
	// probe receives what comes on a second request, of the time probed; nil while none
	// is needed.
	probe  *nats.Subscription
	probed time.Time
	// former receive what comes on requests that are not counted on any more.
	former []*nats.Subscription
	// look asks the leader of the stream, nil when none is under way, and answered says
	// that it has answered.
	look     *leaderLook
	answered bool
	// permissions says whether the consumer may be asked at all.
	permissions permissions
}

func newQuiet() quiet {
	timer := time.NewTimer(silentAfter)
	timer.Stop()
	return quiet{timer: timer}
}

// messagesRequest asks a consumer for messages: for so many at most, of so many
// bytes in all where that is not 0. It holds for pullExpires where it says nothing.
type messagesRequest struct {
	Batch     int           `json:"batch"`
	MaxBytes  int           `json:"max_bytes,omitempty"`
	Expires   time.Duration `json:"expires"`
	Heartbeat time.Duration `json:"idle_heartbeat"`
}

// askForMessages asks a consumer for messages, which go to an inbox.
func (s *Store) askForMessages(consumer, inbox string, request messagesRequest) error {
	request.Expires, request.Heartbeat = cmp.Or(request.Expires, pullExpires), heartbeat
	data, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	if err := s.nc.PublishMsg(&nats.Msg{Subject: s.nextSubject(consumer), Reply: inbox, Data: data}); err != nil {
		return fmt.Errorf("%w: %w", eventstore.ErrUnavailable, err)
	}
	return nil
}

// nextSubject is where a consumer is asked for messages.
func (s *Store) nextSubject(consumer string) string {
	return s.api + "CONSUMER.MSG.NEXT." + s.config.EventsStream + "." + consumer
}

// listen asks the consumer for messages, on an inbox that is new.
func (s *subscription) listen() error {
	answers, err := s.inbox()
	if err != nil {
		return err
	}
	s.answers, s.wanted = answers, 0
	s.quiet.spoke, s.quiet.due = false, time.Now().Add(silentAfter)
	return s.pull()
}

func (s *subscription) inbox() (*nats.Subscription, error) {
	inbox, err := s.store.nc.ChanSubscribe(s.store.nc.NewInbox(), s.arrived)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", eventstore.ErrUnavailable, err)
	}
	return inbox, nil
}

// stop gives the consumer up. The server removes it soon: whoever deletes one
// needs a permission more.
func (s *subscription) stop() {
	for _, inbox := range append(s.quiet.former, s.answers, s.quiet.probe) {
		drop(inbox)
	}
	s.answers, s.quiet.probe, s.quiet.former, s.quiet.look, s.quiet.answered = nil, nil, nil, nil, false
}

// drop ends the subscription to an inbox, if there is one. The server drops the request then.
func drop(inbox *nats.Subscription) {
	if inbox != nil {
		// It fails when the connection is closed, and then there is nothing to do.
		_ = inbox.Unsubscribe()
	}
}

// pull asks for messages when half of what was asked for has come.
func (s *subscription) pull() error {
	more := ahead - s.wanted
	if more < ahead/2 {
		return nil
	}
	s.wanted += more
	return s.ask(s.answers, messagesRequest{Batch: more})
}

// ask asks the consumer. Where there is no connection for the moment it is asked again later,
// as a silent one is.
func (s *subscription) ask(inbox *nats.Subscription, request messagesRequest) error {
	s.quiet.permissions = s.store.permissions(s.store.nextSubject(s.consumer))
	request.MaxBytes = s.store.config.ReadAheadBytes
	err := s.store.askForMessages(s.consumer, inbox.Subject, request)
	if err != nil && !s.store.nc.IsClosed() {
		return nil
	}
	return err
}

// take waits for one message of the consumer. Without one and without an error
// the caller goes on: with a new consumer where there is none any more.
func (s *subscription) take(ctx context.Context) (*message, error) {
	select {
	case msg := <-s.arrived:
		return s.receive(msg)
	default:
	}
	s.quiet.timer.Reset(time.Until(s.quiet.due))
	var looked <-chan struct{}
	if s.quiet.look != nil {
		looked = s.quiet.look.answered
	}
	select {
	case msg := <-s.arrived:
		return s.receive(msg)
	case <-looked:
		return nil, s.looked()
	case <-s.quiet.timer.C:
		return nil, s.rouse()
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.life.Done():
		return nil, s.life.Err()
	}
}

// receive does what a message asks for, and answers it where it is one of the stream.
func (s *subscription) receive(msg *nats.Msg) (*message, error) {
	delivered := msg.Header.Get("Status") == "" || isDelivered(msg)
	if !delivered && status(msg) == statusNoResponders {
		s.missing()
		return nil, nil
	}
	current := s.settle(msg.Sub)
	if !delivered {
		if !current {
			s.forget(msg)
			return nil, nil
		}
		return nil, s.heed(msg)
	}
	metadata, err := msg.Metadata()
	if err != nil || metadata.Sequence.Consumer != s.delivered+1 {
		// Messages got lost on the way, or came from elsewhere.
		s.stop()
		return nil, nil
	}
	s.delivered++
	s.stored = metadata.Timestamp
	if current {
		s.wanted--
	}
	return &message{
		Subject: msg.Subject, Sequence: metadata.Sequence.Stream, Header: msg.Header, Data: msg.Data, Time: metadata.Timestamp,
	}, s.pull()
}

// missing is for a consumer that this server does not know. One that is new may not be known
// yet everywhere, and is asked again as a silent one is.
func (s *subscription) missing() {
	if s.quiet.spoke {
		s.stop()
	}
}

// settle counts on one of two requests when something has come, and says whether it came on
// that. The server serves the older one first: where the probe is answered first, the other
// was lost.
func (s *subscription) settle(inbox *nats.Subscription) (current bool) {
	switch inbox {
	case s.answers:
		s.retire(s.quiet.probe)
	case s.quiet.probe:
		s.retire(s.answers)
		s.answers, s.wanted = inbox, ahead
	default:
		return false
	}
	s.quiet.probe, s.quiet.look, s.quiet.answered = nil, nil, false
	s.quiet.spoke, s.quiet.mute, s.quiet.due = true, 0, time.Now().Add(silentAfter)
	return true
}

// retire counts no more on what was asked for on an inbox. It stays, since messages that come
// there are missing elsewhere.
func (s *subscription) retire(inbox *nats.Subscription) {
	if inbox == nil {
		return
	}
	if s.quiet.former = append(s.quiet.former, inbox); len(s.quiet.former) > maxFormer {
		drop(s.quiet.former[0])
		s.quiet.former = s.quiet.former[1:]
	}
}

// forget drops the inbox of a request that has come to its end.
func (s *subscription) forget(msg *nats.Msg) {
	if msg.Header.Get("Status") == "100" {
		return
	}
	drop(msg.Sub)
	s.quiet.former = slices.DeleteFunc(s.quiet.former, func(inbox *nats.Subscription) bool { return inbox == msg.Sub })
}

// rouse is for a consumer that says nothing. It is asked once more, and so is the leader of
// the stream: while that says nothing either, another consumer would be no better.
func (s *subscription) rouse() error {
	if err := s.quiet.permissions.denied(); err != nil {
		return err
	}
	switch {
	case len(s.arrived) > 0:
		// It came while the timer ran out.
	case !s.quiet.answered:
		if s.quiet.look == nil {
			s.quiet.look = s.store.look()
		}
		s.quiet.due = time.Now().Add(maxPatience)
		if s.quiet.probe == nil {
			return s.askAgain()
		}
	default:
		if !s.quiet.spoke {
			s.quiet.mute++
		}
		s.stop()
	}
	return nil
}

// looked gives a silent consumer its time, when the leader of the stream has answered.
func (s *subscription) looked() error {
	if len(s.arrived) > 0 {
		return nil
	}
	look := s.quiet.look
	s.quiet.look = nil
	if s.store.nobodyAnswers(look.err) {
		s.quiet.due = time.Now().Add(silentAfter)
		return nil
	}
	patience := min(minPatience<<min(s.quiet.mute, 2), maxPatience)
	s.quiet.answered, s.quiet.due = true, time.Now().Add(patience+rand.N(patience/4))
	if time.Since(s.quiet.probed) < heartbeat {
		return nil
	}
	// What it was asked while nobody answered may be lost.
	return s.askAgain()
}

// askAgain asks the consumer on another inbox.
func (s *subscription) askAgain() error {
	probe, err := s.inbox()
	if err != nil {
		return err
	}
	s.retire(s.quiet.probe)
	s.quiet.probe, s.quiet.probed = probe, time.Now()
	return s.ask(probe, messagesRequest{Batch: ahead, Expires: probeExpires})
}

// heed does what a message without an event asks for.
func (s *subscription) heed(msg *nats.Msg) error {
	description := strings.ToLower(msg.Header.Get("Description"))
	switch code := msg.Header.Get("Status"); {
	case code == "100":
		s.passed(msg.Header)
	case code == "404", code == "408", code == "409" && (strings.Contains(description, "batch completed") || strings.Contains(description, "maxbytes")):
		// A request has come to its end before it had all that it asked for.
		unmet, err := strconv.Atoi(msg.Header.Get("Nats-Pending-Messages"))
		if err != nil {
			s.stop()
			return nil
		}
		s.wanted -= unmet
		return s.pull()
	default:
		s.stop()
	}
	return nil
}
