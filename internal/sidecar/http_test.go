package sidecar_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/memory"
	"git.flowmade.one/flowmade-one/aether-operator/internal/sidecar"
)

const (
	ordersEvents = "/v1/stores/orders/events"
	order1       = "/v1/stores/orders/actors/order-1"
)

func TestSaveAndGet(t *testing.T) {
	t.Parallel()
	r := serveMemory(t)
	first := `{"id":"e-1","eventType":"OrderPlaced","actorId":"order-1","commandId":"c-1","version":1,
		"data":{"total": 9007199254740993.10,"note":"<&>\u2028","n":1e400},"contentType":"application/json; charset=utf-8",
		"metadata":{"tenant":"ü"},"timestamp":"2026-01-02T05:04:05.000000006+02:00"}`
	r.wantJSON(r.post(ordersEvents, first).body, `{"events":[{"id":"e-1","actorId":"order-1","version":1,"sequence":1,"duplicate":false}]}`)
	r.wantJSON(r.post(ordersEvents, first).body, `{"events":[{"id":"e-1","actorId":"order-1","version":1,"sequence":1,"duplicate":true}]}`)
	batch := `[{"id":"e-2","eventType":"Paid","actorId":"order-1","data":null,"timestamp":"2026-01-02T03:04:05Z"},
		{"id":"e-3","eventType":"Scanned","actorId":"order-1","version":5,"contentType":"image/png","dataBase64":"AP8=","timestamp":"2026-01-02T03:04:05Z"},
		{"id":"e-4","eventType":"Noted","actorId":"customer-1","dataBase64":"eyJhIjoxfQ=="}]`
	r.wantJSON(r.post(ordersEvents, batch).body, `{"events":[
		{"id":"e-2","actorId":"order-1","version":2,"sequence":2,"duplicate":false},
		{"id":"e-3","actorId":"order-1","version":5,"sequence":3,"duplicate":false},
		{"id":"e-4","actorId":"customer-1","version":1,"sequence":4,"duplicate":false}]}`)

	got := r.do("GET "+order1+"/events", "")
	if got.status != http.StatusOK || got.header.Get("Content-Type") != "application/json" || got.header.Get("Cache-Control") != "no-store" {
		t.Errorf("answered %d %v", got.status, got.header)
	}
	r.wantJSON(got.body, `{"errors":[],"events":[
		{"id":"e-1","eventType":"OrderPlaced","actorId":"order-1","commandId":"c-1","version":1,
			"data":{"total":9007199254740993.10,"note":"<&>\u2028","n":1e400},"contentType":"application/json; charset=utf-8",
			"metadata":{"tenant":"ü"},"timestamp":"2026-01-02T03:04:05.000000006Z","sequence":1},
		{"id":"e-2","eventType":"Paid","actorId":"order-1","version":2,"data":null,"contentType":"application/json","timestamp":"2026-01-02T03:04:05Z","sequence":2},
		{"id":"e-3","eventType":"Scanned","actorId":"order-1","version":5,"contentType":"image/png","dataBase64":"AP8=","timestamp":"2026-01-02T03:04:05Z","sequence":3}]}`)
	for _, want := range []string{`9007199254740993.10`, `"<&>\u2028"`, `1e400`} {
		if !strings.Contains(got.body, want) {
			t.Errorf("%s did not come back as it was sent: %s", want, got.body)
		}
	}
	if got := r.do("GET /v1/stores/orders/actors/customer-1/events", ""); !strings.Contains(got.body, `"data":{"a":1}`) {
		t.Errorf("JSON that was sent as base64 is not answered as JSON: %s", got.body)
	}
	r.wantJSON(r.do("GET "+order1+"/version", "").body, `{"actorId":"order-1","version":5}`)
	r.wantJSON(r.do("GET /v1/stores/orders/actors/nobody/version", "").body, `{"actorId":"nobody","version":0}`)
	r.wantJSON(r.do("GET /v1/stores/orders/actors/nobody/events", "").body, `{"errors":[],"events":[]}`)
	r.wantJSON(r.do("GET /v1/stores/payments/actors/order-1/events", "").body, `{"errors":[],"events":[]}`)
	r.wantJSON(r.do("GET /v1/stores", "").body, `{"stores":[{"name":"orders","namespace":"shop"},{"name":"payments"}]}`)
}

// An event that was read can be saved: to the store it came from, where it is a
// duplicate, and to another.
func TestSaveWhatWasRead(t *testing.T) {
	t.Parallel()
	r := serveMemory(t)
	r.post(ordersEvents, `[{"id":"e-1","eventType":"A","actorId":"order-1","data":[1.50],"metadata":{"k":"v"}},{"id":"e-2","eventType":"B","actorId":"order-1","contentType":"text/plain","dataBase64":"aGk="}]`)
	var page struct{ Events json.RawMessage }
	read := r.do("GET "+order1+"/events", "").body
	if err := json.Unmarshal([]byte(read), &page); err != nil {
		t.Fatal(err)
	}
	r.post("/v1/stores/payments/events", string(page.Events))
	r.wantJSON(r.do("GET /v1/stores/payments/actors/order-1/events", "").body, read)
	if again := r.post(ordersEvents, string(page.Events)); strings.Count(again.body, `"duplicate":true`) != 2 {
		t.Errorf("what was read is not what is stored: %s", again.body)
	}
}

// nastyIDs are actor ids at which a router, a proxy or a decoder could trip.
var nastyIDs = []string{
	"order-1", "a/b", "a//b", "/", "//", "..", ".", "../..", "a/../b", "%", "%2F", "%252F", "a b", " ", "a+b", "a?b=c", "a#b", "a&b", "{actorId}",
	"ü", "日本", "a\x00b", "a\nb", "\\", `"`, "<>", "events", "a;b=c", "a:b", "*", "a.b.>", "\u2028", "🜚", strings.Repeat("x", 255), strings.Repeat("/", 255),
}

func TestActorIDsOfAnyCharacters(t *testing.T) {
	t.Parallel()
	r := serveMemory(t)
	for i, id := range nastyIDs {
		quoted, err := json.Marshal(id)
		if err != nil {
			t.Fatal(err)
		}
		event := fmt.Sprintf(`{"id":"e-%d","eventType":"T","actorId":%s,"data":%d}`, i, quoted, i)
		r.post(ordersEvents, event)
		for _, escaped := range []string{url.PathEscape(id), escapeAll(id)} {
			path := "/v1/stores/orders/actors/" + escaped
			r.wantJSON(r.do("GET "+path+"/version", "").body, fmt.Sprintf(`{"actorId":%s,"version":1}`, quoted))
			if got := r.do("GET "+path+"/events", ""); !strings.Contains(got.body, fmt.Sprintf(`"data":%d`, i)) || strings.Count(got.body, `"id"`) != 1 {
				t.Errorf("events of %q at %s: %d %s", id, path, got.status, got.body)
			}
			if got := r.do("PUT "+path+"/snapshot", fmt.Sprintf(`{"version":1,"data":%d}`, i)); got.status != http.StatusNoContent {
				t.Errorf("snapshot of %q: %d %s", id, got.status, got.body)
			}
			if got := r.do("GET "+path+"/snapshot", ""); !strings.Contains(got.body, fmt.Sprintf(`"data":%d`, i)) {
				t.Errorf("snapshot of %q: %d %s", id, got.status, got.body)
			}
		}
	}
}

// escapeAll percent-encodes every byte, as some clients do.
func escapeAll(id string) string {
	var out strings.Builder
	for _, b := range []byte(id) {
		fmt.Fprintf(&out, "%%%02X", b)
	}
	return out.String()
}

func TestRefusedRequests(t *testing.T) {
	t.Parallel()
	r := serveMemory(t)
	r.post(ordersEvents, `{"id":"e-1","eventType":"T","actorId":"order-1","version":3}`)
	event := func(more string) string { return `{"id":"x","eventType":"T","actorId":"order-9"` + more + `}` }
	for _, c := range []struct {
		request, body string
		status        int
		code, field   string
	}{
		{"GET /", "", 404, "not_found", ""},
		{"GET /v1/stores/", "", 404, "not_found", ""},
		{"GET /v2/stores", "", 404, "not_found", ""},
		{"GET /v1/stores/orders/actors/order-1", "", 404, "not_found", ""},
		{"GET /v1/stores/orders/actors/a/b/events", "", 404, "not_found", ""},
		{"DELETE " + ordersEvents, "", 405, "method_not_allowed", ""},
		{"POST " + order1 + "/snapshot", "", 405, "method_not_allowed", ""},
		{"GET /v1/stores/nowhere/actors/a/version", "", 404, "unknown_store", ""},
		{"POST /v1/stores/nowhere/events", event(""), 404, "unknown_store", ""},
		{"GET /v1/stores//actors/a/version", "", 404, "unknown_store", ""},
		{"GET " + order1 + "/snapshot", "", 404, "no_snapshot", ""},
		{"GET /v1/stores/orders/actors//events", "", 400, "invalid_request", "actorId"},
		{"GET /v1/stores/orders/actors/" + strings.Repeat("x", 256) + "/version", "", 400, "invalid_request", "actorId"},
		{"GET /v1/stores/orders/actors/%FF/version", "", 400, "invalid_request", "actorId"},

		{"POST " + ordersEvents, "", 400, "invalid_event", "body"},
		{"POST " + ordersEvents, `{"id":`, 400, "invalid_event", "body"},
		{"POST " + ordersEvents, `"x"`, 400, "invalid_event", "body"},
		{"POST " + ordersEvents, `null`, 400, "invalid_event", "body"},
		{"POST " + ordersEvents, event("") + "{}", 400, "invalid_event", "body"},
		{"POST " + ordersEvents, event(",\"commandId\":\"\xff\""), 400, "invalid_event", "body"},
		{"POST " + ordersEvents, strings.Repeat("[", 20000), 400, "invalid_event", "body"},
		{"POST " + ordersEvents, `[]`, 400, "invalid_event", "events"},
		{"POST " + ordersEvents, `[1,2]`, 400, "invalid_event", "[0]"},
		{"POST " + ordersEvents, event(`,"colour":1`), 400, "invalid_event", "colour"},
		{"POST " + ordersEvents, event(`,"EventType":"U"`), 400, "invalid_event", "EventType"},
		{"POST " + ordersEvents, event(`,"id":"y"`), 400, "invalid_event", "id"},
		{"POST " + ordersEvents, event(`,"commandId":1`), 400, "invalid_event", "commandId"},
		{"POST " + ordersEvents, event(`,"commandId":"\ud800"`), 400, "invalid_event", "commandId"},
		{"POST " + ordersEvents, event(`,"commandId":"a\nb"`), 400, "invalid_event", "commandId"},
		{"POST " + ordersEvents, event(`,"version":"1"`), 400, "invalid_event", "version"},
		{"POST " + ordersEvents, event(`,"version":1.5`), 400, "invalid_event", "version"},
		{"POST " + ordersEvents, event(`,"version":0`), 400, "invalid_event", "version"},
		{"POST " + ordersEvents, event(`,"version":-1`), 400, "invalid_event", "version"},
		{"POST " + ordersEvents, event(`,"version":9223372036854775808`), 400, "invalid_event", "version"},
		{"POST " + ordersEvents, event(`,"sequence":"1"`), 400, "invalid_event", "sequence"},
		{"POST " + ordersEvents, event(`,"version":9007199254740992`), 400, "invalid_event", "version"},
		{"POST " + ordersEvents, event(`,"timestamp":"yesterday"`), 400, "invalid_event", "timestamp"},
		{"POST " + ordersEvents, event(`,"timestamp":"9999-12-31T23:59:59-01:00"`), 400, "invalid_event", "timestamp"},
		{"POST " + ordersEvents, event(`,"timestamp":"0000-06-01T00:00:00Z"`), 400, "invalid_event", "timestamp"},
		{"POST " + ordersEvents, event(`,"timestamp":"0001-01-01T00:00:00Z"`), 400, "invalid_event", "timestamp"},
		{"POST " + ordersEvents, event(`,"timestamp":"0001-01-01T00:00:00+14:00"`), 400, "invalid_event", "timestamp"},
		{"POST " + ordersEvents, event(`,"timestamp":"2026-01-02T12:00:00,5Z"`), 400, "invalid_event", "timestamp"},
		{"POST " + ordersEvents, event(`,"timestamp":"2026-01-02T1:00:00Z"`), 400, "invalid_event", "timestamp"},
		{"POST " + ordersEvents, event(`,"timestamp":"2026-01-02T12:00:00.1234567891Z"`), 400, "invalid_event", "timestamp"},
		{"POST " + ordersEvents, event(`,"timestamp":"2026-13-02T12:00:00Z"`), 400, "invalid_event", "timestamp"},
		{"POST " + ordersEvents, event(`,"metadata":{"a":1}`), 400, "invalid_event", "metadata.a"},
		{"POST " + ordersEvents, event(`,"metadata":{"a":"1","a":"2"}`), 400, "invalid_event", "metadata.a"},
		{"POST " + ordersEvents, event(`,"metadata":{"A":"1"}`), 400, "invalid_event", "metadata.A"},
		{"POST " + ordersEvents, event(`,"metadata":[]`), 400, "invalid_event", "metadata"},
		{"POST " + ordersEvents, event(`,"contentType":"what"` + `,"dataBase64":"?"`), 400, "invalid_event", "dataBase64"},
		{"POST " + ordersEvents, event(`,"contentType":"a b"`), 400, "invalid_event", "contentType"},
		{"POST " + ordersEvents, event(`,"contentType":"text/plain","data":"x"`), 400, "invalid_event", "data"},
		{"POST " + ordersEvents, event(`,"data":1,"dataBase64":"MQ=="`), 400, "invalid_event", "dataBase64"},
		{"POST " + ordersEvents, event(`,"dataBase64":"e30"`), 400, "invalid_event", "dataBase64"},
		{"POST " + ordersEvents, event(`,"dataBase64":"e3s="`), 400, "invalid_event", "data"},
		{"POST " + ordersEvents, event(`,"expectedVersion":"some"`), 400, "invalid_event", "expectedVersion"},
		{"POST " + ordersEvents, event(`,"expectedVersion":"1"`), 400, "invalid_event", "expectedVersion"},
		{"POST " + ordersEvents, event(`,"expectedVersion":-1`), 400, "invalid_event", "expectedVersion"},
		{"POST " + ordersEvents, event(`,"version":5,"expectedVersion":5`), 400, "invalid_event", "version"},
		{"POST " + ordersEvents, event(`,"expectedVersion":9007199254740991`), 400, "invalid_event", "expectedVersion"},
		{"POST " + ordersEvents, `{"eventType":"T","actorId":"order-9"}`, 400, "invalid_event", "id"},
		{"POST " + ordersEvents, `{"id":null,"eventType":"T","actorId":"order-9"}`, 400, "invalid_event", "id"},
		{"POST " + ordersEvents, `{"id":"x","eventType":"T"}`, 400, "invalid_event", "actorId"},
		{"POST " + ordersEvents, `[` + event("") + `,{"id":"y","eventType":"T","actorId":7}]`, 400, "invalid_event", "[1].actorId"},
		{"POST " + ordersEvents, `[` + event("") + `,{"id":"y","actorId":"order-9"}]`, 400, "invalid_event", "[1].eventType"},
		{"POST " + ordersEvents, `[` + event("") + `,{"id":"y","eventType":"T","actorId":"order-9","expectedVersion":1}]`, 400, "invalid_event", "[1].expectedVersion"},
		{"POST " + ordersEvents, event(`,"data":` + repeat(1<<20)), 413, "too_large", ""},
		{"POST " + ordersEvents, `[` + strings.TrimSuffix(strings.Repeat(`{},`, 1001), ",") + `]`, 413, "too_large", ""},
		{"POST " + ordersEvents, event(`,"data":` + repeat(9<<20)), 413, "too_large", ""},

		{"POST " + ordersEvents + "?expectedVersion=some", event(""), 400, "invalid_request", "expectedVersion"},
		{"POST " + ordersEvents + "?expectedVersion=-2", event(""), 400, "invalid_request", "expectedVersion"},
		{"POST " + ordersEvents + "?expectedVersion=0", event(`,"expectedVersion":0`), 400, "invalid_request", "expectedVersion"},
		{"POST " + ordersEvents + "?expectedVersion=0", `[` + event("") + `,{"id":"y","eventType":"T","actorId":"other"}]`, 400, "invalid_request", "expectedVersion"},
		{"POST " + ordersEvents + "?dryRun=true", event(""), 400, "invalid_request", "dryRun"},
		{"GET " + order1 + "/events?fromVersion=x", "", 400, "invalid_request", "fromVersion"},
		{"GET " + order1 + "/events?fromVersion=-1", "", 400, "invalid_request", "fromVersion"},
		{"GET " + order1 + "/events?fromVersion=1&fromVersion=2", "", 400, "invalid_request", "fromVersion"},
		{"GET " + order1 + "/events?limit=0", "", 400, "invalid_request", "limit"},
		{"GET " + order1 + "/events?limit=1001", "", 400, "invalid_request", "limit"},
		{"GET " + order1 + "/events?from=1", "", 400, "invalid_request", "from"},
		{"GET " + order1 + "/events?limit=%zz", "", 400, "invalid_request", "query"},
		{"GET " + order1 + "/version?x=1", "", 400, "invalid_request", "x"},
		{"GET " + order1 + "/events?limit=", "", 400, "invalid_request", "limit"},
		{"GET " + ordersEvents + "?fromSequence=", "", 400, "invalid_request", "fromSequence"},
		{"GET " + ordersEvents + "?actorType=", "", 400, "invalid_request", "actorType"},
		{"GET " + ordersEvents + "?actorType=item&actorId=order-1", "", 400, "invalid_request", "actorType"},
		{"GET " + ordersEvents + "?fromSequence=1&fromTime=2026-01-01T00:00:00Z", "", 400, "invalid_request", "fromTime"},
		{"GET " + ordersEvents + "?fromSequence=first", "", 400, "invalid_request", "fromSequence"},
		{"GET " + ordersEvents + "?fromTime=", "", 400, "invalid_request", "fromTime"},
		{"GET " + ordersEvents + "?fromTime=0001-01-01T00:00:00Z", "", 400, "invalid_request", "fromTime"},
		{"GET " + ordersEvents + "?fromTime=9999-12-31T23:59:59-12:00", "", 400, "invalid_request", "fromTime"},
		{"GET " + ordersEvents + "?actorType=a-b", "", 400, "invalid_request", "actorType"},
		{"GET " + ordersEvents + "?actorType=" + strings.Repeat("a", 4000), "", 400, "invalid_request", "actorType"},
		{"GET " + ordersEvents + "?eventType=" + strings.Repeat("a", 4000), "", 400, "invalid_request", "eventType"},

		{"DELETE " + order1 + "/snapshot?version=0", "", 400, "invalid_request", "version"},
		{"DELETE " + order1 + "/snapshot?version=9007199254740992", "", 400, "invalid_request", "version"},
		{"PUT " + order1 + "/snapshot", `{"version":7}`, 409, "no_such_version", ""},
		{"PUT " + order1 + "/snapshot", `{"data":1}`, 400, "invalid_event", "version"},
		{"PUT " + order1 + "/snapshot", `{"version":0}`, 400, "invalid_event", "version"},
		{"PUT " + order1 + "/snapshot", `{"version":9007199254740992}`, 400, "invalid_event", "version"},
		{"PUT " + order1 + "/snapshot", `{"version":1,"timestamp":"9999-12-31T23:59:59-01:00"}`, 400, "invalid_event", "timestamp"},
		{"PUT " + order1 + "/snapshot", `{"version":1,"state":1}`, 400, "invalid_event", "state"},
		{"PUT " + order1 + "/snapshot", `{"version":1,"actorId":"order-2"}`, 400, "invalid_event", "actorId"},
		{"PUT " + order1 + "/snapshot", `[]`, 400, "invalid_event", "body"},
		{"PUT " + order1 + "/snapshot", `{"version":1,"data":` + repeat(1<<20) + `}`, 413, "too_large", ""},
	} {
		t.Run(fmt.Sprintf("%s %.60q", c.request, c.body), func(t *testing.T) {
			got := (&running{T: t, api: r.api}).do(c.request, c.body)
			(&running{T: t}).wantProblem(got, c.status, c.code, c.field)
		})
	}
	r.wantJSON(r.do("GET /v1/stores/orders/actors/order-9/version", "").body, `{"actorId":"order-9","version":0}`)
	// RFC 3339 has small letters too.
	r.post(ordersEvents, `{"id":"t","eventType":"T","actorId":"time-1","timestamp":"2026-01-02t12:00:00.5z"}`)
	if got := r.do("GET /v1/stores/orders/actors/time-1/events", "").body; !strings.Contains(got, `"timestamp":"2026-01-02T12:00:00.5Z"`) {
		t.Errorf("a time in small letters is %s", got)
	}
	if allow := r.do("DELETE "+ordersEvents, "").header.Get("Allow"); allow != "GET, HEAD, POST" {
		t.Errorf("Allow is %q", allow)
	}
}

func TestConflicts(t *testing.T) {
	t.Parallel()
	r := serveMemory(t)
	r.post(ordersEvents, `{"id":"e-1","eventType":"T","actorId":"order-1","version":3,"data":1}`)
	event := func(id, more string) string {
		return `{"id":"` + id + `","eventType":"T","actorId":"order-1"` + more + `}`
	}
	// A conflict tells what was sent, and nothing that was not.
	conflict := func(got answer, attempted, expected any) {
		t.Helper()
		p := r.wantProblem(got, 409, "version_conflict", "")
		var sent map[string]any
		must(t, json.Unmarshal([]byte(got.body), &sent))
		if p.ActorID != "order-1" || p.EventID != "e-2" || p.CurrentVersion == nil || *p.CurrentVersion != 3 ||
			sent["attemptedVersion"] != attempted || sent["expectedVersion"] != expected {
			t.Errorf("conflict does not name what was sent and what is there: %s", got.body)
		}
	}
	conflict(r.do("POST "+ordersEvents, event("e-2", `,"version":3`)), 3.0, nil)
	conflict(r.do("POST "+ordersEvents, event("e-2", `,"version":4,"expectedVersion":2`)), 4.0, 2.0)
	conflict(r.do("POST "+ordersEvents, event("e-2", `,"expectedVersion":"none"`)), nil, "none")
	conflict(r.do("POST "+ordersEvents+"?expectedVersion=7", event("e-2", "")), nil, 7.0)
	p := r.wantProblem(r.do("POST "+ordersEvents, `{"id":"e-1","eventType":"T","actorId":"other","data":1}`), 409, "duplicate_event", "")
	if p.EventID != "e-1" || p.ActorID != "order-1" || p.Version != 3 || p.Sequence != 1 {
		t.Errorf("the duplicate does not name who has the id: %+v", p)
	}
	for _, save := range [][2]string{
		{ordersEvents, event("e-4", `,"expectedVersion":3`)},
		{ordersEvents, event("e-5", `,"expectedVersion":"exists"`)},
		{ordersEvents, event("e-6", `,"expectedVersion":"any"`)},
		{ordersEvents + "?expectedVersion=6", `[` + event("e-7", "") + `,` + event("e-8", "") + `]`},
		{ordersEvents, `[{"id":"n-1","eventType":"T","actorId":"new","expectedVersion":"none"},` + event("e-9", `,"expectedVersion":8`) + `]`},
	} {
		r.post(save[0], save[1])
	}
	if got := r.do("PUT "+order1+"/snapshot", `{"version":9,"data":1}`); got.status != http.StatusNoContent {
		t.Fatalf("snapshot: %d %s", got.status, got.body)
	}
	p = r.wantProblem(r.do("PUT "+order1+"/snapshot", `{"version":8,"data":1}`), 409, "version_conflict", "")
	if *p.AttemptedVersion != 8 || *p.CurrentVersion != 9 || p.EventID != "" || !strings.Contains(p.Detail, "snapshot") {
		t.Errorf("conflict %+v", p)
	}
	p = r.wantProblem(r.do("DELETE "+order1+"/snapshot?version=8", ""), 409, "version_conflict", "")
	if *p.AttemptedVersion != 8 || *p.CurrentVersion != 9 {
		t.Errorf("conflict %+v", p)
	}
	r.wantProblem(r.do("PUT "+order1+"/snapshot", `{"version":10,"data":1}`), 409, "no_such_version", "")
	for _, query := range []string{"?version=9", "?version=9", ""} {
		if got := r.do("DELETE "+order1+"/snapshot"+query, ""); got.status != http.StatusNoContent || got.body != "" {
			t.Errorf("delete snapshot%s: %d %s", query, got.status, got.body)
		}
		r.wantProblem(r.do("GET "+order1+"/snapshot", ""), 404, "no_snapshot", "")
	}
}

func TestSnapshots(t *testing.T) {
	t.Parallel()
	r := serveMemory(t)
	r.post(ordersEvents, `{"id":"e-1","eventType":"T","actorId":"order-1"}`)
	for body, want := range map[string]string{
		`{"version":1,"data":{"a": 1.10},"timestamp":"2026-01-02T03:04:05Z"}`:                      `{"actorId":"order-1","version":1,"data":{"a":1.10},"timestamp":"2026-01-02T03:04:05Z"}`,
		`{"version":1,"actorId":"order-1","dataBase64":"AP8=","timestamp":"2026-01-02T03:04:05Z"}`: `{"actorId":"order-1","version":1,"dataBase64":"AP8=","timestamp":"2026-01-02T03:04:05Z"}`,
		`{"version":1,"metadata":{"k":"v"},"timestamp":"2026-01-02T03:04:05Z"}`:                    `{"actorId":"order-1","version":1,"metadata":{"k":"v"},"timestamp":"2026-01-02T03:04:05Z"}`,
		`{"version":1,"timestamp":"2026-01-02T03:04:05Z"}`:                                         `{"actorId":"order-1","version":1,"timestamp":"2026-01-02T03:04:05Z"}`,
	} {
		if got := r.do("PUT "+order1+"/snapshot", body); got.status != http.StatusNoContent || got.body != "" {
			t.Errorf("PUT %s: %d %q", body, got.status, got.body)
		}
		got := r.do("GET "+order1+"/snapshot", "")
		if got.status != http.StatusOK {
			t.Errorf("GET: %d", got.status)
		}
		r.wantJSON(got.body, want)
	}
}

type pageDocument struct {
	Events []struct {
		ID      string
		Version int64
	}
	Errors           []struct{ Sequence uint64 }
	Truncated        bool
	FirstVersion     int64
	NextFromSequence *uint64
}

func (r *running) page(path string) pageDocument {
	r.Helper()
	var p pageDocument
	got := r.do("GET "+path, "")
	if err := json.Unmarshal([]byte(got.body), &p); err != nil || got.status != http.StatusOK {
		r.Fatalf("GET %s: %d %s", path, got.status, got.body)
	}
	return p
}

func TestPages(t *testing.T) {
	t.Parallel()
	r := serveMemory(t)
	var batch []string
	for i := 1; i <= 7; i++ {
		batch = append(batch, fmt.Sprintf(`{"id":"e-%d","eventType":"T","actorId":"order-1","version":%d}`, i, i*10))
	}
	r.post(ordersEvents, "["+strings.Join(batch, ",")+"]")
	for _, c := range []struct {
		query string
		count int
		next  uint64
	}{
		{"", 7, 0}, {"?limit=7", 7, 0}, {"?limit=6", 6, 7}, {"?limit=3", 3, 4}, {"?fromVersion=30&limit=3", 3, 7},
		{"?fromVersion=60&limit=3", 1, 0}, {"?fromVersion=70", 0, 0}, {"?fromVersion=15&limit=1", 1, 3}, {"?fromVersion=9223372036854775807", 0, 0},
		{"?fromSequence=4&limit=3", 3, 7}, {"?fromSequence=7", 1, 0}, {"?fromSequence=8", 0, 0}, {"?fromVersion=50&fromSequence=2", 2, 0},
	} {
		p := r.page(order1 + "/events" + c.query)
		if len(p.Events) != c.count || (p.NextFromSequence == nil) != (c.next == 0) || p.NextFromSequence != nil && *p.NextFromSequence != c.next {
			t.Errorf("%q: %d events, next %v, want %d and %d", c.query, len(p.Events), p.NextFromSequence, c.count, c.next)
		}
	}
}

// A page ends early when it is large; following nextFromSequence finds all.
func TestPagesOfLargeEvents(t *testing.T) {
	t.Parallel()
	r := serveMemory(t)
	const count = 12
	for i := range count {
		r.post(ordersEvents, fmt.Sprintf(`{"id":"e-%d","eventType":"T","actorId":"order-1","data":%s}`, i, repeat(900<<10)))
	}
	var found, pages int
	for from := uint64(0); ; pages++ {
		p := r.page(fmt.Sprintf("%s/events?fromSequence=%d", order1, from))
		found += len(p.Events)
		if p.NextFromSequence == nil {
			break
		}
		if len(p.Events) == 0 || len(p.Events) > 4 {
			t.Errorf("a page of %d large events", len(p.Events))
		}
		from = *p.NextFromSequence
	}
	if found != count || pages < 2 {
		t.Errorf("%d events in %d pages and one, want %d", found, pages, count)
	}
}

func TestNDJSON(t *testing.T) {
	t.Parallel()
	r := serveMemory(t)
	var batch []string
	for i := range 1000 {
		batch = append(batch, fmt.Sprintf(`{"id":"a-%d","eventType":"T","actorId":"order-1","data":{"s": "a\nb"}}`, i))
	}
	r.post(ordersEvents, "["+strings.Join(batch, ",")+"]")
	r.post(ordersEvents, strings.ReplaceAll("["+strings.Join(batch, ",")+"]", "a-", "b-"))
	got := r.do("GET "+order1+"/events?fromVersion=1", "", "Accept: application/json;q=0.5, application/x-ndjson")
	if got.status != http.StatusOK || got.header.Get("Content-Type") != "application/x-ndjson" {
		t.Fatalf("answered %d %s", got.status, got.header)
	}
	all := lines(got.body)
	if len(all) != 1999 {
		t.Fatalf("%d lines, want 1999", len(all))
	}
	for i, line := range all {
		if !strings.Contains(line, fmt.Sprintf(`"version":%d,"data":{"s":"a\nb"}`, i+2)) {
			t.Fatalf("line %d is %s", i, line)
		}
	}
	for accept, want := range map[string]string{
		"application/json, application/x-ndjson;q=0.1": "application/json",
		"application/x-ndjson;q=0, application/json":   "application/json",
		"*/*, application/x-ndjson":                    "application/x-ndjson",
		"application/ndjson":                           "application/ndjson",
		"application/json;q=0.5, application/jsonl":    "application/jsonl",
		"text/html, */*;q=0.1":                         "application/json",
	} {
		if got := r.do("GET "+order1+"/events", "", "Accept: "+accept).header.Get("Content-Type"); got != want {
			t.Errorf("Accept %s: answered %s, want %s", accept, got, want)
		}
	}
	none := r.do("GET /v1/stores/orders/actors/nobody/events", "", "Accept: application/x-ndjson")
	if none.status != http.StatusOK || none.body != "" || none.header.Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("no events: %d %q", none.status, none.body)
	}
	r.wantProblem(r.do("GET "+order1+"/events?limit=3", "", "Accept: application/x-ndjson"), 400, "invalid_request", "limit")
	for _, accept := range []string{"text/html", "application/json;q=0, application/*"} {
		r.wantProblem(r.do("GET "+order1+"/events", "", "Accept: "+accept), 406, "invalid_request", "Accept")
	}
}

// HEAD is GET without the content, and does not wait for a stream.
func TestHead(t *testing.T) {
	t.Parallel()
	r := serveMemory(t)
	r.post(ordersEvents, `{"id":"e-1","eventType":"T","actorId":"order-1"}`)
	for _, c := range []struct {
		path, accept string
		status       int
		contentType  string
	}{
		{"/v1/stores", "", 200, "application/json"},
		{order1 + "/events", "", 200, "application/json"},
		{order1 + "/events", "application/x-ndjson", 200, "application/x-ndjson"},
		{order1 + "/version", "", 200, "application/json"},
		{order1 + "/snapshot", "", 404, "application/problem+json"},
		{ordersEvents, "", 200, "text/event-stream"},
		{ordersEvents + "?actorType=a-b", "", 400, "application/problem+json"},
		{"/openapi.yaml", "", 200, "application/yaml"},
	} {
		got := r.do("HEAD "+c.path, "", "Accept: "+c.accept)
		if got.status != c.status || got.body != "" || got.header.Get("Content-Type") != c.contentType {
			t.Errorf("HEAD %s: answered %d %s %q, want %d %s and nothing", c.path, got.status, got.header.Get("Content-Type"), got.body, c.status, c.contentType)
		}
	}
}

// A stream that fails in the middle cannot be taken for one that is whole.
func TestNDJSONThatFails(t *testing.T) {
	t.Parallel()
	r := serveFaulty(t, &faulty{before: []item{anEvent, aReplayError}, err: errAtLast})
	response := r.open(t.Context(), "GET "+order1+"/events", "", "Accept: application/x-ndjson")
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err == nil {
		t.Error("the client saw a whole answer")
	}
	got := lines(string(body))
	if len(got) != 3 {
		t.Fatalf("lines are %q", got)
	}
	r.wantJSON(got[1], `{"error":{"sequence":8,"rawData":"/w==","error":"has no id"}}`)
	if !strings.HasPrefix(got[2], `{"problem":{`) || !strings.Contains(got[2], `"code":"unavailable"`) {
		t.Errorf("the last line is %s", got[2])
	}
	early := serveFaulty(t, &faulty{err: errAtLast})
	early.wantProblem(early.do("GET "+order1+"/events", "", "Accept: application/x-ndjson"), 503, "unavailable", "")
}

func TestReplayErrorsInAPage(t *testing.T) {
	t.Parallel()
	r := serveFaulty(t, &faulty{before: []item{anEvent, aReplayError}})
	r.wantJSON(r.do("GET "+order1+"/events", "").body, `{
		"events":[{"id":"e-1","eventType":"T","actorId":"order-1","version":1,"data":1,"contentType":"application/json","timestamp":"2026-01-02T03:04:05.000000006Z","sequence":7}],
		"errors":[{"sequence":8,"rawData":"/w==","error":"has no id"}]}`)
}

// Another writer may have stored what is no JSON as JSON.
func TestDataThatIsNoJSON(t *testing.T) {
	t.Parallel()
	broken := anEvent
	broken.event.Data = []byte("{oops")
	r := serveFaulty(t, &faulty{before: []item{broken}})
	if got := r.do("GET "+order1+"/events", ""); !strings.Contains(got.body, `"dataBase64":"`+base64.StdEncoding.EncodeToString(broken.event.Data)+`"`) {
		t.Errorf("answered %d %s", got.status, got.body)
	}
}

// failures are what each error means to a client.
var failures = []struct {
	err    error
	status int
	code   string
}{
	{eventstore.ErrStoreFull, 507, "store_full"},
	{eventstore.ErrPermissionDenied, 403, "permission_denied"},
	{eventstore.ErrUnavailable, 503, "unavailable"},
	{eventstore.ErrUnknownOutcome, 504, "unknown_outcome"},
	{errors.Join(eventstore.ErrUnavailable, eventstore.ErrUnknownOutcome), 504, "unknown_outcome"},
	{eventstore.ErrTooLarge, 413, "too_large"},
	{errors.New("a mistake"), 500, "internal"},
	{nil, 500, "internal"}, // panics
}

func TestFailures(t *testing.T) {
	t.Parallel()
	for _, c := range failures {
		r := serveFaulty(t, &faulty{err: c.err})
		got := r.do("POST "+ordersEvents, `{"id":"x","eventType":"T","actorId":"order-1"}`)
		r.wantProblem(got, c.status, c.code, "")
		if strings.Contains(got.body, "made to panic") {
			t.Errorf("a panic is told to the client: %s", got.body)
		}
	}
}

func TestBodyLimit(t *testing.T) {
	t.Parallel()
	r := serve(t, sidecar.Config{Stores: []sidecar.Store{{Name: "orders", Store: memory.New()}}, MaxBodyBytes: 100})
	event := `{"id":"x","eventType":"T","actorId":"order-1"}`
	r.post(ordersEvents, event+strings.Repeat(" ", 100-len(event)))
	r.wantProblem(r.do("POST "+ordersEvents, event+strings.Repeat(" ", 101-len(event))), 413, "too_large", "")
	r.wantProblem(r.do("PUT "+order1+"/snapshot", strings.Repeat(" ", 101)), 413, "too_large", "")
}
