package main

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/internal/ports"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
)

// Whoever reaches the ports of the operator, without a path and a token, does not take the
// memory that it has: not with more connections than there are places, and not with headers
// that do not end.
func TestMemoryOfStrangers(t *testing.T) {
	webhook := freeAddress(t)
	_, webhookPort, err := net.SplitHostPort(webhook)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOMEMLIMIT", "205MiB")
	r := startReplica(t, writeKubeconfig(t, applyRights(t), ""), "--webhook-port="+webhookPort)
	plain := func(address string) func() (net.Conn, error) {
		return func() (net.Conn, error) { return net.DialTimeout("tcp", address, deadline) }
	}
	secure := func(address string) func() (net.Conn, error) {
		dialer := &net.Dialer{Timeout: deadline}
		return func() (net.Conn, error) {
			return tls.DialWithDialer(dialer, "tcp", address, &tls.Config{InsecureSkipVerify: true})
		}
	}
	dials := map[string]func() (net.Conn, error){"probes": plain(r.probes), "metrics": secure(r.metrics), "webhook": secure(webhook)}
	for name, dial := range dials {
		testenv.Eventually(t, deadline, "the port of "+name, func() error {
			c, err := dial()
			if err != nil {
				return err
			}
			return c.Close()
		})
	}
	for _, size := range []int{1_000_000, 16_000} {
		var all sync.WaitGroup
		for _, dial := range dials {
			all.Go(func() { beginAndWait(dial, 600, size) })
		}
		all.Wait()
	}
	if most, limit := peakMemory(t, r.process.Process.Pid), memoryLimit(t); most > limit {
		t.Errorf("the operator has had %d MiB, and config/manager gives it %d", most>>20, limit>>20)
	} else {
		t.Logf("the operator has had %d MiB at most, of %d", most>>20, limit>>20)
	}
}

// Who has seen the path of the webhook sends the largest reviews that are read, as many as it
// may: they are in memory one after the other, and the operator has what they take.
func TestMemoryOfReviews(t *testing.T) {
	configuration := &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "aether-injector"}}
	remove(t, configuration)
	apply(t, "config/webhook")
	t.Cleanup(func() { remove(t, configuration) })
	webhook := freeAddress(t)
	_, webhookPort, err := net.SplitHostPort(webhook)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOMEMLIMIT", "205MiB")
	r := startReplica(t, writeKubeconfig(t, applyRights(t), ""), "--webhook-port="+webhookPort)
	r.waitUntilReady(t)
	if err := kubernetes.Client.Get(t.Context(), client.ObjectKeyFromObject(configuration), configuration); err != nil {
		t.Fatal(err)
	}
	url := "https://" + webhook + *configuration.Webhooks[0].ClientConfig.Service.Path
	variables := strings.Repeat(`{"name":"x","value":"`+strings.Repeat("x", 550)+`"},`, 5000)
	body := `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","namespace":"shop","operation":"CREATE","object":{"apiVersion":"v1","kind":"Pod",
		"metadata":{"labels":{"aether.flowmade.one/eventstore":"orders"}},"spec":{"containers":[{"name":"c","image":"i","env":[` + strings.TrimSuffix(variables, ",") + `]}]}}}}`
	var all sync.WaitGroup
	var answered atomic.Int64
	for pod := range 32 {
		dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(pod+1))}, Timeout: deadline}
		caller := &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
		for range 8 {
			all.Go(func() {
				for range 2 {
					// What has no turn in time is refused.
					if response, err := caller.Post(url, "application/json", strings.NewReader(body)); err == nil {
						_ = response.Body.Close()
						if response.StatusCode == http.StatusOK {
							answered.Add(1)
						}
					}
				}
			})
		}
	}
	all.Wait()
	most, limit := peakMemory(t, r.process.Process.Pid), memoryLimit(t)
	if answered.Load() == 0 || most > limit {
		t.Errorf("the operator has answered %d reviews and had %d MiB, and config/manager gives it %d", answered.Load(), most>>20, limit>>20)
	}
	t.Logf("the operator has answered %d reviews of %d KiB, and had %d MiB at most, of %d", answered.Load(), len(body)>>10, most>>20, limit>>20)
}

// However many pods have a connection to the port of the probes, the kubelet is answered, which
// else ends the operator. Who was answered has no connection any more.
func TestStrangersKeepNoKubeletOut(t *testing.T) {
	r := startReplica(t, writeKubeconfig(t, applyRights(t), ""), "--webhook-port=0")
	alive := func() error {
		return getOK(t.Context(), &http.Client{Transport: &http.Transport{}}, "http://"+r.probes+"/healthz", "")
	}
	testenv.Eventually(t, deadline, "the operator to be alive", alive)
	dial := func(pod int) net.Conn {
		t.Helper()
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(pod))}, Timeout: deadline}
		c, err := dialer.DialContext(t.Context(), "tcp", r.probes)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	for pod := range ports.Few {
		c := dial(pod + 1)
		if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if answer, err := io.ReadAll(c); err != nil || len(answer) == 0 {
			t.Fatalf("a probe is answered %q, and then the connection stays: %v", answer, err)
		}
	}
	for pod := range 2 * ports.Few {
		dial(pod + 1)
		if err := alive(); err != nil {
			t.Fatalf("with %d idle connections of as many pods: %v", pod+1, err)
		}
	}
}

// beginAndWait opens connections, begins a header on each, and waits until they are closed, or
// for longer than the operator waits for the end of it.
func beginAndWait(dial func() (net.Conn, error), count, size int) {
	begun := append([]byte("GET / HTTP/1.1\r\nHost: x\r\nX: "), bytes.Repeat([]byte("x"), size)...)
	var open []net.Conn
	for range count {
		c, err := dial()
		if err != nil {
			// There is no place for it.
			continue
		}
		open = append(open, c)
		// It may be closed already, and the next ones are what counts.
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = c.Write(begun)
	}
	for _, c := range open {
		_, _ = c.Read(make([]byte, 1))
		_ = c.Close()
	}
}
