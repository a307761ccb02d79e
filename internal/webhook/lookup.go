package webhook

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

const (
	// lookupTimeout bounds the search for the class and for the stores of a pod, well
	// within the 5 s that the API server waits.
	lookupTimeout = 2 * time.Second
	// maxQuestions is about how many stores the API server is asked for one pod. A pod
	// may name 32, and need not wait, nor let others wait, for an answer on each.
	maxQuestions = 3
)

// errNotAsked: the cache does not know the store, and enough was asked.
var errNotAsked = errors.New("the API server is asked about no more stores for one pod")

// lookup finds the stores of one pod: in the cache, or else at the API server, since a
// store and its pods are often applied together. Each is asked for once.
type lookup struct {
	cached, live client.Reader
	namespace    string
	// answers are those of the API server, by the name of the store.
	answers map[string]answered
}

type answered struct {
	store *v1alpha1.EventStore
	err   error
}

func (h *podHandler) newLookup(namespace string) *lookup {
	return &lookup{cached: h.cached, live: h.live, namespace: namespace, answers: map[string]answered{}}
}

// get gives a store, an error that says NotFound if it does not exist, or errNotAsked.
// The store is never nil: it is empty with an error.
func (l *lookup) get(ctx context.Context, name string) (*v1alpha1.EventStore, error) {
	key, store := client.ObjectKey{Namespace: l.namespace, Name: name}, &v1alpha1.EventStore{}
	if l.cached.Get(ctx, key, store) == nil {
		return store, nil
	}
	known, asked := l.answers[name]
	if !asked && len(l.answers) == maxQuestions {
		return &v1alpha1.EventStore{}, errNotAsked
	}
	if !asked {
		known = answered{store: &v1alpha1.EventStore{}}
		known.err = l.live.Get(ctx, key, known.store)
		l.answers[name] = known
	}
	return known.store, known.err
}

// missing warns of stores that do not exist. A store that cannot be looked up is
// none to warn of: the pod starts when its binding is there, either way.
func (l *lookup) missing(ctx context.Context, stores []string) []string {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	var warnings, unknown []string
	for _, store := range stores {
		switch _, err := l.get(ctx, store); {
		case errors.Is(err, errNotAsked):
			unknown = append(unknown, store)
		case apierrors.IsNotFound(err):
			warnings = append(warnings, fmt.Sprintf("EventStore %s does not exist in namespace %s: the pod starts when its binding, Secret %s, does", store, l.namespace, v1alpha1.BindingName(store)))
		case err != nil:
			logf.FromContext(ctx).Error(err, "Could not look up the EventStore of a pod", "namespace", l.namespace, "store", store)
		}
	}
	if len(unknown) > 0 {
		warnings = append(warnings, fmt.Sprintf("EventStores %s do not exist in namespace %s, or were created a moment ago: the pod starts when the bindings of all its stores do", strings.Join(unknown, ", "), l.namespace))
	}
	return warnings
}
