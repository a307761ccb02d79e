package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/injector"
)

// lookupTimeout bounds the search for the stores of a pod, which only serves a
// warning, well within the 5 s that the API server waits.
const lookupTimeout = 2 * time.Second

// +kubebuilder:rbac:groups=aether.flowmade.one,resources=eventstores,verbs=get;list;watch

// podHandler answers the API server about pods.
type podHandler struct {
	decoder admission.Decoder
	// cached knows the EventStores that were there a moment ago; live is asked
	// before a warning says that one is not there, since a store and its pods are
	// often applied together.
	cached, live client.Reader
	config       injector.Config
}

// Handle injects the sidecar into a pod that is created.
func (h *podHandler) Handle(ctx context.Context, request admission.Request) admission.Response {
	if request.Operation != admissionv1.Create || request.SubResource != "" {
		return admission.Allowed("only the creation of a pod can add a sidecar")
	}
	pod := &corev1.Pod{}
	if err := h.decoder.Decode(request, pod); err != nil {
		return refused(fmt.Sprintf("decode the pod: %v", err))
	}
	result, err := injector.Inject(pod, h.config)
	if err != nil {
		return refused(err.Error())
	}
	if result.Outcome == injector.Skipped {
		return admission.Allowed(result.Reason)
	}
	changed, err := applyTo(request.Object.Raw, pod, result.Pod)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, fmt.Errorf("add the sidecar to the pod: %w", err))
	}
	// A pod with a generated name may have no namespace yet; the request has one.
	warnings := append(result.Warnings, h.missing(ctx, request.Namespace, result.Stores)...)
	return admission.PatchResponseFromRaw(request.Object.Raw, changed).WithWarnings(warnings...)
}

// refused is an answer that kubectl shows, and that Events of a ReplicaSet carry.
func refused(message string) admission.Response {
	return admission.Response{AdmissionResponse: admissionv1.AdmissionResponse{
		Result: &metav1.Status{Code: http.StatusBadRequest, Reason: metav1.StatusReasonBadRequest, Message: message},
	}}
}

// applyTo is the pod as the API server sent it with what the injection changed
// in the pod as we read it. The API server may be newer and know fields that
// our Pod does not, which would be lost from every container that moves.
func applyTo(raw []byte, before, after *corev1.Pod) ([]byte, error) {
	beforeJSON, err := json.Marshal(before)
	if err != nil {
		return nil, err
	}
	afterJSON, err := json.Marshal(after)
	if err != nil {
		return nil, err
	}
	// A merge by name cannot tell two variables of one name apart, which are
	// allowed, and fails where a name is missing, which the API server refuses. Then
	// what we know of the pod is all there is to go by.
	merged, err := mergeChange(raw, beforeJSON, afterJSON)
	var check corev1.Pod
	if err != nil || json.Unmarshal(merged, &check) != nil || !equality.Semantic.DeepEqual(&check, after) {
		return afterJSON, nil
	}
	return merged, nil
}

// mergeChange makes the change from before to after in a pod of its own.
func mergeChange(raw, before, after []byte) ([]byte, error) {
	patch, err := strategicpatch.CreateTwoWayMergePatch(before, after, corev1.Pod{})
	if err != nil {
		return nil, err
	}
	return strategicpatch.StrategicMergePatch(raw, patch, corev1.Pod{})
}

// missing warns of stores that do not exist. A store that cannot be looked up is
// none to warn of: the pod starts when its binding is there, either way.
func (h *podHandler) missing(ctx context.Context, namespace string, stores []string) []string {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	var warnings []string
	for _, store := range stores {
		key := client.ObjectKey{Namespace: namespace, Name: store}
		if h.cached.Get(ctx, key, &v1alpha1.EventStore{}) == nil {
			continue
		}
		switch err := h.live.Get(ctx, key, &v1alpha1.EventStore{}); {
		case apierrors.IsNotFound(err):
			warnings = append(warnings, fmt.Sprintf("EventStore %s does not exist in namespace %s: the pod starts when its binding, Secret %s, does", store, namespace, v1alpha1.BindingName(store)))
		case err != nil:
			logf.FromContext(ctx).Error(err, "Could not look up the EventStore of a pod", "namespace", namespace, "store", store)
		}
	}
	return warnings
}
