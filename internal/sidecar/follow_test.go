package sidecar_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// follower reads server-sent events.
type follower struct {
	*running
	response *http.Response
	scanner  *bufio.Scanner
	close    context.CancelFunc
}

// sse is one server-sent event.
type sse struct{ id, name, data string }

func (r *running) follow(query string, headers ...string) *follower {
	r.Helper()
	ctx, cancel := context.WithCancel(r.Context())
	response := r.open(ctx, "GET "+ordersEvents+query, "", append([]string{"Accept: text/event-stream"}, headers...)...)
	r.Cleanup(func() { cancel(); _ = response.Body.Close() })
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "text/event-stream" || response.Header.Get("X-Accel-Buffering") != "no" {
		r.Fatalf("follow %s: answered %s %v", query, response.Status, response.Header)
	}
	return &follower{running: r, response: response, scanner: bufio.NewScanner(response.Body), close: cancel}
}

// event is the next one, without comments; not ok at the end of the stream.
func (f *follower) event() (e sse, ok bool) {
	f.Helper()
	for f.scanner.Scan() {
		line := f.scanner.Text()
		name, value, _ := strings.Cut(line, ": ")
		switch name {
		case "id":
			e.id = value
		case "event":
			e.name = value
		case "data":
			e.data = value
		case "":
			if e.data != "" {
				return e, true
			}
		case "retry":
		default:
			f.Fatalf("unknown line %q", line)
		}
	}
	return e, false
}

// want reads one event for each of the sequences.
func (f *follower) want(sequences ...int) {
	f.Helper()
	for _, sequence := range sequences {
		e, ok := f.event()
		if !ok {
			f.Fatalf("the stream ended before sequence %d: %v", sequence, f.scanner.Err())
		}
		if e.id != fmt.Sprint(sequence) || e.name != "" || !strings.Contains(e.data, fmt.Sprintf(`"sequence":%d}`, sequence)) {
			f.Fatalf("got %+v, want sequence %d", e, sequence)
		}
	}
}

func (r *running) saveOne(id, actorID, eventType string) {
	r.Helper()
	r.post(ordersEvents, fmt.Sprintf(`{"id":%q,"eventType":%q,"actorId":%q,"data":{"a": 1}}`, id, eventType, actorID))
}

func TestFollow(t *testing.T) {
	t.Parallel()
	r := serveMemory(t)
	r.saveOne("e-1", "order-1", "Placed")
	r.saveOne("e-2", "customer-1", "Seen")
	r.saveOne("e-3", "order-2", "Placed")

	all, orders := r.follow(""), r.follow("?actorType=order")
	one, placed := r.follow("?actorId=order-1"), r.follow("?eventType=Placed&fromSequence=2")
	now, resumed := r.follow("?fromSequence=now"), r.follow("?fromSequence=1", "Last-Event-ID: 2")
	later := r.follow("?fromSequence=4")
	all.want(1, 2, 3)
	orders.want(1, 3)
	one.want(1)
	placed.want(3)
	resumed.want(3)

	r.saveOne("e-4", "order-1", "Paid")
	r.saveOne("e-5", "customer-2", "Placed")
	all.want(4, 5)
	orders.want(4)
	one.want(4)
	placed.want(5)
	resumed.want(4, 5)
	now.want(4, 5)
	later.want(4, 5)
}

// A client that is cut off before its first event knows where to go on.
func TestFollowerHasAPlace(t *testing.T) {
	t.Parallel()
	r := serveMemory(t)
	for last := range 2 {
		cutOff := r.follow("?fromSequence=now")
		place, found := "", false
		for !found && cutOff.scanner.Scan() {
			place, found = strings.CutPrefix(cutOff.scanner.Text(), "id: ")
		}
		if place != fmt.Sprint(last) {
			t.Fatalf("the place is %q (%v), want %d", place, cutOff.scanner.Err(), last)
		}
		cutOff.close()
		r.saveOne(fmt.Sprintf("e-%d", last), "order-1", "T")
		r.follow("?fromSequence=now", "Last-Event-ID: "+place).want(last + 1)
	}
	r.wantProblem(r.do("GET "+ordersEvents+"?fromSequence=4", ""), 409, "place_ahead", "")
	r.wantProblem(r.do("GET "+ordersEvents, "", "Last-Event-ID: 3"), 409, "place_ahead", "")
	gone := serveFaulty(t, &faulty{err: fmt.Errorf("follow: %w", eventstore.ErrPlaceExpired)})
	if e, _ := gone.follow("").event(); e.name != "problem" || !strings.Contains(e.data, `"code":"place_expired"`) {
		t.Errorf("got %+v, want a problem", e)
	}
}

func TestFollowNegotiatesAndRefuses(t *testing.T) {
	t.Parallel()
	r := serveMemory(t)
	for _, accept := range []string{"text/event-stream", "*/*", "text/*", "application/json, text/event-stream;q=0.1"} {
		response := r.open(t.Context(), "GET "+ordersEvents, "", "Accept: "+accept)
		if response.StatusCode != http.StatusOK {
			t.Errorf("Accept %q: answered %s", accept, response.Status)
		}
		_ = response.Body.Close()
	}
	for _, accept := range []string{"application/json", "text/event-stream;q=0", "text/html"} {
		r.wantProblem(r.do("GET "+ordersEvents, "", "Accept: "+accept), 406, "invalid_request", "Accept")
	}
	for _, id := range []string{"x", "-1", "18446744073709551615"} {
		r.wantProblem(r.do("GET "+ordersEvents, "", "Last-Event-ID: "+id), 400, "invalid_request", "Last-Event-ID")
	}
	r.wantProblem(r.do("GET "+ordersEvents+"?actorId="+strings.Repeat("x", 256), ""), 400, "invalid_request", "actorId")
}

// A message that is no event has a name of its own, and a failure is the last
// thing that a client hears.
func TestFollowThatFails(t *testing.T) {
	t.Parallel()
	r := serveFaulty(t, &faulty{before: []item{anEvent, aReplayError}, err: errAtLast})
	f := r.follow("")
	f.want(7)
	if e, _ := f.event(); e.name != "replay-error" || e.id != "8" || !strings.Contains(e.data, `"rawData":"/w=="`) {
		t.Errorf("got %+v, want a replay error", e)
	}
	if e, _ := f.event(); e.name != "problem" || e.id != "" || !strings.Contains(e.data, `"code":"unavailable"`) {
		t.Errorf("got %+v, want a problem", e)
	}
	if e, ok := f.event(); ok {
		t.Errorf("got %+v after the end", e)
	}
}
