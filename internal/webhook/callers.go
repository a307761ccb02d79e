package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
)

// An API server shows a webhook no credentials unless its own configuration says
// so. So the last part of the path is a secret that the API server is told, in
// the MutatingWebhookConfiguration: who does not know it is answered 404, has
// nothing read or worked on, and learns nothing of the cluster. It is in the errors of an
// API server whose call fails, so that others may come to know it: see turns.

// secretPathBytes is how many bytes of a hash the secret part of the path has.
const secretPathBytes = 20

// secretPath is the secret part of the path. It comes of the key of the CA, which all
// replicas share, and is replaced with it.
func (a *authority) secretPath() (string, error) {
	key, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return "", fmt.Errorf("encode the key of the CA: %w", err)
	}
	hash := hmac.New(sha256.New, key)
	hash.Write([]byte("the path of the webhook"))
	return hex.EncodeToString(hash.Sum(nil)[:secretPathBytes]), nil
}

// keptSecrets bounds how many secret paths are remembered: one for each CA of the
// last while.
const keptSecrets = 8

// callers remembers the secret paths that the API server may call. An earlier one
// stays good: an API server that has not seen a change yet goes on with it.
type callers struct {
	mu      sync.Mutex
	secrets []string
}

func (c *callers) learn(secret string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !isSecretPath(secret) || slices.Contains(c.secrets, secret) {
		return
	}
	c.secrets = append(c.secrets, secret)
	c.secrets = c.secrets[max(0, len(c.secrets)-keptSecrets):]
}

func (c *callers) know(secret string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := 0
	for _, one := range c.secrets {
		known |= subtle.ConstantTimeCompare([]byte(one), []byte(secret))
	}
	return known == 1
}

// secretParameter is the name of the secret part in a pattern of a path.
const secretParameter = "secret"

// only lets the API server in.
func (c *callers) only(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !c.know(r.PathValue(secretParameter)) {
			http.NotFound(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func isSecretPath(text string) bool {
	decoded, err := hex.DecodeString(text)
	return err == nil && len(decoded) == secretPathBytes
}

// secretIn is the secret part of the path that a webhook is called on, or empty.
func secretIn(config *admissionregistrationv1.WebhookClientConfig, base string) string {
	path := ""
	switch {
	case config.Service != nil && config.Service.Path != nil:
		path = *config.Service.Path
	case config.URL != nil:
		if u, err := url.Parse(*config.URL); err == nil {
			path = u.Path
		}
	}
	secret, found := strings.CutPrefix(path, base+"/")
	if !found || !isSecretPath(secret) {
		return ""
	}
	return secret
}

// setSecret makes the API server call a webhook on the path with the secret.
func setSecret(config *admissionregistrationv1.WebhookClientConfig, base, secret string) {
	path := base + "/" + secret
	if config.Service != nil {
		config.Service.Path = &path
		return
	}
	if config.URL == nil {
		return
	}
	if u, err := url.Parse(*config.URL); err == nil {
		u.Path, u.RawPath = path, ""
		config.URL = new(u.String())
	}
}
