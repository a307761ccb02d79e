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
	// bodyCost is what a byte of a body takes: as it was sent, taken apart, and on
	// its way to NATS. answerCost is that of a byte of an answer: as it was read, as
	// JSON, and the buffer of that while it grows.
	bodyCost   = 3
	answerCost = 4
	// streamCost is what a stream of small events takes, and maxStreamCost one of
	// the largest: two pages that the engine reads ahead, see ReadAheadBytes.
	// readAhead is how many messages those are at most.
	streamCost    = 128 << 10
	maxStreamCost = 2*ReadAheadBytes + 1<<20
	readAhead     = 512
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
		memory: semaphore.NewWeighted(config.Memory),
	}
}

// account is what one call or stream takes. It is for one goroutine.
type account struct {
	limits *limits
	slot   *semaphore.Weighted
	// taken is the memory that it has, and owed what it has used of that.
	taken, owed int64
}

// open admits a call with a body of a length, below 0 where it is not known, or
// a stream. It waits a little for memory, and then refuses.
func (l *limits) open(ctx context.Context, stream bool, length int64) (*account, error) {
	a := &account{limits: l, slot: l.calls}
	what, limit, cost := "calls", l.config.MaxCalls, callCost+bodyCost*min(max(length, 0), l.config.MaxBodyBytes)
	if stream {
		a.slot, what, limit, cost = l.streams, "streams", l.config.MaxStreams, streamCost
	}
	if !a.slot.TryAcquire(1) {
		return nil, fmt.Errorf("%w: %d %s are under way, and no more are allowed: try again after %s s", errTooManyRequests, limit, what, retryAfter)
	}
	ctx, cancel := context.WithTimeout(ctx, memoryWait)
	defer cancel()
	cost = min(cost, l.config.Memory)
	if err := l.memory.Acquire(ctx, cost); err != nil {
		a.slot.Release(1)
		return nil, l.errMemory()
	}
	a.taken = cost
	return a, nil
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
	more := max(a.owed-a.taken, chargeStep)
	if !a.limits.memory.TryAcquire(more) {
		a.owed -= n
		return a.limits.errMemory()
	}
	a.taken += more
	return nil
}

// streamed charges what a stream takes that has met this event.
func (a *account) streamed(e *eventstore.Event) error {
	cost := min(int64(readAhead*size(e)), maxStreamCost)
	return a.charge(max(cost-a.owed, 0))
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
