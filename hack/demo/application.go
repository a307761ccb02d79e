package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// store is the EventStore of the samples that the demo's application uses.
const store = "orders"

// application is what a team would write: it knows HTTP and the sidecar's
// address, and nothing else.
type application struct {
	endpoint string
	client   *http.Client

	mu sync.Mutex
	// acknowledged are the events that the sidecar said it has saved, by id.
	acknowledged map[string]event
}

// event is an event as the API has it.
type event struct {
	ID        string          `json:"id"`
	EventType string          `json:"eventType"`
	ActorID   string          `json:"actorId"`
	Version   int64           `json:"version,omitempty"`
	Data      json.RawMessage `json:"data,omitempty"`
	Sequence  uint64          `json:"sequence,omitempty"`
	Duplicate bool            `json:"duplicate,omitempty"`
}

// answer is what the sidecar answered.
type answer struct {
	status int
	body   []byte
}

func newApplication(endpoint string) *application {
	return &application{endpoint: endpoint, client: &http.Client{Timeout: 30 * time.Second}, acknowledged: map[string]event{}}
}

func storePath(parts ...string) string {
	path := "/v1/stores/" + store
	for _, part := range parts {
		path += "/" + url.PathEscape(part)
	}
	return path
}

// call makes one request, with body as JSON where it is not nil.
func (a *application) call(ctx context.Context, method, path string, body any) (answer, error) {
	content, err := json.Marshal(body)
	if err != nil {
		return answer{}, err
	}
	request, err := http.NewRequestWithContext(ctx, method, a.endpoint+path, bytes.NewReader(content))
	if err != nil {
		return answer{}, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := a.client.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = response.Body.Close() }()
	content, err = io.ReadAll(response.Body)
	return answer{status: response.StatusCode, body: content}, err
}

// expect is call that fails unless the answer has this status.
func (a *application) expect(ctx context.Context, status int, method, path string, body any) (answer, error) {
	got, err := a.call(ctx, method, path, body)
	if err != nil {
		return got, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if got.status != status {
		return got, fmt.Errorf("%s %s: answered %d, not %d: %s", method, path, got.status, status, got.body)
	}
	return got, nil
}

// save saves events in one call and remembers what was acknowledged.
func (a *application) save(ctx context.Context, events ...event) ([]event, error) {
	got, err := a.expect(ctx, http.StatusCreated, http.MethodPost, storePath("events"), events)
	if err != nil {
		return nil, err
	}
	var saved struct{ Events []event }
	if err := json.Unmarshal(got.body, &saved); err != nil {
		return nil, fmt.Errorf("read the answer %s: %w", got.body, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, s := range saved.Events {
		acknowledged := events[i]
		acknowledged.Version, acknowledged.Sequence = s.Version, s.Sequence
		a.acknowledged[s.ID] = acknowledged
	}
	return saved.Events, nil
}

// saveUntilAcknowledged saves one event as an application should: the same
// event with the same id, again and again, until there is an answer.
func (a *application) saveUntilAcknowledged(ctx context.Context, e event) error {
	return eventually(ctx, 2*time.Minute, "event "+e.ID+" to be saved", func(ctx context.Context) error {
		_, err := a.save(ctx, e)
		return err
	})
}

// events reads every event of an actor, page by page.
func (a *application) events(ctx context.Context, actorID string) ([]event, error) {
	var all []event
	for fromSequence := int64(0); ; {
		path := fmt.Sprintf("%s?fromSequence=%d", storePath("actors", actorID, "events"), fromSequence)
		got, err := a.expect(ctx, http.StatusOK, http.MethodGet, path, nil)
		if err != nil {
			return nil, err
		}
		var page struct {
			Events           []event
			Errors           []json.RawMessage
			NextFromSequence int64
		}
		if err := json.Unmarshal(got.body, &page); err != nil {
			return nil, fmt.Errorf("read the answer %s: %w", got.body, err)
		}
		if len(page.Errors) > 0 {
			return nil, fmt.Errorf("actor %s has stored messages that are no events: %s", actorID, page.Errors)
		}
		all = append(all, page.Events...)
		if page.NextFromSequence == 0 {
			return all, nil
		}
		fromSequence = page.NextFromSequence
	}
}

// checkAcknowledged reads every actor and compares it with what was
// acknowledged: nothing lost, doubled or out of order.
func (a *application) checkAcknowledged(ctx context.Context) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	expected := map[string][]event{}
	for _, e := range a.acknowledged {
		expected[e.ActorID] = append(expected[e.ActorID], e)
	}
	for actorID, acknowledged := range expected {
		slices.SortFunc(acknowledged, func(x, y event) int { return int(x.Version - y.Version) })
		stored, err := a.events(ctx, actorID)
		if err != nil {
			return 0, err
		}
		same := func(x, y event) bool {
			return x.ID == y.ID && x.Version == y.Version && x.Sequence == y.Sequence && bytes.Equal(x.Data, y.Data)
		}
		if !slices.EqualFunc(stored, acknowledged, same) {
			return 0, fmt.Errorf("actor %s: %d events were acknowledged and %d are stored, or they differ:\nacknowledged %v\nstored       %v",
				actorID, len(acknowledged), len(stored), acknowledged, stored)
		}
	}
	return len(a.acknowledged), nil
}

func (d *demo) saveEvents(ctx context.Context) error {
	saved, err := d.app.save(ctx,
		event{ID: "e-1", EventType: "OrderPlaced", ActorID: "order-1", Version: 1, Data: json.RawMessage(`{"total":9007199254740993.10}`)},
		event{ID: "e-2", EventType: "CustomerSeen", ActorID: "customer-7", Data: json.RawMessage(`{"name":"Zoë"}`)},
	)
	if err != nil {
		return err
	}
	for version := int64(2); version <= 5; version++ {
		one, err := d.app.save(ctx, event{
			ID: fmt.Sprintf("e-1-%d", version), EventType: "ItemAdded", ActorID: "order-1", Version: version,
			Data: json.RawMessage(fmt.Sprintf(`{"item":%d}`, version)),
		})
		if err != nil {
			return err
		}
		saved = append(saved, one...)
	}
	for _, s := range saved {
		d.show("201 actor %-10s version %d, sequence %d", s.ActorID, s.Version, s.Sequence)
	}
	return nil
}

func (d *demo) refuseStaleVersion(ctx context.Context) error {
	stale := event{ID: "e-stale", EventType: "ItemAdded", ActorID: "order-1", Version: 3, Data: json.RawMessage(`{}`)}
	got, err := d.app.expect(ctx, http.StatusConflict, http.MethodPost, storePath("events"), stale)
	if err != nil {
		return err
	}
	var problem struct {
		Code             string
		AttemptedVersion int64
		CurrentVersion   int64
	}
	if err := json.Unmarshal(got.body, &problem); err != nil {
		return err
	}
	if problem.Code != "version_conflict" || problem.AttemptedVersion != 3 || problem.CurrentVersion != 5 {
		return fmt.Errorf("the conflict does not name versions 3 and 5: %s", got.body)
	}
	d.show("409 %s", bytes.TrimSpace(got.body))
	return nil
}

func (d *demo) saveAgain(ctx context.Context) error {
	before := d.app.acknowledged["e-1-3"]
	again := before
	again.Sequence = 0
	saved, err := d.app.save(ctx, again)
	if err != nil {
		return err
	}
	if !saved[0].Duplicate || saved[0].Version != before.Version || saved[0].Sequence != before.Sequence {
		return fmt.Errorf("the answer is not the first one, marked duplicate: %+v after %+v", saved[0], before)
	}
	d.show("201 version %d, sequence %d, duplicate: the answer of the first time", saved[0].Version, saved[0].Sequence)
	return nil
}

func (d *demo) readBack(ctx context.Context) error {
	events, err := d.app.events(ctx, "order-1")
	if err != nil {
		return err
	}
	for _, e := range events {
		d.show("version %d %-12s %s", e.Version, e.EventType, e.Data)
	}
	_, err = d.app.checkAcknowledged(ctx)
	return err
}

func (d *demo) snapshot(ctx context.Context) error {
	path := storePath("actors", "order-1", "snapshot")
	if _, err := d.app.expect(ctx, http.StatusNotFound, http.MethodGet, path, nil); err != nil {
		return err
	}
	body := map[string]any{"version": 5, "data": json.RawMessage(`{"items":4}`)}
	if _, err := d.app.expect(ctx, http.StatusNoContent, http.MethodPut, path, body); err != nil {
		return err
	}
	got, err := d.app.expect(ctx, http.StatusOK, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	if !bytes.Contains(got.body, []byte(`"data":{"items":4}`)) {
		return fmt.Errorf("the snapshot is not what was saved: %s", got.body)
	}
	d.show("404 before, then 200 %s", bytes.TrimSpace(got.body))
	return nil
}

// follow subscribes from the first sequence, reads what is stored, and then
// sees what is saved meanwhile.
func (d *demo) follow(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("the events did not arrive within a minute"))
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.app.endpoint+storePath("events"), nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "text/event-stream")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("follow: answered %s", response.Status)
	}
	stored := len(d.app.acknowledged)
	const live = 3
	var received []event
	lines := bufio.NewScanner(response.Body)
	for len(received) < stored+live && lines.Scan() {
		data, isData := strings.CutPrefix(lines.Text(), "data:")
		if !isData {
			continue
		}
		var e event
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return fmt.Errorf("read %s: %w", data, err)
		}
		if received = append(received, e); len(received) >= stored && len(received) < stored+live {
			_, err := d.app.save(ctx, event{ID: fmt.Sprintf("live-%d", len(received)), EventType: "ItemAdded", ActorID: "order-2", Data: json.RawMessage(`{}`)})
			if err != nil {
				return err
			}
		}
	}
	if len(received) < stored+live {
		return fmt.Errorf("follow: the stream ended after %d events: %w", len(received), errors.Join(lines.Err(), context.Cause(ctx)))
	}
	d.show("%d stored events, then %d live, the last with sequence %d", stored, live, received[len(received)-1].Sequence)
	return nil
}
