package sidecar

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
)

// oneWriteBytes is the most bytes of a body that are copied to be sent with its
// headers.
const oneWriteBytes = batchBytes

// oneWrite sends the headers of a call together with its body. net/http does so
// only where it knows that the body is in memory, and Connect's it does not know:
// it sends the headers by themselves, for which the sidecar wakes up, finds no
// body, and waits again.
type oneWrite struct{ over http.RoundTripper }

// RoundTrip makes a call.
func (o oneWrite) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.ContentLength <= 0 || request.ContentLength > oneWriteBytes {
		return o.over.RoundTrip(request)
	}
	body := make([]byte, request.ContentLength)
	_, err := io.ReadFull(request.Body, body)
	if closeErr := request.Body.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return nil, fmt.Errorf("read the body of a call to the sidecar: %w", err)
	}
	// A RoundTripper must leave the request as it is.
	request = request.WithContext(request.Context())
	request.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	request.Body, _ = request.GetBody()
	return o.over.RoundTrip(request)
}
