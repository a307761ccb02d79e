package natsserver

import (
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

func waitReady(s *server.Server, ended fatal) error {
	deadline := time.Now().Add(readyTimeout)
	for !s.ReadyForConnections(100 * time.Millisecond) {
		select {
		case reason := <-ended:
			return errors.New(reason)
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("it accepts no connection after %s", readyTimeout)
		}
	}
	return nil
}

// fatal is a log of a server that keeps only the first reason why it does not run:
// without a log, a server that could not start looks like one that is slow.
type fatal chan string

func (f fatal) Fatalf(format string, args ...any) {
	select {
	case f <- fmt.Sprintf(format, args...):
	default:
	}
}
func (fatal) Noticef(string, ...any) {}
func (fatal) Warnf(string, ...any)   {}
func (fatal) Errorf(string, ...any)  {}
func (fatal) Debugf(string, ...any)  {}
func (fatal) Tracef(string, ...any)  {}
