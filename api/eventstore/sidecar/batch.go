package sidecar

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1/eventstorev1connect"
)

const (
	// callsAtOnce is how many calls of small saves are under way before others wait
	// to go together. With one, a second writer would wait for the first. With 64
	// writers two and three have the same rate, and four, whose calls are smaller,
	// less.
	callsAtOnce = 2
	// patience is how long a call keeps others waiting. What takes longer, such as a
	// store whose leader is elected anew, holds up only itself.
	patience = 100 * time.Millisecond
	// largeSave is the most bytes of a save that goes together with others: what a
	// call costs is little beside what more bytes cost. batchBytes bounds what goes
	// together, far below what a sidecar takes in one body.
	largeSave  = 16 << 10
	batchBytes = 256 << 10
)

// group makes the calls of saves. One that comes while few calls are under way
// goes at once; others wait until one returns, and then go together in one
// SaveBatches. So a lone writer waits for nobody, and with many the cost of a call
// is shared by as many saves as came while another was under way.
type group struct {
	client eventstorev1connect.EventStoreServiceClient
	// patience is the constant, but in a test.
	patience time.Duration

	mu sync.Mutex
	// calls are under way, the oldest first, without those that have used up the
	// patience of others.
	calls []*call
	// line is who waits, in the order of coming; nobody while fewer than callsAtOnce
	// are under way.
	line []*waiter
	// late fires when the oldest call has used up its patience, while anybody waits. A
	// timer for each call would wake up a thread for each.
	late *time.Timer
	// unbatched: the sidecar is an older one that has no SaveBatches.
	unbatched bool
}

// call is one that others wait for.
type call struct{ began time.Time }

// waiter is a save that goes together with others.
type waiter struct {
	request *eventstorev1.SaveEventsRequest
	// bytes is the size of the request, and deadline that of its context.
	bytes    int
	deadline time.Time
	// answered has room for the answer, which nobody may be there to take.
	answered chan batchAnswer
}

// batchAnswer is what one save learns of the call that it went with.
type batchAnswer struct {
	// result is its own, where the call as a whole has not failed with err.
	result *eventstorev1.SaveBatchResult
	err    error
	// again: the call was refused for being one of several saves, and nothing was
	// done.
	again bool
}

// save makes a save. The context must have a deadline.
func (g *group) save(ctx context.Context, request *eventstorev1.SaveEventsRequest) (*eventstorev1.SaveEventsResponse, error) {
	bytes := proto.Size(request)
	if bytes > largeSave {
		return g.saveAlone(ctx, request)
	}
	w, c := g.enter(ctx, request, bytes)
	if w == nil {
		defer g.end(c)
		return g.saveAlone(ctx, request)
	}
	var answer batchAnswer
	select {
	case answer = <-w.answered:
	case <-ctx.Done():
		if g.leave(w) {
			return nil, notSent(ctx)
		}
		// It was sent, and its call goes on for the others.
		select {
		case answer = <-w.answered:
		default:
			return nil, saveError(ctx, ctx.Err())
		}
	}
	failure := answer.result.GetFailure()
	switch {
	case answer.again:
		return g.saveAlone(ctx, request)
	case answer.err != nil:
		return nil, saveError(ctx, answer.err)
	case failure != nil:
		return nil, saveError(ctx, ownError(failure))
	}
	return answer.result.GetSaved(), nil
}

// saveAlone makes a save in a call of its own.
func (g *group) saveAlone(ctx context.Context, request *eventstorev1.SaveEventsRequest) (*eventstorev1.SaveEventsResponse, error) {
	response, err := g.client.SaveEvents(ctx, request)
	if err != nil {
		return nil, saveError(ctx, err)
	}
	return response, nil
}

// enter puts a save in line, or says with a call that it may go at once.
func (g *group) enter(ctx context.Context, request *eventstorev1.SaveEventsRequest, bytes int) (*waiter, *call) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.unbatched {
		// Nobody waits for it.
		return nil, nil
	}
	if len(g.calls) < callsAtOnce {
		return nil, g.begin()
	}
	w := &waiter{request: request, bytes: bytes, answered: make(chan batchAnswer, 1)}
	w.deadline, _ = ctx.Deadline()
	g.line = append(g.line, w)
	g.watch()
	return w, nil
}

// leave takes a save out of the line; false says that it has gone.
func (g *group) leave(w *waiter) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.line, w)
	if i < 0 {
		return false
	}
	g.line = slices.Delete(g.line, i, i+1)
	return true
}

// begin counts a call that starts now. The caller has the lock.
func (g *group) begin() *call {
	c := &call{time.Now()}
	g.calls = append(g.calls, c)
	return c
}

// end lets those in line go in the place of a call, unless they have gone.
func (g *group) end(c *call) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.calls, c); i >= 0 {
		g.calls = slices.Delete(g.calls, i, i+1)
		g.fill()
	}
}

// fill lets those in line go while there is place. The caller has the lock.
func (g *group) fill() {
	for len(g.line) > 0 && len(g.calls) < callsAtOnce {
		n := fitting(g.line)
		batch := slices.Clone(g.line[:n])
		g.line = slices.Delete(g.line, 0, n)
		c := g.begin()
		go g.send(batch, c)
	}
	g.watch()
}

// watch waits for the oldest call, where anybody else does. The caller has the
// lock.
func (g *group) watch() {
	if g.late == nil && len(g.line) > 0 {
		g.late = time.AfterFunc(time.Until(g.calls[0].began.Add(g.patience)), g.losePatience)
	}
}

// losePatience lets those in line go in the place of a call that takes long.
func (g *group) losePatience() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.late = nil
	if len(g.line) > 0 && time.Since(g.calls[0].began) >= g.patience {
		g.calls = slices.Delete(g.calls, 0, 1)
	}
	g.fill()
}

// fitting is how many at the head of a line go together.
func fitting(line []*waiter) int {
	bytes := 0
	for n, w := range line {
		bytes += w.bytes
		if n == eventstorev1.MaxSaveBatches || n > 0 && bytes > batchBytes {
			return n
		}
	}
	return len(line)
}

// send makes the call of a batch, and tells each save what became of it.
func (g *group) send(batch []*waiter, c *call) {
	defer g.end(c)
	results, err := g.saveBatches(batch)
	again := connect.CodeOf(err) == connect.CodeUnimplemented
	if again {
		batch = append(batch, g.disband()...)
	}
	// What is too large together may not be by itself.
	again = again || isTooLarge(err)
	for i, w := range batch {
		answer := batchAnswer{err: err, again: again}
		if err == nil {
			answer.result = results[i]
		}
		w.answered <- answer
	}
	// Who was answered tends to save again at once. So they get in line first, and
	// go together in the place of this call: otherwise the first would take it alone.
	runtime.Gosched()
}

// saveBatches makes the call of a batch, in the time that the most patient of
// its saves has: one that ends earlier must not end the others.
func (g *group) saveBatches(batch []*waiter) ([]*eventstorev1.SaveBatchResult, error) {
	request := &eventstorev1.SaveBatchesRequest{Batches: make([]*eventstorev1.SaveBatch, len(batch))}
	var deadline time.Time
	for i, w := range batch {
		request.Batches[i] = &eventstorev1.SaveBatch{Save: w.request}
		if w.deadline.After(deadline) {
			deadline = w.deadline
		}
	}
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	response, err := g.client.SaveBatches(ctx, request)
	if err != nil {
		return nil, err
	}
	if got := response.GetResults(); len(got) != len(batch) {
		return nil, fmt.Errorf("the sidecar answered for %d saves, and %d were sent", len(got), len(batch))
	}
	return response.GetResults(), nil
}

// disband makes every save go alone from now on, and returns who was in line.
func (g *group) disband() []*waiter {
	g.mu.Lock()
	defer g.mu.Unlock()
	line := g.line
	g.unbatched, g.line = true, nil
	return line
}

func isTooLarge(err error) bool {
	answered, ok := answer(err)
	return ok && errors.Is(answered, eventstore.ErrTooLarge)
}

// ownError is the failure of one save as a call of its own would have answered
// it.
func ownError(f *eventstorev1.SaveFailure) error {
	err := connect.NewWireError(connect.Code(f.GetCode()), errors.New(f.GetMessage()))
	if message := f.DetailMessage(); message != nil {
		if detail, detailErr := connect.NewErrorDetail(message); detailErr == nil {
			err.AddDetail(detail)
		}
	}
	return err
}
