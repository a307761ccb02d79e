package webhook

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/internal/ports"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
)

// shortLived renews everything every few seconds.
var shortLived = Options{
	CheckInterval: 100 * time.Millisecond, CertificateLifetime: 3 * time.Second, AuthorityLifetime: 9 * time.Second,
}

// TestRotationWhilePodsAreAdmitted creates pods until the CA and several serving
// certificates were replaced, and not one of them may fail.
func TestRotationWhilePodsAreAdmitted(t *testing.T) {
	r := startReplica(t, shortLived)
	// Another replica, which makes some of the CAs.
	startReplica(t, shortLived)
	install(t, r)
	waitUntilServing(t, r)
	serials, authorities := map[string]bool{}, map[string]bool{}
	admitted := 0
	testenv.Eventually(t, deadline, "two CAs and four serving certificates", func() error {
		pod := labelled(plainNamespace, "orders")
		if err := kubernetes.Client.Create(t.Context(), pod, client.DryRunAll); err != nil {
			t.Fatalf("pod %d, with certificates %d and CAs %d: %v", admitted+1, len(serials), len(authorities), err)
		}
		admitted++
		leaf, err := handshake(t, r)
		if err != nil {
			t.Fatal(err)
		}
		serials[leaf.SerialNumber.String()], authorities[string(leaf.AuthorityKeyId)] = true, true
		if len(serials) < 4 || len(authorities) < 2 {
			return fmt.Errorf("%d certificates of %d CAs", len(serials), len(authorities))
		}
		return nil
	})
	t.Logf("%d pods admitted under %d certificates of %d CAs", admitted, len(serials), len(authorities))
}

// TestNewCAIsServedATurnAfterItIsTrusted: the API server has read the caBundle by
// then, also where another replica wrote it a moment ago.
func TestNewCAIsServedATurnAfterItIsTrusted(t *testing.T) {
	if err := startKubernetes(); err != nil {
		t.Fatal(err)
	}
	install(t, &replica{address: "127.0.0.1:9443"})
	c, err := client.New(account, client.Options{Scheme: kubernetes.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	look := func(replica *certificates) *x509.Certificate {
		if err := replica.check(t.Context()); err != nil {
			t.Fatal(err)
		}
		return replica.serving.Load().Leaf
	}
	newReplica := func() *certificates {
		return &certificates{live: c, writer: c, options: Options{Namespace: DefaultNamespace}.withDefaults(), names: []string{"localhost"}}
	}
	one, two := newReplica(), newReplica()
	before := map[*certificates]*x509.Certificate{one: look(one), two: look(two)}
	if err := kubernetes.Client.Delete(t.Context(), secret(t)); err != nil {
		t.Fatal(err)
	}
	for _, replica := range []*certificates{one, two} {
		if leaf := look(replica); !leaf.Equal(before[replica]) {
			t.Error("a certificate of the new CA is served in the turn in which the replica first saw it")
		}
	}
	for _, replica := range []*certificates{one, two} {
		if leaf := look(replica); leaf.Equal(before[replica]) {
			t.Error("no certificate of the new CA is served a turn after the replica saw it")
		}
	}
}

// TestNotReadyWhenNotServed: the certificate is there and trusted, and nobody
// listens.
func TestNotReadyWhenNotServed(t *testing.T) {
	if err := startKubernetes(); err != nil {
		t.Fatal(err)
	}
	install(t, &replica{address: "127.0.0.1:9443"})
	c, err := client.New(account, client.Options{Scheme: kubernetes.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	server := ports.NewWebhook("127.0.0.1", freePort(t))
	replica := &certificates{
		live: c, writer: c, options: Options{Namespace: DefaultNamespace}.withDefaults(), names: []string{"localhost"},
		started: server.StartedChecker(),
	}
	if err := replica.check(t.Context()); err != nil {
		t.Fatal(err)
	}
	err = replica.ready(httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/readyz", nil))
	if err == nil {
		t.Fatal("ready, and nobody listens")
	}
	contains(t, "the check", err.Error(), "not been started")
}

// handshake does what the API server does behind the Service: it trusts the
// caBundle, and no more.
func handshake(t *testing.T, r *replica) (*x509.Certificate, error) {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(caBundle(t)) {
		return nil, errors.New("the caBundle is empty")
	}
	dialer := &tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: ServiceName + "." + DefaultNamespace + ".svc"}}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	connection, err := dialer.DialContext(ctx, "tcp", r.address)
	if err != nil {
		return nil, err
	}
	defer func() { _ = connection.Close() }()
	return connection.(*tls.Conn).ConnectionState().PeerCertificates[0], nil
}

func caBundle(t *testing.T) []byte {
	t.Helper()
	return configuration(t).Webhooks[0].ClientConfig.CABundle
}

func configuration(t *testing.T) *admissionregistrationv1.MutatingWebhookConfiguration {
	t.Helper()
	configuration := &admissionregistrationv1.MutatingWebhookConfiguration{}
	if err := kubernetes.Client.Get(t.Context(), client.ObjectKey{Name: ConfigurationName}, configuration); err != nil {
		t.Fatal(err)
	}
	return configuration
}

// TestReplicasShareOneCA starts replicas at the same time, which race for the
// Secret.
func TestReplicasShareOneCA(t *testing.T) {
	replicas := []*replica{startReplica(t, Options{}), startReplica(t, Options{}), startReplica(t, Options{})}
	install(t, replicas[0])
	for _, r := range replicas {
		testenv.Eventually(t, deadline, "a replica to be ready", func() error { return r.ready(t) })
	}
	if certificates := parseBundle(caBundle(t)); len(certificates) != 1 {
		t.Errorf("the caBundle holds %d certificates, want 1", len(certificates))
	}
	serials := map[string]bool{}
	for _, r := range replicas {
		leaf, err := handshake(t, r)
		if err != nil {
			t.Fatal(err)
		}
		serials[leaf.SerialNumber.String()] = true
		for _, name := range []string{"localhost", "127.0.0.1", "aether-webhook.aether-system.svc.cluster.local"} {
			if err := leaf.VerifyHostname(name); err != nil {
				t.Error(err)
			}
		}
	}
	if len(serials) != len(replicas) {
		t.Errorf("%d replicas have %d certificates, want one each", len(replicas), len(serials))
	}
}

// TestMissingConfiguration: the replica waits for it and is not ready before.
func TestMissingConfiguration(t *testing.T) {
	r := startReplica(t, Options{CheckInterval: 50 * time.Millisecond})
	testenv.Eventually(t, deadline, "the certificate", func() error {
		connection, err := tls.Dial("tcp", r.address, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			return err
		}
		return connection.Close()
	})
	if err := r.ready(t); err == nil {
		t.Error("ready without a configuration: the API server would call nobody")
	}
	install(t, r)
	waitUntilServing(t, r)
	uninstall(t)
	testenv.Eventually(t, deadline, "the replica not to be ready", func() error {
		if r.ready(t) == nil {
			return errors.New("ready without a configuration")
		}
		return nil
	})
}

// TestRepair: what somebody breaks comes back, a reset caBundle, and a Secret
// that is deleted or cannot be read.
func TestRepair(t *testing.T) {
	r := startReplica(t, Options{CheckInterval: 50 * time.Millisecond})
	install(t, r)
	waitUntilServing(t, r)
	for name, damage := range map[string]func(t *testing.T){
		"caBundle emptied": func(t *testing.T) {
			configuration := configuration(t)
			configuration.Webhooks[0].ClientConfig.CABundle = nil
			if err := kubernetes.Client.Update(t.Context(), configuration); err != nil {
				t.Fatal(err)
			}
		},
		"Secret deleted": func(t *testing.T) {
			if err := kubernetes.Client.Delete(t.Context(), secret(t)); err != nil {
				t.Fatal(err)
			}
		},
		"Secret overwritten": func(t *testing.T) {
			secret := secret(t)
			secret.Data[corev1.TLSCertKey] = []byte("nonsense")
			if err := kubernetes.Client.Update(t.Context(), secret); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			damage(t)
			testenv.Eventually(t, deadline, "the Secret, the caBundle and the certificate to agree again", func() error {
				stored := &corev1.Secret{}
				if err := kubernetes.Client.Get(t.Context(), client.ObjectKey{Namespace: DefaultNamespace, Name: SecretName}, stored); err != nil {
					return err
				}
				authority, err := parseAuthority(stored.Data[corev1.TLSCertKey], stored.Data[corev1.TLSPrivateKeyKey])
				if err != nil {
					return err
				}
				leaf, err := handshake(t, r)
				if err != nil {
					return err
				}
				if !authority.signed(leaf) {
					return errors.New("the certificate is of an earlier CA")
				}
				return nil
			})
			waitUntilServing(t, r)
		})
	}
}

func secret(t *testing.T) *corev1.Secret {
	t.Helper()
	secret := &corev1.Secret{}
	if err := kubernetes.Client.Get(t.Context(), client.ObjectKey{Namespace: DefaultNamespace, Name: SecretName}, secret); err != nil {
		t.Fatal(err)
	}
	return secret
}
