package sidecar

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1/eventstorev1connect"
)

// call is one HTTP request, taken apart.
type call struct {
	w       http.ResponseWriter
	r       *http.Request
	store   *Store
	actorID string
	query   url.Values
	// stream: the call lives as long as its client wants.
	stream bool
	// lines is the media type of an answer in lines of JSON, empty for another.
	lines string
}

// route is one path of the HTTP API. Its methods return an error only while
// nothing has been answered.
type route struct {
	// pattern is a path with the parameters {store} and {actorId}.
	pattern string
	methods map[string]method
}

type method struct {
	serve func(*call) error
	// query are the query parameters that there are.
	query []string
	// stream lives as long as its client wants; lines does too when it is asked for
	// as lines of JSON.
	stream, lines bool
}

func (s *Server) httpRoutes() []route {
	return []route{
		{"/v1/stores", map[string]method{
			http.MethodGet: {serve: s.listStores},
		}},
		{"/v1/stores/{store}/events", map[string]method{
			http.MethodPost: {serve: s.postEvents, query: []string{"expectedVersion"}},
			http.MethodGet:  {serve: s.followEvents, query: []string{"fromSequence", "fromTime", "actorType", "actorId", "eventType"}, stream: true},
		}},
		{"/v1/stores/{store}/actors/{actorId}/events", map[string]method{
			http.MethodGet: {serve: s.getEvents, query: []string{"fromVersion", "fromSequence", "limit"}, lines: true},
		}},
		{"/v1/stores/{store}/actors/{actorId}/version", map[string]method{
			http.MethodGet: {serve: s.getVersion},
		}},
		{"/v1/stores/{store}/actors/{actorId}/snapshot", map[string]method{
			http.MethodGet:    {serve: s.getSnapshot},
			http.MethodPut:    {serve: s.putSnapshot},
			http.MethodDelete: {serve: s.deleteSnapshot, query: []string{"version"}},
		}},
		{"/openapi.yaml", map[string]method{
			http.MethodGet: {serve: getOpenAPI},
		}},
		{"/eventstore.proto", map[string]method{
			http.MethodGet: {serve: getProto},
		}},
	}
}

// apiRoutes joins both protocols. The RPC paths are those of the services; all
// else is HTTP.
func (s *Server) apiRoutes() http.Handler {
	rpc := s.rpcRoutes()
	routes := s.httpRoutes()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/aether.eventstore.") || strings.HasPrefix(r.URL.Path, "/grpc.") {
			rpc.ServeHTTP(w, r)
			return
		}
		s.serveHTTP(routes, w, r)
	})
}

var rpcServices = []string{eventstorev1connect.EventStoreServiceName}

// serveHTTP finds the method of a request, runs it and answers its error.
func (s *Server) serveHTTP(routes []route, w http.ResponseWriter, r *http.Request) {
	// Answers are true now; none may be kept.
	w.Header().Set("Cache-Control", "no-store")
	recorder := &statusRecorder{ResponseWriter: w}
	matched, err := s.match(routes, r)
	ctx, calling := s.begin(r.Context(), r.Header, "http", matched.label, matched.call != nil && matched.call.stream)
	r = r.WithContext(ctx)
	failed := ""
	defer func() { calling.end(ctx, recorder.code(), failed) }()
	if err == nil {
		matched.call.w, matched.call.r = recorder, r
		err = s.run(matched)
	}
	if err != nil {
		failed = s.answerError(recorder, r, err).failed()
	}
}

// run admits a call, bounds it where it is no stream, and runs it.
func (s *Server) run(m match) error {
	account, err := s.limits.open(m.call.r.Context(), m.call.stream, m.call.r.ContentLength)
	if err != nil {
		return err
	}
	defer account.close()
	m.call.r = m.call.r.WithContext(withAccount(m.call.r.Context(), account))
	m.call.r.Body = account.body(m.call.r.Body)
	if !m.call.stream {
		ctx, cancel := context.WithTimeout(m.call.r.Context(), s.config.RequestTimeout)
		defer cancel()
		m.call.r = m.call.r.WithContext(ctx)
	}
	return m.serve(m.call)
}

func (s *Server) answerError(w http.ResponseWriter, r *http.Request, err error) failure {
	f := failureOf(err)
	s.logFailure(r.Context(), r.Method+" "+r.URL.EscapedPath(), f)
	var route *routeError
	if errors.As(err, &route) && len(route.allowed) > 0 {
		w.Header().Set("Allow", strings.Join(route.allowed, ", "))
	}
	if f.code == eventstorev1.CodeTooManyRequests {
		w.Header().Set("Retry-After", retryAfter)
	}
	if err := writeJSON(w, f.status, "application/problem+json", f.problem()); err != nil {
		panic(err)
	}
	return f
}

// match is what a request asks for.
type match struct {
	method
	// label names the route in metrics, where the number of names is bounded.
	label string
	call  *call
}

// match finds the route of a request. It goes by the path as it was sent, since
// an actor id may hold any characters: net/http would take %2F for a separator
// and %2E%2E for the folder above.
func (s *Server) match(routes []route, r *http.Request) (match, error) {
	segments := strings.Split(r.URL.EscapedPath(), "/")
	for _, route := range routes {
		parameters, ok := matchPath(strings.Split(route.pattern, "/"), segments)
		if !ok {
			continue
		}
		name := r.Method
		if name == http.MethodHead {
			// GET without the content (RFC 9110, section 9.3.2), which net/http leaves out.
			name = http.MethodGet
		}
		method, ok := route.methods[name]
		if !ok {
			return match{label: route.pattern}, &routeError{method: r.Method, path: r.URL.EscapedPath(), allowed: route.allowed()}
		}
		found := match{method: method, label: name + " " + route.pattern, call: &call{}}
		if method.lines {
			found.call.lines = asLines(r)
		}
		found.call.stream = method.stream || found.call.lines != ""
		return found, s.parse(found, parameters, r.URL.RawQuery)
	}
	return match{label: "none"}, &routeError{method: r.Method, path: r.URL.EscapedPath()}
}

func (r route) allowed() []string {
	var methods []string
	for method := range r.methods {
		methods = append(methods, method)
		if method == http.MethodGet {
			methods = append(methods, http.MethodHead)
		}
	}
	slices.Sort(methods)
	return methods
}

// matchPath matches the segments of a path with those of a pattern, and returns
// the parameters as they were sent.
func matchPath(pattern, path []string) (map[string]string, bool) {
	if len(pattern) != len(path) {
		return nil, false
	}
	parameters := map[string]string{}
	for i, segment := range pattern {
		if name, isParameter := strings.CutPrefix(segment, "{"); isParameter {
			parameters[strings.TrimSuffix(name, "}")] = path[i]
		} else if segment != path[i] {
			return nil, false
		}
	}
	return parameters, true
}

// parse decodes the parameters of the path and the query.
func (s *Server) parse(m match, parameters map[string]string, rawQuery string) error {
	for name, escaped := range parameters {
		value, err := url.PathUnescape(escaped)
		if err != nil {
			return &requestError{field: name, reason: "is not percent-encoded: " + err.Error()}
		}
		parameters[name] = value
	}
	if name, named := parameters["store"]; named {
		if name == "" {
			return &unknownStoreError{name: name, served: s.names()}
		}
		store, err := s.store(name)
		if err != nil {
			return err
		}
		m.call.store = store
	}
	if actorID, named := parameters["actorId"]; named {
		if err := eventstore.ValidateActorID(actorID); err != nil {
			return asRequest(err)
		}
		m.call.actorID = actorID
	}
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return &requestError{field: "query", reason: "cannot be read: " + err.Error()}
	}
	m.call.query = query
	return validateQuery(query, m.method.query)
}

func validateQuery(query url.Values, known []string) error {
	for name, values := range query {
		if !slices.Contains(known, name) {
			reason := "is no query parameter here: there is none"
			if len(known) > 0 {
				reason = "is no query parameter here, as are " + strings.Join(known, ", ")
			}
			if len(known) == 1 {
				reason = "is no query parameter here: the only one is " + known[0]
			}
			return &requestError{field: cut(name), reason: reason}
		}
		if len(values) > 1 {
			return &requestError{field: name, reason: "is given more than once"}
		}
		if values[0] == "" {
			return &requestError{field: name, reason: "is empty: give a value, or leave it out"}
		}
	}
	return nil
}
