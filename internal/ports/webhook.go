package ports

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"

	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
)

// MaxCalls is how many connections the webhook has at once. An API server opens one for each
// pod that it creates, and works on 200 requests that change something at once.
const MaxCalls = 512

// Webhook is the webhook server of controller-runtime on a port of this package.
type Webhook struct {
	*webhook.DefaultServer
	listens atomic.Bool
}

// NewWebhook makes one for a host, empty for all addresses, and a port.
func NewWebhook(host string, port int) *Webhook {
	return &Webhook{DefaultServer: &webhook.DefaultServer{Options: webhook.Options{Host: host, Port: port, WebhookMux: http.NewServeMux()}}}
}

// Start serves until the context ends. The certificate is that of Options.TLSOpts.
func (w *Webhook) Start(ctx context.Context) error {
	secure := &tls.Config{}
	for _, change := range w.Options.TLSOpts {
		change(secure)
	}
	if secure.GetCertificate == nil {
		return errors.New("serve the webhook: Options.TLSOpts gives no certificate: set GetCertificate")
	}
	listener, err := Listen(ctx, net.JoinHostPort(w.Options.Host, strconv.Itoa(w.Options.Port)), MaxCalls, secure)
	if err != nil {
		return fmt.Errorf("serve the webhook: %w", err)
	}
	w.listens.Store(true)
	return Server("webhook", listener, w.Options.WebhookMux).Start(ctx)
}

// StartedChecker fails until the port is open.
func (w *Webhook) StartedChecker() healthz.Checker {
	return func(*http.Request) error {
		if !w.listens.Load() {
			return errors.New("the webhook server has not been started yet")
		}
		return nil
	}
}
