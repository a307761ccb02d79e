package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
)

const (
	// checkTimeout bounds one look at the API server.
	checkTimeout = 15 * time.Second
	// firstRetry is the pause after the first failed look; it doubles up to the
	// check interval.
	firstRetry = time.Second
)

// +kubebuilder:rbac:groups="",namespace=aether-system,resources=secrets,verbs=create
// +kubebuilder:rbac:groups="",namespace=aether-system,resources=secrets,resourceNames=aether-webhook-ca,verbs=get;update
// +kubebuilder:rbac:groups=admissionregistration.k8s.io,resources=mutatingwebhookconfigurations,resourceNames=aether-injector,verbs=get;patch

// certificates keeps the certificate of the webhook server. The CA is in a
// Secret that all replicas share; each replica signs a certificate for itself,
// which stays in its memory, so that no volume, file or leader is needed.
//
// Objects are read from the API server and not from a cache: two reads a minute
// need no watch, and only rights on two names.
type certificates struct {
	live    client.Reader
	writer  client.Writer
	started healthz.Checker
	options Options
	// names are those that the API server may dial: the Service's, and this
	// machine's for an operator that runs outside of the cluster.
	names []string

	serving atomic.Pointer[tls.Certificate]
	// callers are those who know the secret part of the path: the API server.
	callers callers
	// trusted is what the caBundle held when it was seen last.
	trusted atomic.Pointer[x509.CertPool]
	// seen is the CA at the last look, which only the loop of Start uses.
	seen *x509.Certificate
}

func newCertificates(mgr ctrl.Manager, server webhook.Server, options Options) *certificates {
	service := ServiceName + "." + options.Namespace + ".svc"
	return &certificates{
		live: mgr.GetAPIReader(), writer: mgr.GetClient(), started: server.StartedChecker(), options: options,
		names: []string{service, service + ".cluster.local", ServiceName + "." + options.Namespace, ServiceName, "localhost", "127.0.0.1", "::1"},
	}
}

// configureTLS makes a webhook server ask for the certificate at each handshake.
func (c *certificates) configureTLS(config *tls.Config) {
	config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		if certificate := c.serving.Load(); certificate != nil {
			return certificate, nil
		}
		return nil, errors.New("the webhook has no certificate yet")
	}
}

// NeedLeaderElection says that each replica needs its certificate.
func (c *certificates) NeedLeaderElection() bool { return false }

// Start looks after the certificate until ctx ends. What fails is logged and
// tried again: pods without the label do not depend on it, nor do the stores.
func (c *certificates) Start(ctx context.Context) error {
	log := logf.FromContext(ctx).WithName("webhook")
	first := min(firstRetry, c.options.CheckInterval)
	pause := first
	for {
		next := c.options.CheckInterval
		if err := c.check(ctx); err == nil {
			pause = first
		} else if ctx.Err() == nil {
			next = pause
			pause = min(pause*2, c.options.CheckInterval)
			log.Error(err, "Could not look after the webhook's certificate", "retryAfter", next.String())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(next):
		}
	}
}

// check brings the Secret, the caBundle and the serving certificate up to date.
func (c *certificates) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	authority, err := c.ensureAuthority(ctx)
	if err != nil {
		return fmt.Errorf("keep the CA of the webhook in Secret %s/%s: %w", c.options.Namespace, SecretName, err)
	}
	// A new secret path is published a turn after it was seen: by then the other
	// replicas know it too.
	secret, err := authority.secretPath()
	if err != nil {
		return err
	}
	c.callers.learn(secret)
	wasTrusted, err := c.publish(ctx, authority, published{secret: secret, settled: c.seen.Equal(authority.certificate)})
	// Another replica may have published it a moment ago. By the next look the API
	// server knows.
	settled := wasTrusted && c.seen.Equal(authority.certificate)
	c.seen = authority.certificate
	return errors.Join(err, c.serve(authority, settled))
}

// ensureAuthority reads the CA, and makes one where there is none or it is near
// its end. Replicas race for it: who loses reads what the winner wrote.
func (c *certificates) ensureAuthority(ctx context.Context) (current *authority, err error) {
	lostRace := func(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }
	err = retry.OnError(retry.DefaultBackoff, lostRace, func() error {
		current, err = c.readOrMakeAuthority(ctx)
		return err
	})
	return current, err
}

func (c *certificates) readOrMakeAuthority(ctx context.Context) (*authority, error) {
	secret := &corev1.Secret{}
	err := c.live.Get(ctx, client.ObjectKey{Namespace: c.options.Namespace, Name: SecretName}, secret)
	if client.IgnoreNotFound(err) != nil {
		return nil, err
	}
	now := time.Now()
	if err == nil {
		current, err := parseAuthority(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
		if err == nil && !inLastThird(current.certificate, now, c.options.AuthorityLifetime) {
			return current, nil
		}
		// A CA that cannot be used is of no use to anyone: it is replaced.
	}
	made, err := newAuthority(now, c.options.AuthorityLifetime)
	if err != nil {
		return nil, err
	}
	certificatePEM, keyPEM, err := made.encode()
	if err != nil {
		return nil, err
	}
	exists := secret.ResourceVersion != ""
	secret.Namespace, secret.Name = c.options.Namespace, SecretName
	secret.Data = map[string][]byte{corev1.TLSCertKey: certificatePEM, corev1.TLSPrivateKeyKey: keyPEM}
	if exists {
		// The resourceVersion that was read makes a second writer lose.
		return made, c.writer.Update(ctx, secret)
	}
	secret.Type = corev1.SecretTypeTLS
	return made, c.writer.Create(ctx, secret)
}

// published is the secret path that the API server is to call.
type published struct {
	secret string
	// settled: every replica has had the time to learn it.
	settled bool
}

// publish puts the CA into the caBundle of each webhook of the configuration, and the
// secret into the paths. It says whether the CA was there before.
func (c *certificates) publish(ctx context.Context, authority *authority, path published) (wasTrusted bool, err error) {
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		wasTrusted, err = c.patchConfiguration(ctx, authority, path)
		return err
	})
	switch {
	case apierrors.IsNotFound(err):
		c.trusted.Store(nil)
		return false, fmt.Errorf("put the webhook's CA into MutatingWebhookConfiguration %s: %w: apply config/webhook; until then no pod gets a sidecar", ConfigurationName, err)
	case err != nil:
		return false, fmt.Errorf("put the webhook's CA into MutatingWebhookConfiguration %s: %w", ConfigurationName, err)
	}
	return wasTrusted, nil
}

func (c *certificates) patchConfiguration(ctx context.Context, authority *authority, path published) (wasTrusted bool, err error) {
	configuration := &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: ConfigurationName}}
	if err := c.live.Get(ctx, client.ObjectKeyFromObject(configuration), configuration); err != nil {
		return false, err
	}
	before := configuration.DeepCopy()
	wasTrusted = true
	pool := x509.NewCertPool()
	for i := range configuration.Webhooks {
		bundle := &configuration.Webhooks[i].ClientConfig.CABundle
		wasTrusted = wasTrusted && slices.ContainsFunc(parseBundle(*bundle), authority.certificate.Equal)
		trusted := authority.bundle(*bundle, time.Now(), c.options.CertificateLifetime)
		for _, certificate := range trusted {
			pool.AddCert(certificate)
		}
		if encoded := encodeBundle(trusted); !bytes.Equal(*bundle, encoded) {
			*bundle = encoded
		}
		c.placeSecret(&configuration.Webhooks[i], path)
	}
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if !slices.EqualFunc(before.Webhooks, configuration.Webhooks, sameClientConfig) {
		if err := c.writer.Patch(ctx, configuration, patch); err != nil {
			return false, err
		}
	}
	c.trusted.Store(pool)
	return wasTrusted, nil
}

// placeSecret puts the secret into the path of one of our webhooks. What the API
// server is told already goes on to be known here: another replica may have put it
// there.
func (c *certificates) placeSecret(hook *admissionregistrationv1.MutatingWebhook, path published) {
	base, ours := basePaths[hook.Name]
	if !ours {
		return
	}
	current := secretIn(&hook.ClientConfig, base)
	c.callers.learn(current)
	if current == "" || path.settled {
		setSecret(&hook.ClientConfig, base, path.secret)
	}
}

func sameClientConfig(a, b admissionregistrationv1.MutatingWebhook) bool {
	return equality.Semantic.DeepEqual(a.ClientConfig, b.ClientConfig)
}

// serve signs a certificate when one is due. A new CA signs once it is settled:
// seen in the caBundle for a turn.
func (c *certificates) serve(authority *authority, settled bool) error {
	now := time.Now()
	if current := c.serving.Load(); current != nil && now.Before(current.Leaf.NotAfter) {
		if !authority.signed(current.Leaf) && !settled {
			return nil
		}
		if authority.signed(current.Leaf) && !inLastThird(current.Leaf, now, c.options.CertificateLifetime) {
			return nil
		}
	}
	certificate, err := authority.sign(c.names, now, c.options.CertificateLifetime)
	if err != nil {
		return err
	}
	c.serving.Store(certificate)
	return nil
}

// ready checks that the port is open, and that the API server trusts the certificate.
func (c *certificates) ready(request *http.Request) error {
	certificate, trusted := c.serving.Load(), c.trusted.Load()
	switch {
	case certificate == nil:
		return errors.New("the webhook has no certificate yet")
	case trusted == nil:
		return fmt.Errorf("MutatingWebhookConfiguration %s has no CA of ours yet", ConfigurationName)
	}
	if _, err := certificate.Leaf.Verify(x509.VerifyOptions{Roots: trusted, DNSName: c.names[0]}); err != nil {
		return fmt.Errorf("the API server does not trust the webhook's certificate: %w", err)
	}
	return c.started(request)
}
