package access_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	authenticationv1 "k8s.io/api/authentication/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
)

// wantRefused sees that a connection is not let in.
func (s *system) wantRefused(t *testing.T, what string, options ...nats.Option) {
	t.Helper()
	for deadline := time.Now().Add(limit); ; {
		// Longer than the servers wait for the operator.
		nc, err := nats.Connect(s.servers.URL(), append(options, nats.NoReconnect(), nats.Timeout(limit))...)
		if err == nil {
			nc.Close()
		}
		if errors.Is(err, nats.ErrAuthorization) {
			return
		}
		// A server pings a client for the first time after 2 seconds, which is also how long
		// it waits for the operator. Whichever the client gets first, it is not let in.
		if err == nil || !strings.Contains(err.Error(), "got 'PING'") || time.Now().After(deadline) {
			t.Errorf("%s was not refused: %v", what, err)
			return
		}
	}
}

// resigned changes the claims of a token and signs it again.
func resigned(t *testing.T, token string, key *ecdsa.PrivateKey, edit func(claims map[string]any)) string {
	t.Helper()
	parts := strings.Split(token, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	claims := map[string]any{}
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	edit(claims)
	if payload, err = json.Marshal(claims); err != nil {
		t.Fatal(err)
	}
	signed := parts[0] + "." + base64.RawURLEncoding.EncodeToString(payload)
	digest := sha256.Sum256([]byte(signed))
	r, z, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	// ES256: both numbers, of 32 bytes each.
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	z.FillBytes(signature[32:])
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// apiServerKey is what the API server signs tokens with: it makes none that end
// sooner than in ten minutes.
func apiServerKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(kube.ControlPlane.APIServer.CertDir, "sa-signer.key"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(content)
	if block == nil {
		t.Fatal("the key of the API server is not PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key.(*ecdsa.PrivateKey)
}

// ends are claims of a token that ends then.
func ends(at time.Time) func(map[string]any) {
	return func(claims map[string]any) {
		claims["iat"], claims["nbf"], claims["exp"] = at.Add(-time.Hour).Unix(), at.Add(-time.Hour).Unix(), at.Unix()
	}
}

func TestWhoIsNotLetIn(t *testing.T) {
	t.Parallel()
	for size, system := range systems {
		t.Run(fmt.Sprintf("%d servers", size), func(t *testing.T) {
			t.Parallel()
			namespace, elsewhere := newNamespace(t), newNamespace(t)
			store := system.newStore(t, namespace)
			stream := store.EventsStreamName()
			p := newPod(t, namespace, "application")
			good := p.token(t)
			// The operator serves, and the token is one that it takes.
			system.connect(t, p, stream)
			stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			key := apiServerKey(t)
			unchanged := func(map[string]any) {}
			header := func(algorithm string) string {
				return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"alg":%q}`, algorithm))
			}
			parts := strings.Split(good, ".")
			gone := newPod(t, namespace, "application")
			ofGone := gone.token(t)
			if err := kube.Client.Delete(t.Context(), gone.Pod, client.GracePeriodSeconds(0)); err != nil {
				t.Fatal(err)
			}
			other := newPod(t, elsewhere, "application")
			unbound := func(r *authenticationv1.TokenRequestSpec) { r.BoundObjectRef = nil }
			audience := func(names ...string) func(*authenticationv1.TokenRequestSpec) {
				return func(r *authenticationv1.TokenRequestSpec) { r.Audiences = names }
			}
			tries := map[string][]nats.Option{
				"no token":                                    p.options("", stream),
				"something that is no token":                  p.options("secret", stream),
				"a user and password":                         {nats.UserInfo("application", "secret")},
				"the name of the operator":                    {nats.UserInfo("aether-operator", "wrong")},
				"the name of the callout user":                {nats.UserInfo("aether-callout", good)},
				"an expired token":                            p.options(resigned(t, good, key, ends(time.Now().Add(-time.Second))), stream),
				"a token for another audience":                p.options(p.token(t, audience("vault")), stream),
				"a token for the API server":                  p.options(p.token(t, audience("https://kubernetes.default.svc")), stream),
				"a token without an audience":                 p.options(p.token(t, audience()), stream),
				"a token that is signed by a stranger":        p.options(resigned(t, good, stranger, unchanged), stream),
				"a token whose claims were changed":           p.options(parts[0]+"."+strings.Split(ofGone, ".")[1]+"."+parts[2], stream),
				"a token without a signature":                 p.options(header("none")+"."+parts[1]+".", stream),
				"a token with another algorithm":              p.options(header("HS256")+"."+parts[1]+"."+parts[2], stream),
				"a token of another issuer":                   p.options(resigned(t, good, key, func(c map[string]any) { c["iss"] = "https://elsewhere" }), stream),
				"a token of another service account's name":   p.options(resigned(t, good, stranger, func(c map[string]any) { c["sub"] = "system:serviceaccount:kube-system:default" }), stream),
				"a token that is bound to no pod":             p.options(p.token(t, unbound), stream),
				"the token of a pod that is gone":             gone.options(ofGone, stream),
				"a service account of another namespace":      other.options(other.token(t), stream),
				"a stream that no EventStore has":             p.options(good, namespace+"_none"),
				"the stream of snapshots for that of events":  p.options(good, store.SnapshotsStreamName()),
				"every stream":                                p.options(good, ">", "*", namespace+"_*"),
				"no stream":                                   p.options(good),
				"a stream, and a name with a space":           p.options(good, stream, "x y"),
				"a stream, and a name with a role":            p.options(good, stream, "a_b=Writer"),
				"a stream, and more than there may be":        p.options(good, append([]string{stream}, manyStreams(300)...)...),
				"a token alone":                               {nats.Token(good)},
				"the token where the password belongs":        {nats.UserInfo(stream, good)},
				"a JWT of the operator made up by the client": {nats.UserJWTAndSeed(good, newSeed(t))},
			}
			for what, options := range tries {
				system.wantRefused(t, what, options...)
			}
			t.Logf("%d connections were refused, with %d servers", len(tries), size)
		})
	}
}

func manyStreams(count int) []string {
	names := make([]string, count)
	for i := range names {
		names[i] = fmt.Sprintf("a_%d", i)
	}
	return names
}

// A pod whose EventStore is deleted is cut off, and does not come back; nor does it
// when another makes one of the same streams.
func TestStoreThatIsDeleted(t *testing.T) {
	t.Parallel()
	for size, system := range systems {
		t.Run(fmt.Sprintf("%d servers", size), func(t *testing.T) {
			t.Parallel()
			namespace := newNamespace(t)
			store := system.newStore(t, namespace)
			p := newPod(t, namespace, "application")
			cutOff := system.watchEnd(t, p, store.EventsStreamName())
			if err := kube.Client.Delete(t.Context(), store); err != nil {
				t.Fatal(err)
			}
			waitFor(t, cutOff, "the end of the connection")
			system.wantRefused(t, "a pod whose EventStore is deleted", p.options(p.token(t), store.EventsStreamName())...)

			// The streams are still there, and remember whose they were.
			thief := &v1alpha1.EventStore{ObjectMeta: metav1.ObjectMeta{Namespace: newNamespace(t), Name: store.Name}}
			thief.Spec = v1alpha1.EventStoreSpec{Namespace: namespace, ClassName: system.class, Replicas: store.Spec.Replicas}
			create(t, thief)
			testenv.Eventually(t, limit, "a conflict", func() error {
				if err := kube.Client.Get(t.Context(), client.ObjectKeyFromObject(thief), thief); err != nil {
					return err
				}
				for _, c := range thief.Status.Conditions {
					if c.Type == v1alpha1.ConditionReady && c.Reason == v1alpha1.ReasonConflict {
						return nil
					}
				}
				return fmt.Errorf("conditions %+v", thief.Status.Conditions)
			})
			accomplice := newPod(t, thief.Namespace, "application")
			system.wantRefused(t, "a pod of an EventStore that names the streams of another", accomplice.options(accomplice.token(t), store.EventsStreamName())...)
		})
	}
}

// The end of the token is the end of the connection.
func TestTokenThatEndsWhileConnected(t *testing.T) {
	t.Parallel()
	system := systems[1]
	namespace := newNamespace(t)
	store := system.newStore(t, namespace)
	p := newPod(t, namespace, "application")
	system.connect(t, p, store.EventsStreamName())
	short := resigned(t, p.token(t), apiServerKey(t), ends(time.Now().Add(4*time.Second)))
	ended := make(chan struct{})
	said := make(chan error, 16)
	_, err := nats.Connect(system.servers.URL(), append(p.options(short, store.EventsStreamName()), nats.NoReconnect(),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { said <- err }),
		nats.ClosedHandler(func(*nats.Conn) { close(ended) }))...)
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, ended, "the end of the connection with the token")
	if err := <-said; !errors.Is(err, nats.ErrAuthExpired) {
		t.Errorf("the connection ended with %v, want that its authentication expired", err)
	}
}

// The reason for a refusal is an Event of the pod.
func TestReasonIsAnEventOfThePod(t *testing.T) {
	t.Parallel()
	system := systems[1]
	namespace := newNamespace(t)
	store := system.newStore(t, namespace, v1alpha1.AccessEntry{ServiceAccount: "application"})
	system.connect(t, newPod(t, namespace, "application"), store.EventsStreamName())
	p := newPod(t, namespace, "stranger")
	system.wantRefused(t, "a service account that is not named", p.options(p.token(t), store.EventsStreamName())...)
	want := fmt.Sprintf("system:serviceaccount:%s:stranger may not use EventStore %s/%s: name it in spec.access", namespace, namespace, store.Name)
	testenv.Eventually(t, limit, "the Event", func() error {
		var events eventsv1.EventList
		if err := kube.Client.List(t.Context(), &events, client.InNamespace(namespace)); err != nil {
			return err
		}
		for _, e := range events.Items {
			if e.Regarding.Kind == "Pod" && e.Regarding.Name == p.Name && e.Regarding.UID == p.UID && e.Note == want && e.Reason == "EventStoreAccessRefused" {
				return nil
			}
		}
		return fmt.Errorf("%d Events, none of them it", len(events.Items))
	})
}

// watchEnd connects as a pod, and answers when that connection is ended by the
// server.
func (s *system) watchEnd(t *testing.T, p pod, streams ...string) <-chan struct{} {
	t.Helper()
	// First until the operator serves.
	s.connect(t, p, streams...)
	ended := make(chan struct{})
	_, err := nats.Connect(s.servers.URL(), append(p.options(p.token(t), streams...), nats.NoReconnect(),
		nats.ClosedHandler(func(*nats.Conn) { close(ended) }))...)
	if err != nil {
		t.Fatal(err)
	}
	return ended
}

func waitFor(t *testing.T, happened <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-happened:
	case <-time.After(limit):
		t.Fatalf("waited %s for %s", limit, what)
	}
}

// Access that is taken away ends the connection; access that is given, or made
// more, counts for connections that exist.
func TestAccessThatChanges(t *testing.T) {
	t.Parallel()
	for size, system := range systems {
		t.Run(fmt.Sprintf("%d servers", size), func(t *testing.T) {
			t.Parallel()
			namespace := newNamespace(t)
			entry := func(name string, role v1alpha1.Role) v1alpha1.AccessEntry {
				return v1alpha1.AccessEntry{ServiceAccount: name, Role: role}
			}
			store := system.newStore(t, namespace, entry("stays", v1alpha1.RoleWriter), entry("goes", v1alpha1.RoleWriter), entry("less", v1alpha1.RoleWriter), entry("more", v1alpha1.RoleReader))
			stream := store.EventsStreamName()
			stays := system.watchEnd(t, newPod(t, namespace, "stays"), stream)
			goes := newPod(t, namespace, "goes")
			gone := system.watchEnd(t, goes, stream)
			less, more := newPod(t, namespace, "less"), newPod(t, namespace, "more")
			lessEnds, moreEnds := system.watchEnd(t, less, stream), system.watchEnd(t, more, stream)

			change(t, store, func(s *v1alpha1.EventStore) {
				s.Spec.Access = []v1alpha1.AccessEntry{entry("stays", v1alpha1.RoleWriter), entry("less", v1alpha1.RoleReader), entry("more", v1alpha1.RoleWriter)}
			})
			waitFor(t, gone, "the end of a connection without access")
			waitFor(t, lessEnds, "the end of a connection with less access")
			waitFor(t, moreEnds, "the end of a connection with more access")
			system.wantRefused(t, "a service account that is not named any more", goes.options(goes.token(t), stream)...)
			for _, c := range []struct {
				pod
				writes bool
			}{{less, false}, {more, true}} {
				nc := system.connect(t, c.pod, stream)
				a := &attacker{T: t, nc: nc, own: stream}
				if !c.writes {
					a.mayNotPublish(stream + ".events.order.order-1")
				} else if answer := a.request(stream+".events.order.order-1", nil, "{}"); !strings.Contains(answer, `"seq":`) {
					t.Errorf("who may write now was answered %s", answer)
				}
			}
			select {
			case <-stays:
				t.Error("a connection whose access did not change was ended")
			default:
			}
			// Left out, access is the namespace's.
			change(t, store, func(s *v1alpha1.EventStore) { s.Spec.Access = nil })
			system.connect(t, goes, stream)
		})
	}
}

// A connection gets those of the streams it wants that it may use, and the others
// when it may.
func TestSomeOfSeveralStreams(t *testing.T) {
	t.Parallel()
	system := systems[1]
	namespace := newNamespace(t)
	open := system.newStore(t, namespace)
	closed := system.newStore(t, namespace, v1alpha1.AccessEntry{ServiceAccount: "somebody"})
	p := newPod(t, namespace, "application")
	ended := system.watchEnd(t, p, open.EventsStreamName(), closed.EventsStreamName())
	a := &attacker{T: t, nc: system.connect(t, p, open.EventsStreamName(), closed.EventsStreamName()), own: open.EventsStreamName()}
	if answer := a.request(a.own+".events.order.order-1", nil, "{}"); !strings.Contains(answer, `"seq":1`) {
		t.Errorf("a save to the store that is open: %s", answer)
	}
	a.mayNotPublish(closed.EventsStreamName() + ".events.order.order-1")
	change(t, closed, func(s *v1alpha1.EventStore) {
		s.Spec.Access = append(s.Spec.Access, v1alpha1.AccessEntry{ServiceAccount: "application"})
	})
	waitFor(t, ended, "the connection to be asked anew")
	a.nc = system.connect(t, p, open.EventsStreamName(), closed.EventsStreamName())
	if answer := a.request(closed.EventsStreamName()+".events.order.order-1", nil, "{}"); !strings.Contains(answer, `"seq":1`) {
		t.Errorf("a save to the store that was opened: %s", answer)
	}
}

// A service account of another namespace is one that is named.
func TestAccessFromAnotherNamespace(t *testing.T) {
	t.Parallel()
	system := systems[1]
	home, away := newNamespace(t), newNamespace(t)
	store := system.newStore(t, home, v1alpha1.AccessEntry{ServiceAccount: "shipping", Namespace: away, Role: v1alpha1.RoleReader})
	reader := newPod(t, away, "shipping")
	a := &attacker{T: t, nc: system.connect(t, reader, store.EventsStreamName()), own: store.EventsStreamName()}
	a.request(api+"DIRECT.GET."+a.own, nil, `{"seq":1}`)
	a.mayNotPublish(a.own + ".events.order.order-1")
	for what, p := range map[string]pod{
		"that service account's namesake at home": newPod(t, home, "shipping"), "another of that namespace": newPod(t, away, "default"),
	} {
		system.wantRefused(t, what, p.options(p.token(t), store.EventsStreamName())...)
	}
}
