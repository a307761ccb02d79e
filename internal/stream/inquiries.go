package stream

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"maps"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

const (
	// ownerPatience is how long the operators have to answer: the question is one look
	// at their API server. It is asked only before a stream gets another owner, and before
	// streams are deleted.
	ownerPatience = 2 * time.Second
	// ownPatience is how long an operator waits for its own answer, which shows that
	// operators hear each other: a busy one may be late.
	ownPatience = 10 * time.Second
	// ownPause is between two looks for it, at first: a quarter of the time so far.
	ownPause = 200 * time.Millisecond
	// answersCount is how long answers count at most, from when they were asked for: an
	// operator that came since was not asked, and one that was going to delete a store may
	// keep it by now.
	answersCount = 12 * time.Second
)

// inquiries are the questions of one connection that are under way, and the answers to
// those of a moment ago: nobody waits for answers in a pass.
type inquiries struct {
	mu        sync.Mutex
	places    places
	bySubject map[inquirySubject]*inquiry
	byToken   map[string]*inquiry
	swept     time.Time
}

// inquirySubject is who wants to know something and about whom. What was said to one
// EventStore is of no use to another one, which may have come since.
type inquirySubject struct {
	asker Asker
	owner Owner
}

type inquiry struct {
	about inquirySubject
	// token is the end of the subject that answers come to.
	token string
	asked time.Time
	// answers are by operator.
	answers map[string]answer
}

// enter gives the asker a place, or else after how long to come again. One that comes too
// late for its answers goes to the end of the line.
func (i *inquiries) enter(asker Asker, now time.Time) (wait time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.places.isLate(asker.UID, now) {
		i.leaveLocked(asker, now)
	}
	return i.places.enter(asker, now)
}

// leave forgets all that was asked for an asker.
func (i *inquiries) leave(asker Asker, now time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.leaveLocked(asker, now)
}

func (i *inquiries) leaveLocked(asker Asker, now time.Time) {
	if !i.places.leave(asker.UID, now) {
		return
	}
	for about, q := range i.bySubject {
		if about.asker == asker {
			i.drop(q)
		}
	}
}

// of gives the answers to a question as they are by now; false where it is to be asked.
func (i *inquiries) of(about inquirySubject, now time.Time) (inquiry, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	q := i.bySubject[about]
	if q == nil || now.Sub(q.asked) > answersCount {
		return inquiry{}, false
	}
	copied := *q
	copied.answers = maps.Clone(q.answers)
	return copied, true
}

func (i *inquiries) begin(about inquirySubject, now time.Time) (token string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.bySubject == nil {
		i.bySubject, i.byToken = map[inquirySubject]*inquiry{}, map[string]*inquiry{}
	}
	if now.Sub(i.swept) > answersCount {
		i.swept = now
		for _, q := range i.byToken {
			if now.Sub(q.asked) > answersCount {
				i.drop(q)
			}
		}
	}
	i.drop(i.bySubject[about])
	i.places.again(about.asker.UID, now)
	q := &inquiry{about: about, token: rand.Text(), asked: now, answers: map[string]answer{}}
	i.bySubject[about], i.byToken[q.token] = q, q
	return q.token
}

func (i *inquiries) drop(q *inquiry) {
	if q != nil {
		delete(i.bySubject, q.about)
		delete(i.byToken, q.token)
	}
}

func (i *inquiries) told(token string, a answer) {
	i.mu.Lock()
	defer i.mu.Unlock()
	q := i.byToken[token]
	if q == nil {
		return
	}
	if _, again := q.answers[a.Operator]; !again && len(q.answers) >= maxOperators {
		// It stands for those that are too many.
		a = answer{Standing: Untold}
	}
	q.answers[a.Operator] = a
}

// heard is what counts of the answers, where these operators are there. That an
// EventStore exists anybody may say; who is not of its cluster knows no more.
func (q inquiry) heard(owner Owner, there map[string]types.UID) Standings {
	knows := func(cluster types.UID) bool {
		return cluster == "" || owner.Home.Cluster == "" || cluster == owner.Home.Cluster
	}
	var heard Standings
	for _, told := range q.answers {
		switch told.Standing {
		case Exists, Ending:
			heard = append(heard, told.Standing)
		case Gone, Untold:
			if knows(told.Cluster) {
				heard = append(heard, told.Standing)
			}
		}
	}
	for operator, cluster := range there {
		if _, answered := q.answers[operator]; !answered && knows(cluster) {
			heard = append(heard, Untold)
		}
	}
	return heard
}

// Inquire asks the operators of all clusters that are at work on this NATS system about
// an EventStore, its own among them, for the asker. As long as it waits for its turn to ask,
// or they have time to answer, it says for how long, and nothing else. Answers count until
// ForgetAnswers, and some seconds at most. Where the account may not ask, or not hear, that
// is an error, and not an answer. Nobody is heard of a uid that can be none of Kubernetes.
func (c *Conn) Inquire(ctx context.Context, asker Asker, owner Owner) (heard Standings, wait Pending, err error) {
	if owner.UID == "" || strings.ContainsAny(string(owner.UID), " .*>\t\r\n") {
		return nil, Pending{}, nil
	}
	now, about := time.Now(), inquirySubject{asker, owner}
	if turn := c.inquiries.enter(asker, now); turn > 0 {
		return nil, Pending{For: turn}, nil
	}
	heard, again, err := c.inquire(ctx, about, now)
	if err != nil {
		c.inquiries.leave(asker, now)
	}
	return heard, Pending{For: again, Asked: again > 0 && err == nil}, err
}

// inquire is for an asker that has a place.
func (c *Conn) inquire(ctx context.Context, about inquirySubject, now time.Time) (heard Standings, again time.Duration, err error) {
	owner := about.owner
	q, known := c.inquiries.of(about, now)
	if !known {
		if hears, _ := c.echoes.state(now); hears {
			return nil, ownerPatience, c.askOperators(ctx, about, now)
		}
		c.sendEcho()
		_, waited := c.echoes.state(now)
		again, err = c.unheard(ctx, owner, waited)
		return nil, again, err
	}
	if left := ownerPatience - now.Sub(q.asked); left > 0 {
		return nil, left, nil
	}
	if _, heardSelf := q.answers[c.operator]; !heardSelf {
		again, err = c.unheard(ctx, owner, now.Sub(q.asked))
		return nil, again, err
	}
	return q.heard(owner, c.operators.there(now)), 0, nil
}

// Turn says after how long the asker is to come again, since too many ask at present, and 0
// when it may ask. It costs nothing, so who is in line asks it first.
func (c *Conn) Turn(asker Asker) Pending {
	c.inquiries.mu.Lock()
	defer c.inquiries.mu.Unlock()
	return Pending{For: c.inquiries.places.turn(asker, time.Now())}
}

// ForgetAnswers has all asked anew when the asker comes again, and ends its turn, for the
// next.
func (c *Conn) ForgetAnswers(asker Asker) { c.inquiries.leave(asker, time.Now()) }

// askOperators sends a question, and none without the uid of this cluster: who answers
// has to know who asks.
func (c *Conn) askOperators(ctx context.Context, about inquirySubject, now time.Time) error {
	owner, us := about.owner, c.speaker(ctx)
	if us.Cluster == "" {
		return Retrying(v1alpha1.ReasonProgressingWithRetry,
			"the operators of other clusters are not asked about EventStore %s, since the uid of this cluster, that of the namespace kube-system, could not be read: see that the API server answers; the operator tries again by itself", owner)
	}
	body, err := json.Marshal(questionAbout(owner, us))
	if err == nil {
		err = c.nc.PublishRequest(ownerSubject+string(owner.UID), c.answers+"."+c.inquiries.begin(about, now), body)
	}
	if err != nil {
		return Retrying(v1alpha1.ReasonUnreachable, "ask the operators of other clusters about EventStore %s: %w", owner, err)
	}
	return nil
}

// toAsk is what the operator needs to ask others, and itself.
var toAsk = Permissions{Publish: []string{ownersSubject, inboxes}, Subscribe: []string{inboxes, ownersSubject}}

// unheard is what comes of a question about an EventStore that this operator itself has not
// heard or answered in a time. Two that do not hear each other would take streams from each
// other for ever; one that is only late is asked again.
func (c *Conn) unheard(ctx context.Context, owner Owner, waited time.Duration) (again time.Duration, err error) {
	if !c.nc.IsConnected() {
		return 0, Retrying(v1alpha1.ReasonUnreachable, "ask the operators of other clusters about EventStore %s: the connection to NATS is lost; the operator connects again by itself", owner)
	}
	missing, err := c.missing(ctx, toAsk)
	if err != nil {
		return 0, err
	}
	if text := missing.String(); text != "" {
		return 0, Stalled(v1alpha1.ReasonPermissionDenied,
			"the operator cannot ask those of other clusters about EventStore %s, so nothing is taken or deleted: its NATS user may not %s: give it the permissions of section Credentials in the documentation of EventStoreClass (docs/eventstoreclass.md)", owner, text)
	}
	if waited < ownPatience {
		return max(ownPause, waited/4), nil
	}
	return 0, Retrying(v1alpha1.ReasonProgressingWithRetry,
		"the operator has not heard within %s what it asked all operators about EventStore %s, itself among them, as when it or the NATS servers are busy, so nothing is taken or deleted: it asks again by itself", ownPatience, owner)
}
