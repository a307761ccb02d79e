// Package architecture holds the test that keeps the dependencies of this
// repository one way: cmd -> internal -> api/eventstore.
package architecture
