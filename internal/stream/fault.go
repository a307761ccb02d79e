package stream

import (
	"errors"
	"fmt"
)

// Handling is what becomes of a pass that failed.
type Handling int

const (
	// Retry: nothing is wrong with what was asked for; the next try may succeed.
	Retry Handling = iota
	// Wait: work is under way elsewhere, such as replicas that catch up.
	Wait
	// Stall: a person must change something.
	Stall
)

// Fault is an error that says how it is to be handled and under which reason it
// is to be reported. Only the controller turns it into conditions and Events.
type Fault struct {
	Handling Handling
	// Reason is one of the reasons of package v1alpha1.
	Reason string
	Err    error
}

func (f *Fault) Error() string { return f.Err.Error() }

// Unwrap gives the cause.
func (f *Fault) Unwrap() error { return f.Err }

// Stalled is a fault that a person must mend.
func Stalled(reason, format string, args ...any) *Fault {
	return &Fault{Handling: Stall, Reason: reason, Err: fmt.Errorf(format, args...)}
}

// Retrying is a fault that may pass by itself.
func Retrying(reason, format string, args ...any) *Fault {
	return &Fault{Handling: Retry, Reason: reason, Err: fmt.Errorf(format, args...)}
}

// Waiting is no failure: what was asked for is under way.
func Waiting(reason, format string, args ...any) *Fault {
	return &Fault{Handling: Wait, Reason: reason, Err: fmt.Errorf(format, args...)}
}

// AsFault finds the fault in an error.
func AsFault(err error) (*Fault, bool) {
	var fault *Fault
	ok := errors.As(err, &fault)
	return fault, ok
}
