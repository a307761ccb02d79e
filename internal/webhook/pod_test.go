package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	jsonpatch "github.com/evanphx/json-patch/v5"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
	"sigs.k8s.io/yaml"

	"git.flowmade.one/flowmade-one/aether-operator/internal/injector"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
)

// broken is a reader that cannot reach the API server.
type broken struct{ client.Reader }

func (broken) Get(context.Context, client.ObjectKey, client.Object, ...client.GetOption) error {
	return errors.New("connection refused")
}

func (broken) List(context.Context, client.ObjectList, ...client.ListOption) error {
	return errors.New("connection refused")
}

func newHandler() *podHandler {
	return &podHandler{
		decoder: admission.NewDecoder(testenv.Scheme()), cached: broken{}, live: broken{},
		config: injector.Config{Image: image},
	}
}

func creation(raw string) admission.Request {
	return admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{
		UID: "1", Namespace: "shop", Operation: admissionv1.Create, Object: runtime.RawExtension{Raw: []byte(raw)},
	}}
}

// patched applies the patch of an answer, as the API server does.
func patched(t *testing.T, raw string, response admission.Response) []byte {
	t.Helper()
	patch, err := jsonpatch.DecodePatch(response.Patch)
	if err != nil {
		t.Fatal(err)
	}
	content, err := patch.Apply([]byte(raw))
	if err != nil {
		t.Fatalf("apply %s to %s: %v", response.Patch, raw, err)
	}
	return content
}

// TestFieldsOfALaterKubernetes: the API server may know more of a pod than this
// build, and containers move when the sidecar comes first.
func TestFieldsOfALaterKubernetes(t *testing.T) {
	t.Parallel()
	const raw = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","labels":{"aether.flowmade.one/eventstore":"orders"}},"spec":{
		"future":{"a":1},
		"initContainers":[{"name":"first","image":"i","future":"of first"}],
		"containers":[{"name":"app","image":"i","future":"of app","env":[{"name":"A","valueFrom":{"futureRef":{"b":2}}}]}],
		"volumes":[{"name":"v","futureVolume":{"c":3}}]}}`
	response := newHandler().Handle(t.Context(), creation(raw))
	if !response.Allowed {
		t.Fatalf("%+v", response.Result)
	}
	// The class and the LimitRanges are told; a store that cannot be looked up is none
	// to warn of.
	if warned := strings.Join(response.Warnings, "\n"); len(response.Warnings) != 2 || strings.Contains(warned, "does not exist") {
		t.Errorf("warnings, while nothing can be looked up: %q", response.Warnings)
	}
	type container struct {
		Name, Future string
		Env          []map[string]any
	}
	var got struct {
		Spec struct {
			Future                     map[string]any
			InitContainers, Containers []container
			Volumes                    []map[string]any
		}
	}
	if err := json.Unmarshal(patched(t, raw, response), &got); err != nil {
		t.Fatal(err)
	}
	first, second, app := got.Spec.InitContainers[0], got.Spec.InitContainers[1], got.Spec.Containers[0]
	if got.Spec.Future["a"] != 1.0 || first.Name != injector.ContainerName || first.Future != "" ||
		second.Future != "of first" || app.Future != "of app" {
		t.Errorf("fields were lost or moved: %+v", got.Spec)
	}
	if len(app.Env) != 3 || app.Env[2]["valueFrom"].(map[string]any)["futureRef"] == nil {
		t.Errorf("environment: %v", app.Env)
	}
	if len(got.Spec.Volumes) != 3 || got.Spec.Volumes[0]["futureVolume"] == nil {
		t.Errorf("volumes: %v", got.Spec.Volumes)
	}
}

// TestVariablesOfOneName: they are allowed, and the last one counts.
func TestVariablesOfOneName(t *testing.T) {
	t.Parallel()
	const raw = `{"metadata":{"name":"p","labels":{"aether.flowmade.one/eventstore":"orders"}},"spec":{
		"containers":[{"name":"app","image":"i","env":[{"name":"A","value":"1"},{"name":"B","value":"$(A)"},{"name":"A","value":"2"}]}]}}`
	var before, got corev1.Pod
	if err := json.Unmarshal([]byte(raw), &before); err != nil {
		t.Fatal(err)
	}
	want, err := injector.Inject(&before, injector.Config{Image: image})
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(patched(t, raw, newHandler().Handle(t.Context(), creation(raw))), &got); err != nil {
		t.Fatal(err)
	}
	if !equality.Semantic.DeepEqual(&got, want.Pod) {
		t.Errorf("got %+v, want %+v", got.Spec.Containers, want.Pod.Spec.Containers)
	}
}

func TestOtherOperationsAreAllowed(t *testing.T) {
	t.Parallel()
	update, status := creation("{"), creation("{")
	update.Operation, status.SubResource = admissionv1.Update, "status"
	for _, request := range []admission.Request{update, status} {
		if response := newHandler().Handle(t.Context(), request); !response.Allowed || len(response.Patch) != 0 {
			t.Errorf("%s of pods/%s: %+v", request.Operation, request.SubResource, response)
		}
	}
}

// FuzzRequest sends any bytes to the webhook: it answers, and it is never the
// webhook that failed.
func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"request":null}`))
	f.Add([]byte(`[`))
	f.Add([]byte(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","operation":"CREATE","object":null}}`))
	f.Add([]byte(`{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","request":{"uid":"1","operation":"CREATE","object":{}}}`))
	f.Add([]byte(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","operation":"DELETE","oldObject":{"kind":"Pod"}}}`))
	// No name to merge by.
	f.Add([]byte(`{"request":{"operation":"CREATE","object":{"metadata":{"labels":{"aether.flowmade.one/eventstore":"0"}},"spec":{"containers":[{}]}}}}`))
	for _, pod := range goldenPods(f) {
		f.Add([]byte(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","operation":"CREATE","object":` + pod + `}}`))
	}
	handler := &admission.Webhook{Handler: newHandler()}
	f.Fuzz(func(t *testing.T, body []byte) {
		request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, Path, bytes.NewReader(body))
		request.Header.Set("Content-Type", "application/json")
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, request)
		var review admissionv1.AdmissionReview
		if err := json.Unmarshal(recorder.Body.Bytes(), &review); err != nil || review.Response == nil {
			t.Fatalf("the answer is no review: %v: %q", err, recorder.Body)
		}
		if recorder.Code >= http.StatusInternalServerError || failed(review.Response) {
			t.Errorf("%d: %+v", recorder.Code, review.Response)
		}
	})
}

// failed: the API server takes an answer with such a code for a fault of the
// webhook, and so does whoever is woken by it.
func failed(response *admissionv1.AdmissionResponse) bool {
	return response.Result != nil && response.Result.Code >= http.StatusInternalServerError
}

// goldenPods are the pods of the injector's golden files, as JSON.
func goldenPods(f *testing.F) []string {
	f.Helper()
	files, err := filepath.Glob("../injector/testdata/*.yaml")
	if err != nil || len(files) == 0 {
		f.Fatalf("find the injector's golden files: %v, %d", err, len(files))
	}
	var pods []string
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		pod, err := yaml.YAMLToJSON(content)
		if err != nil {
			f.Fatal(err)
		}
		pods = append(pods, string(pod))
	}
	return pods
}

// FuzzPod sends any pod: the answer's patch applies, and makes what Inject makes.
func FuzzPod(f *testing.F) {
	f.Add(`{"metadata":{"labels":{"aether.flowmade.one/eventstore":"orders"},"annotations":{"aether.flowmade.one/eventstores":"a,b"}},"spec":{"containers":[{"name":"app"},{"name":"app"}]}}`)
	f.Add(`{"metadata":{"labels":{"aether.flowmade.one/eventstore":"orders"}},"spec":{"initContainers":[{"name":"aether-sidecar","restartPolicy":"Always","env":[{"name":"SERVICE_BINDING_ROOT","value":"/bindings"}],"volumeMounts":[{"name":"aether-binding-0","mountPath":"/bindings/x"}]}],"containers":null,"volumes":[{"name":"aether-binding-0"},{"name":"aether-binding-0"}]}}`)
	f.Add(`{"metadata":{"labels":{"aether.flowmade.one/eventstore":"orders"}},"spec":null}`)
	f.Add(`null`)
	for _, pod := range goldenPods(f) {
		f.Add(pod)
	}
	f.Fuzz(func(t *testing.T, content string) {
		var before corev1.Pod
		if json.Unmarshal([]byte(content), &before) != nil {
			return
		}
		// As the API server writes it.
		raw, err := json.Marshal(&before)
		if err != nil {
			t.Fatal(err)
		}
		response := newHandler().Handle(t.Context(), creation(string(raw)))
		if failed(&response.AdmissionResponse) {
			t.Fatalf("%s: %+v", raw, response.Result)
		}
		if !response.Allowed || len(response.Patch) == 0 {
			return
		}
		want, err := injector.Inject(&before, injector.Config{Image: image})
		if err != nil {
			t.Fatalf("%s was patched and must be refused: %v", raw, err)
		}
		var got corev1.Pod
		if err := json.Unmarshal(patched(t, string(raw), response), &got); err != nil {
			t.Fatalf("%s became no pod: %v", raw, err)
		}
		if !equality.Semantic.DeepEqual(got.Spec, want.Pod.Spec) {
			t.Errorf("%s became\n%+v, want\n%+v", raw, got.Spec, want.Pod.Spec)
		}
	})
}
