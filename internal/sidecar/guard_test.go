package sidecar_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
	"git.flowmade.one/flowmade-one/aether-operator/internal/sidecar"
)

// as makes a request with a Host and an Origin.
func (r *running) as(request, host, origin string, headers ...string) answer {
	r.Helper()
	method, path, _ := strings.Cut(request, " ")
	httpRequest, err := http.NewRequestWithContext(r.Context(), method, r.api+path, nil)
	if err != nil {
		r.Fatal(err)
	}
	if host != "" {
		httpRequest.Host = host
	}
	if origin != "" {
		httpRequest.Header.Set("Origin", origin)
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		httpRequest.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(httpRequest)
	if err != nil {
		r.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		r.Fatal(err)
	}
	return answer{status: response.StatusCode, header: response.Header, body: string(body)}
}

func TestWebPagesOfElsewhere(t *testing.T) {
	t.Parallel()
	r := serve(t, sidecar.Config{
		Stores:       []sidecar.Store{{Name: "orders", Store: memory.New()}},
		AllowedHosts: []string{"events"}, AllowedOrigins: []string{"http://localhost:3000"},
	})
	here := strings.TrimPrefix(r.api, "http://")
	for _, c := range []struct{ host, origin, refused string }{
		{"", "", ""},
		{"localhost:4280", "", ""},
		{"LOCALHOST", "", ""},
		{"orders.localhost", "", ""},
		{"[::1]:4280", "", ""},
		{"10.1.2.3:4280", "", ""},
		{"events:4280", "", ""},
		{"evil.example:4280", "", "Host"},
		{"localhost.evil.example", "", "Host"},
		{"evil.example:4280", "http://evil.example:4280", "Host"},
		{"", r.api, ""},
		{"", "http://localhost:3000", ""},
		{"", "http://localhost:3001", "Origin"},
		{"", "https://evil.example", "Origin"},
		{"", "null", "Origin"},
		{here, "https://" + here, "Origin"},
	} {
		for _, request := range []string{"GET /v1/stores", "POST /aether.eventstore.v1.EventStoreService/GetLatestVersion", "GET /openapi.yaml"} {
			got := r.as(request, c.host, c.origin)
			if c.refused != "" {
				r.wantProblem(got, http.StatusForbidden, "foreign_origin", c.refused)
			} else if got.status == http.StatusForbidden {
				t.Errorf("%s with Host %q, Origin %q: refused: %s", request, c.host, c.origin, got.body)
			}
		}
	}
}

// A page that is allowed reads the answers, and may ask before it sends.
func TestWebPagesThatAreAllowed(t *testing.T) {
	t.Parallel()
	const origin = "http://localhost:3000"
	r := serve(t, sidecar.Config{Stores: []sidecar.Store{{Name: "orders", Store: memory.New()}}, AllowedOrigins: []string{origin}})
	if got := r.as("GET /v1/stores", "", origin); got.header.Get("Access-Control-Allow-Origin") != origin || got.status != http.StatusOK {
		t.Errorf("answered %d %v", got.status, got.header)
	}
	for method, headers := range map[string]string{"PUT": "content-type", "DELETE": "traceparent", "POST": "connect-protocol-version,content-type", "GET": "last-event-id"} {
		got := r.as("OPTIONS "+ordersEvents, "", origin, "Access-Control-Request-Method: "+method, "Access-Control-Request-Headers: "+headers)
		if got.status != http.StatusNoContent || got.header.Get("Access-Control-Allow-Origin") != origin ||
			got.header.Get("Access-Control-Allow-Methods") != method || got.header.Get("Access-Control-Allow-Headers") != headers {
			t.Errorf("%s: answered %d %v", method, got.status, got.header)
		}
	}
	if got := r.do("GET /v1/stores", ""); got.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("a program was told %v", got.header)
	}
}

// No browser dials a Unix socket, and clients make up a Host for it.
func TestHostOverASocket(t *testing.T) {
	t.Parallel()
	server, err := sidecar.New(sidecar.Config{Stores: []sidecar.Store{{Name: "orders", Store: memory.New()}}})
	must(t, err)
	path := filepath.Join(t.TempDir(), "s")
	socket, err := net.Listen("unix", path)
	must(t, err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, []net.Listener{socket}, listen(t)) }()
	defer func() { stop(); <-ended }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	response, err := client.Get("http://whatever/v1/stores")
	must(t, err)
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("answered %s", response.Status)
	}
}
