package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	// callTimeout is how long the API server waits, as config/webhook has it.
	callTimeout = 5 * time.Second
	// maxBodyBytes is the largest review. The API server takes no larger object.
	maxBodyBytes = 3 << 20
	// headBytes is how much of a review is read to know whose it is. What an API server
	// writes before the namespace is names, a kilobyte at most.
	headBytes = 4 << 10
	// workersAtOnce is how many reviews are read and worked on at once: more would not
	// make it faster, and take more memory.
	workersAtOnce = 4
)

// intake bounds what is read and worked on at once, and for how long. No call waits
// before its namespace is known, so namespaces take turns with all that a call costs.
type intake struct{ turns *turns }

func newIntake() *intake { return &intake{turns: newTurns(workersAtOnce)} }

// bound reads the head of a review, waits for the turn of its namespace, and passes it
// on with no more than maxBodyBytes. It ends the context of a call when the API server
// has given up on it.
func (i *intake) bound(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength > maxBodyBytes {
			http.Error(w, fmt.Sprintf("the review has %d bytes: at most %d are read", r.ContentLength, maxBodyBytes), http.StatusRequestEntityTooLarge)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
		defer cancel()
		// A caller that stops in the middle of a review keeps no turn.
		if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(callTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			http.Error(w, fmt.Sprintf("bound the time to read the review: %v", err), http.StatusInternalServerError)
			return
		}
		body := http.MaxBytesReader(w, r.Body, maxBodyBytes)
		head, err := io.ReadAll(io.LimitReader(body, headBytes))
		if err != nil {
			http.Error(w, fmt.Sprintf("read the review: %v", err), http.StatusBadRequest)
			return
		}
		if err := i.turns.take(ctx, namespaceOf(head)); err != nil {
			http.Error(w, fmt.Sprintf("too many are created at this moment: waited %s for a turn: try again", callTimeout), http.StatusServiceUnavailable)
			return
		}
		defer i.turns.give()
		r = r.WithContext(ctx)
		r.Body = &joinedBody{Reader: io.MultiReader(bytes.NewReader(head), body), Closer: body}
		next.ServeHTTP(w, r)
	})
}

// joinedBody is a body whose head was read before.
type joinedBody struct {
	io.Reader
	io.Closer
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
