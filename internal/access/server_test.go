package access_test

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	authenticationv1 "k8s.io/api/authentication/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/access"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/callout"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// bench is a NATS system that no operator knows, and what it takes to answer it.
type bench struct {
	*system
	login  stream.Login
	config access.Config
}

// newBench runs a server; pods of the namespace may write to shop_orders.
func newBench(t *testing.T, namespace string, options ...natsserver.Option) *bench {
	t.Helper()
	setup, err := callout.New()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "nats-")
	if err != nil {
		t.Fatal(err)
	}
	servers, err := setup.Start(dir, 1, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		servers.Stop()
		_ = os.RemoveAll(dir)
	})
	store := usable(func(s *v1alpha1.EventStore) { s.Namespace, s.Spec.Namespace = namespace, "shop" })
	return &bench{
		system: &system{servers: servers, setup: setup},
		login:  stream.Login{Name: "test", Servers: servers.URLs(), Credentials: secretData(setup.Callout), Field: "spec.workloads.callout"},
		config: access.Config{
			Class: "bench", Account: callout.Account, Domain: callout.Domain, System: here,
			Review: func(ctx context.Context, r *authenticationv1.TokenReview) error { return kube.Client.Create(ctx, r) },
			Stores: func(context.Context, []string) ([]v1alpha1.EventStore, error) {
				return []v1alpha1.EventStore{store}, nil
			},
		},
	}
}

func secretData(from map[string]string) map[string][]byte {
	data := map[string][]byte{}
	for key, value := range from {
		data[key] = []byte(value)
	}
	return data
}

func (b *bench) serve() (*access.Server, error) {
	return access.Serve(b.login, b.config, slog.New(slog.DiscardHandler), func(access.Refusal) {})
}

func (b *bench) mustServe(t *testing.T) *access.Server {
	t.Helper()
	s, err := b.serve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// makeConsumers makes those of pods that use one of the stores.
func (b *bench) makeConsumers(t *testing.T, stores ...v1alpha1.EventStore) *access.Consumers {
	t.Helper()
	c, err := b.serveConsumers(stores...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func (b *bench) serveConsumers(stores ...v1alpha1.EventStore) (*access.Consumers, error) {
	return b.serveConsumersAt(b.servers.URLs(), stores...)
}

// serveConsumersAt is serveConsumers through a way to the servers.
func (b *bench) serveConsumersAt(urls []string, stores ...v1alpha1.EventStore) (*access.Consumers, error) {
	const most = 20
	login := stream.Login{Name: "test", Servers: urls, Credentials: secretData(b.setup.Operator), Field: "spec.credentials"}
	return access.ServeConsumers(login, access.ConsumersConfig{
		Class: "bench", System: here, MaxConsumers: most, Stores: func(context.Context, []string) ([]v1alpha1.EventStore, error) { return stores, nil },
		Streams: func() []string {
			var streams []string
			for _, store := range stores {
				streams = append(streams, store.EventsStreamName())
			}
			return streams
		},
	}, slog.New(slog.DiscardHandler))
}

const benchStream = "shop_orders"

// Every replica answers; without any, nobody new is let in, and who is goes on.
func TestReplicas(t *testing.T) {
	t.Parallel()
	namespace := newNamespace(t)
	b := newBench(t, namespace)
	review := b.config.Review
	var asked [2]atomic.Int64
	replicas := make([]*access.Server, len(asked))
	for i := range replicas {
		b.config.Review = func(ctx context.Context, r *authenticationv1.TokenReview) error {
			asked[i].Add(1)
			return review(ctx, r)
		}
		replicas[i] = b.mustServe(t)
	}
	p := newPod(t, namespace, "application")
	existing := b.connect(t, p, benchStream)
	testenv.Eventually(t, limit, "both replicas to be asked", func() error {
		nc, err := nats.Connect(b.servers.URL(), p.options(p.token(t), benchStream)...)
		if err != nil {
			return err
		}
		nc.Close()
		if asked[0].Load() == 0 || asked[1].Load() == 0 {
			return errors.New("one was not")
		}
		return nil
	})
	replicas[0].Close()
	before := asked[1].Load()
	nc, err := nats.Connect(b.servers.URL(), p.options(p.token(t), benchStream)...)
	if err != nil {
		t.Fatalf("with one replica of two: %v", err)
	}
	nc.Close()
	if asked[1].Load() == before {
		t.Error("the replica that is left was not asked")
	}
	replicas[1].Close()
	b.wantRefused(t, "a connection without an operator", p.options(p.token(t), benchStream)...)
	if err := existing.FlushTimeout(limit); err != nil || existing.Reconnects != 0 {
		t.Errorf("the connection that was there did not go on: %v, %d reconnects", err, existing.Reconnects)
	}
	// Another operator knows it again, though it did not let it in.
	another := b.mustServe(t)
	if count, err := another.CutOff(t.Context()); count != 0 || err != nil {
		t.Errorf("%d connections were ended, %v", count, err)
	}
	another.Close()
	b.config.Stores = func(context.Context, []string) ([]v1alpha1.EventStore, error) { return nil, nil }
	if count, err := b.mustServe(t).CutOff(t.Context()); count != 1 || err != nil {
		t.Errorf("%d connections were ended, %v, want the one of the store that is gone", count, err)
	}
}

// Servers that do not encrypt are answered too, and one that does where the
// operator has no key, or the reverse, is not.
func TestEncryption(t *testing.T) {
	t.Parallel()
	plain := func(o *server.Options) { o.AuthCallout.XKey = "" }
	for name, c := range map[string]struct {
		options []natsserver.Option
		key     bool
		served  bool
	}{
		"neither encrypts":  {[]natsserver.Option{plain}, false, true},
		"only the operator": {[]natsserver.Option{plain}, true, false},
		"only the server":   {nil, false, false},
		"both":              {nil, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			namespace := newNamespace(t)
			b := newBench(t, namespace, c.options...)
			if !c.key {
				delete(b.login.Credentials, v1alpha1.CalloutKeyXKey)
			}
			b.mustServe(t)
			p := newPod(t, namespace, "application")
			if c.served {
				b.connect(t, p, benchStream)
			} else {
				b.wantRefused(t, "a connection", p.options(p.token(t), benchStream)...)
			}
		})
	}
}

// An answer that another signs than the servers know lets nobody in.
func TestForeignIssuer(t *testing.T) {
	t.Parallel()
	namespace := newNamespace(t)
	b := newBench(t, namespace)
	issuer, err := nkeys.CreateAccount()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := issuer.Seed()
	if err != nil {
		t.Fatal(err)
	}
	b.login.Credentials[v1alpha1.CalloutKeyIssuer] = seed
	delete(b.login.Credentials, v1alpha1.CalloutKeyXKey)
	b.mustServe(t)
	p := newPod(t, namespace, "application")
	b.wantRefused(t, "a connection", p.options(p.token(t), benchStream)...)
}

// A review that hangs or fails lets nobody in, and holds nobody up.
func TestReviewThatFails(t *testing.T) {
	t.Parallel()
	for name, review := range map[string]access.CreateReview{
		"hangs": func(ctx context.Context, _ *authenticationv1.TokenReview) error { <-ctx.Done(); return ctx.Err() },
		"fails": func(context.Context, *authenticationv1.TokenReview) error {
			return errors.New("the API server is away")
		},
		"knows no audiences": func(_ context.Context, r *authenticationv1.TokenReview) error {
			r.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{Username: "system:serviceaccount:shop:checkout"}}
			return nil
		},
		"tells of a person": func(_ context.Context, r *authenticationv1.TokenReview) error {
			r.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{Username: "admin"}, Audiences: []string{v1alpha1.TokenAudience}}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			namespace := newNamespace(t)
			b := newBench(t, namespace)
			b.config.Review = review
			b.mustServe(t)
			p := newPod(t, namespace, "application")
			b.wantRefused(t, "a connection", p.options(p.token(t), benchStream)...)
		})
	}
}

// What is wrong with the Secret or the user of the callout is said with a reason
// and what to do.
func TestServeSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	b := newBench(t, newNamespace(t))
	good := maps.Clone(b.login.Credentials)
	user := newSeed(t)
	for name, c := range map[string]struct {
		key, value     string
		reason, detail string
	}{
		"no issuer":                {v1alpha1.CalloutKeyIssuer, "", v1alpha1.ReasonCredentialsInvalid, "issuer.nk"},
		"an issuer that is none":   {v1alpha1.CalloutKeyIssuer, "secret", v1alpha1.ReasonCredentialsInvalid, "issuer.nk"},
		"the seed of a user":       {v1alpha1.CalloutKeyIssuer, user, v1alpha1.ReasonCredentialsInvalid, "nk -gen account"},
		"a curve that is none":     {v1alpha1.CalloutKeyXKey, user, v1alpha1.ReasonCredentialsInvalid, "nk -gen curve"},
		"a password that is wrong": {v1alpha1.CredentialsKeyPassword, "wrong", v1alpha1.ReasonAuthenticationFailed, "spec.workloads.callout"},
	} {
		b.login.Credentials = maps.Clone(good)
		b.login.Credentials[c.key] = []byte(c.value)
		s, err := b.serve()
		if err == nil {
			s.Close()
		}
		wantFault(t, name, err, c.reason, c.detail)
		if err != nil && c.value != "" && strings.Contains(err.Error(), c.value) {
			t.Errorf("%s: the error tells the secret: %v", name, err)
		}
	}
	b.login.Credentials = good
	b.login.Servers = []string{"nats://127.0.0.1:1"}
	_, err := b.serve()
	wantFault(t, "no server", err, v1alpha1.ReasonUnreachable, "127.0.0.1:1")
}

func wantFault(t *testing.T, what string, err error, reason, detail string) {
	t.Helper()
	fault, ok := stream.AsFault(err)
	if !ok || fault.Reason != reason || !strings.Contains(err.Error(), detail) {
		t.Errorf("%s: %v, want the reason %s and %q in it", what, err, reason, detail)
	}
}

// A callout user without its permissions is noticed: when it starts, or when
// connections are to be ended.
func TestCalloutUserThatMayNot(t *testing.T) {
	t.Parallel()
	restrict := func(publish, subscribe []string) natsserver.Option {
		return func(o *server.Options) {
			for _, u := range o.Users {
				if u.Username == "aether-callout" {
					u.Permissions.Publish.Allow, u.Permissions.Subscribe.Allow = publish, subscribe
				}
			}
		}
	}
	b := newBench(t, newNamespace(t), restrict([]string{"x"}, []string{"x"}))
	s, err := b.serve()
	if err == nil {
		s.Close()
	}
	wantFault(t, "serve", err, v1alpha1.ReasonCalloutUnavailable, "$SYS.REQ.USER.AUTH")
	b = newBench(t, newNamespace(t), restrict([]string{"x"}, []string{"$SYS.REQ.USER.AUTH", "_INBOX.aether-callout.>"}))
	_, err = b.mustServe(t).CutOff(t.Context())
	wantFault(t, "cut off", err, v1alpha1.ReasonCalloutUnavailable, "system account")
	elsewhere := func(o *server.Options) {
		for _, u := range o.Users {
			if u.Username == "aether-callout" {
				u.Account = accountOf(o, "AETHER")
			}
		}
		o.AuthCallout.Account = "AETHER"
	}
	b = newBench(t, newNamespace(t), elsewhere)
	_, err = b.mustServe(t).CutOff(t.Context())
	wantFault(t, "cut off from another account", err, v1alpha1.ReasonCalloutUnavailable, "system account")
}

func accountOf(o *server.Options, name string) *server.Account {
	for _, account := range o.Accounts {
		if account.Name == name {
			return account
		}
	}
	return nil
}
