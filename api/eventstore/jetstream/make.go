package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// The server may count for seconds what a consumer has to deliver, and take no save
// meanwhile. So nobody asks for one again while that may be going on.
const (
	// lookAfter is how long the answer is waited for before the leader of the stream is
	// asked something else. While it does not answer that either, the server is at work
	// or away.
	lookAfter = 2 * time.Second
	// lostAfter is how long the answer may still take after that one. Then it is lost,
	// and the same consumer is asked for: where it is there, that makes none.
	lostAfter = 4 * time.Second
	// untilLost bounds the wait for one answer.
	untilLost = time.Minute
	// sameConsumer is how often a consumer is asked for by one name without an answer
	// before another is. It may be on a server that is away.
	sameConsumer = 2
	// otherAfter is the mean pause before another is asked for. It doubles, up to
	// maxOtherAfter.
	otherAfter, maxOtherAfter = time.Second, 8 * time.Second
	// maxMakeWait is the mean pause at most while makers of consumers have too much to do.
	maxMakeWait = time.Second
)

// madeConsumer is what came of a consumer that was asked for.
type madeConsumer struct {
	name string
	// next is the first sequence that it delivers.
	next uint64
	err  error
}

// make makes a consumer that goes on with what was not delivered, trying until the
// context ends.
func (s *subscription) make(ctx context.Context) madeConsumer {
	name, info, err := s.store.makeConsumer(ctx, orderedConsumer(s.filter, s.next))
	if err != nil {
		return madeConsumer{err: err}
	}
	next, err := s.place(ctx, info)
	return madeConsumer{name: name, next: next, err: err}
}

// use asks a new consumer for messages.
func (s *subscription) use(made madeConsumer) error {
	if made.err != nil {
		return made.err
	}
	s.moveTo(made.next, false)
	s.consumer, s.delivered = made.name, 0
	// All that is asked for has room, and so have heartbeats: what does not fit is
	// dropped, and found missing.
	s.arrived = make(chan *nats.Msg, 2*ahead)
	return s.listen()
}

// remake makes a consumer again, for as long as the stream is there and the subscription
// is not closed. What is being made is waited for by the next call where the context ends.
func (s *subscription) remake(ctx context.Context) error {
	if s.making == nil {
		s.making = make(chan madeConsumer, 1)
		go s.makeAgain(s.making)
	}
	select {
	case made := <-s.making:
		s.making = nil
		return s.use(made)
	case <-ctx.Done():
		return ctx.Err()
	case <-s.life.Done():
		return s.life.Err()
	}
}

func (s *subscription) makeAgain(to chan<- madeConsumer) {
	for wait := retryWait; ; wait = min(2*wait, maxMakeWait) {
		made := s.make(s.life)
		if s.store.nobodyAnswers(made.err) && pause(s.life, wait) == nil {
			continue
		}
		to <- made
		return
	}
}

// makeConsumer makes a consumer, trying names until the context ends, and answers the
// name and what it is then.
func (s *Store) makeConsumer(ctx context.Context, config consumerConfig) (string, *consumerInfo, error) {
	for wait := otherAfter; ; wait = min(2*wait, maxOtherAfter) {
		info, err := s.askForConsumer(ctx, config)
		if !errors.Is(err, errNoAnswer) {
			return config.Name, info, err
		}
		if pauseErr := pause(ctx, wait); pauseErr != nil {
			return "", nil, fmt.Errorf("%w; last try: %v", pauseErr, err)
		}
		config.Name = consumerName()
	}
}

// askForConsumer has one consumer made. The request is the same whoever answers it,
// JetStream or the operator.
func (s *Store) askForConsumer(ctx context.Context, config consumerConfig) (*consumerInfo, error) {
	data, err := json.Marshal(map[string]any{"stream_name": s.config.EventsStream, "action": "create", "config": config})
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	if s.config.OperatorMakesConsumers {
		subject := MakeConsumerSubject(s.config.EventsStream)
		info, err := s.askMaker(ctx, subject, data)
		return info, refusedByOperator(subject, err)
	}
	subject := s.api + "CONSUMER.CREATE." + s.config.EventsStream + "." + config.Name
	if config.FilterSubject != "" {
		subject += "." + config.FilterSubject
	}
	return s.askMaker(ctx, subject, data)
}

// refusedByOperator tells what it means that the operator makes no consumer. It answers
// with errors of JetStream: its own are codeBadRequest, which is final, codeStreamNotFound
// for a store that it does not have, and codeTooManyRequests.
func refusedByOperator(subject string, err error) error {
	switch {
	case errors.Is(err, errNoResponders):
		return fmt.Errorf("%w: no operator of Aether answers on %s, who makes the consumers of subscriptions: see that one runs, and that no pods of the store, or of others of its event namespace, ask all the time", eventstore.ErrUnavailable, subject)
	case errCode(err) == codeBadRequest:
		// Trying again is no use, as it is with what is unavailable.
		return fmt.Errorf("%w: the operator of Aether makes no such consumer: %v", eventstore.ErrPermissionDenied, err)
	}
	return err
}

// askMaker asks until an answer comes, one that says no more than that others come first
// not counted, or until sameConsumer were lost, which is errNoAnswer.
func (s *Store) askMaker(ctx context.Context, subject string, data []byte) (*consumerInfo, error) {
	lost := 0
	for try := 1; ; try++ {
		info, err := s.askMakerOnce(ctx, &nats.Msg{Subject: subject, Data: data})
		if errors.Is(err, errNoAnswer) {
			if lost++; lost == sameConsumer || ctx.Err() != nil {
				return nil, err
			}
		}
		if err = askAgain(err, try); !errors.Is(err, errAgain) {
			return info, err
		}
		wait := retryWait
		if refused := (*apiError)(nil); errors.As(err, &refused) && refused.passing() {
			wait = min(retryWait<<min(try-1, 10), maxMakeWait)
		}
		if pauseErr := pause(ctx, wait); pauseErr != nil {
			return nil, fmt.Errorf("%w; last try: %v", pauseErr, err)
		}
	}
}

// askMakerOnce sends one request, and waits until it is answered or lost.
func (s *Store) askMakerOnce(ctx context.Context, msg *nats.Msg) (*consumerInfo, error) {
	answer, err := s.requestUntilLost(ctx, msg)
	if err != nil {
		return nil, err
	}
	info := &consumerInfo{}
	if err := json.Unmarshal(answer.Data, info); err != nil {
		return nil, fmt.Errorf("%w: the answer is not what JetStream answers: %w", eventstore.ErrUnavailable, err)
	}
	if info.Error != nil {
		return nil, info.Error
	}
	return info, nil
}

// requestUntilLost is request for what a server may be at work on for long: it waits
// for as long as that may be so.
func (s *Store) requestUntilLost(ctx context.Context, msg *nats.Msg) (*nats.Msg, error) {
	if ctx.Err() != nil {
		return nil, ended(ctx)
	}
	sent := time.Now()
	w, err := s.answers.waitFor(s.nc, msg, untilLost, s.permissions(msg.Subject))
	if err != nil {
		return nil, sendError(err)
	}
	defer s.answers.release(w)
	if err := s.nc.PublishMsg(msg); err != nil {
		return nil, sendError(err)
	}
	look := time.NewTimer(lookAfter)
	defer look.Stop()
	looking, stop := context.WithCancel(ctx)
	defer stop()
	lost := make(chan struct{})
	for {
		select {
		case answer := <-w.answer:
			return answer.msg, answer.err
		case <-look.C:
			go func() {
				if s.leaderAnswers(looking, sent) == nil && pause(looking, lostAfter) == nil {
					close(lost)
				}
			}()
		case <-lost:
			return nil, fmt.Errorf("%w, though the leader of the stream answers", errNoAnswer)
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", errNoAnswer, ctx.Err())
		}
	}
}
