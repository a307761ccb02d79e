package access

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// gatedKey opens a callout when it is let, and tells whose it is: nothing else makes that
// take so long that an order shows.
type gatedKey struct {
	nkeys.KeyPair
	opening chan string
	gate    chan struct{}
}

func (k gatedKey) Open(_ []byte, server string) ([]byte, error) {
	k.opening <- server
	<-k.gate
	return nil, errors.New("it is none")
}

// The callouts of one server, however many, do not stand before those of another.
func TestCalloutsOfOneServerDoNotHoldUpAnother(t *testing.T) {
	t.Parallel()
	key := gatedKey{opening: make(chan string, 1000), gate: make(chan struct{})}
	s := &Server{config: Config{Class: "gated", XKey: key}, log: slog.New(slog.DiscardHandler), opening: newQueue(openingLimits()), queue: newQueue(calloutLimits)}
	callout := func(server string) *nats.Msg {
		msg := nats.NewMsg(subject)
		msg.Header.Set(header, server)
		return msg
	}
	for range 100 {
		s.receive(callout("busy"))
	}
	s.receive(callout("other"))
	for range s.opening.limits.atOnce {
		if server := <-key.opening; server != "busy" {
			t.Fatalf("a callout of server %s was opened first", server)
		}
	}
	close(key.gate)
	// Some more of the busy server may have their turn before: as many as are opened at once,
	// and tell so in any order.
	opened := 0
	for server := range key.opening {
		if opened++; server == "other" {
			break
		}
		if opened > 50 {
			t.Fatalf("%d callouts of the busy server were opened before that of another", opened)
		}
	}
	<-s.opening.close()
}

// What no server sends is not decrypted.
func TestCalloutThatIsTooLarge(t *testing.T) {
	t.Parallel()
	key := gatedKey{opening: make(chan string, 1)}
	s := &Server{config: Config{Class: "gated", XKey: key}, log: slog.New(slog.DiscardHandler), opening: newQueue(openingLimits()), queue: newQueue(calloutLimits)}
	s.receive(&nats.Msg{Subject: subject, Data: make([]byte, maxCallout+1)})
	<-s.opening.close()
	if len(key.opening) != 0 {
		t.Error("it was decrypted")
	}
}
