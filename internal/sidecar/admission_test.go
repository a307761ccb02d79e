package sidecar_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
)

// What is no call of a procedure is answered as each kind of client understands it.
func TestWhatIsNoProcedure(t *testing.T) {
	t.Parallel()
	r := serveMemory(t)
	const service = "/aether.eventstore.v1.EventStoreService/"
	r.wantProblem(r.do("GET "+service+"Nope", ""), 404, "not_found", "")
	r.wantProblem(r.do("GET "+service, ""), 404, "not_found", "")
	r.wantProblem(r.do("GET /grpc.health.v1.Health/Nope", ""), 404, "not_found", "")
	for _, procedure := range []string{service + "GetEvents", service + "Subscribe", "/grpc.health.v1.Health/Check"} {
		got := r.do("GET "+procedure, "")
		r.wantProblem(got, 405, "method_not_allowed", "")
		if got.header.Get("Allow") != http.MethodPost {
			t.Errorf("%s: Allow is %q", procedure, got.header.Get("Allow"))
		}
	}
	for _, contentType := range []string{"", "text/plain", "application/connect+json", "application/xml"} {
		r.wantProblem(r.do("POST "+service+"GetEvents", "{}", "Content-Type: "+contentType), 415, "invalid_request", "Content-Type")
	}
	if got := r.do("POST "+service+"Nope", "{}", "Content-Type: application/json"); got.status != 501 || !strings.Contains(got.body, `"code":"unimplemented"`) {
		t.Errorf("Connect: answered %d %s", got.status, got.body)
	}
	conn, err := grpc.NewClient(strings.TrimPrefix(r.api, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	for _, procedure := range []string{service + "Nope", "/aether.eventstore.v2.EventStoreService/SaveEvent", "/grpc.channelz.v1.Channelz/GetServers"} {
		refused := status.Convert(conn.Invoke(ctx, procedure, &eventstorev1.SaveEventRequest{}, &eventstorev1.SaveEventResponse{}))
		if refused.Code() != codes.Unimplemented || !strings.Contains(refused.Message(), "there is nothing at "+procedure) {
			t.Errorf("%s: %v", procedure, refused)
		}
	}
}

// The contracts of both ways in are served.
func TestContractsAreServed(t *testing.T) {
	t.Parallel()
	r := serveMemory(t)
	if got := r.do("GET /eventstore.proto", ""); got.status != http.StatusOK || got.body != string(eventstorev1.Source) || !strings.Contains(got.body, "service EventStoreService") {
		t.Errorf("answered %d %.200s", got.status, got.body)
	}
}
