package access

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// A server ends a connection on which more waits than its client reads, 64 MiB where
// nothing else is configured: whoever may send to a subject could end the connection that
// receives it. So the server is told how many messages of each subject it may pass on, and
// told anew when those have come. What is more does not leave the server of who sent it,
// and who asked hears that nobody answers, or nothing.
const (
	// subscriptionsEach is how many subscriptions receive one subject: while one is made
	// anew the other takes what comes.
	subscriptionsEach = 2
	// firstCredit is how many messages the first subscriptions to a subject pass on: those
	// of an application with some dozens of subscriptions, when it starts. It is doubled
	// with each that came to its end with messages of the usual size, up to maxCredit.
	firstCredit = 32
	maxCredit   = 256
	// cautiousCredit is the most while who ended the connection may not be known.
	cautiousCredit = 2
	// largeMessage is what no engine sends. With the first of it the servers are told to
	// stop for all subjects of its family, and for distrust these are suspects.
	largeMessage = maxConsumerMessage
	distrust     = 10 * time.Minute
	// chargedBytes is what one message may have; a larger one counts as so many.
	chargedBytes = 8 << 10
	// creditTick is how often subjects are looked at that wait for credit, and
	// subjectsEvery how often it is asked which subjects there are. The engine asks again
	// for 2 seconds where nobody answers.
	creditTick, subjectsEvery = 50 * time.Millisecond, 250 * time.Millisecond
	// maxArrived is how many messages wait to be looked at. More are dropped.
	maxArrived = 16 << 10
)

// credits receives what is sent to many subjects, of each no faster than it is allowed.
type credits struct {
	conn  *nats.Conn
	group string
	log   *slog.Logger
	// subjects are those to receive now.
	subjects func() []string
	receive  func(*nats.Msg)
	allowed  *allowance

	arrived chan *nats.Msg
	// debtors are who may send, by subject, and suspects those of them that share what
	// suspects may. Only run uses them.
	debtors  map[string]*debtor
	suspects suspects
	// distrusted are families of subjects, of one of which a large message came, and until
	// when: a subject that comes new, or again, is not trusted for that it left. cautious is
	// until when nobody has much, since the connection was lost.
	distrusted map[string]time.Time
	cautious   time.Time
	// failed: the last subscription could not be made.
	failed bool
	// lost tells that the connection was lost.
	lost chan struct{}
}

// debtor is one subject, and who sends to it.
type debtor struct {
	// left is how many messages each subscription still passes on, and credit how many the
	// next one does.
	left   map[*nats.Subscription]int
	credit int
}

// wanted is how many subscriptions receive the subject: one of who is not known.
func (d *debtor) wanted() int { return min(d.credit, subscriptionsEach) }

// drop gives up all subscriptions that are wanted no more.
func (d *debtor) drop(unwanted func(*nats.Subscription) bool) {
	for sub := range d.left {
		if unwanted(sub) {
			// It fails when the connection is closed, and then nothing arrives anyway.
			_ = sub.Unsubscribe()
			delete(d.left, sub)
		}
	}
}

// count takes a message of a subscription, and lets credit grow up to most. What is still on
// its way of one that was given up says nothing for who sent it.
func (d *debtor) count(sub *nats.Subscription, most int) {
	left, counted := d.left[sub]
	switch {
	case !counted:
	case left > 1:
		d.left[sub] = left - 1
	default:
		delete(d.left, sub)
		d.credit = max(d.credit, min(2*d.credit, most))
	}
}

func always(*nats.Subscription) bool { return true }

// lossy says that a message was dropped here, so that what is counted on never comes.
func lossy(sub *nats.Subscription) bool {
	dropped, err := sub.Dropped()
	return err == nil && dropped > 0
}

func newCredits(conn *nats.Conn, group string, allowed *allowance, log *slog.Logger, subjects func() []string, receive func(*nats.Msg)) *credits {
	return &credits{
		conn: conn, group: group, log: log, subjects: subjects, receive: receive, allowed: allowed,
		arrived: make(chan *nats.Msg, maxArrived), debtors: map[string]*debtor{}, suspects: suspects{of: map[string]*suspect{}}, distrusted: map[string]time.Time{}, lost: make(chan struct{}, 1),
	}
}

// run receives until the context ends.
func (c *credits) run(ctx context.Context) {
	tick := time.NewTicker(creditTick)
	defer tick.Stop()
	asked := time.Now()
	for {
		select {
		case <-ctx.Done():
			c.leave()
			return
		case <-c.lost:
			c.beginAnew()
		case msg := <-c.arrived:
			c.take(msg)
		case now := <-tick.C:
			if now.Sub(asked) >= subjectsEvery {
				asked = now
				c.follow()
				continue
			}
			c.renewAll()
			c.giveTurns()
		}
	}
}

// disconnected is for the connection to call when it is lost.
func (c *credits) disconnected(*nats.Conn, error) {
	select {
	case c.lost <- struct{}{}:
	default:
	}
}

// beginAnew trusts nobody: a server may have ended the connection because more came than
// was read, and who sent that may not be known.
func (c *credits) beginAnew() {
	c.cautious = time.Now().Add(distrust)
	for _, d := range c.debtors {
		d.drop(always)
		d.credit = 1
	}
}

// most is how far credit grows.
func (c *credits) most() int {
	if time.Now().Before(c.cautious) {
		return cautiousCredit
	}
	return maxCredit
}

// take counts a message, and has it worked on.
func (c *credits) take(msg *nats.Msg) {
	c.allowed.spend(msg.Subject, 1+msg.Size()/chargedBytes)
	large := msg.Size() > largeMessage
	if d := c.debtors[msg.Subject]; d != nil {
		_, suspected := c.suspects.of[msg.Subject]
		if large || suspected {
			d.count(msg.Sub, d.credit)
		} else {
			d.count(msg.Sub, c.most())
		}
	}
	if large {
		c.suspects.spent++
		c.suspect(family(msg.Subject))
	}
	c.renew(msg.Subject)
	c.receive(msg)
}

// follow begins with subjects that are new, and leaves those that are gone. It must not
// run beside run.
func (c *credits) follow() {
	now := c.subjects()
	for _, subject := range now {
		if c.debtors[subject] == nil {
			c.debtors[subject] = c.newcomer()
		}
	}
	maps.DeleteFunc(c.distrusted, func(_ string, until time.Time) bool { return time.Now().After(until) })
	slices.Sort(now)
	for subject, d := range c.debtors {
		d.drop(lossy)
		if _, wanted := slices.BinarySearch(now, subject); !wanted {
			d.drop(always)
			delete(c.debtors, subject)
		}
	}
	c.suspects.follow(c.debtors, c.distrusted)
	c.renewAll()
	c.giveTurns()
}

// newcomer is a subject that nothing is known of but its family.
func (c *credits) newcomer() *debtor {
	d := &debtor{left: map[*nats.Subscription]int{}, credit: firstCredit}
	if time.Now().Before(c.cautious) {
		d.credit = 1
	}
	return d
}

// family is what the subjects of all stores of one event namespace share: who may make
// and delete one of them may do so with the others.
func family(subject string) string {
	namespace, _, _ := strings.Cut(subject, "_")
	return namespace
}

func (c *credits) renewAll() {
	for subject := range c.debtors {
		if _, suspected := c.suspects.of[subject]; !suspected {
			c.renew(subject)
		}
	}
}

// renew subscribes to a subject again as far as its allowance goes. Suspects have turns.
func (c *credits) renew(subject string) {
	if _, suspected := c.suspects.of[subject]; suspected {
		c.fill()
		return
	}
	d := c.debtors[subject]
	for d != nil && len(d.left) < d.wanted() && c.allowed.may(subject) {
		if !c.open(subject, d, min(d.credit, c.most())) {
			return
		}
	}
}

// open has a server pass on so many messages of a subject. It reports that it could.
func (c *credits) open(subject string, d *debtor, count int) bool {
	sub, err := c.subscribe(subject, count)
	if err != nil {
		if !c.failed {
			c.log.Error("could not receive requests of pods, and tries again", "error", err)
		}
		c.failed = true
		return false
	}
	c.failed = false
	d.left[sub] = count
	return true
}

func (c *credits) subscribe(subject string, count int) (*nats.Subscription, error) {
	sub, err := c.conn.ChanQueueSubscribe(subject, c.group, c.arrived)
	if err == nil {
		err = sub.AutoUnsubscribe(count)
	}
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	return sub, nil
}

func (c *credits) leave() {
	for _, d := range c.debtors {
		d.drop(always)
	}
}
