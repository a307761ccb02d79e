package access

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

const (
	// consumerTimeout is how long a request waits for its turn, and JetStream is waited for
	// before it is seen whether the stream answers anything.
	consumerTimeout = 2 * time.Second
	// makeTimeout bounds how long JetStream is waited for. In a large store it may count for
	// seconds what a consumer has to deliver.
	makeTimeout = 30 * time.Second
)

// consumerLimits let the pods of one store not hold up those of another. A consumer
// of a replicated stream takes JetStream some milliseconds; what takes seconds does so for
// the other consumers of its store alone.
var consumerLimits = queueLimits{atOnce: 16, perKey: 4, waiting: 1024, waitingPerKey: 128, patience: consumerTimeout, lends: consumerTimeout / 4}

// How a request for a consumer is refused. The codes are those of JetStream, so that
// whoever asks reads the answer of either in one way.
const (
	codeBadRequest      = 10003
	codeMaxConsumers    = 10026
	codeStreamNotFound  = 10059
	codeTooManyRequests = 10167
)

// ConsumersConfig is how consumers are made for the pods of one class.
type ConsumersConfig struct {
	// Class is the name of the EventStoreClass.
	Class string
	// Domain is the JetStream domain of the streams as the operator reaches them, empty
	// for that of the servers.
	Domain string
	// System is the NATS system of the streams, as the status of an EventStore names it.
	System string
	// MaxConsumers is how many consumers a store has, those of others than pods among
	// them; 0 is DefaultMaxConsumers.
	MaxConsumers int
	// Stores are the EventStores of the class that name one of these streams of events.
	Stores func(ctx context.Context, streams []string) ([]v1alpha1.EventStore, error)
	// Streams are those of events that the EventStores of the class name. It is asked
	// several times a second.
	Streams func() []string
}

// DefaultMaxConsumers is for some thousand pods with a few subscriptions each. Every
// consumer takes memory of the servers.
const DefaultMaxConsumers = 10_000

// Consumers makes the consumers of pods. They may not ask JetStream to: what a
// consumer delivers, JetStream publishes with all rights of the account of the
// streams, to a subject that the request names.
type Consumers struct {
	config ConsumersConfig
	log    *slog.Logger
	conn   *nats.Conn
	denied lastDenial
	queue  *queue
	ctx    context.Context
	end    context.CancelFunc
	// received is closed when no more requests are taken, after stop.
	stop     context.CancelFunc
	received chan struct{}
}

// maxAskings is how many requests of one store are answered at once, and askEvery how often
// one is after that. Others do not reach the operator: all requests come on one connection,
// and a flood would keep it from those of other stores.
const (
	maxAskings = 1024
	askEvery   = 5 * time.Millisecond
)

// ServeConsumers connects as the operator and makes consumers until Close. It has a
// connection of its own, so that pods that ask for many hold up nothing else. An
// error is a Fault.
func ServeConsumers(login stream.Login, config ConsumersConfig, log *slog.Logger) (*Consumers, error) {
	c := &Consumers{config: config, log: log.With("class", config.Class), queue: newQueue(consumerLimits), received: make(chan struct{})}
	c.ctx, c.end = context.WithCancel(context.Background())
	var receiving context.Context
	receiving, c.stop = context.WithCancel(c.ctx)
	var err error
	if c.conn, err = stream.Dial(login, nats.ErrorHandler(c.denied.see)); err != nil {
		c.end()
		return nil, err
	}
	if err := c.probe(); err != nil {
		c.end()
		c.conn.Close()
		return nil, err
	}
	requests := newCredits(c.conn, queueGroup, newAllowance(maxAskings, askEvery), c.log, c.subjects, c.receive)
	c.conn.SetDisconnectErrHandler(requests.disconnected)
	requests.follow()
	go func() {
		defer close(c.received)
		requests.run(receiving)
	}()
	return c, nil
}

// subjects are those on which pods ask.
func (c *Consumers) subjects() []string {
	streams := c.config.Streams()
	subjects := make([]string, len(streams))
	for i, name := range streams {
		subjects[i] = jetstream.MakeConsumerSubject(name)
	}
	return subjects
}

// probe sees whether the operator may do what it has to, with a stream that is none. An
// error is a Fault.
func (c *Consumers) probe() error {
	const none = "aether-probe"
	subject := jetstream.MakeConsumerSubject(none)
	sub, err := c.conn.QueueSubscribeSync(subject, queueGroup)
	if err == nil {
		// It fails when the connection is closed, and then nothing arrives anyway.
		defer func() { _ = sub.Unsubscribe() }()
		err = c.conn.Publish(apiPrefix(c.config.Domain)+".CONSUMER.CREATE."+none+"."+none, nil)
	}
	if err == nil {
		err = c.conn.FlushTimeout(answerTimeout)
	}
	if err != nil {
		return stream.Retrying(v1alpha1.ReasonCalloutUnavailable, "subscribe to %s: %w", subject, err)
	}
	c.denied.see(nil, nil, c.conn.LastError())
	return c.Check()
}

// Check says whether consumers can be made. An error is a Fault.
func (c *Consumers) Check() error {
	for _, subject := range []string{jetstream.MakeConsumerSubject(""), apiPrefix(c.config.Domain) + ".CONSUMER.CREATE"} {
		if said := c.denied.of(subject); said != "" {
			return stream.Stalled(v1alpha1.ReasonPermissionDenied,
				"the operator may not use %s (%s), so pods cannot subscribe: give the account of the class the permissions that the documentation of access lists", subject, said)
		}
	}
	if !c.conn.IsConnected() {
		return stream.Retrying(v1alpha1.ReasonUnreachable,
			"the connection on which the operator makes consumers is lost, so pods cannot subscribe: check that the NATS servers run; the operator connects again by itself")
	}
	return nil
}

func (c *Consumers) receive(msg *nats.Msg) {
	if msg.Reply == "" {
		// Nobody would hear of it, so that nothing is made, asked for or logged.
		made.WithLabelValues(c.config.Class, string(Refused)).Inc()
		return
	}
	if msg.Size() > maxConsumerMessage {
		// It does not wait: what waits is kept.
		c.refuse(msg, Refused, 400, codeBadRequest, fmt.Sprintf("the request is larger than %d bytes", maxConsumerMessage))
		return
	}
	c.queue.add(msg.Subject, func() { c.make(msg) }, func() {
		c.refuse(msg, Dropped, 429, codeTooManyRequests, "too many consumers are being asked for")
	})
}

// make answers one request. One that JetStream was asked for and does not answer stays
// unanswered: whoever has asked knows best when it is lost, asks again then, and is given
// what was made meanwhile.
func (c *Consumers) make(msg *nats.Msg) {
	ctx, cancel := context.WithTimeout(c.ctx, makeTimeout)
	defer cancel()
	name := strings.TrimPrefix(msg.Subject, jetstream.MakeConsumerSubject(""))
	request, err := readConsumerRequest(name, msg.Data)
	if err != nil {
		c.log.Info("refused to make a consumer", "stream", clip(name), "reason", err.Error())
		c.refuse(msg, Refused, 400, codeBadRequest, err.Error())
		return
	}
	stores, err := c.config.Stores(ctx, []string{name})
	if err != nil {
		c.fail(msg, name, err)
		return
	}
	switch _, standing, _ := holder(stores, c.config.System, name); standing {
	case barred:
		c.refuse(msg, Refused, 404, codeStreamNotFound, "the operator has no EventStore with this stream that can be used")
		return
	case unproven:
		c.refuse(msg, Failed, 503, codeTooManyRequests, "the operator has not looked yet whose this stream is")
		return
	case usable:
	}
	full, err := c.full(ctx, request)
	if full {
		c.refuse(msg, Refused, 400, codeMaxConsumers, "the store has as many consumers as it may")
		return
	}
	if err != nil {
		c.fail(msg, name, err)
		return
	}
	answer, err := c.create(ctx, request)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		c.fail(msg, name, err)
	case err != nil:
		c.unanswered(name, err)
	default:
		made.WithLabelValues(c.config.Class, string(Granted)).Inc()
		// It fails when the connection is lost, and then whoever asked asks again.
		_ = msg.Respond(answer)
	}
}

// create asks JetStream for a consumer, once: it waits until the answer is lost.
func (c *Consumers) create(ctx context.Context, request consumerRequest) ([]byte, error) {
	subject := ".CONSUMER.CREATE." + request.Stream + "." + request.Config.Name
	if request.Config.FilterSubject != "" {
		subject += "." + request.Config.FilterSubject
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	looking := time.AfterFunc(consumerTimeout, func() {
		if c.answers(ctx, request.Stream) {
			cancel()
		}
	})
	defer looking.Stop()
	return c.request(ctx, subject, request)
}

// answers waits until a stream tells about itself, and as long again as a consumer takes then.
// A stream that counts what a consumer has to deliver tells nothing meanwhile.
func (c *Consumers) answers(ctx context.Context, name string) bool {
	for {
		try, cancel := context.WithTimeout(ctx, consumerTimeout)
		_, err := c.request(try, ".STREAM.INFO."+name, nil)
		cancel()
		select {
		case <-time.After(consumerTimeout):
		case <-ctx.Done():
			return false
		}
		if err == nil {
			return true
		}
	}
}

// full says whether a store has as many consumers as it may.
func (c *Consumers) full(ctx context.Context, request consumerRequest) (bool, error) {
	if request.Action != "create" {
		return false, nil
	}
	answer, err := c.request(ctx, ".STREAM.INFO."+request.Stream, nil)
	if err != nil {
		return false, err
	}
	var info struct {
		State struct {
			Consumers int `json:"consumer_count"`
		} `json:"state"`
	}
	if err := json.Unmarshal(answer, &info); err != nil {
		return false, fmt.Errorf("read how many consumers stream %s has: %w", request.Stream, err)
	}
	return info.State.Consumers >= cmp.Or(c.config.MaxConsumers, DefaultMaxConsumers), nil
}

// request asks JetStream, and answers what it says.
func (c *Consumers) request(ctx context.Context, operation string, payload any) ([]byte, error) {
	var body []byte
	if payload != nil {
		var err error
		if body, err = json.Marshal(payload); err != nil {
			return nil, fmt.Errorf("encode a request to JetStream: %w", err)
		}
	}
	subject := apiPrefix(c.config.Domain) + operation
	answer, err := c.conn.RequestWithContext(ctx, subject, body)
	if err != nil {
		return nil, fmt.Errorf("request %s: %w", clip(subject), err)
	}
	return answer.Data, nil
}

// unanswered is for what JetStream was asked for and did not answer.
func (c *Consumers) unanswered(stream string, err error) {
	made.WithLabelValues(c.config.Class, string(Failed)).Inc()
	if c.ctx.Err() == nil {
		c.log.Error("JetStream did not say whether it made a consumer, so whoever asked asks again", "stream", stream, "error", err)
	}
}

func (c *Consumers) fail(msg *nats.Msg, stream string, err error) {
	if c.ctx.Err() == nil {
		c.log.Error("could not make a consumer, so whoever asked asks again", "stream", stream, "error", err)
	}
	c.refuse(msg, Failed, 503, codeTooManyRequests, "JetStream was not asked to make the consumer")
}

// refuse answers as JetStream does.
func (c *Consumers) refuse(msg *nats.Msg, outcome Outcome, code, errCode int, description string) {
	made.WithLabelValues(c.config.Class, string(outcome)).Inc()
	answer, err := json.Marshal(map[string]any{
		"type":  "io.nats.jetstream.api.v1.consumer_create_response",
		"error": map[string]any{"code": code, "err_code": errCode, "description": description},
	})
	if err != nil {
		// Strings and numbers: only a mistake in the code can fail here.
		panic(err)
	}
	// It fails when the connection is lost, and then whoever asked asks again.
	_ = msg.Respond(answer)
}

// Close makes no more consumers. What is being made comes to its end.
func (c *Consumers) Close() {
	c.stop()
	<-c.received
	done := c.queue.close()
	select {
	case <-done:
	case <-time.After(closeTimeout):
	}
	c.end()
	// The answers are sent before the connection is closed; it fails when it is lost.
	_ = c.conn.FlushTimeout(answerTimeout)
	c.conn.Close()
	<-done
}
