package stream

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"k8s.io/apimachinery/pkg/types"
)

// ownerSubject and a uid ask all operators of a NATS system whether the EventStore
// of that uid exists: several clusters may share one. hereSubject tells who is there.
const (
	ownerSubject = "aether.owner."
	hereSubject  = ownerSubject + "here"
)

const (
	// answerPatience bounds the look at the API server that an answer takes.
	answerPatience = 1500 * time.Millisecond
	// answersAtOnce bounds the looks at the same time: thousands of stores may be deleted
	// at once, and one look after the other would be late. answersWaiting bounds the
	// questions that have come and wait for a look.
	answersAtOnce, answersWaiting = 16, 1024
)

// Standing is what is known of an EventStore that a stream names as its owner.
type Standing string

const (
	// Unknown: it is of another cluster, so that nothing is known here.
	Unknown Standing = "unknown"
	// Untold: whoever should know cannot find out, or does not answer, so it counts as
	// there.
	Untold Standing = "untold"
	// Exists: an operator has it, and its streams stay.
	Exists Standing = "exists"
	// Gone: the API server of its cluster does not have it, or no more.
	Gone Standing = "gone"
	// Ending: an operator has it, and is deleting it with its streams.
	Ending Standing = "ending"
)

// Standings are what several operators say of one EventStore: those of two clusters of
// one uid, of which one was made of a backup of the other, may contradict each other.
type Standings []Standing

// Has says whether an operator says one of these.
func (s Standings) Has(any ...Standing) bool {
	return slices.ContainsFunc(any, func(standing Standing) bool { return slices.Contains(s, standing) })
}

// Self is what an operator knows of its own cluster.
type Self struct {
	// Cluster gives the uid of the cluster, that of the namespace kube-system. Without it
	// nothing is asked.
	Cluster func(context.Context) (types.UID, error)
	// Standing says what the API server has of an EventStore.
	Standing func(context.Context, Owner) Standing
}

// speaker is who says something. An operator speaks as another one on each connection.
type speaker struct {
	Operator string    `json:"operator"`
	Cluster  types.UID `json:"cluster"`
}

// maxSpeaker is more than an operator calls itself or a uid has: what is kept of who
// speaks is bounded.
const maxSpeaker = 64

func (s speaker) isNamed() bool {
	return s.Operator != "" && len(s.Operator) <= maxSpeaker && len(s.Cluster) <= maxSpeaker
}

// question is about the EventStore of the uid that the subject ends with.
type question struct {
	speaker
	Owner struct {
		Namespace string    `json:"namespace"`
		Name      string    `json:"name"`
		Cluster   types.UID `json:"cluster,omitempty"`
	} `json:"owner"`
}

func questionAbout(owner Owner, asker speaker) question {
	q := question{speaker: asker}
	q.Owner.Namespace, q.Owner.Name, q.Owner.Cluster = owner.Namespace, owner.Name, owner.Home.Cluster
	return q
}

func (q question) about(uid types.UID) Owner {
	return Owner{UID: uid, Namespace: q.Owner.Namespace, Name: q.Owner.Name, Home: Home{Cluster: q.Owner.Cluster}}
}

type answer struct {
	speaker
	Standing Standing `json:"standing"`
}

// listenToOperators answers the questions of operators, and hears who is there and the
// answers to questions of ours.
func (c *Conn) listenToOperators() error {
	turns, waiting := make(chan struct{}, answersAtOnce), make(chan struct{}, answersWaiting)
	_, err := c.nc.Subscribe(ownerSubject+"*", func(said *nats.Msg) {
		switch said.Subject {
		case hereSubject:
			c.heardPresence(said.Data)
		case ownerSubject + c.operator:
			// An echo of our own. One that is lost is sent again.
			_ = said.Respond(nil)
		default:
			c.heardQuestion(said, turns, waiting)
		}
	})
	if err != nil {
		return err
	}
	c.answers = c.nc.NewInbox()
	_, err = c.nc.Subscribe(c.answers+".*", func(said *nats.Msg) {
		token := strings.TrimPrefix(said.Subject, c.answers+".")
		if token == c.operator {
			c.heardItself()
			return
		}
		var told answer
		if json.Unmarshal(said.Data, &told) != nil || !told.isNamed() {
			return
		}
		c.operators.heard(told.speaker, time.Now())
		c.inquiries.told(token, told)
	})
	return err
}

// heardQuestion answers in its turn, and holds up nothing that is heard meanwhile. What is
// too much, or late, is not answered: whoever asked knows that this operator is there, and
// asks again.
func (c *Conn) heardQuestion(said *nats.Msg, turns, waiting chan struct{}) {
	var asked question
	if json.Unmarshal(said.Data, &asked) != nil || !asked.isNamed() || asked.Cluster == "" || said.Reply == "" {
		return
	}
	came := time.Now()
	c.operators.heard(asked.speaker, came)
	select {
	case waiting <- struct{}{}:
	default:
		return
	}
	go func() {
		defer func() { <-waiting }()
		turns <- struct{}{}
		defer func() { <-turns }()
		if time.Since(came) < answersCount {
			c.answer(said, asked.about(types.UID(strings.TrimPrefix(said.Subject, ownerSubject))))
		}
	}()
}

// answer says what this cluster knows, also that it cannot find out: whoever asks has to
// know that somebody is there.
func (c *Conn) answer(asked *nats.Msg, owner Owner) {
	ctx, cancel := context.WithTimeout(context.Background(), answerPatience)
	defer cancel()
	told := answer{speaker: c.speaker(ctx), Standing: c.self.Standing(ctx, owner)}
	if body, err := json.Marshal(told); err == nil {
		// Whoever asked asks again when this is lost.
		_ = asked.Respond(body)
	}
}

// speaker is this operator. Where its cluster is not known it says none.
func (c *Conn) speaker(ctx context.Context) speaker {
	cluster, err := c.self.Cluster(ctx)
	if err != nil {
		cluster = ""
	}
	return speaker{Operator: c.operator, Cluster: cluster}
}
