package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/injector"
)

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
	// Before the pod is read: what it would take is bounded by then.
	if reason := tooLarge(request.Object.Raw); reason != "" {
		return refused(reason)
	}
	pod := &corev1.Pod{}
	if err := h.decoder.Decode(request, pod); err != nil {
		return refused(fmt.Sprintf("decode the pod: %v", err))
	}
	return h.inject(ctx, request.Namespace, pod)
}

// inject answers with a patch. A pod with a generated name may have no namespace
// yet; the request has one.
func (h *podHandler) inject(ctx context.Context, namespace string, pod *corev1.Pod) admission.Response {
	stores := h.newLookup(namespace)
	config, warnings := h.surroundings(ctx, stores, pod)
	result, err := injector.Inject(pod, config)
	if err != nil {
		return refused(err.Error())
	}
	if result.Outcome == injector.Skipped {
		return admission.Allowed(result.Reason)
	}
	warnings = slices.Concat(result.Warnings, warnings, stores.missing(ctx, result.Stores))
	return answer(patchOf(pod, result.Pod)).WithWarnings(warnings...)
}

// maxObjects bounds how many objects, in the sense of JSON, a pod may be made of,
// with those that tell who wrote which field: it bounds the memory that it takes.
const maxObjects = 60_000

// tooLarge says why a pod is not read, as far as that can be told before it is.
func tooLarge(raw []byte) string {
	if bytes.Count(raw, []byte("{")) > maxObjects {
		return fmt.Sprintf("the pod is made of more than %d objects: split it, or take the label %s away", maxObjects, v1alpha1.LabelEventStore)
	}
	if costly(raw) {
		return "the pod has a quantity of 1,000 digits and more, or with an exponent below -999: nobody needs that, and to read it takes long"
	}
	var shape struct {
		Spec struct {
			InitContainers, Containers []struct {
				Name string
				Env  []struct{ Name string }
			}
			// Of no size: that they are there is all that is read of them.
			Volumes []struct{}
		}
	}
	if json.Unmarshal(raw, &shape) != nil {
		// The decoder says what is wrong.
		return ""
	}
	size := injector.Size{Volumes: len(shape.Spec.Volumes)}
	for _, container := range append(shape.Spec.InitContainers, shape.Spec.Containers...) {
		variables := make([]string, len(container.Env))
		for i := range variables {
			variables[i] = container.Env[i].Name
		}
		size.Add(container.Name, variables)
	}
	return size.Excess()
}

// refused is an answer that kubectl shows, and that Events of a ReplicaSet carry.
func refused(message string) admission.Response {
	return admission.Response{AdmissionResponse: admissionv1.AdmissionResponse{
		Result: &metav1.Status{Code: http.StatusBadRequest, Reason: metav1.StatusReasonBadRequest, Message: message},
	}}
}
