package jetstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
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

// apiError is what JetStream answers to what it refuses.
type apiError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

// Error is the server's own text.
func (e *apiError) Error() string {
	return fmt.Sprintf("JetStream error %d: %s", e.ErrCode, e.Description)
}

// JetStream's error codes, as far as something follows from them.
const (
	codeAccountResources  = 10002
	codeBadRequest        = 10003
	codeClusterNotAvail   = 10008
	codeClusterNotLeader  = 10009
	codeInsufficient      = 10023
	codeMemoryResources   = 10028
	codeNoMessage         = 10037
	codeStorageResources  = 10047
	codeMessageTooLarge   = 10054
	codeStreamNotFound    = 10059
	codeWrongSequence     = 10071
	codeWrongLastID       = 10070
	codeStoreFailed       = 10077
	codeHeaderTooLarge    = 10097
	codeRollupFailed      = 10111
	codeIDInProcess       = 10158
	codeSequenceNotReady  = 10163
	codeWrongSequenceAlso = 10164
	codeTooManyRequests   = 10167
	codeBatchIncomplete   = 10176
	codeBatchTooLarge     = 10199
	codeBatchDuplicate    = 10201
	codeTooManyBatches    = 10210
)

// Unwrap is the error of package eventstore that the code stands for.
func (e *apiError) Unwrap() error {
	switch e.ErrCode {
	case codeAccountResources, codeInsufficient, codeMemoryResources, codeStorageResources:
		return eventstore.ErrStoreFull
	case codeMessageTooLarge, codeHeaderTooLarge, codeBatchTooLarge:
		return eventstore.ErrTooLarge
	case codeStoreFailed:
		// One code for all reasons; the text alone tells them apart.
		if strings.Contains(e.Description, "too large") {
			return eventstore.ErrTooLarge
		}
		if strings.Contains(e.Description, "maximum") {
			return eventstore.ErrStoreFull
		}
	}
	return eventstore.ErrUnavailable
}

// passing says that the same request can succeed a little later.
func (e *apiError) passing() bool {
	switch e.ErrCode {
	case codeClusterNotAvail, codeClusterNotLeader, codeTooManyRequests, codeBatchIncomplete, codeTooManyBatches:
		return true
	}
	return false
}

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
	w.started, w.limit, w.permissions, w.link = time.Now(), limit, permissions, linkOf(nc)
	a.mu.Lock()
	defer a.mu.Unlock()
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

// tryTime is how long one try may take. It leaves a third of what time there is
// to find out what has become of it.
func tryTime(ctx context.Context) time.Duration {
	if deadline, has := ctx.Deadline(); has {
		return min(tryTimeout, time.Until(deadline)*2/3)
	}
	return tryTimeout
}

func tryContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, tryTime(ctx))
}

// permissionPoll is how often a request that waits looks for a violation. Most
// are answered long before the first look.
const permissionPoll = 20 * time.Millisecond

// permissions sees that the server refuses to take messages on some subjects.
// NATS tells this to the connection, not to the request, which waits in vain.
// Only an error that is new counts: the connection keeps the last one for ever.
type permissions struct {
	nc       *nats.Conn
	subjects []string
	before   error
}

func (s *Store) permissions(subjects ...string) permissions {
	return permissions{nc: s.nc, subjects: subjects, before: s.nc.LastError()}
}

// denied is ErrPermissionDenied once the server has refused.
func (p permissions) denied() error {
	now := p.nc.LastError()
	if now == nil || now == p.before || !errors.Is(now, nats.ErrPermissionViolation) {
		return nil
	}
	text := now.Error()
	for _, subject := range p.subjects {
		if strings.Contains(text, fmt.Sprintf("Publish to %q", subject)) {
			return fmt.Errorf("%w: publish to %s: grant it to the user of this connection", eventstore.ErrPermissionDenied, subject)
		}
	}
	return nil
}

// watch ends the context when the server has refused.
func (p permissions) watch(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	var mu sync.Mutex
	var timer *time.Timer
	look := func() {
		mu.Lock()
		defer mu.Unlock()
		if p.denied() != nil {
			cancel()
		}
		if ctx.Err() == nil {
			timer.Reset(permissionPoll)
		}
	}
	mu.Lock()
	timer = time.AfterFunc(permissionPoll, look)
	mu.Unlock()
	return ctx, func() {
		cancel()
		mu.Lock()
		defer mu.Unlock()
		timer.Stop()
	}
}

// retry tries until what it does succeeds, fails for good, or the context ends.
func retry(ctx context.Context, do func() error) error {
	for try := 1; ; try++ {
		err := askAgain(do(), try)
		if !errors.Is(err, errAgain) {
			return err
		}
		if pauseErr := pause(ctx, waitAfter(err, try)); pauseErr != nil {
			return fmt.Errorf("%w; last try: %v", pauseErr, err)
		}
	}
}

var (
	// errAgain marks an error after which the same request may succeed.
	errAgain = errors.New("try again")
	// errNotConnected marks that nothing was sent since there is no connection. One that
	// is lost is commonly made again in less than a second.
	errNotConnected = errors.New("the connection to NATS is lost, and being made again")
	// errNoServer marks that nobody who has the stream answers, and that nobody says
	// that there is none.
	errNoServer = errors.New("no server that has the stream answers, as while they restart")
	// errAbsent marks that nobody has answered absentTries times, or that JetStream has
	// said as often that there is no such stream.
	errAbsent = errors.New("asked for two seconds in vain")
)

// askAgain marks what is worth another try and changes nothing else.
func askAgain(err error, try int) error {
	var refused *apiError
	switch {
	case errors.Is(err, errAbsent):
		// Asked often enough already.
	case errors.Is(err, errNoServer):
		return fmt.Errorf("%w: %w", errAgain, err)
	case errors.Is(err, errNotConnected):
		if try < absentTries {
			return fmt.Errorf("%w: %w", errAgain, err)
		}
	case errors.Is(err, errNoAnswer), errors.As(err, &refused) && refused.passing():
		return fmt.Errorf("%w: %w", errAgain, err)
	case errors.Is(err, errNoResponders), errCode(err) == codeStreamNotFound:
		if try < absentTries {
			return fmt.Errorf("%w: %w", errAgain, err)
		}
		return fmt.Errorf("%w: %w: %w", eventstore.ErrUnavailable, errAbsent, err)
	}
	return err
}

const (
	// conflictWait is the mean pause after the first try that lost against another
	// writer: about as long as the write of that one takes on a replicated stream.
	conflictWait = 2 * time.Millisecond
	// conflictDoublings is how often it doubles at most, to 64 ms: with 64 processes that
	// write to one actor, 1,000 tries a second are what JetStream has time for beside
	// the writes.
	conflictDoublings = 5
)

// waitAfter is the mean pause after so many tries, of which the last failed with err.
// Who loses again and again has many others to wait for: at a steady pace all of them
// would keep the server busy with tries that lose.
func waitAfter(err error, tries int) time.Duration {
	var refused *apiError
	if errors.Is(err, errNoAnswer) || errors.Is(err, errNoResponders) || errors.Is(err, errNotConnected) || errCode(err) == codeStreamNotFound || errors.As(err, &refused) && refused.passing() {
		return retryWait
	}
	return conflictWait << min(tries-1, conflictDoublings)
}

// pause waits for about the mean, spread so that writers who met once do not
// meet again.
func pause(ctx context.Context, mean time.Duration) error {
	timer := time.NewTimer(mean/2 + rand.N(mean))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ended(ctx)
	}
}
