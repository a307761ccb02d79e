package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
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
	headBytes = 4 << 10
	// bodyTimeout is how long the rest of a review may take to come: it is sent already.
	bodyTimeout = 2 * time.Second
	// workersAtOnce is how many reviews are read and worked on at once: more would not
	// make it faster, and take more memory.
	workersAtOnce = 4
)

// intake bounds what is read and worked on at once, and for how long. No call waits
// before its namespace is known, so namespaces take turns with all that a call costs.
type intake struct{ turns *turns }

func newIntake() *intake { return &intake{turns: newTurns(workersAtOnce)} }

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
		if err := body.read(headBytes, end); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		address := openport.PeerOf(r.RemoteAddr).Network
		if err := i.turns.take(ctx, address, namespaceOf(body.have.Bytes())); err != nil {
			http.Error(w, fmt.Sprintf("too many are created at this moment: waited %s for a turn: try again", callTimeout), http.StatusServiceUnavailable)
			return
		}
		defer i.turns.give(address)
		if err := body.read(maxBodyBytes, time.Now().Add(bodyTimeout)); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				i.turns.wasLate(address)
			}
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		// The connection is read on, and the context ends with that.
		if err := body.until(end); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		r = r.WithContext(ctx)
		r.Body = io.NopCloser(&body.have)
		next.ServeHTTP(w, r)
	})
}

// incoming is a body that is read in parts.
type incoming struct {
	from    io.Reader
	control *http.ResponseController
	have    bytes.Buffer
}

// read reads so many bytes more, or up to the end, as long as there is time.
func (r *incoming) read(bytes int64, until time.Time) error {
	if err := r.until(until); err != nil {
		return err
	}
	if _, err := io.CopyN(&r.have, r.from, bytes); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the review: %w", err)
	}
	return nil
}

func (r *incoming) until(end time.Time) error {
	if err := r.control.SetReadDeadline(end); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("bound the time to read the review: %w", err)
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
