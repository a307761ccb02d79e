package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"google.golang.org/protobuf/reflect/protoreflect"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
)

// procedures are those of the service, by their paths.
var procedures = func() map[string]protoreflect.MethodDescriptor {
	methods := map[string]protoreflect.MethodDescriptor{}
	service := eventstorev1.File_eventstore_proto.Services().Get(0)
	for i := range service.Methods().Len() {
		method := service.Methods().Get(i)
		methods["/"+string(service.FullName())+"/"+string(method.Name())] = method
	}
	return methods
}()

// others are the procedures of the other services.
var others = []string{
	"/" + grpchealth.HealthV1ServiceName + "/Check", "/" + grpchealth.HealthV1ServiceName + "/Watch",
	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
}

// known answers what is no call of a procedure: Connect would do so in plain text, which
// clients of gRPC take for a mistake of the server.
func (s *Server) known(next http.Handler) http.Handler {
	errorWriter := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		procedure, served := procedures[r.URL.Path]
		var err error
		switch {
		case !served && !slices.Contains(others, r.URL.Path):
			err = &routeError{method: r.Method, path: r.URL.EscapedPath()}
		case r.Method != http.MethodPost:
			err = &routeError{method: r.Method, path: r.URL.EscapedPath(), allowed: []string{http.MethodPost}}
		case served && !speaks(r, procedure.IsStreamingServer()):
			err = &requestError{field: "Content-Type", reason: fmt.Sprintf("is %.100q: this procedure is called with %s", r.Header.Get("Content-Type"),
				strings.Join(contentTypes(procedure.IsStreamingServer()), ", ")), status: http.StatusUnsupportedMediaType}
		default:
			next.ServeHTTP(w, r)
			return
		}
		ctx, calling := s.begin(r.Context(), r.Header, "rpc", "none", false)
		if r.Method == http.MethodPost && errorWriter.IsSupported(r) && !served {
			s.refuse(ctx, calling, errorWriter, w, r, err)
			return
		}
		calling.end(ctx, strconv.Itoa(s.answerError(w, r.WithContext(ctx), err).status), "")
	})
}

// refuse answers an RPC that no handler is to see.
func (s *Server) refuse(ctx context.Context, calling *calling, errorWriter *connect.ErrorWriter, w http.ResponseWriter, r *http.Request, err error) {
	refused := failureOf(err)
	calling.end(ctx, refused.rpc.String(), "")
	s.logFailure(ctx, r.URL.EscapedPath(), refused)
	// Who does not read its answer has nobody else to tell.
	_ = errorWriter.Write(w, r, refused.connectError())
}

// contentTypes are those with which a procedure is called.
func contentTypes(stream bool) []string {
	types := []string{"application/grpc", "application/grpc+proto", "application/grpc+json", "application/grpc-web", "application/grpc-web+proto", "application/grpc-web+json"}
	if stream {
		return append(types, "application/connect+proto", "application/connect+json")
	}
	return append(types, "application/proto", "application/json")
}

func speaks(r *http.Request, stream bool) bool {
	return slices.Contains(contentTypes(stream), contentType(r))
}

// contentType is the content type of a request without parameters.
func contentType(r *http.Request) string {
	kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	return strings.ToLower(strings.TrimSpace(kind))
}

// admitted admits an RPC before its message is read, as run does for HTTP.
func (s *Server) admitted(next http.Handler) http.Handler {
	errorWriter := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		procedure, known := procedures[r.URL.Path]
		if !known {
			next.ServeHTTP(w, r)
			return
		}
		stream := procedure.IsStreamingServer()
		if encoding := compressed(r.Header); encoding != "" {
			w.Header().Set("Grpc-Accept-Encoding", "identity")
			// Who does not read its answer has nobody else to tell.
			_ = errorWriter.Write(w, r, connect.NewError(connect.CodeUnimplemented, fmt.Errorf("messages are compressed with %.100q: send them as they are", encoding)))
			return
		}
		account, err := s.limits.open(r.Context(), stream, r.ContentLength)
		if err != nil {
			ctx, calling := s.begin(r.Context(), r.Header, "rpc", r.URL.Path, stream)
			s.refuse(ctx, calling, errorWriter, w, r, err)
			return
		}
		defer account.close()
		if stream {
			s.stream(w, r, patienceOf(procedure))
		}
		r = r.WithContext(withAccount(r.Context(), account))
		control := http.NewResponseController(w)
		// A connection that takes no deadlines has none to keep, as in a test.
		late := time.AfterFunc(s.readTimeout, func() { _ = control.SetReadDeadline(time.Now()) })
		defer late.Stop()
		r.Body = account.body(r.Body)
		r.Body = &rpcBody{countParts(r, procedure.Input(), account), late}
		next.ServeHTTP(w, r)
	})
}

// patienceOf is how long a write of a stream may wait for a client that lives; 0 is for
// ever. Who follows events may work on one for as long as it takes, and a read does not
// last for ever.
func patienceOf(procedure protoreflect.MethodDescriptor) time.Duration {
	if procedure.Name() == "StreamEvents" {
		return longestReplay
	}
	return 0
}

// compressed is how the messages of a request are compressed, empty for not at all.
func compressed(header http.Header) string {
	for _, name := range []string{"Grpc-Encoding", "Connect-Content-Encoding", "Content-Encoding"} {
		if encoding := header.Get(name); encoding != "" && encoding != "identity" {
			return encoding
		}
	}
	return ""
}

// rpcBody gives errors of the body their meaning: Connect reads it, and answers
// them before any interceptor sees them.
type rpcBody struct {
	io.ReadCloser
	// late ends what takes too long to arrive.
	late *time.Timer
}

func (b *rpcBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case errors.Is(err, io.EOF):
		b.late.Stop()
	case errors.Is(err, errTooManyRequests), errors.Is(err, eventstore.ErrTooLarge):
		err = failureOf(err).connectError()
	}
	return n, err
}
