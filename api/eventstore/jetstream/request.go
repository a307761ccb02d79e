package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// How the answer to one request fails to come, beside a context that ends.
var (
	// errNoResponders: nobody listens on the subject. Nothing has happened.
	errNoResponders = errors.New("nobody answers for it")
	// errNoAnswer: the request was sent and no answer came. It may have had its
	// effect.
	errNoAnswer = errors.New("no answer came")
)

// request sends one message and waits for one answer, at most tryTimeout. Its
// errors: errNoResponders, errNoAnswer, and those of package eventstore, with
// which nothing was sent or stored. A context that ends after the message was
// sent is errNoAnswer too.
func (s *Store) request(ctx context.Context, msg *nats.Msg) (*nats.Msg, error) {
	if ctx.Err() != nil {
		return nil, ended(ctx)
	}
	w, err := s.answers.waitFor(s.nc, msg, tryTime(ctx), s.permissions(msg.Subject))
	if err != nil {
		return nil, sendError(err)
	}
	defer s.answers.release(w)
	if err := s.nc.PublishMsg(msg); err != nil {
		return nil, sendError(err)
	}
	select {
	case answer := <-w.answer:
		return answer.msg, answer.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", errNoAnswer, ctx.Err())
	}
}

// answers receives what requests are answered: one subscription for all of them,
// made for the first. The client library has one too; its requests want a
// context for each try and another to look for violations, which costs more than
// the rest of a save.
type answers struct {
	mu      sync.Mutex
	sub     *nats.Subscription
	prefix  string
	last    uint64
	waiting map[string]*waiter
	idle    sync.Pool
	// poll looks after those who wait, next at due; that is zero when nobody does. One
	// timer for all: each that is set wakes up a thread.
	poll *time.Timer
	due  time.Time
	// closed: the subscription goes with the last who waits.
	closed bool
	// silence is what has not been answered since the last answer.
	silence silence
	// link is the connection as it was at linked.
	link   link
	linked time.Time
}

// waiter waits for one answer.
type waiter struct {
	token  string
	answer chan answer
	// limit is how long it waits at most, from when it started.
	started     time.Time
	limit       time.Duration
	permissions permissions
	// link is the connection that the request is sent on.
	link link
}

// answer is what a request came to.
type answer struct {
	msg *nats.Msg
	err error
}

// waitFor gives a message a place for its answer, for so long. It must be released.
func (a *answers) waitFor(nc *nats.Conn, msg *nats.Msg, limit time.Duration, permissions permissions) (*waiter, error) {
	w, _ := a.idle.Get().(*waiter)
	if w == nil {
		w = &waiter{answer: make(chan answer, 1)}
	}
	w.started, w.limit, w.permissions = time.Now(), limit, permissions
	a.mu.Lock()
	defer a.mu.Unlock()
	w.link = a.linkAt(nc, w.started)
	if a.sub == nil {
		prefix := nc.NewInbox() + "."
		sub, err := nc.Subscribe(prefix+"*", a.receive)
		if err != nil {
			return nil, err
		}
		a.sub, a.prefix, a.waiting = sub, prefix, map[string]*waiter{}
	}
	a.last++
	w.token = strconv.FormatUint(a.last, 36)
	a.waiting[w.token] = w
	msg.Reply = a.prefix + w.token
	a.watch(w, w.started)
	return w, nil
}

// linkFresh is how long what is known of a connection is taken to hold. To ask for it takes
// the lock that all who publish need, which many writers at once would feel. Where the
// connection is lost and made again within it, a request is sent twice.
const linkFresh = time.Millisecond

// linkAt is the connection that is there now. The caller has the lock.
func (a *answers) linkAt(nc *nats.Conn, now time.Time) link {
	if !a.link.connected || now.Sub(a.linked) > linkFresh {
		a.link, a.linked = linkOf(nc), now
	}
	return a.link
}

// watch looks after one who waits in a while, and no later than its limit. The caller
// has the lock.
func (a *answers) watch(w *waiter, now time.Time) {
	wait := min(permissionPoll, w.limit-now.Sub(w.started))
	due := now.Add(wait)
	if !a.due.IsZero() && !due.Before(a.due) {
		return
	}
	a.due = due
	if a.poll == nil {
		a.poll = time.AfterFunc(wait, a.look)
		return
	}
	a.poll.Reset(wait)
}

// look ends the wait of those that wait in vain, or for too long.
func (a *answers) look() {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	a.due = time.Time{}
	for _, w := range a.waiting {
		if err := w.vain(now); err != nil {
			a.give(w, answer{err: err})
			if errors.Is(err, errNoAnswer) {
				a.silence.goesOn(w, now)
			}
			continue
		}
		a.watch(w, now)
	}
}

// vain is why an answer will not come.
func (w *waiter) vain(now time.Time) error {
	if denied := w.permissions.denied(); denied != nil {
		return denied
	}
	if w.link.lost() {
		return fmt.Errorf("%w: the connection was lost that it was asked for on", errNoAnswer)
	}
	if now.Sub(w.started) >= w.limit {
		return fmt.Errorf("%w within %s", errNoAnswer, w.limit.Round(time.Millisecond))
	}
	return nil
}

func (a *answers) receive(msg *nats.Msg) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.silence.ends()
	w := a.waiting[msg.Subject[len(a.prefix):]]
	switch {
	case w == nil:
	case status(msg) == statusNoResponders:
		a.give(w, answer{err: errNoResponders})
	default:
		a.give(w, answer{msg: msg})
	}
}

// give ends a wait. There is room for one answer, and no second finds its way here.
// The caller has the lock.
func (a *answers) give(w *waiter, answer answer) {
	delete(a.waiting, w.token)
	w.answer <- answer
}

// release takes the place back: an answer that comes later is dropped.
func (a *answers) release(w *waiter) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.waiting, w.token)
	select {
	case <-w.answer:
	default:
	}
	a.idle.Put(w)
	a.unsubscribeIdle()
}

// close ends the subscription once nobody waits.
func (a *answers) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	a.unsubscribeIdle()
}

func (a *answers) unsubscribeIdle() {
	if a.closed && a.sub != nil && len(a.waiting) == 0 {
		// It fails when the connection is closed, and then there is nothing to do.
		_ = a.sub.Unsubscribe()
		a.poll.Stop()
		a.sub, a.due = nil, time.Time{}
	}
}

// sendError is why a message was not answered, or not even sent.
func sendError(err error) error {
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return errNoResponders
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("%w: the server takes no message of this size: %w", eventstore.ErrTooLarge, err)
	case errors.Is(err, nats.ErrReconnectBufExceeded):
		// With ReconnectBufSize(-1) nats.go reports "not connected" so.
		return fmt.Errorf("%w: %w", errNotConnected, eventstore.ErrUnavailable)
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionDraining), errors.Is(err, nats.ErrHeadersNotSupported):
		return fmt.Errorf("%w: %w", eventstore.ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w", errNoAnswer, err)
}
