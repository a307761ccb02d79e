// Package policy holds the test that injection by policy does what internal/injector
// does, at a real API server.
package policy
