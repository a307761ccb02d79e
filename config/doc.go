// Package config holds the test that what kubectl apply -k installs is accepted,
// sufficient and of one piece.
package config
