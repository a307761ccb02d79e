// Package sidecar serves event stores to the other containers of a pod: HTTP
// with JSON, and Connect, gRPC and gRPC-Web, on one listener. It knows Stores
// only by their interface; what they run on is decided by cmd/sidecar.
package sidecar
