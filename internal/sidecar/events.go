package sidecar

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// readTimeout is how long the body of a request may take to arrive, over
// localhost.
const readTimeout = 30 * time.Second

func (s *Server) listStores(c *call) error {
	type storeJSON struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace,omitempty"`
	}
	stores := make([]storeJSON, len(s.config.Stores))
	for i, store := range s.config.Stores {
		stores[i] = storeJSON{Name: store.Name, Namespace: store.Namespace}
	}
	return writeJSON(c.w, http.StatusOK, "application/json", map[string]any{"stores": stores})
}

func (s *Server) postEvents(c *call) error {
	body, err := s.readBody(c)
	if err != nil {
		return err
	}
	events, expected, err := decodeEvents(body, newParts(accountOf(c.r.Context())))
	if err != nil {
		return err
	}
	if err := expectFromQuery(c, events, expected); err != nil {
		return err
	}
	var opts []eventstore.SaveOption
	for actorID, version := range expected {
		opts = append(opts, eventstore.Expect(actorID, version))
	}
	inTrace(c.r.Context(), events...)
	saved, err := c.store.Store.SaveEvents(c.r.Context(), events, opts...)
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusCreated, "application/json", map[string]any{"events": encodeSaved(saved)})
}

// expectFromQuery adds the expectedVersion of the query, which is about the one
// actor of the request.
func expectFromQuery(c *call, events []eventstore.Event, expected map[string]eventstore.ExpectedVersion) error {
	if !c.query.Has("expectedVersion") {
		return nil
	}
	version, reason := parseExpected(c.query.Get("expectedVersion"))
	for i := range events {
		if events[i].ActorID != events[0].ActorID {
			reason = "is about one actor, and the events are of several: give it with the first event of each"
		}
	}
	if len(expected) > 0 {
		reason = "is given with an event too: give one of them"
	}
	if reason != "" {
		return &requestError{field: "expectedVersion", reason: reason}
	}
	if len(events) > 0 {
		expected[events[0].ActorID] = version
	}
	return nil
}

// readBody reads the body as a whole, up to the limit.
func (s *Server) readBody(c *call) ([]byte, error) {
	if encoding := c.r.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return nil, &requestError{field: "Content-Encoding", reason: fmt.Sprintf("is %.100q: send the body as it is", encoding), status: http.StatusUnsupportedMediaType}
	}
	control := http.NewResponseController(c.w)
	// A connection that takes no deadlines has none to keep, as in a test.
	_ = control.SetReadDeadline(time.Now().Add(s.readTimeout))
	var body bytes.Buffer
	if c.r.ContentLength > 0 {
		// Once, rather than doubled again and again.
		body.Grow(int(min(c.r.ContentLength, s.config.MaxBodyBytes)) + bytes.MinRead)
	}
	_, err := body.ReadFrom(http.MaxBytesReader(c.w, c.r.Body, s.config.MaxBodyBytes))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, fmt.Errorf("the body has more than %d bytes: send fewer events at once: %w", tooLarge.Limit, eventstore.ErrTooLarge)
	}
	if errors.Is(err, errTooManyRequests) {
		return nil, err
	}
	if err != nil {
		// The deadline stays: net/http reads on, to answer who is still sending.
		return nil, &requestError{field: bodyField, reason: "could not be read to its end: " + err.Error()}
	}
	_ = control.SetReadDeadline(time.Time{})
	return body.Bytes(), nil
}

// getEvents answers one page of the events of an actor, or all of them as lines
// of JSON.
func (s *Server) getEvents(c *call) error {
	fromVersion, err := intParameter(c, "fromVersion", 0, 0, 1<<63-1)
	if err != nil {
		return err
	}
	fromSequence, err := intParameter(c, "fromSequence", 0, 0, 1<<63-1)
	if err != nil {
		return err
	}
	limit, err := intParameter(c, "limit", maxPageEvents, 1, maxPageEvents)
	if err != nil {
		return err
	}
	if !accepts(c.r, "application/json") && c.lines == "" {
		return &requestError{field: "Accept", reason: "lists neither application/json nor application/x-ndjson, which are all that there is", status: http.StatusNotAcceptable}
	}
	if c.lines != "" {
		if c.query.Has("limit") {
			return &requestError{field: "limit", reason: "is for pages: " + c.lines + " has all events"}
		}
		return s.streamEvents(c, fromVersion, uint64(fromSequence))
	}
	page, err := s.readPage(c.r.Context(), c.store, c.actorID, fromVersion, uint64(fromSequence), int(limit))
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, "application/json", page.json())
}

// streamEvents answers all events of an actor, each as one line of JSON.
func (s *Server) streamEvents(c *call, fromVersion int64, fromSequence uint64) error {
	ctx, cancel := s.streamContext(c.r.Context())
	defer cancel()
	s.stream(c.w, c.r, longestReplay)
	if c.r.Method == http.MethodHead {
		c.w.Header().Set("Content-Type", c.lines)
		return nil
	}
	begun := false
	write := func(document any) {
		if !begun {
			c.w.Header().Set("Content-Type", c.lines)
			begun = true
		}
		line, err := marshal(document)
		if err == nil {
			_, err = c.w.Write(line)
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
	}
	for event, err := range s.replay(ctx, c.store, c.actorID, fromVersion, eventstore.FromSequence(fromSequence)) {
		var replay *eventstore.ReplayError
		var truncated *eventstore.TruncatedError
		switch {
		case err == nil:
			write(encodeEvent(&event))
		case errors.As(err, &truncated):
			write(map[string]any{"truncated": truncatedJSON{truncated.FirstVersion}})
		case errors.As(err, &replay):
			write(map[string]any{"error": encodeReplayError(replay)})
		case !begun:
			return err
		default:
			// The last line says why, and the answer is cut off, so that nobody takes
			// it for all there is.
			write(map[string]any{"problem": failureOf(err).problem()})
			_ = http.NewResponseController(c.w).Flush()
			panic(http.ErrAbortHandler)
		}
	}
	if !begun {
		c.w.Header().Set("Content-Type", c.lines)
		c.w.WriteHeader(http.StatusOK)
	}
	return nil
}

func (s *Server) getVersion(c *call) error {
	version, err := readVersion(c.r.Context(), c.store, c.actorID)
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, "application/json", struct {
		ActorID string `json:"actorId"`
		Version int64  `json:"version"`
	}{c.actorID, version})
}

func (s *Server) getSnapshot(c *call) error {
	snapshot, err := s.readSnapshot(c.r.Context(), c.store, c.actorID)
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, "application/json", encodeSnapshot(&snapshot))
}

func (s *Server) putSnapshot(c *call) error {
	body, err := s.readBody(c)
	if err != nil {
		return err
	}
	snapshot, err := decodeSnapshot(body, c.actorID, newParts(accountOf(c.r.Context())))
	if err != nil {
		return err
	}
	if err := c.store.Store.SaveSnapshot(c.r.Context(), snapshot); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) deleteSnapshot(c *call) error {
	version, err := intParameter(c, "version", 0, 1, eventstore.MaxVersion)
	if err != nil {
		return err
	}
	if err := c.store.Store.DeleteSnapshot(c.r.Context(), c.actorID, version); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// intParameter reads a query parameter that is a number.
func intParameter(c *call, name string, fallback, least, most int64) (int64, error) {
	if !c.query.Has(name) {
		return fallback, nil
	}
	n, err := strconv.ParseInt(c.query.Get(name), 10, 64)
	if err != nil || n < least || n > most {
		return 0, &requestError{field: name, reason: fmt.Sprintf("is %.100q: give a number from %d to %d", c.query.Get(name), least, most)}
	}
	return n, nil
}
