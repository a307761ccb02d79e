package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/injector"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
)

// slow is an API server that has no EventStores and takes its time for each question,
// as a busy one does. It counts them.
type slow struct {
	client.Reader
	each      time.Duration
	questions atomic.Int64
}

func (s *slow) Get(_ context.Context, key client.ObjectKey, _ client.Object, _ ...client.GetOption) error {
	s.questions.Add(1)
	time.Sleep(s.each)
	return apierrors.NewNotFound(v1alpha1.GroupVersion.WithResource("eventstores").GroupResource(), key.Name)
}

func (s *slow) List(context.Context, client.ObjectList, ...client.ListOption) error {
	s.questions.Add(1)
	time.Sleep(s.each)
	return nil
}

func behind(live client.Reader) http.Handler {
	return newIntake().bound(&admission.Webhook{Handler: &podHandler{
		decoder: admission.NewDecoder(testenv.Scheme()), cached: &slow{}, live: live, config: injector.Config{Image: image},
	}})
}

// call gives the answer to a review of a pod.
func call(t *testing.T, handler http.Handler, pod *corev1.Pod) *admissionv1.AdmissionResponse {
	raw, err := json.Marshal(pod)
	if err != nil {
		t.Error(err)
	}
	body, err := json.Marshal(admissionv1.AdmissionReview{Request: &admissionv1.AdmissionRequest{
		UID: "1", Namespace: pod.Namespace, Operation: admissionv1.Create, Object: runtime.RawExtension{Raw: raw},
	}})
	if err != nil {
		t.Error(err)
	}
	request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", bytes.NewReader(body))
	request.Header.Set("Content-Type", "application/json")
	recorder, answer := httptest.NewRecorder(), admissionv1.AdmissionReview{}
	handler.ServeHTTP(recorder, request)
	if recorder.Code != http.StatusOK || json.Unmarshal(recorder.Body.Bytes(), &answer) != nil {
		return nil
	}
	return answer.Response
}

// namesMany is a pod that names as many stores as one may. None of them is there.
func namesMany(namespace string) *corev1.Pod {
	pod, more := labelled(namespace, "none"), []string{}
	for i := range 31 {
		more = append(more, fmt.Sprintf("none-%d", i))
	}
	pod.Annotations = map[string]string{v1alpha1.AnnotationEventStores: strings.Join(more, ",")}
	return pod
}

// TestFloodOfOneNamespace: many calls of one namespace, small and large ones, wait when
// one of another comes. That is the next one, but for those that are worked on.
func TestFloodOfOneNamespace(t *testing.T) {
	t.Parallel()
	for name, noisy := range map[string]*corev1.Pod{"small": namesMany("noisy"), "large": withVariables(injector.MaxVariables)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				handler := behind(&slow{each: 100 * time.Millisecond})
				const flood = 100
				var answered atomic.Int64
				var calls sync.WaitGroup
				for range flood {
					calls.Go(func() {
						call(t, handler, noisy)
						answered.Add(1)
					})
				}
				synctest.Wait()
				quiet := call(t, handler, labelled("quiet", "orders"))
				if before := answered.Load(); quiet == nil || !quiet.Allowed || before > 2*workersAtOnce {
					t.Errorf("%d of %d calls of another namespace were answered before that of a quiet one: %+v", before, flood, quiet)
				}
				calls.Wait()
			})
		})
	}
}

// TestQuestionsOfOnePod: the API server is asked a few times, however many stores a pod
// names. All of them are warned of.
func TestQuestionsOfOnePod(t *testing.T) {
	t.Parallel()
	live := &slow{}
	answer := call(t, behind(live), namesMany("shop"))
	if answer == nil || !answer.Allowed {
		t.Fatalf("answer %+v", answer)
	}
	// One more for the LimitRanges of the namespace.
	if asked := live.questions.Load(); asked > maxQuestions+1 {
		t.Errorf("the API server was asked %d times for one pod", asked)
	}
	warned := strings.Join(answer.Warnings, "\n")
	contains(t, "the warnings", warned, "EventStore none does not exist in namespace shop", "none-30 do not exist in namespace shop, or were created a moment ago")
}

// TestCallersThatStall: who has seen the path, which an API server writes into its own
// messages, and stops in the middle of reviews holds up no other address.
func TestCallersThatStall(t *testing.T) {
	r := startReplica(t, Options{})
	install(t, r)
	waitUntilServing(t, r)
	called, err := url.Parse(*configuration(t).Webhooks[0].ClientConfig.URL)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	defer callers.Wait()
	defer cancel()
	var stalled atomic.Int64
	for i := range 32 {
		callers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				stall(ctx, r.address, called.Path, fmt.Sprintf("made-up-%d-%d", i, n), &stalled)
			}
		})
	}
	testenv.Eventually(t, deadline, "callers to be ended for stalling", func() error {
		if n := stalled.Load(); n < workersAtOnce {
			return fmt.Errorf("%d were", n)
		}
		return nil
	})
	for range 4 {
		if err := kubernetes.Client.Create(t.Context(), labelled(plainNamespace, "orders"), client.DryRunAll); err != nil {
			t.Error(err)
		}
	}
}

// stall begins a review from another address than that of the API server, does not go on,
// and counts it once it is ended.
func stall(ctx context.Context, address, path, namespace string, ended *atomic.Int64) {
	conn, err := dialFrom(ctx, "127.0.0.2", address)
	if err != nil {
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer func() { _ = conn.Close() }()
	body := review(namespace, "orders")
	body = body[:len(body)-1] + strings.Repeat(" ", headBytes)
	_, _ = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(body)+1, body)
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		ended.Add(1)
	}
}

// dialFrom connects to the webhook from an address of this machine.
func dialFrom(ctx context.Context, from, address string) (net.Conn, error) {
	dialer := &tls.Dialer{
		NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}},
		Config:    &tls.Config{InsecureSkipVerify: true},
	}
	return dialer.DialContext(ctx, "tcp", address)
}

// TestNamespaceOfACall: it is read without what comes behind it, and of what is no
// review nothing is.
func TestNamespaceOfACall(t *testing.T) {
	t.Parallel()
	for head, want := range map[string]string{
		`{"kind":"AdmissionReview","request":{"uid":"1","kind":{"kind":"Pod"},"namespace":"shop","operation":"CREATE","object":{"metadata":{"names`: "shop",
		`{"request":{"object":{"metadata":{"namespace":"shop"`:                        "",
		`{"request":{"object":{"request":{"namespace":"other"}},"namespace":"shop"}}`: "shop",
		`{"request":{"uid":"1"}}`:   "",
		`{"request":"namespace"}`:   "",
		`{"namespace":"shop"}`:      "",
		`{"request":{"namespace":1`: "",
		`["request"]`:               "",
		``:                          "",
	} {
		if got := namespaceOf([]byte(head)); got != want {
			t.Errorf("of %s: %q, want %q", head, got, want)
		}
	}
}

// TestNamespaceStandsAtTheBeginning: what a real API server sends has the namespace
// where we look for it, also with the longest of names.
func TestNamespaceStandsAtTheBeginning(t *testing.T) {
	const latePath = "/late"
	var mu sync.Mutex
	var seen []string
	allow := &admission.Webhook{Handler: admission.HandlerFunc(func(context.Context, admission.Request) admission.Response { return admission.Allowed("") })}
	r := startReplica(t, Options{}, func(server webhook.Server) {
		server.Register(latePath, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			seen = append(seen, namespaceOf(body[:min(len(body), headBytes)]))
			mu.Unlock()
			r.Body = io.NopCloser(bytes.NewReader(body))
			allow.ServeHTTP(w, r)
		}))
	})
	install(t, r)
	waitUntilServing(t, r)
	installLate(t, "https://"+r.address+latePath)
	testenv.Eventually(t, deadline, "the webhook to be called", func() error {
		pod := withVariables(100)
		pod.GenerateName, pod.Name = "", strings.Repeat("x", 253)
		if err := kubernetes.Client.Create(t.Context(), pod, client.DryRunAll); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if len(seen) == 0 {
			return errors.New("it was not called")
		}
		for _, namespace := range seen {
			if namespace != plainNamespace {
				t.Errorf("a pod of namespace %s is taken for one of %q", plainNamespace, namespace)
			}
		}
		return nil
	})
}
