package access_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	authenticationv1 "k8s.io/api/authentication/v1"

	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/callout"
)

// Tokens that cannot be good cost the API server nothing, and one that it has refused
// costs it one review.
func TestBadTokensCostLittle(t *testing.T) {
	t.Parallel()
	namespace := newNamespace(t)
	b := newBench(t, namespace)
	review := b.config.Review
	var asked atomic.Int64
	b.config.Review = func(ctx context.Context, r *authenticationv1.TokenReview) error {
		asked.Add(1)
		return review(ctx, r)
	}
	b.mustServe(t)
	p := newPod(t, namespace, "application")
	good := p.token(t)
	parts := strings.Split(good, ".")
	key := apiServerKey(t)
	claim := func(name string, value any) string {
		return resigned(t, good, key, func(claims map[string]any) { claims[name] = value })
	}
	for what, token := range map[string]string{
		"no token": "", "no JWT": "secret", "two parts": parts[0] + "." + parts[1], "no signature": parts[0] + "." + parts[1] + ".",
		"claims that are no base64": parts[0] + ".***." + parts[2], "claims that are no JSON": parts[0] + ".e30x." + parts[2],
		"another audience": claim("aud", []string{"vault"}), "no audience": claim("aud", nil), "one audience, another": claim("aud", "vault"),
		"one that has ended": resigned(t, good, key, ends(time.Now().Add(-time.Hour))), "no end": claim("exp", nil),
		"no issuer": claim("iss", ""), "no service account": claim("sub", "admin"),
	} {
		b.wantRefused(t, what, p.options(token, benchStream)...)
	}
	b.wantRefused(t, "a name that is none", p.options(good, "x y")...)
	if count := asked.Load(); count != 0 {
		t.Errorf("the API server was asked %d times", count)
	}
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	bad := resigned(t, good, stranger, func(map[string]any) {})
	for range 5 {
		b.wantRefused(t, "a token that is signed by a stranger", p.options(bad, benchStream)...)
	}
	if count := asked.Load(); count != 1 {
		t.Errorf("the API server was asked %d times about one token that it refuses", count)
	}
	b.connect(t, p, benchStream)
}

// A pod that asks for what it may not use, as fast as it can, costs the API server no more
// reviews than one that is let in.
func TestRefusedPodCostsLittle(t *testing.T) {
	t.Parallel()
	namespace := newNamespace(t)
	b := newBench(t, namespace)
	review := b.config.Review
	var asked atomic.Int64
	b.config.Review = func(ctx context.Context, r *authenticationv1.TokenReview) error {
		asked.Add(1)
		return review(ctx, r)
	}
	b.mustServe(t)
	p := newPod(t, namespace, "application")
	options := p.options(p.token(t), "shop_another")
	const logins, allowed = 200, 32
	for range logins {
		b.wantRefused(t, "a stream of nobody", options...)
	}
	if count := asked.Load(); count > 2*allowed {
		t.Errorf("the API server was asked %d times for %d logins", count, logins)
	}
	b.connect(t, newPod(t, namespace, "application"), benchStream)
}

// Whoever tries bad tokens from one address keeps nobody at another out.
func TestBadLoginsKeepNobodyOut(t *testing.T) {
	t.Parallel()
	namespace := newNamespace(t)
	b := newBench(t, namespace)
	p := newPod(t, namespace, "application")
	good := p.token(t)
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	review := b.config.Review
	var hanging atomic.Int64
	// An API server that takes long over each bad token is the worst that can be.
	b.config.Review = func(ctx context.Context, r *authenticationv1.TokenReview) error {
		if r.Spec.Token == good {
			return review(ctx, r)
		}
		hanging.Add(1)
		defer hanging.Add(-1)
		<-ctx.Done()
		return ctx.Err()
	}
	b.mustServe(t)
	ctx, cancel := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	defer flood.Wait()
	defer cancel()
	for i := range 100 {
		bad := resigned(t, good, stranger, func(claims map[string]any) { claims["jti"] = i })
		flood.Go(func() {
			for ctx.Err() == nil {
				if nc, err := nats.Connect(b.servers.URL(), append(p.options(bad, benchStream), nats.NoReconnect())...); err == nil {
					nc.Close()
				}
			}
		})
	}
	testenv.Eventually(t, limit, "a flood", func() error {
		if hanging.Load() < 16 {
			return context.DeadlineExceeded
		}
		return nil
	})
	elsewhere := nats.Dialer(&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}})
	for range 5 {
		nc, err := nats.Connect(b.servers.URL(), append(p.options(good, benchStream), elsewhere, nats.NoReconnect(), nats.Timeout(limit))...)
		if err != nil {
			t.Fatalf("a good login beside %d bad ones: %v", hanging.Load(), err)
		}
		nc.Close()
	}
}

// What is in the account of the workloads and was not let in for the class is ended,
// and so is what a pod has too much of.
func TestCutOffEndsWhatIsNotKnown(t *testing.T) {
	t.Parallel()
	namespace := newNamespace(t)
	b := newBench(t, namespace, func(o *server.Options) {
		o.Users = append(o.Users, &server.User{Username: "aether x y z", Password: "p", Account: accountOf(o, callout.Account)})
		o.AuthCallout.AuthUsers = append(o.AuthCallout.AuthUsers, "aether x y z")
	})
	s := b.mustServe(t)
	known := b.connect(t, newPod(t, namespace, "application"), benchStream)
	stray, err := nats.Connect(b.servers.URL(), nats.UserInfo("aether x y z", "p"), nats.NoReconnect())
	if err != nil {
		t.Fatal(err)
	}
	defer stray.Close()
	if count, err := s.CutOff(t.Context()); count != 1 || err != nil {
		t.Errorf("%d connections were ended, %v, want the stray one", count, err)
	}
	if err := known.FlushTimeout(limit); err != nil || known.Reconnects != 0 {
		t.Errorf("the connection of a pod did not go on: %v", err)
	}
	b.config.Class = "another"
	if count, err := b.mustServe(t).CutOff(t.Context()); count != 1 || err != nil {
		t.Errorf("%d connections were ended, %v, want that of a class that is gone", count, err)
	}
}

func TestConnectionsOfOnePod(t *testing.T) {
	t.Parallel()
	namespace := newNamespace(t)
	b := newBench(t, namespace)
	p := newPod(t, namespace, "application")
	token := p.token(t)
	const allowed = 32
	for round := range 2 {
		s := b.mustServe(t)
		for range allowed {
			nc, err := nats.Connect(b.servers.URL(), append(p.options(token, benchStream), nats.NoReconnect(), nats.Timeout(limit))...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(nc.Close)
		}
		count, err := s.CutOff(t.Context())
		if want := round * allowed; count != want || err != nil {
			t.Errorf("with %d connections, %d were ended, %v", (round+1)*allowed, count, err)
		}
		s.Close()
	}
	b.mustServe(t)
	b.connect(t, newPod(t, namespace, "application"), benchStream)
}

// A connection has as many subscriptions as it may, and no more.
func TestSubscriptionsOfOneConnection(t *testing.T) {
	t.Parallel()
	namespace := newNamespace(t)
	b := newBench(t, namespace)
	b.mustServe(t)
	p := newPod(t, namespace, "application")
	nc := b.connect(t, p, benchStream)
	for range 4096 {
		if _, err := nc.SubscribeSync(nc.NewInbox()); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(nc.FlushTimeout(limit), nc.LastError()); err != nil {
		t.Fatalf("with 4096 subscriptions: %v", err)
	}
	if _, err := nc.SubscribeSync(nc.NewInbox()); err != nil {
		t.Fatal(err)
	}
	if err := nc.FlushTimeout(limit); err != nil || !errors.Is(nc.LastError(), nats.ErrMaxSubscriptionsExceeded) {
		t.Errorf("with 4097 subscriptions: %v, %v", err, nc.LastError())
	}
}
