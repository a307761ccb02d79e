package access

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

const (
	// subject is where servers ask, and header where they name the key that they
	// encrypt with.
	subject = "$SYS.REQ.USER.AUTH"
	header  = "Nats-Server-Xkey"
	// queueGroup lets one replica of the operator answer each question.
	queueGroup = "aether"
	// answerTimeout bounds an answer: a server gives a connection 2 seconds in all.
	answerTimeout = 1500 * time.Millisecond
	// maxPending and maxPendingBytes bound what has arrived and was not looked at yet. What
	// is more is dropped, and whoever asked asks again.
	maxPending, maxPendingBytes = 8192, 16 << 20
	// closeTimeout bounds the wait for what is being answered.
	closeTimeout = 5 * time.Second
)

// calloutLimits keep those who try bad tokens from keeping others out: each address
// has its turn, and the latest of it comes first. The server of a callout has given up
// after answerTimeout.
var calloutLimits = queueLimits{atOnce: 64, perKey: 16, waiting: 4096, waitingPerKey: 512, patience: answerTimeout}

// openingLimits are for callouts before it is known which address they are about: that is
// encrypted, and to open one takes a processor some tenths of a millisecond. Each server has
// its turn, and the latest of it comes first.
func openingLimits() queueLimits {
	processors := max(runtime.GOMAXPROCS(0), 2)
	return queueLimits{atOnce: processors, perKey: processors, waiting: 4096, waitingPerKey: 512, patience: answerTimeout}
}

// maxCallout is the most that a callout has: what a client says of itself when it connects
// is in it, and servers take 4 KiB of that where nothing else is configured.
const maxCallout = 64 << 10

// Refusal tells of a pod that is not given what it wants.
type Refusal struct {
	Identity Identity
	Reason   string
}

// Server answers the callouts of one class.
type Server struct {
	config Config
	log    *slog.Logger
	tell   func(Refusal)
	conn   *nats.Conn
	// denied is what the servers said last that the callout user may not do.
	denied lastDenial
	sub    *nats.Subscription
	// opening has callouts decrypted and read, and queue has them decided on.
	opening, queue *queue
	ctx            context.Context
	end            context.CancelFunc
}

// Serve connects as the callout user of a class and answers until Close. tell is
// told of refusals, at most of those that are known to be a pod's. An error is a
// Fault.
func Serve(login stream.Login, config Config, log *slog.Logger, tell func(Refusal)) (*Server, error) {
	var err error
	if config.Issuer, config.XKey, err = keys(login.Credentials, login.Field); err != nil {
		return nil, err
	}
	s := &Server{config: config, log: log.With("class", config.Class), tell: tell, opening: newQueue(openingLimits()), queue: newQueue(calloutLimits)}
	s.config.refused, s.config.comings = &refusedTokens{}, newAllowance(maxConnections, comeEvery)
	s.ctx, s.end = context.WithCancel(context.Background())
	s.conn, err = stream.Dial(login, nats.ErrorHandler(s.denied.see), nats.CustomInboxPrefix(calloutInbox))
	if err != nil {
		s.end()
		return nil, err
	}
	if err := s.listen(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// calloutInbox is where the servers answer the callout user.
const calloutInbox = "_INBOX.aether-callout"

// keys are those that sign and decrypt.
func keys(data map[string][]byte, field string) (issuer, xkey nkeys.KeyPair, err error) {
	seed := func(key string) []byte { return []byte(strings.TrimSpace(string(data[key]))) }
	issuer, err = nkeys.FromSeed(seed(v1alpha1.CalloutKeyIssuer))
	if err == nil {
		var public string
		if public, err = issuer.PublicKey(); err == nil && !nkeys.IsValidPublicAccountKey(public) {
			err = errors.New("it is the seed of something else")
		}
	}
	if err != nil {
		return nil, nil, stream.Stalled(v1alpha1.ReasonCredentialsInvalid,
			"the key %s of the Secret that %s of the class names is no seed of an account nkey (%w): make one with nk -gen account", v1alpha1.CalloutKeyIssuer, field, err)
	}
	if len(data[v1alpha1.CalloutKeyXKey]) == 0 {
		return issuer, nil, nil
	}
	if xkey, err = nkeys.FromCurveSeed(seed(v1alpha1.CalloutKeyXKey)); err != nil {
		return nil, nil, stream.Stalled(v1alpha1.ReasonCredentialsInvalid,
			"the key %s of the Secret that %s of the class names is no seed of a curve nkey (%w): make one with nk -gen curve", v1alpha1.CalloutKeyXKey, field, err)
	}
	return issuer, xkey, nil
}

// listen subscribes, and waits until the server has agreed.
func (s *Server) listen() error {
	var err error
	if s.sub, err = s.conn.QueueSubscribe(subject, queueGroup, s.receive); err == nil {
		err = s.sub.SetPendingLimits(maxPending, maxPendingBytes)
	}
	if err == nil {
		err = s.conn.FlushTimeout(answerTimeout)
	}
	if err != nil {
		return stream.Retrying(v1alpha1.ReasonCalloutUnavailable, "subscribe to %s: %w", subject, err)
	}
	// What the server said to the subscription came before its answer to the flush;
	// the error handler may not have been called yet.
	s.denied.see(nil, nil, s.conn.LastError())
	return s.Check()
}

// Check says whether callouts can be answered. An error is a Fault.
func (s *Server) Check() error {
	if said := s.denied.of(subject); said != "" {
		return stream.Stalled(v1alpha1.ReasonCalloutUnavailable,
			"the callout user may not subscribe to %s (%s): give it the permissions that the documentation of access lists", subject, said)
	}
	if !s.conn.IsConnected() {
		return stream.Retrying(v1alpha1.ReasonCalloutUnavailable,
			"the connection of the callout user to NATS is lost, so no pod can connect: check that its servers run; the operator connects again by itself")
	}
	return nil
}

// receive has a callout opened when it is its server's turn.
func (s *Server) receive(msg *nats.Msg) {
	if len(msg.Data) > maxCallout {
		s.note(answered{outcome: Malformed, err: fmt.Errorf("a callout has %d bytes: those of servers have %d at most", len(msg.Data), maxCallout)})
		return
	}
	s.opening.add(msg.Header.Get(header), func() { s.open(msg) }, func() { s.note(answered{outcome: Dropped}) })
}

// open reads a callout, and has it answered in the turn of the address that it is about.
func (s *Server) open(msg *nats.Msg) {
	request, err := s.config.open(msg.Data, msg.Header.Get(header))
	if err != nil {
		s.note(answered{outcome: Malformed, err: err})
		return
	}
	s.queue.add(request.ClientInformation.Host, func() { s.handle(msg, request) }, func() {
		s.note(answered{outcome: Dropped, host: request.ClientInformation.Host})
	})
}

func (s *Server) handle(msg *nats.Msg, request *jwt.AuthorizationRequestClaims) {
	started := time.Now()
	ctx, cancel := context.WithTimeout(s.ctx, answerTimeout)
	defer cancel()
	a := s.config.answer(ctx, request)
	if a.reply != nil {
		if err := msg.Respond(a.reply); err != nil {
			a.outcome, a.err = Failed, fmt.Errorf("answer the server: %w", err)
		}
	}
	duration.WithLabelValues(s.config.Class).Observe(time.Since(started).Seconds())
	s.note(a)
}

// note counts what came of a callout, logs it, and tells who was refused.
func (s *Server) note(a answered) {
	requests.WithLabelValues(s.config.Class, string(a.outcome)).Inc()
	s.report(a)
}

// report logs what came of a callout, and tells who was refused.
func (s *Server) report(a answered) {
	log := s.log.With("serviceAccount", a.identity.String(), "pod", a.identity.PodName, "from", a.host, "streams", clip(strings.Join(a.wanted, ",")))
	switch a.outcome {
	case Granted:
		log.Debug("let a pod in", "refused", reasons(a.refusals))
	case Refused:
		var no *refusal
		if errors.As(a.err, &no) && no.again {
			log.Debug("refused a connection again", "reason", a.err.Error())
			return
		}
		log.Info("refused a connection", "reason", a.err.Error())
	case Dropped:
		log.Debug("did not decide on a connection: more come than can be decided on while their servers wait")
	case Failed:
		log.Error("could not decide on a connection, so it is refused and tries again", "error", a.err)
	case Malformed:
		s.log.Warn("ignored what is no callout that can be answered", "error", a.err)
	}
	reason := reasons(a.refusals)
	if reason == "" && a.outcome == Refused {
		reason = a.err.Error()
	}
	if reason != "" && a.identity.PodName != "" {
		s.tell(Refusal{Identity: a.identity, Reason: reason})
	}
}

// Close stops answering. What is being answered comes to its end.
func (s *Server) Close() {
	if s.sub != nil {
		// It fails when the connection is closed, and then nothing arrives anyway.
		_ = s.sub.Unsubscribe()
	}
	<-s.opening.close()
	done := s.queue.close()
	select {
	case <-done:
	case <-time.After(closeTimeout):
	}
	s.end()
	if s.conn != nil {
		_ = s.conn.FlushTimeout(answerTimeout)
		s.conn.Close()
	}
	<-done
}

// lastDenial keeps what the servers say that the callout user may not do: a
// request that is refused has no answer.
type lastDenial struct {
	mu   sync.Mutex
	said error
}

func (d *lastDenial) see(_ *nats.Conn, _ *nats.Subscription, err error) {
	if errors.Is(err, nats.ErrPermissionViolation) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.said = err
	}
}

// of is what was said of a subject, empty for nothing.
func (d *lastDenial) of(subject string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.said != nil && strings.Contains(d.said.Error(), `"`+subject) {
		return d.said.Error()
	}
	return ""
}
