package stream

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"k8s.io/apimachinery/pkg/types"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// ownerSubject and a uid ask all operators of a NATS system whether the EventStore
// of that uid exists: several clusters may share one.
const ownerSubject = "aether.owner."

// ownerPatience is how long an operator may take to answer: the question is one
// look at its cache. It is asked only where a stream of our namespace and name has
// another uid.
const ownerPatience = 500 * time.Millisecond

// Owns says whether the EventStore of a uid exists in this cluster.
type Owns func(types.UID) bool

// answerOwners answers other operators about our EventStores. Whoever asks hears
// from nobody else.
func (c *Conn) answerOwners(owns Owns) error {
	_, err := c.nc.Subscribe(ownerSubject+"*", func(question *nats.Msg) {
		if uid := strings.TrimPrefix(question.Subject, ownerSubject); owns(types.UID(uid)) {
			// Whoever asked asks again when this is lost.
			_ = question.Respond([]byte("exists"))
		}
	})
	return err
}

// Exists asks whether the EventStore of a uid exists in any cluster whose operator
// is at work on this NATS system.
func (c *Conn) Exists(ctx context.Context, uid types.UID) (bool, error) {
	if uid == "" || strings.ContainsAny(string(uid), " .*>\t\r\n") {
		// No uid of Kubernetes.
		return false, nil
	}
	deadline, cancel := context.WithTimeout(ctx, ownerPatience)
	defer cancel()
	_, err := c.nc.RequestWithContext(deadline, ownerSubject+string(uid), nil)
	switch {
	case err == nil:
		return true, nil
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, context.DeadlineExceeded):
		return false, nil
	default:
		return false, Retrying(v1alpha1.ReasonUnreachable, "ask the operators of other clusters who owns a stream: %w", err)
	}
}
