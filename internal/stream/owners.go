package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"k8s.io/apimachinery/pkg/types"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// ownerSubject and a uid ask all operators of a NATS system whether the EventStore
// of that uid exists: several clusters may share one.
const ownerSubject = "aether.owner."

const (
	// ownerPatience is how long the operators may take to answer: the question is one
	// look at their API server. It is asked only where a stream of our name is another's,
	// and before streams are deleted.
	ownerPatience = 2 * time.Second
	// answerPatience bounds that look.
	answerPatience = 1500 * time.Millisecond
)

// Standing is what is known of an EventStore that a stream names as its owner.
type Standing int

const (
	// Unknown: nobody said anything, so it counts as there.
	Unknown Standing = iota
	// Exists: an operator has it.
	Exists
	// Gone: the API server of its cluster does not have it any more.
	Gone
	// Ending: an operator has it, and it is being deleted.
	Ending
)

// standings are the answers of operators; of what they do not know they say nothing.
var standings = map[string]Standing{"exists": Exists, "gone": Gone, "ending": Ending}

// Owns says what this cluster knows of an EventStore: Unknown of that of another
// one, and of its own where the API server does not answer. now asks that, and not the
// cache.
type Owns func(ctx context.Context, owner Owner, now bool) Standing

// ownerQuestion is the body of a question; the uid is in the subject.
type ownerQuestion struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	Cluster   types.UID `json:"cluster,omitempty"`
	// Now asks for what the API server says, and not for what is remembered.
	Now bool `json:"now,omitempty"`
}

// answerOwners answers other operators about our EventStores. Whoever asks hears
// from nobody else.
func (c *Conn) answerOwners(owns Owns) error {
	_, err := c.nc.Subscribe(ownerSubject+"*", func(question *nats.Msg) {
		var asked ownerQuestion
		if json.Unmarshal(question.Data, &asked) != nil {
			return
		}
		owner := Owner{
			UID:       types.UID(strings.TrimPrefix(question.Subject, ownerSubject)),
			Namespace: asked.Namespace, Name: asked.Name, Home: Home{Cluster: asked.Cluster},
		}
		ctx, cancel := context.WithTimeout(context.Background(), answerPatience)
		defer cancel()
		standing := owns(ctx, owner, asked.Now)
		for text, means := range standings {
			if means == standing {
				// Whoever asked asks again when this is lost.
				_ = question.Respond([]byte(text))
			}
		}
	})
	return err
}

// StandingOf asks the operators of all clusters that are at work on this NATS
// system about an EventStore. Where the account may not ask that is an error, and
// not an answer.
func (c *Conn) StandingOf(ctx context.Context, owner Owner) (Standing, error) {
	if owner.UID == "" || strings.ContainsAny(string(owner.UID), " .*>\t\r\n") {
		// No uid of Kubernetes: nobody can know it.
		return Unknown, nil
	}
	body, err := json.Marshal(ownerQuestion{Namespace: owner.Namespace, Name: owner.Name, Cluster: owner.Home.Cluster})
	if err != nil {
		return Unknown, fmt.Errorf("encode the question about EventStore %s: %w", owner, err)
	}
	subject := ownerSubject + string(owner.UID)
	deadline, cancel := context.WithTimeout(ctx, ownerPatience)
	defer cancel()
	answer, err := c.nc.RequestWithContext(deadline, subject, body)
	if err == nil {
		return standings[string(answer.Data)], nil
	}
	if ctx.Err() != nil {
		return Unknown, context.Cause(ctx)
	}
	if said, denied := c.denial(subject); denied {
		return Unknown, Stalled(v1alpha1.ReasonPermissionDenied,
			"the operator may not ask on %s whether EventStore %s still exists (%s): give the account of the class the permissions that the documentation of EventStoreClass lists", subject, owner, said)
	}
	if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, context.DeadlineExceeded) {
		return Unknown, nil
	}
	return Unknown, Retrying(v1alpha1.ReasonUnreachable, "ask the operators of other clusters who owns a stream: %w", err)
}

// IsKept asks the operators of all clusters whether one has an EventStore that is deleted
// here, and does not delete it: a cluster that was made of a backup of another one has the
// same uids. Who does not answer in time is taken not to have it.
func (c *Conn) IsKept(ctx context.Context, owner Owner) (bool, error) {
	body, err := json.Marshal(ownerQuestion{Namespace: owner.Namespace, Name: owner.Name, Cluster: owner.Home.Cluster, Now: true})
	if err != nil {
		return false, fmt.Errorf("encode the question about EventStore %s: %w", owner, err)
	}
	subject := ownerSubject + string(owner.UID)
	answers, err := c.nc.SubscribeSync(c.nc.NewInbox())
	if err == nil {
		// It fails when the connection is closed, and then nothing arrives anyway.
		defer func() { _ = answers.Unsubscribe() }()
		err = c.nc.PublishRequest(subject, answers.Subject, body)
	}
	if err != nil {
		return false, Retrying(v1alpha1.ReasonUnreachable, "ask the operators of other clusters who keeps a stream: %w", err)
	}
	deadline, cancel := context.WithTimeout(ctx, ownerPatience)
	defer cancel()
	for {
		answer, err := answers.NextMsgWithContext(deadline)
		switch {
		case ctx.Err() != nil:
			return false, context.Cause(ctx)
		case errors.Is(err, nats.ErrNoResponders), errors.Is(err, context.DeadlineExceeded):
			if said, denied := c.denial(subject); denied {
				return false, Stalled(v1alpha1.ReasonPermissionDenied,
					"the operator may not ask on %s whether another cluster keeps EventStore %s (%s): give the account of the class the permissions that the documentation of EventStoreClass lists", subject, owner, said)
			}
			return false, nil
		case err != nil:
			return false, Retrying(v1alpha1.ReasonUnreachable, "ask the operators of other clusters who keeps a stream: %w", err)
		case standings[string(answer.Data)] == Exists:
			return true, nil
		}
	}
}

// CanAsk says whether the operators of this NATS system hear each other, as far as
// this one can tell: it must hear its own question about an EventStore of its own.
func (c *Conn) CanAsk(ctx context.Context, self Owner) (bool, error) {
	standing, err := c.StandingOf(ctx, self)
	return standing == Exists, err
}
