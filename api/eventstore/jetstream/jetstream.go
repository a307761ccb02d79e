package jetstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/semaphore"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// Limits of waiting.
const (
	// DefaultTimeout bounds a call whose context has no deadline. A cluster that
	// loses the leader of a stream elects another within 9 seconds.
	DefaultTimeout = 15 * time.Second
	// tryTimeout is how long one answer is waited for before it is asked for
	// again: the first question may have gone to a server that has just stopped.
	tryTimeout = 2 * time.Second
	// retryWait is the mean pause between tries. A try that lost against other
	// writers comes again sooner, see pause.
	retryWait = 100 * time.Millisecond
	// absentTries is how often a stream that JetStream says does not exist is asked
	// before the call fails: it may be so new that not every server knows of it. So is
	// one while the connection is lost, and what makes consumers. Some 2 seconds in all.
	absentTries = 20
)

// DefaultHeads is of how many actors a Store remembers where they stand: some
// 5 MB when all are there, and 9 MB when each has 64 events and more.
const DefaultHeads = 1 << 14

// Config says where the events of one store are.
type Config struct {
	// Namespace and Store are the names of the store; they make the source of its
	// events, /{namespace}/{store}. Required.
	Namespace, Store string
	// EventsStream and SnapshotsStream are the names of the streams. Required.
	EventsStream, SnapshotsStream string
	// Domain is the JetStream domain; empty is that of the server.
	Domain string
	// OperatorMakesConsumers: the operator of Aether makes the consumers of
	// subscriptions, asked on MakeConsumerSubject, since the connection may not ask
	// JetStream to. No subscription can begin, or be begun again, while it is away. It keeps
	// the latest versions of actors whose events expire, too; see KeepVersions.
	OperatorMakesConsumers bool
	// Silent, where it is not nil, is called when the server of the connection is there and
	// has answered no request for 8 seconds, as one does that lost the rest of its cluster:
	// nats.Conn.ForceReconnect finds another. It is called again after 10 seconds, and up to
	// 2 minutes, while no answer comes.
	Silent func()
	// Timeout bounds each call whose context has no deadline; 0 is DefaultTimeout.
	Timeout time.Duration
	// Heads is of how many actors the Store remembers where they stand, those used
	// most recently, so that a save need not ask; 0 is DefaultHeads. Each takes
	// about 300 bytes, and 4 more for the id of each of its newest 64 events, which are
	// remembered of actors that are new or saved to without a version.
	Heads int
	// ReadAheadBytes is how many bytes of messages a read asks for at once, at least
	// MinReadAheadBytes; 0 is DefaultReadAheadBytes. A read has as much in memory, and
	// a subscription twice as much.
	ReadAheadBytes int
	// Memory is what a save takes ReadAheadBytes from while it reads, so that many saves
	// to actors that are not known do not read at once more than there is room for. One
	// that gets none within MemoryWait is ErrUnavailable. Nil sets no bound.
	Memory *semaphore.Weighted
	// AheadMemory is what durable subscriptions take from, as from Memory, for the events
	// that they have read ahead and no application was given: where either has no more, the
	// event is read again when it is handed out. Nil sets no bound but 16 MiB of each one that
	// is coordinated here, and 128 KiB of each event that a member may have.
	AheadMemory *semaphore.Weighted
}

// MemoryWait is how long a save waits for Config.Memory.
const MemoryWait = 2 * time.Second

// Limits of Config.ReadAheadBytes: large enough that round trips do not count and
// small enough to hold, and the size of the largest message.
const (
	DefaultReadAheadBytes = 4 << 20
	MinReadAheadBytes     = 5 << 18
)

func (c Config) validate() error {
	for _, field := range []struct{ name, value string }{
		{"Namespace", c.Namespace}, {"Store", c.Store}, {"EventsStream", c.EventsStream}, {"SnapshotsStream", c.SnapshotsStream},
	} {
		if field.value == "" || EncodeToken(field.value) != field.value {
			return fmt.Errorf("open event store: %s is %q: give a name without spaces, dots and wildcards", field.name, field.value)
		}
	}
	if c.EventsStream == c.SnapshotsStream {
		return fmt.Errorf("open event store: events and snapshots are both in stream %s: they need one each", c.EventsStream)
	}
	if EncodeToken(c.Domain) != c.Domain {
		return fmt.Errorf("open event store: Domain is %q: give a name without spaces, dots and wildcards", c.Domain)
	}
	if c.Heads < 0 {
		return fmt.Errorf("open event store: Heads is %d: give a positive one, or 0 for %d", c.Heads, DefaultHeads)
	}
	if c.ReadAheadBytes != 0 && c.ReadAheadBytes < MinReadAheadBytes {
		return fmt.Errorf("open event store: ReadAheadBytes is %d: give at least %d, or 0 for %d", c.ReadAheadBytes, MinReadAheadBytes, DefaultReadAheadBytes)
	}
	if c.Timeout < 0 {
		return fmt.Errorf("open event store: Timeout is %s: give a positive one, or 0 for %s", c.Timeout, DefaultTimeout)
	}
	return nil
}

// Store is an eventstore.Store on JetStream. Make one with New.
type Store struct {
	nc     *nats.Conn
	config Config
	opts   eventstore.Options
	// api is the prefix of the JetStream API.
	api string
	// heads are where actors stood when they were last seen.
	heads   *heads
	writers *writers
	answers answers
	lookout lookout
	// life ends with Close.
	life context.Context
	end  context.CancelFunc
	// snapshotSaved: a replica may not know of it yet.
	snapshotSaved atomic.Bool
	// versionsKept: it has saved an event, and keeps the latest versions of actors, or leaves it to
	// others. background is what does that; it ends with life.
	versionsKept atomic.Bool
	background   sync.WaitGroup

	mu     sync.Mutex
	closed bool
	// open are the subscriptions that are not closed.
	open map[io.Closer]struct{}
	// gone are members of durable subscriptions that ended and could not tell.
	gone map[string]departure
}

var _ eventstore.Store = (*Store)(nil)

// New opens a store on a connection. It makes no stream and asks the server
// nothing; see Check. The connection stays the caller's, and one with
// nats.MaxReconnects(-1) survives any outage.
func New(nc *nats.Conn, config Config, opts ...eventstore.Option) (*Store, error) {
	if nc == nil {
		return nil, errors.New("open event store: no NATS connection is given")
	}
	if err := config.validate(); err != nil {
		return nil, err
	}
	if config.Timeout == 0 {
		config.Timeout = DefaultTimeout
	}
	config.ReadAheadBytes = cmp.Or(config.ReadAheadBytes, DefaultReadAheadBytes)
	api := "$JS.API."
	if config.Domain != "" {
		api = "$JS." + config.Domain + ".API."
	}
	s := &Store{
		nc: nc, config: config, opts: eventstore.NewOptions(opts...), api: api, writers: newWriters(), open: map[io.Closer]struct{}{},
	}
	s.life, s.end = context.WithCancel(context.Background())
	s.answers.silence.tell = config.Silent
	var err error
	s.heads, err = newHeads(cmp.Or(config.Heads, DefaultHeads), s.opts.Metrics)
	return s, err
}

// Check answers whether the leaders of both streams answer; nil says that
// events can be saved and read.
func (s *Store) Check(ctx context.Context) error {
	if !s.nc.IsConnected() {
		// Calls wait a while for it to come back. Whoever looks wants to know now.
		return fmt.Errorf("check the streams of store %s: %w: %w", s.config.Store, eventstore.ErrUnavailable, errNotConnected)
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	for _, stream := range []string{s.config.EventsStream, s.config.SnapshotsStream} {
		// No message has this subject, and the leader says so at once.
		if _, err := s.leaderGet(ctx, stream, getRequest{LastBySubject: s.config.EventsStream + ".check"}); err != nil {
			return fmt.Errorf("check stream %s: %w", stream, err)
		}
	}
	return nil
}

// Close ends the subscriptions of the store. The connection is the caller's, and
// calls under way come to their end.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	open := slices.Collect(maps.Keys(s.open))
	s.mu.Unlock()
	s.end()
	for _, subscription := range open {
		if err := subscription.Close(); err != nil {
			return err
		}
	}
	s.background.Wait()
	s.answers.close()
	return nil
}

// register makes Close close a subscription.
func (s *Store) register(subscription io.Closer) error {
	s.mu.Lock()
	if !s.closed {
		s.open[subscription] = struct{}{}
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	return errors.Join(fmt.Errorf("%w: the store was closed", eventstore.ErrSubscriptionClosed), subscription.Close())
}

func (s *Store) unregister(subscription io.Closer) {
	s.mu.Lock()
	delete(s.open, subscription)
	s.mu.Unlock()
}

// reading takes memory for a read of a save; what it returns gives it back.
func (s *Store) reading(ctx context.Context) (done func(), err error) {
	if s.config.Memory == nil {
		return func() {}, nil
	}
	n := int64(s.config.ReadAheadBytes)
	waiting, cancel := context.WithTimeout(ctx, MemoryWait)
	defer cancel()
	if err := s.config.Memory.Acquire(waiting, n); err != nil {
		if ctx.Err() != nil {
			return nil, ended(ctx)
		}
		return nil, fmt.Errorf("%w: other calls take all the memory that there is: try again a little later", eventstore.ErrUnavailable)
	}
	return func() { s.config.Memory.Release(n) }, nil
}

// errTimeout is the cause of a context that this package has bounded.
var errTimeout = errors.New("no answer in time")

// bounded gives a context without a deadline the timeout of the store.
func (s *Store) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, has := ctx.Deadline(); has {
		return context.WithCancel(ctx)
	}
	return s.timed(ctx)
}

// timed gives a context the timeout of the store, also one with a later deadline.
func (s *Store) timed(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, s.config.Timeout, errTimeout)
}

// ended is the error of a context that has ended: of the caller's own, whose
// error it then is, or of one that bounded has made.
func ended(ctx context.Context) error {
	if cause := context.Cause(ctx); errors.Is(cause, errTimeout) {
		return fmt.Errorf("%w: %w", eventstore.ErrUnavailable, cause)
	}
	return fmt.Errorf("%w: %w", eventstore.ErrUnavailable, ctx.Err())
}
