package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/semaphore"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// What may be under way at once, where a Config says nothing.
const (
	// DefaultMaxCalls is how many calls that are no streams, and DefaultMaxStreams
	// how many streams.
	DefaultMaxCalls   = 256
	DefaultMaxStreams = 64
	// DefaultMemory is how many bytes calls and streams may take together.
	DefaultMemory = 256 << 20
)

const (
	// callCost is what a call takes beside its body and its answer.
	callCost = 16 << 10
	// saveCost is what each save takes of a call that makes several: the goroutine
	// that makes it, and what the engine keeps meanwhile.
	saveCost = 8 << 10
	// bodyCost is what a byte of a body takes: as it was sent, taken apart, and on
	// its way to NATS. answerCost is that of a byte of an answer: as it was read, as
	// JSON, and the buffer of that while it grows.
	bodyCost   = 3
	answerCost = 4
	// readAhead is how many messages the engine has in memory at most when it reads,
	// of as many bytes as ReadAheadBytes; to follow it has twice as many. A read takes
	// as much as the largest until it is known how large its events are.
	readAhead = 256
	// followPages is how many such pages there are to follow events.
	followPages = 2
	// ReadAheadBytes is how many bytes of messages a read through JetStream should
	// have in memory, so that many streams fit into a small pod. It is more than the
	// largest message, as jetstream.MinReadAheadBytes is.
	ReadAheadBytes = 5 << 18
	// chargeStep is how much memory is asked for at once.
	chargeStep = 64 << 10
	// memoryWait is how long a call waits for memory before it is refused.
	memoryWait = time.Second
	// retryAfter is what a client that was refused is told to wait, in seconds.
	retryAfter = "1"
)

// errTooManyRequests: as much is under way as there may be.
var errTooManyRequests = errors.New("too many requests")

// limits keep what is under way within the memory of the pod: a call more is
// refused, and one that was accepted is not killed.
type limits struct {
	config                 Config
	calls, streams, memory *semaphore.Weighted
}

func newLimits(config Config) *limits {
	return &limits{
		config: config, calls: semaphore.NewWeighted(int64(config.MaxCalls)), streams: semaphore.NewWeighted(int64(config.MaxStreams)),
		memory: config.Budget,
	}
}

// account is what one call or stream takes. It is for one goroutine.
type account struct {
	limits *limits
	slot   *semaphore.Weighted
	// taken is the memory that it has, and owed what it has used of that; ahead is the
	// part of that which is for reading ahead.
	taken, owed, ahead int64
	// known says that the read has met an event.
	known bool
}

// open admits a call with a body of a length, below 0 where it is not known, or
// a stream. It waits a little for memory, and then refuses.
func (l *limits) open(ctx context.Context, stream bool, length int64) (*account, error) {
	a := &account{limits: l, slot: l.calls}
	what, limit, cost := "calls", l.config.MaxCalls, callCost+bodyCost*min(max(length, 0), l.config.MaxBodyBytes)
	if stream {
		a.slot, what, limit = l.streams, "streams", l.config.MaxStreams
	}
	if !a.slot.TryAcquire(1) {
		return nil, fmt.Errorf("%w: %d %s are under way, and no more are allowed: try again after %s s", errTooManyRequests, limit, what, retryAfter)
	}
	if err := a.wait(ctx, cost); err != nil {
		a.slot.Release(1)
		return nil, err
	}
	return a, nil
}

// wait takes memory, and waits a little for it where there is none.
func (a *account) wait(ctx context.Context, n int64) error {
	if a.limits.memory.TryAcquire(n) {
		a.taken += n
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, memoryWait)
	defer cancel()
	if err := a.limits.memory.Acquire(ctx, n); err != nil {
		return a.limits.errMemory()
	}
	a.taken += n
	return nil
}

func (l *limits) errMemory() error {
	return fmt.Errorf("%w: what is under way takes all of the %d MiB that it may: try again after %s s", errTooManyRequests, l.config.Memory>>20, retryAfter)
}

func (a *account) close() {
	a.limits.memory.Release(a.taken)
	a.slot.Release(1)
}

// charge takes n bytes more, or says that there are none.
func (a *account) charge(n int64) error {
	a.owed += n
	if a.owed <= a.taken {
		return nil
	}
	// What there is room for is not refused for the sake of a whole step.
	least := a.owed - a.taken
	for _, more := range []int64{max(least, chargeStep), least} {
		if a.limits.memory.TryAcquire(more) {
			a.taken += more
			return nil
		}
	}
	a.owed -= n
	return a.limits.errMemory()
}

// reading takes what a read may need before anything is known of its events.
func (a *account) reading(ctx context.Context) error {
	a.ahead = min(ReadAheadBytes, a.limits.config.Memory/2)
	return a.need(ctx, a.ahead)
}

// saving takes what so many saves need in one call. They share its slot, which is
// for what comes with a call; what comes with a save is memory.
func (a *account) saving(ctx context.Context, saves int) error {
	return a.need(ctx, int64(saves)*saveCost)
}

// need takes n bytes more, and waits a little for them where there are none.
func (a *account) need(ctx context.Context, n int64) error {
	a.owed += n
	if a.owed <= a.taken {
		return nil
	}
	return a.wait(ctx, a.owed-a.taken)
}

// met takes what a read needs that has met this event, in so many pages: less than
// before where it is the first, and more where it is the largest.
func (a *account) met(e *eventstore.Event, pages int64) error {
	ahead := pages * min(int64(readAhead*size(e)), ReadAheadBytes)
	if !a.known {
		a.known = true
		a.owed, a.ahead = a.owed-a.ahead, 0
		a.giveBack(ahead)
	}
	if ahead <= a.ahead {
		return nil
	}
	more := ahead - a.ahead
	a.ahead = ahead
	return a.charge(more)
}

// giveBack gives back what is taken and not owed, but so much.
func (a *account) giveBack(but int64) {
	if spare := a.taken - a.owed - but; spare > 0 {
		a.taken -= spare
		a.limits.memory.Release(spare)
	}
}

// body counts what is read of a body.
func (a *account) body(body io.ReadCloser) io.ReadCloser { return &meteredBody{body, a} }

type meteredBody struct {
	io.ReadCloser
	account *account
}

func (b *meteredBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if chargeErr := b.account.charge(int64(n) * bodyCost); chargeErr != nil {
		return n, chargeErr
	}
	return n, err
}

type accountKey struct{}

func withAccount(ctx context.Context, a *account) context.Context {
	return context.WithValue(ctx, accountKey{}, a)
}

// accountOf is the account of a call. Every call has one that came through
// Handler.
func accountOf(ctx context.Context) *account {
	return ctx.Value(accountKey{}).(*account)
}
