package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	admissionv1 "k8s.io/api/admission/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

// storeHandler writes the default class into an EventStore that names none, so that a
// store that is applied again, also in another cluster or after the default has moved,
// finds its streams.
type storeHandler struct {
	cached client.Reader
}

// className is all that is read of an EventStore.
type className struct {
	Spec *struct {
		ClassName string `json:"className"`
	} `json:"spec"`
}

func (c className) get() string {
	if c.Spec == nil {
		return ""
	}
	return c.Spec.ClassName
}

// Handle sets spec.className. It refuses nothing: what it cannot do the operator does,
// or tells.
func (h *storeHandler) Handle(ctx context.Context, request admission.Request) admission.Response {
	var now, before className
	if err := json.Unmarshal(request.Object.Raw, &now); err != nil {
		return admission.Errored(http.StatusBadRequest, fmt.Errorf("read spec.className of the EventStore: %w", err))
	}
	if now.get() != "" {
		return admission.Allowed("it names its class")
	}
	var name string
	var err error
	switch request.Operation {
	case admissionv1.Create:
		ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
		defer cancel()
		if name, err = defaultClass(ctx, h.cached); err != nil {
			logf.FromContext(ctx).Error(err, "Could not look up the default class", "namespace", request.Namespace, "name", request.Name)
			return admission.Allowed("the default class could not be looked up")
		}
	case admissionv1.Update:
		// A manifest that names no class is written over what the creation made of it.
		if err := json.Unmarshal(request.OldObject.Raw, &before); err != nil {
			return admission.Errored(http.StatusBadRequest, fmt.Errorf("read spec.className of the EventStore as it was: %w", err))
		}
		name = before.get()
	}
	if name == "" {
		return admission.Allowed("there is no class to write down")
	}
	step := operation{Op: "add", Path: "/spec/className", Value: name}
	if now.Spec == nil {
		step = operation{Op: "add", Path: "/spec", Value: map[string]string{"className": name}}
	}
	return answer([]operation{step})
}

// answer allows with a patch.
func answer(operations []operation) admission.Response {
	patch, err := json.Marshal(operations)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, fmt.Errorf("encode the patch: %w", err))
	}
	response := admission.Allowed("")
	response.Patch, response.PatchType = patch, new(admissionv1.PatchTypeJSONPatch)
	return response
}
