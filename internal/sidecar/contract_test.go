package sidecar_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"mime"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
	"git.flowmade.one/flowmade-one/aether-operator/internal/sidecar"
)

// contract is the OpenAPI document, which every answer of these tests must keep.
type contract struct {
	document map[string]any
	schemas  *jsonschema.Compiler
}

const documentURL = "https://aether.invalid/openapi.yaml"

var theContract = sync.OnceValues(func() (*contract, error) {
	content, err := os.ReadFile("openapi.yaml")
	if err != nil {
		return nil, err
	}
	var document any
	if err := yaml.Unmarshal(content, &document); err != nil {
		return nil, err
	}
	// The schemas are read as the JSON that they stand for.
	asJSON, err := json.Marshal(document)
	if err != nil {
		return nil, err
	}
	if document, err = jsonschema.UnmarshalJSON(bytes.NewReader(asJSON)); err != nil {
		return nil, err
	}
	c := &contract{document: document.(map[string]any), schemas: jsonschema.NewCompiler()}
	c.schemas.AssertFormat()
	return c, c.schemas.AddResource(documentURL, document)
})

// at walks the document, through references.
func (c *contract) at(path ...string) (node any, pointer string) {
	node = any(c.document)
	for _, step := range path {
		members, ok := node.(map[string]any)
		if !ok {
			return nil, ""
		}
		node = members[step]
		pointer += "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(step)
		if members, ok := node.(map[string]any); ok && members["$ref"] != nil {
			pointer = strings.TrimPrefix(members["$ref"].(string), "#")
			return c.at(append(strings.Split(strings.TrimPrefix(pointer, "/"), "/"), path[slices.Index(path, step)+1:]...)...)
		}
	}
	return node, pointer
}

// operation finds the path and the method of a request; none where there is none.
func (c *contract) operation(method, requestPath string) (path, name string) {
	requestPath, _, _ = strings.Cut(requestPath, "?")
	if method == http.MethodHead {
		method = http.MethodGet
	}
	paths, _ := c.document["paths"].(map[string]any)
	for path, operations := range paths {
		pattern, sent := strings.Split(path, "/"), strings.Split(requestPath, "/")
		if len(pattern) != len(sent) {
			continue
		}
		matches := true
		for i := range pattern {
			matches = matches && (pattern[i] == sent[i] || strings.HasPrefix(pattern[i], "{"))
		}
		if _, has := operations.(map[string]any)[strings.ToLower(method)]; matches && has {
			return path, strings.ToLower(method)
		}
	}
	return "", ""
}

// check says how an answer breaks the contract.
func (c *contract) check(request string, got answer) error {
	method, requestPath, _ := strings.Cut(request, " ")
	path, name := c.operation(method, requestPath)
	if path == "" {
		if got.status != http.StatusNotFound && got.status != http.StatusMethodNotAllowed && got.status != http.StatusForbidden {
			return fmt.Errorf("%s is not documented, and answered %d", request, got.status)
		}
		return c.validate(got.body, "components", "schemas", "Problem")
	}
	response := []string{"paths", path, name, "responses", fmt.Sprint(got.status)}
	if node, _ := c.at(response...); node == nil {
		return fmt.Errorf("%s %s: status %d is not documented", name, path, got.status)
	}
	if got.body == "" {
		return nil
	}
	contentType, _, err := mime.ParseMediaType(got.header.Get("Content-Type"))
	if err != nil {
		return fmt.Errorf("%s: content type %q: %w", request, got.header.Get("Content-Type"), err)
	}
	if node, _ := c.at(append(response, "content", contentType)...); node == nil {
		return fmt.Errorf("%s: content type %q is not documented for %d", request, contentType, got.status)
	}
	switch contentType {
	case "application/json", "application/problem+json":
		return c.validate(got.body, append(response, "content", contentType, "schema")...)
	case "application/x-ndjson":
		return c.checkLines(got.body)
	}
	return nil
}

func (c *contract) checkLines(body string) error {
	for _, line := range lines(body) {
		schema := "Event"
		for name, other := range map[string]string{`{"error":`: "ReplayError", `{"truncated":`: "Truncated", `{"problem":`: "Problem"} {
			if inner, is := strings.CutPrefix(line, name); is {
				line, schema = strings.TrimSuffix(inner, "}"), other
			}
		}
		if err := c.validate(line, "components", "schemas", schema); err != nil {
			return err
		}
	}
	return nil
}

func (c *contract) validate(body string, path ...string) error {
	_, pointer := c.at(path...)
	schema, err := c.schemas.Compile(documentURL + "#" + pointer)
	if err != nil {
		return err
	}
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
	if err != nil {
		return fmt.Errorf("no JSON: %.200q: %w", body, err)
	}
	if err := schema.Validate(document); err != nil {
		return fmt.Errorf("%.200s breaks the schema %s: %w", body, pointer, err)
	}
	return nil
}

// keepsContract wants an answer to be as the OpenAPI document says.
func (r *running) keepsContract(request string, got answer) {
	r.Helper()
	mu.Lock()
	defer mu.Unlock()
	c, err := theContract()
	if err != nil {
		r.Fatal(err)
	}
	if err := c.check(request, got); err != nil {
		r.Errorf("the OpenAPI document is not kept: %v", err)
	}
}

// mu guards the compiler of schemas.
var mu sync.Mutex

// failing is a Store of which every call fails, or panics.
type failing struct {
	eventstore.Store
	err error
}

func (f failing) fail() error {
	if f.err == nil {
		panic("made to panic")
	}
	return f.err
}

func (f failing) SaveEvents(context.Context, []eventstore.Event, ...eventstore.SaveOption) ([]eventstore.Saved, error) {
	return nil, f.fail()
}

func (f failing) Events(context.Context, string, int64, ...eventstore.ReadOption) iter.Seq2[eventstore.Event, error] {
	return func(yield func(eventstore.Event, error) bool) { yield(eventstore.Event{}, f.fail()) }
}

func (f failing) GetLatestVersion(context.Context, string) (int64, error) { return 0, f.fail() }
func (f failing) DeleteSnapshot(context.Context, string, int64) error     { return f.fail() }
func (f failing) SaveSnapshot(context.Context, eventstore.Snapshot) error { return f.fail() }
func (f failing) GetLatestSnapshot(context.Context, string) (eventstore.Snapshot, error) {
	return eventstore.Snapshot{}, f.fail()
}

func (f failing) Subscribe(context.Context, eventstore.SubscribeOptions) (eventstore.Subscription, error) {
	return nil, f.fail()
}

// storeFailures are Stores for statuses that no request alone brings about.
var storeFailures = map[int]error{
	403: eventstore.ErrPermissionDenied, 500: nil, 503: eventstore.ErrUnavailable, 504: eventstore.ErrUnknownOutcome, 507: eventstore.ErrStoreFull,
	410: eventstore.ErrPlaceExpired,
}

// Each operation answers each status that is documented for it, and do, in every
// test, wants no other.
func TestEveryDocumentedAnswer(t *testing.T) {
	t.Parallel()
	const event = `{"id":"e-2","eventType":"T","actorId":"order-1"}`
	good := serveMemory(t)
	good.post(ordersEvents, `{"id":"e-1","eventType":"T","actorId":"order-1","version":3,"data":1.50}`)
	good.do("PUT "+order1+"/snapshot", `{"version":3,"data":1}`)
	good.post(ordersEvents, `{"id":"e-3","eventType":"T","actorId":"order-2","version":3,"data":1.50}`)
	good.do("PUT /v1/stores/orders/actors/order-2/snapshot", `{"version":3,"data":1}`)
	full := serve(t, sidecar.Config{MaxCalls: 1, MaxStreams: 1, Stores: []sidecar.Store{{Name: "orders", Store: newHeld()}}})
	held := full.config.Stores[0].Store.(*held)
	waiting := full.save(event)
	<-held.began
	full.follow("")
	failed := map[int]*running{}
	for status, err := range storeFailures {
		failed[status] = serve(t, sidecar.Config{Stores: []sidecar.Store{{Name: "orders", Store: failing{memory.New(), err}}}})
	}
	const elsewhere = "/v1/stores/nowhere/actors/a"
	answered := map[string][]int{}
	for _, c := range []struct {
		request, body string
		// by are requests for single statuses, and statuses those of the request itself.
		by       map[int]string
		bodies   map[int]string
		statuses []int
	}{
		{"GET /v1/stores", "", map[int]string{400: "GET /v1/stores?x=1"}, nil, []int{200, 429}},
		{"GET /openapi.yaml", "", map[int]string{400: "GET /openapi.yaml?x=1"}, nil, []int{200, 429}},
		{"GET /eventstore.proto", "", map[int]string{400: "GET /eventstore.proto?x=1"}, nil, []int{200, 429}},
		{"POST " + ordersEvents, event, map[int]string{404: "POST /v1/stores/nowhere/events"},
			map[int]string{400: "{}", 409: `{"id":"e-9","eventType":"T","actorId":"order-1","version":1}`, 413: event + strings.Repeat(" ", 9<<20)}, []int{201, 429}},
		{"GET " + ordersEvents, "", map[int]string{400: "GET " + ordersEvents + "?x=1", 404: "GET /v1/stores/nowhere/events", 409: "GET " + ordersEvents + "?fromSequence=1000"}, nil, []int{429}},
		{"GET " + order1 + "/events", "", map[int]string{400: "GET " + order1 + "/events?x=1", 404: "GET " + elsewhere + "/events"}, nil, []int{200, 429}},
		{"GET " + order1 + "/version", "", map[int]string{400: "GET " + order1 + "/version?x=1", 404: "GET " + elsewhere + "/version"}, nil, []int{200, 429}},
		{"GET " + order1 + "/snapshot", "", map[int]string{400: "GET " + order1 + "/snapshot?x=1", 404: "GET /v1/stores/orders/actors/nobody/snapshot"}, nil, []int{200, 429}},
		{"PUT " + order1 + "/snapshot", `{"version":3}`, map[int]string{404: "PUT " + elsewhere + "/snapshot"},
			map[int]string{400: "{}", 409: `{"version":1}`, 413: `{"version":3}` + strings.Repeat(" ", 9<<20)}, []int{204, 429}},
		{"DELETE " + order1 + "/snapshot", "", map[int]string{400: "DELETE " + order1 + "/snapshot?version=0", 404: "DELETE " + elsewhere + "/snapshot",
			409: "DELETE /v1/stores/orders/actors/order-2/snapshot?version=2"}, nil, []int{204, 429}},
	} {
		method, path, _ := strings.Cut(c.request, " ")
		contract, err := theContract()
		must(t, err)
		pattern, name := contract.operation(method, path)
		operation := strings.ToUpper(name) + " " + pattern
		check := func(r *running, request, body string, want int, headers ...string) {
			t.Helper()
			if got := (&running{T: t, api: r.api}).do(request, body, headers...); got.status != want {
				t.Errorf("%s: answered %d %.200s, want %d", request, got.status, got.body, want)
			}
			if !slices.Contains(answered[operation], want) {
				answered[operation] = append(answered[operation], want)
			}
		}
		for _, status := range c.statuses {
			if status == http.StatusTooManyRequests {
				check(full, c.request, c.body, status)
			} else {
				check(good, c.request, c.body, status)
			}
		}
		for status, request := range c.by {
			check(good, request, c.body, status)
		}
		for status, body := range c.bodies {
			check(good, c.request, body, status)
		}
		check(good, c.request, c.body, http.StatusForbidden, "Origin: https://evil.example")
		if c.body != "" {
			check(good, c.request, c.body, http.StatusUnsupportedMediaType, "Content-Encoding: gzip")
		}
		documented, _ := contract.at("paths", pattern, name, "responses")
		for status, server := range failed {
			// Listing and the document itself ask no store.
			if _, has := documented.(map[string]any)[fmt.Sprint(status)]; has && strings.Contains(pattern, "{store}") {
				check(server, c.request, c.body, status)
			}
		}
		if pattern == "/v1/stores/{store}/actors/{actorId}/events" {
			check(good, c.request, "", http.StatusNotAcceptable, "Accept: text/html")
		}
		if pattern == "/v1/stores/{store}/events" && name == "get" {
			check(good, c.request, "", http.StatusNotAcceptable, "Accept: text/html")
			good.follow("").want(1)
			answered[operation] = append(answered[operation], http.StatusOK)
		}
		want := slices.Sorted(maps.Keys(documented.(map[string]any)))
		if !strings.Contains(pattern, "{store}") {
			// Nothing in them can panic, but everything is caught.
			answered[operation] = append(answered[operation], http.StatusInternalServerError)
		}
		var got []string
		for _, status := range slices.Sorted(slices.Values(answered[operation])) {
			got = append(got, fmt.Sprint(status))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s answered %v, and documented are %v", operation, got, want)
		}
	}
	close(held.letGo)
	waiting()
	contract, err := theContract()
	must(t, err)
	operations := 0
	for _, methods := range contract.document["paths"].(map[string]any) {
		for name := range methods.(map[string]any) {
			if name != "parameters" {
				operations++
			}
		}
	}
	if operations != len(answered) {
		t.Errorf("%d operations are documented, and %d tested", operations, len(answered))
	}
}
