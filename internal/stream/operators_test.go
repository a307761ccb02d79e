package stream_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"k8s.io/apimachinery/pkg/types"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// operatorOf connects the operator of a cluster, whose API server says this of every
// EventStore.
func operatorOf(t *testing.T, target stream.Target, cluster types.UID, standing func(context.Context, stream.Owner) stream.Standing) *stream.Conn {
	t.Helper()
	connections := stream.NewConnections(func(stream.Notice) {}, func(string, time.Duration, error) {}, stream.Self{
		Cluster:  func(context.Context) (types.UID, error) { return cluster, nil },
		Standing: standing,
	})
	t.Cleanup(connections.Close)
	conn, err := connections.Get(t.Context(), target)
	fail(t, err)
	return conn
}

func always(standing stream.Standing) func(context.Context, stream.Owner) stream.Standing {
	return func(context.Context, stream.Owner) stream.Standing { return standing }
}

func ordersOf(cluster types.UID, uid string) stream.Owner {
	return stream.Owner{UID: types.UID(uid), Namespace: "shop", Name: "orders", Home: stream.Home{Cluster: cluster}}
}

var asker = stream.Asker{UID: "uid-0", Namespace: "shop"}

// hear asks until there are answers, and forgets them.
func hear(t *testing.T, conn *stream.Conn, owner stream.Owner) (heard stream.Standings, err error) {
	t.Helper()
	return hearFor(t, conn, asker, owner)
}

func hearFor(t *testing.T, conn *stream.Conn, asker stream.Asker, owner stream.Owner) (heard stream.Standings, err error) {
	t.Helper()
	testenv.Eventually(t, time.Minute, "answers about "+owner.String(), func() error {
		var wait stream.Pending
		if heard, wait, err = conn.Inquire(t.Context(), asker, owner); err == nil && wait.For > 0 {
			return fmt.Errorf("to be asked again after %s", wait.For)
		}
		return nil
	})
	conn.ForgetAnswers(asker)
	return heard, err
}

// Two clusters of one uid, of which one was made of a backup of the other, contradict each
// other: neither hides what the other says, whoever is first. Those of other clusters
// know nothing of what is gone.
func TestOperatorsAreHeardTogether(t *testing.T) {
	t.Parallel()
	const one, another = "cluster-1", "cluster-2"
	type operator struct {
		cluster types.UID
		says    stream.Standing
	}
	for name, test := range map[string]struct {
		others []operator
		want   []stream.Standing
	}{
		"nobody else":                   {nil, nil},
		"one that exists in the copy":   {[]operator{{one, stream.Gone}, {one, stream.Exists}}, []stream.Standing{stream.Exists, stream.Gone}},
		"one that is deleted in both":   {[]operator{{one, stream.Ending}, {one, stream.Ending}}, []stream.Standing{stream.Ending}},
		"one that cannot be found out":  {[]operator{{one, stream.Gone}, {one, stream.Untold}}, []stream.Standing{stream.Gone, stream.Untold}},
		"what another cluster says":     {[]operator{{another, stream.Gone}, {another, stream.Untold}, {another, stream.Unknown}}, nil},
		"what another cluster has":      {[]operator{{another, stream.Exists}, {one, stream.Gone}}, []stream.Standing{stream.Exists, stream.Gone}},
		"one whose cluster nobody read": {[]operator{{"", stream.Untold}}, []stream.Standing{stream.Untold}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := stream.Target{Class: "c", Servers: natsserver.Run(t, 1).URLs()}
			for _, other := range test.others {
				operatorOf(t, target, other.cluster, always(other.says))
			}
			asks := operatorOf(t, target, "cluster-3", always(stream.Unknown))
			// One that is late on a busy machine is silent for once.
			testenv.Eventually(t, time.Minute, "what they say", func() error {
				heard, err := hear(t, asks, ordersOf(one, "uid-1"))
				slices.Sort(heard)
				if heard = slices.Compact(heard); err != nil || !slices.Equal(heard, test.want) {
					return fmt.Errorf("heard %q, want %q: %w", heard, test.want, err)
				}
				return nil
			})
		})
	}
}

// An operator that is known to be there and says nothing may have the EventStore. One that
// has said goodbye has not, nor one of another cluster.
func TestSilentOperatorsCountAsThere(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 1)
	asks := operatorOf(t, stream.Target{Class: "c", Servers: servers.URLs()}, "cluster-1", always(stream.Ending))
	silent := servers.Connect(t)
	present := func(operator, cluster string, leaving bool) {
		t.Helper()
		told, err := json.Marshal(map[string]any{"operator": operator, "cluster": cluster, "leaving": leaving})
		fail(t, err)
		fail(t, silent.Publish("aether.owner.here", told))
	}
	asked := 0
	expect := func(want bool) {
		t.Helper()
		// What is told comes in order, and the question after it.
		fail(t, silent.Flush())
		asked++
		heard, err := hear(t, asks, ordersOf("cluster-1", fmt.Sprint("uid-", asked)))
		fail(t, err)
		if !heard.Has(stream.Ending) || heard.Has(stream.Untold) != want {
			t.Errorf("heard %q, and that an operator is silent: %t", heard, want)
		}
	}
	present("held-up", "cluster-2", false)
	expect(false)
	present("held-up", "cluster-1", false)
	expect(true)
	present("held-up", "cluster-1", true)
	expect(false)
}

// Operators make themselves known to each other as they come, and say goodbye.
func TestOperatorsKnowWhoIsThere(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 1)
	target := stream.Target{Class: "c", Servers: servers.URLs()}
	told := make(chan *nats.Msg, 100)
	spy := servers.Connect(t)
	_, err := spy.ChanSubscribe("aether.owner.>", told)
	fail(t, err)
	fail(t, spy.Flush())
	connections := stream.NewConnections(func(stream.Notice) {}, func(string, time.Duration, error) {}, nobodyKnows)
	t.Cleanup(connections.Close)
	type presence struct {
		Operator, Cluster string
		Leaving           bool
	}
	var own string
	next := func() (said presence, subject string) {
		t.Helper()
		select {
		case m := <-told:
			// What it says to itself is empty.
			_ = json.Unmarshal(m.Data, &said)
			return said, m.Subject
		case <-t.Context().Done():
		}
		t.Fatal("nothing was told")
		return said, ""
	}
	// here is what it says to all, after what it says to itself.
	here := func() (said presence) {
		t.Helper()
		said, subject := next()
		if said == (presence{}) && subject == "aether.owner."+own {
			said, subject = next()
		}
		if subject != "aether.owner.here" {
			t.Errorf("%s: %+v", subject, said)
		}
		return said
	}
	conn, err := connections.Get(t.Context(), target)
	fail(t, err)
	_, echo := next()
	own = strings.TrimPrefix(echo, "aether.owner.")
	first := here()
	if first != (presence{Operator: own, Cluster: "cluster"}) {
		t.Errorf("on %s it said %+v", echo, first)
	}
	fail(t, spy.Publish("aether.owner.here", []byte(`{"operator": "new", "cluster": "another"}`)))
	if heard := here(); heard.Operator != "new" {
		t.Errorf("the spy heard %+v, and not itself", heard)
	}
	if again := here(); again != first {
		t.Errorf("to who is new it said %+v, and before %+v", again, first)
	}
	_, _, err = conn.Inquire(t.Context(), asker, ordersOf("another", "uid-1"))
	fail(t, err)
	if asked, subject := next(); subject != "aether.owner.uid-1" || asked != first {
		t.Errorf("it asked on %s as %+v", subject, asked)
	}
	connections.Close()
	if last := here(); !last.Leaving || last.Operator != own {
		t.Errorf("it said goodbye with %+v", last)
	}
}

// A namespace of a copy is deleted with many stores at once, and the API server of the
// other cluster is slow: nobody takes the silence for a no.
func TestManyQuestionsAtOnce(t *testing.T) {
	t.Parallel()
	target := stream.Target{Class: "c", Servers: natsserver.Run(t, 1).URLs()}
	operatorOf(t, target, "cluster-1", func(ctx context.Context, _ stream.Owner) stream.Standing {
		<-ctx.Done()
		return stream.Exists
	})
	asks := operatorOf(t, target, "cluster-1", always(stream.Ending))
	const count = 32
	owner := func(i int) stream.Owner { return ordersOf("cluster-1", fmt.Sprint("uid-", i)) }
	askerOf := func(i int) stream.Asker { return stream.Asker{UID: owner(i).UID, Namespace: "shop"} }
	// It asks others once it has heard itself.
	_, err := hear(t, asks, ordersOf("cluster-2", "uid-of-nobody"))
	fail(t, err)
	for i := range count {
		_, _, err := asks.Inquire(t.Context(), askerOf(i), owner(i))
		fail(t, err)
	}
	for i := range count {
		if heard, err := hearFor(t, asks, askerOf(i), owner(i)); err != nil || !heard.Has(stream.Exists, stream.Untold) {
			t.Errorf("store %d would be deleted though the other operator keeps it: %q, %v", i, heard, err)
		}
	}
}

// While an API server does not answer, questions wait. Who is there is heard all the same,
// and is not taken for gone.
func TestQuestionsHoldUpNoPresence(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 1)
	ended := make(chan struct{})
	t.Cleanup(func() { close(ended) })
	operatorOf(t, stream.Target{Class: "c", Servers: servers.URLs()}, "cluster-1", func(context.Context, stream.Owner) stream.Standing {
		<-ended
		return stream.Ending
	})
	spy := servers.Connect(t)
	here, err := spy.SubscribeSync("aether.owner.here")
	fail(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	// answered is when it has made itself known so many times.
	answered := func(times int) {
		t.Helper()
		for times > 0 {
			said, err := here.NextMsgWithContext(ctx)
			fail(t, err)
			if !strings.Contains(string(said.Data), "newcomer") {
				times--
			}
		}
	}
	comes := func(name string) {
		t.Helper()
		fail(t, spy.Publish("aether.owner.here", fmt.Appendf(nil, `{"operator": "newcomer-%s", "cluster": "another"}`, name)))
	}
	testenv.Eventually(t, time.Minute, "that it hears itself", func() error {
		comes(strconv.FormatInt(time.Now().UnixNano(), 10))
		_, err := here.NextMsg(time.Second)
		if err == nil {
			_, err = here.NextMsg(time.Second)
		}
		return err
	})
	for i := range 100 {
		question := []byte(`{"operator": "asks", "cluster": "cluster-1", "owner": {}}`)
		fail(t, spy.PublishRequest(fmt.Sprint("aether.owner.uid-", i), spy.NewInbox(), question))
	}
	// It may have one to say of the time before.
	comes("a")
	comes("b")
	answered(2)
}

// Silence says nothing where operators do not hear each other.
func TestOperatorsThatMayNotAsk(t *testing.T) {
	t.Parallel()
	for user, denied := range silenced {
		t.Run(user, func(t *testing.T) {
			t.Parallel()
			asks := operatorOf(t, silencedTarget(natsserver.Run(t, 1, silencedUser(user)), user), "cluster-1", always(stream.Ending))
			heard, err := hear(t, asks, ordersOf("cluster-1", "uid-1"))
			if fault, ok := stream.AsFault(err); !ok || fault.Reason != v1alpha1.ReasonPermissionDenied || !strings.Contains(err.Error(), denied.told) {
				t.Errorf("heard %q, and %v", heard, err)
			}
		})
	}
}

// silenced are users who cannot take part in what operators ask each other, by name, and
// what they are told to lack.
var silenced = map[string]struct {
	permissions server.Permissions
	told        string
}{
	"mute":   {server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"aether.owner.*"}}}, "publish to aether.owner.*"},
	"deaf":   {server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{"aether.owner.*"}}}, "subscribe to aether.owner.*"},
	"shy":    {server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"_INBOX.>"}}}, "publish to _INBOX.>"},
	"closed": {server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{"_INBOX.>"}}}, "subscribe to _INBOX.>"},
}

// silencedUser adds a silenced user to one, all, that has every right.
func silencedUser(user string) natsserver.Option {
	return func(o *server.Options) {
		permissions := silenced[user].permissions
		o.Users = []*server.User{{Username: "all", Password: "p"}, {Username: user, Password: "p", Permissions: &permissions}}
	}
}

func silencedTarget(servers *natsserver.Cluster, user string) stream.Target {
	return stream.Target{Class: user, Servers: servers.URLs(), Credentials: map[string][]byte{"username": []byte(user), "password": []byte("p")}}
}

// An operator that cannot answer the others is not waited for: it does not say that it is
// there, and asks nothing.
func TestOperatorsThatCannotAnswerHoldUpNobody(t *testing.T) {
	t.Parallel()
	for user := range silenced {
		t.Run(user, func(t *testing.T) {
			t.Parallel()
			servers := natsserver.Run(t, 1, silencedUser(user))
			asks := operatorOf(t, silencedTarget(servers, "all"), "cluster-1", always(stream.Ending))
			_, err := hear(t, asks, ordersOf("cluster-1", "uid-1"))
			fail(t, err)
			cannot := operatorOf(t, silencedTarget(servers, user), "cluster-1", always(stream.Ending))
			if _, err := hear(t, cannot, ordersOf("cluster-1", "uid-2")); err == nil {
				t.Error("it asks without what it takes")
			}
			if heard, err := hear(t, asks, ordersOf("cluster-1", "uid-3")); err != nil || heard.Has(stream.Untold) {
				t.Errorf("the other heard %q, %v", heard, err)
			}
		})
	}
}

// An operator that is busy hears itself late. That is no lack of permissions, and nobody has
// to do anything.
func TestLateAnswersAreWaitedFor(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 1)
	ended := make(chan struct{})
	t.Cleanup(func() { close(ended) })
	asks := operatorOf(t, stream.Target{Class: "c", Servers: servers.URLs()}, "cluster-1", func(context.Context, stream.Owner) stream.Standing {
		<-ended
		return stream.Ending
	})
	heard, err := hear(t, asks, ordersOf("cluster-1", "uid-1"))
	if fault, ok := stream.AsFault(err); !ok || fault.Handling != stream.Retry || fault.Reason != v1alpha1.ReasonProgressingWithRetry {
		t.Errorf("heard %q, and %v", heard, err)
	}
}

// A question that does not say of which cluster it comes is not sent.
func TestNoQuestionWithoutCluster(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 1)
	spy := servers.Connect(t)
	asked, err := spy.SubscribeSync("aether.owner.uid-1")
	fail(t, err)
	fail(t, spy.Flush())
	self := nobodyKnows
	self.Cluster = func(context.Context) (types.UID, error) { return "", errors.New("the API server does not answer") }
	connections := stream.NewConnections(func(stream.Notice) {}, func(string, time.Duration, error) {}, self)
	conn, err := connections.Get(t.Context(), stream.Target{Class: "c", Servers: servers.URLs()})
	fail(t, err)
	if heard, err := hear(t, conn, ordersOf("cluster-1", "uid-1")); err == nil || !strings.Contains(err.Error(), "kube-system") {
		t.Errorf("heard %q: %v", heard, err)
	}
	// Whatever it sent was sent before its connection is closed.
	connections.Close()
	fail(t, spy.Flush())
	if count, _, err := asked.Pending(); err != nil || count != 0 {
		t.Errorf("%d questions were sent: %v", count, err)
	}
}
