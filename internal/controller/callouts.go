package controller

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"

	"github.com/go-logr/logr"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/access"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

// callouts keeps, for each class whose workloads prove who they are with a token
// of their service account, the server that answers NATS and what makes the
// consumers of pods.
type callouts struct {
	connector
	client   client.Client
	stores   storeIndex
	recorder events.EventRecorder
	// changed wakes the class when what check says of it is another than before.
	changed func(class string)

	mu      sync.Mutex
	classes map[string]*callout
	closed  bool
}

// callout is the server of one class.
type callout struct {
	mu sync.Mutex
	// closed: whoever found it before it was closed must not open a server, since
	// nobody would close that.
	closed      bool
	fingerprint [sha256.Size]byte
	server      *access.Server
	consumers   *access.Consumers
	// failure is why there is no server, or why connections whose access has changed
	// could not be ended; nil when all is well.
	failure error
}

const calloutField = "spec.workloads.callout"

// check says whether the pods of a class can connect, and are cut off when their
// access goes. Without callout there is nothing to say.
func (c *callouts) check(ctx context.Context, class *v1alpha1.EventStoreClass) error {
	if class.Spec.Workloads.Access != v1alpha1.AccessServiceAccount {
		return nil
	}
	if _, err := c.serve(ctx, class); err != nil {
		return err
	}
	known, err := c.entry(class.Name)
	if err != nil {
		return err
	}
	known.mu.Lock()
	defer known.mu.Unlock()
	return known.failure
}

// serve gives the server of a class, and makes it where there is none or the
// class or its Secret has changed. It is nil for a class without callout.
func (c *callouts) serve(ctx context.Context, class *v1alpha1.EventStoreClass) (*access.Server, error) {
	if class.Spec.Workloads.Access != v1alpha1.AccessServiceAccount || class.Spec.Workloads.Callout == nil {
		c.forget(class.Name)
		return nil, nil
	}
	from := v1alpha1.Credentials{SecretRef: class.Spec.Workloads.Callout.SecretRef}
	data, err := c.credentials(ctx, calloutField, class, &from)
	if err != nil {
		return nil, err
	}
	operator, err := c.operatorCredentials(ctx, class)
	if err != nil {
		return nil, err
	}
	fingerprint, err := calloutFingerprint(class, data, operator)
	if err != nil {
		return nil, err
	}
	known, err := c.entry(class.Name)
	if err != nil {
		return nil, err
	}
	known.mu.Lock()
	defer known.mu.Unlock()
	if known.closed {
		return nil, stream.ClassGone(class.Name)
	}
	if known.server != nil && known.fingerprint == fingerprint && known.server.Check() == nil && known.consumers.Check() == nil {
		return known.server, nil
	}
	next, err := c.open(ctx, class, data, operator)
	if err != nil {
		return nil, err
	}
	// Both answer for a moment, so that no question is lost.
	known.end()
	known.server, known.consumers, known.fingerprint, known.failure = next.server, next.consumers, fingerprint, nil
	return known.server, nil
}

func calloutFingerprint(class *v1alpha1.EventStoreClass, data, operator map[string][]byte) ([sha256.Size]byte, error) {
	encoded, err := json.Marshal(struct {
		Spec           v1alpha1.EventStoreClassSpec
		Data, Operator map[string][]byte
	}{class.Spec, data, operator})
	if err != nil {
		return [sha256.Size]byte{}, fmt.Errorf("encode the callout of EventStoreClass %s: %w", class.Name, err)
	}
	return sha256.Sum256(encoded), nil
}

// open answers the servers and pods of a class.
func (c *callouts) open(ctx context.Context, class *v1alpha1.EventStoreClass, data, operator map[string][]byte) (*callout, error) {
	if err := c.checkAccount(ctx, class); err != nil {
		return nil, err
	}
	servers, name, system := serversOf(class), class.Name, systemOf(class)
	stores := func(_ context.Context, streams []string) ([]v1alpha1.EventStore, error) {
		return c.storesOfStreams(name, streams), nil
	}
	log := slog.New(logr.ToSlogHandler(ctrl.Log.WithName("callout")))
	consumers, err := access.ServeConsumers(
		stream.Login{Name: "aether-consumers", Servers: servers, Credentials: operator, Field: operatorField},
		access.ConsumersConfig{Class: name, Domain: class.Spec.Domain, System: system, Stores: stores, Streams: func() []string { return c.streamsOf(name) }}, log)
	if err != nil {
		return nil, err
	}
	server, err := access.Serve(
		stream.Login{Name: "aether-callout", Servers: servers, Credentials: data, Field: calloutField},
		access.Config{
			Class: name, Account: class.Spec.Workloads.Callout.Account, Domain: class.WorkloadDomain(), System: system,
			Review: func(ctx context.Context, review *authenticationv1.TokenReview) error {
				return c.client.Create(ctx, review)
			},
			Stores: stores,
		}, log, c.tellPod)
	if err != nil {
		consumers.Close()
		return nil, err
	}
	return &callout{server: server, consumers: consumers}, nil
}

// checkAccount refuses to let pods into the account that holds the streams.
// JetStream answers a request on whatever subject it names as that of the
// answer, without regard to what the asker may publish: a pod that may read one
// store could have what it stored there sent to the events of another, and by servers
// before 2.15.3 to its purge. Answers do not leave the account of who asks.
func (c *callouts) checkAccount(ctx context.Context, class *v1alpha1.EventStoreClass) error {
	conn, err := c.connect(ctx, class)
	if err != nil {
		return err
	}
	account, err := conn.AccountName(ctx)
	if err != nil {
		return err
	}
	if account == class.Spec.Workloads.Callout.Account {
		return stream.Stalled(v1alpha1.ReasonInvalidSpec,
			"spec.workloads.callout.account is %s, the account that holds the streams, where NATS would let a pod reach stores that are not its own: give workloads an account of theirs, as the documentation of access shows", account)
	}
	return nil
}

func (c *callouts) storesOfStreams(class string, streams []string) []v1alpha1.EventStore {
	var all []v1alpha1.EventStore
	for _, name := range streams {
		for _, store := range c.stores.ofStream(name) {
			if classInUse(store) == class {
				all = append(all, *store)
			}
		}
	}
	return all
}

// streamsOf are the streams of events that the EventStores of a class name, whether they
// have them or not.
func (c *callouts) streamsOf(class string) []string {
	stores := c.stores.ofClass(class)
	streams := make([]string, len(stores))
	for i, store := range stores {
		streams[i] = store.EventsStreamName()
	}
	return streams
}

// tellPod makes an Event of a refusal: the pod itself learns from NATS that it is
// refused, and not why.
func (c *callouts) tellPod(r access.Refusal) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: r.Identity.Namespace, Name: r.Identity.PodName, UID: types.UID(r.Identity.PodUID),
	}}
	c.recorder.Eventf(pod, nil, warning, "EventStoreAccessRefused", "Connect", "%s", clip(r.Reason))
}

// noteSweep remembers what came of ending connections.
func (c *callouts) noteSweep(class string, failure error) {
	c.mu.Lock()
	known := c.classes[class]
	c.mu.Unlock()
	if known == nil {
		// The class is gone, or the operator ends.
		return
	}
	known.mu.Lock()
	before := known.failure
	known.failure = failure
	known.mu.Unlock()
	if (before == nil) != (failure == nil) {
		c.changed(class)
	}
}

// entry is what there is of a class. None is made any more when all were closed:
// nobody would close it.
func (c *callouts) entry(class string) (*callout, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, stream.ClassGone(class)
	}
	if c.classes[class] == nil {
		c.classes[class] = &callout{}
	}
	return c.classes[class], nil
}

// forget ends the server of a class that is gone, or has no callout any more.
func (c *callouts) forget(class string) {
	c.mu.Lock()
	known := c.classes[class]
	delete(c.classes, class)
	c.mu.Unlock()
	if known != nil {
		known.close()
	}
}

func (c *callouts) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for name, known := range c.classes {
		known.close()
		delete(c.classes, name)
	}
}

func (c *callout) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.end()
}

// end stops what answers. The caller has the lock.
func (c *callout) end() {
	if c.server != nil {
		c.server.Close()
		c.consumers.Close()
		c.server, c.consumers = nil, nil
	}
}
