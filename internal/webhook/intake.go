package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/internal/openport"
)

const (
	// callTimeout is how long the API server waits, as config/webhook has it.
	callTimeout = 5 * time.Second
	// maxBodyBytes is the largest review. The API server takes no larger object.
	maxBodyBytes = 3 << 20
	// headBytes is how much of a review is read to know whose it is. What an API server
	// writes before the namespace is names, a kilobyte at most.
	headBytes = openport.Begun
	// turnsAtOnce is how many reviews are read and answered at once: so many bodies are in
	// memory.
	turnsAtOnce = 16
	// workersAtOnce is how many of these are worked on at once: more would not make it faster,
	// and take more memory.
	workersAtOnce = 4
	// bodyTimeout is how long the rest of a review may take to come, and the answer to go,
	// where nobody else waits.
	bodyTimeout = 2 * time.Second
)

// intake bounds what is read and worked on at once, and for how long. No call waits
// before its namespace is known, so namespaces take turns with all that a call costs: one for
// the memory of a call, and inside of it one for the work, in which no caller is waited for.
type intake struct{ turns, workers *turns }

func newIntake() *intake {
	return &intake{turns: newTurns(turnsAtOnce), workers: newTurns(workersAtOnce)}
}

// bound reads the head of a review, waits for the turn of its address and namespace, and
// passes it on with no more than maxBodyBytes. It ends the context of a call when the API
// server has given up on it.
func (i *intake) bound(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength > maxBodyBytes {
			http.Error(w, fmt.Sprintf("the review has %d bytes: at most %d are read", r.ContentLength, maxBodyBytes), http.StatusRequestEntityTooLarge)
			return
		}
		end := time.Now().Add(callTimeout)
		ctx, cancel := context.WithDeadline(r.Context(), end)
		defer cancel()
		body := &incoming{from: http.MaxBytesReader(w, r.Body, maxBodyBytes), control: http.NewResponseController(w)}
		err := body.until(end)
		if err == nil {
			err = body.read(headBytes)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		turn, err := i.turns.take(ctx, openport.PeerOf(r.RemoteAddr), namespaceOf(body.have.Bytes()))
		if err != nil {
			crowded(w, err)
			return
		}
		defer turn.give()
		body.have.Grow(int(max(r.ContentLength, 0)) + bytes.MinRead)
		i.answer(w, r.WithContext(ctx), next, turn, body)
	})
}

func crowded(w http.ResponseWriter, err error) {
	http.Error(w, fmt.Sprintf("too many are created at this moment: %s: try again", err), http.StatusServiceUnavailable)
}

// answer reads the rest of a review, has it worked on, and writes the answer.
func (i *intake) answer(w http.ResponseWriter, r *http.Request, next http.Handler, turn *turn, body *incoming) {
	end, _ := r.Context().Deadline()
	if err := body.until(time.Now().Add(bodyTimeout)); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if err := turn.await(func() { _ = body.until(time.Now()) }, func() error { return body.read(maxBodyBytes) }); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	// The connection is read on, and the context ends with that.
	if err := body.until(end); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	r.Body = io.NopCloser(&body.have)
	answer := &outgoing{status: http.StatusOK, header: http.Header{}}
	if err := i.work(next, answer, r, turn); err != nil {
		crowded(w, err)
		return
	}
	// Who does not read it has no answer.
	_ = body.control.SetWriteDeadline(time.Now().Add(bodyTimeout))
	_ = turn.await(func() { _ = body.control.SetWriteDeadline(time.Now()) }, func() error { return answer.write(w) })
}

// work waits for a turn to work on a call, and does.
func (i *intake) work(next http.Handler, answer *outgoing, r *http.Request, turn *turn) error {
	worker, err := i.workers.take(r.Context(), turn.peer, turn.namespace)
	if err != nil {
		return err
	}
	defer worker.give()
	next.ServeHTTP(answer, r)
	return nil
}

// incoming is a body that is read in parts.
type incoming struct {
	from    io.Reader
	control *http.ResponseController
	have    bytes.Buffer
}

// read reads so many bytes more, or up to the end.
func (r *incoming) read(bytes int64) error {
	if _, err := io.CopyN(&r.have, r.from, bytes); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the review: %w", err)
	}
	return nil
}

// until bounds the time to read.
func (r *incoming) until(end time.Time) error {
	if err := r.control.SetReadDeadline(end); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("bound the time to read the review: %w", err)
	}
	return nil
}

// outgoing is an answer that is kept until all of it is there.
type outgoing struct {
	status int
	header http.Header
	body   bytes.Buffer
}

func (o *outgoing) Header() http.Header { return o.header }

func (o *outgoing) WriteHeader(status int) { o.status = status }

func (o *outgoing) Write(part []byte) (int, error) { return o.body.Write(part) }

func (o *outgoing) write(w http.ResponseWriter) error {
	maps.Copy(w.Header(), o.header)
	w.WriteHeader(o.status)
	if _, err := w.Write(o.body.Bytes()); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

// namespaceOf finds request.namespace at the beginning of a review, which the API
// server writes before the object. It is empty where it is not there: such calls share
// the turns of one namespace.
func namespaceOf(head []byte) string {
	decoder := json.NewDecoder(bytes.NewReader(head))
	if !enter(decoder, "request") || !enter(decoder, "namespace") {
		return ""
	}
	var namespace string
	if decoder.Decode(&namespace) != nil {
		return ""
	}
	return namespace
}

// enter reads on into an object, up to the value of one of its fields.
func enter(decoder *json.Decoder, field string) bool {
	if begin, err := decoder.Token(); err != nil || begin != json.Delim('{') {
		return false
	}
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return false
		}
		if key == field {
			return true
		}
		var other json.RawMessage
		if decoder.Decode(&other) != nil {
			return false
		}
	}
	return false
}
