// Package sidecar is an [eventstore.Store] over the sidecar in the same pod:
// what a Go workload dials. It needs no NATS and no credentials.
//
//	store, err := sidecar.New(os.Getenv("AETHER_ENDPOINT"), "orders")
//
// It speaks Connect on localhost or a Unix socket, calls over HTTP/1.1 and streams
// over HTTP/2, and answers with the errors of package eventstore, as a Store in the
// same process would. Saves of many goroutines share calls; see docs/workload-api.md.
package sidecar
