// Package webhook is what the API server asks at admission: it puts package injector
// behind it, writes the default class into EventStores, and keeps the certificate that
// the API server asks for, without cert-manager.
package webhook

import (
	"cmp"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"git.flowmade.one/flowmade-one/aether-operator/internal/injector"
	"git.flowmade.one/flowmade-one/aether-operator/internal/ports"
)

// Names of the objects of config/ that this package works with.
const (
	// Path is where the webhook for pods is served, with a secret part behind it that
	// the operator writes into the MutatingWebhookConfiguration.
	Path = "/mutate--v1-pod"
	// HookName is the name of that webhook in the configuration.
	HookName = "injector.aether.flowmade.one"
	// StorePath and StoreHookName are those of the webhook for EventStores.
	StorePath     = "/mutate-aether-flowmade-one-v1alpha1-eventstore"
	StoreHookName = "defaults.aether.flowmade.one"
	// ConfigurationName is the MutatingWebhookConfiguration whose caBundle is kept.
	ConfigurationName = "aether-injector"
	// ServiceName is the Service, in the operator's namespace, that the API server
	// dials.
	ServiceName = "aether-webhook"
	// SecretName is the Secret, in the operator's namespace, with the CA that all
	// replicas share. It is made when it is not there.
	SecretName = "aether-webhook-ca"
	// DefaultNamespace is the operator's namespace in config/default.
	DefaultNamespace = "aether-system"
)

// basePaths are the paths of our webhooks, without the secret part.
var basePaths = map[string]string{HookName: Path, StoreHookName: StorePath}

const (
	// DefaultCheckInterval costs two reads a replica. It bounds how long labelled
	// pods are refused after somebody has reset the caBundle.
	DefaultCheckInterval = time.Minute
	// DefaultCertificateLifetime is that of a serving certificate, which only ever
	// is in the memory of one replica. It is renewed in the last third.
	DefaultCertificateLifetime = 30 * 24 * time.Hour
	// DefaultAuthorityLifetime is that of the CA. It is renewed in the last third.
	DefaultAuthorityLifetime = 10 * 365 * 24 * time.Hour
)

// Options are the settings of the webhook. The zero value of each is its default.
type Options struct {
	// SidecarImage is the image of the sidecar where a pod names none. Without
	// it, pods that name none are refused.
	SidecarImage string
	// Namespace is where the operator runs: the CA's Secret and the Service are
	// there. Defaults to POD_NAMESPACE, to the namespace of the pod's
	// ServiceAccount, to DefaultNamespace.
	Namespace string
	// CheckInterval is the pause between two looks at the CA, the caBundle and the
	// serving certificate.
	CheckInterval time.Duration
	// CertificateLifetime is that of the serving certificate, with a granularity
	// of a second. It must be longer than CheckInterval by far.
	CertificateLifetime time.Duration
	// AuthorityLifetime is that of the CA, longer than CertificateLifetime.
	AuthorityLifetime time.Duration
}

func (o Options) withDefaults() Options {
	o.Namespace = cmp.Or(o.Namespace, operatorNamespace())
	o.CheckInterval = cmp.Or(o.CheckInterval, DefaultCheckInterval)
	o.CertificateLifetime = cmp.Or(o.CertificateLifetime, DefaultCertificateLifetime)
	o.AuthorityLifetime = cmp.Or(o.AuthorityLifetime, DefaultAuthorityLifetime)
	return o
}

// namespaceFile is where a kubelet writes the namespace of a pod.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

func operatorNamespace() string {
	if namespace := os.Getenv("POD_NAMESPACE"); namespace != "" {
		return namespace
	}
	// Outside of a cluster the file is not there.
	if content, err := os.ReadFile(namespaceFile); err == nil {
		return cmp.Or(strings.TrimSpace(string(content)), DefaultNamespace)
	}
	return DefaultNamespace
}

// SetupWithManager serves the webhooks for pods and EventStores on the manager's webhook server,
// gives that server its certificate, and adds the check "webhook" to /readyz: the port is
// open, and the API server trusts the certificate. All of it works on each
// replica, the leader or not.
//
// The port is that of the manager's WebhookServer, made by ports.NewWebhook.
func SetupWithManager(mgr ctrl.Manager, options Options) error {
	options = options.withDefaults()
	server, ok := mgr.GetWebhookServer().(*ports.Webhook)
	if !ok {
		return fmt.Errorf("set up the webhook: the manager's webhook server is a %T, which takes no certificate: use ports.NewWebhook", mgr.GetWebhookServer())
	}
	certificates := newCertificates(mgr, server, options)
	server.Options.TLSOpts = append(server.Options.TLSOpts, certificates.configureTLS)
	intake := newIntake()
	protect := func(handler admission.Handler) http.Handler {
		return certificates.callers.only(oneCallEach(intake.bound(&admission.Webhook{Handler: handler})))
	}
	server.Register(Path+"/{"+secretParameter+"}", protect(&podHandler{
		decoder: admission.NewDecoder(mgr.GetScheme()),
		cached:  mgr.GetClient(),
		live:    mgr.GetAPIReader(),
		config:  injector.Config{Image: options.SidecarImage},
	}))
	server.Register(StorePath+"/{"+secretParameter+"}", protect(&storeHandler{cached: mgr.GetClient()}))
	if err := mgr.Add(certificates); err != nil {
		return fmt.Errorf("add the webhook's certificates to the manager: %w", err)
	}
	if err := mgr.AddReadyzCheck("webhook", certificates.ready); err != nil {
		return fmt.Errorf("add the webhook to /readyz: %w", err)
	}
	return nil
}

// oneCallEach closes the connection of each call behind it. The API server calls over
// HTTP/1.1 and would keep the connection, past the moment when the Service leads to
// another replica, and call on it just as the replica that ends closes it: a pod would
// be refused. A handshake for each labelled pod costs about a millisecond.
func oneCallEach(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		next.ServeHTTP(w, r)
	})
}
