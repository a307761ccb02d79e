package sidecar

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	connectcors "connectrpc.com/cors"
	"github.com/rs/cors"
)

// originError: the request comes from a web page that may not call.
type originError struct{ header, value, flag string }

func (e *originError) Error() string {
	return fmt.Sprintf("%s %.100q is not served: this is for programs and pages on this machine; a sidecar that shall serve it is started with %s",
		e.header, e.value, e.flag)
}

// guarded keeps web pages away. What listens on localhost can be reached by
// every page in a browser on the same machine: it sends requests there, with an
// Origin of its own, or makes its own name lead there and reads the answers, with
// that name as the Host. Programs send no Origin, and call localhost by its name
// or address.
func (s *Server) guarded(next http.Handler) http.Handler {
	allowed := cors.New(cors.Options{
		// AllowedOrigins would be everything where it is empty.
		AllowOriginFunc: func(origin string) bool { return slices.Contains(s.config.AllowedOrigins, origin) },
		AllowedMethods:  append(connectcors.AllowedMethods(), http.MethodPut, http.MethodDelete),
		AllowedHeaders:  append(connectcors.AllowedHeaders(), "Accept", "Last-Event-ID", "Traceparent", "Tracestate"),
		ExposedHeaders:  append(connectcors.ExposedHeaders(), "Retry-After"),
		MaxAge:          7200,
	}).Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.foreign(r); err != nil {
			s.calls.begin("http", "none", false)(strconv.Itoa(http.StatusForbidden))
			s.answerError(w, r, err)
			return
		}
		if r.Header.Get("Origin") == "" || sameOrigin(r) {
			next.ServeHTTP(w, r)
			return
		}
		allowed.ServeHTTP(w, r)
	})
}

// foreign says why a request may come from a web page that has no business here.
func (s *Server) foreign(r *http.Request) error {
	if !s.isOurs(r) {
		return &originError{"Host", r.Host, "--allow-host"}
	}
	if origin := r.Header.Get("Origin"); origin != "" && !sameOrigin(r) && !slices.Contains(s.config.AllowedOrigins, origin) {
		return &originError{"Origin", origin, "--allow-origin"}
	}
	return nil
}

// isOurs says whether a request names this machine. A name that another has
// given to the address of this machine is no address, and a browser cannot dial
// a Unix socket.
func (s *Server) isOurs(r *http.Request) bool {
	if local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr); local != nil && local.Network() == "unix" {
		return true
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	return host == "" || host == "localhost" || strings.HasSuffix(host, ".localhost") || net.ParseIP(host) != nil ||
		slices.Contains(s.config.AllowedHosts, host)
}

// sameOrigin says whether a page is one that this server itself has sent.
func sameOrigin(r *http.Request) bool {
	origin, err := url.Parse(r.Header.Get("Origin"))
	return err == nil && origin.Scheme == "http" && strings.EqualFold(origin.Host, r.Host)
}
