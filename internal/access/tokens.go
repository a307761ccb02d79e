package access

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// claims are those of a token that can be judged without the API server. It says in
// the end whether they are true.
type claims struct {
	Audience audience `json:"aud"`
	Expires  int64    `json:"exp"`
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"`
}

// audience is one name, or a list of them.
type audience []string

func (a *audience) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(a))
}

// maxTokenBytes bounds a token: those of Kubernetes have some 1,500.
const maxTokenBytes = 8 << 10

// inspect refuses a token that no API server could take for what is asked here, and
// says when the others end. Which issuers there are is the API server's to know: it may
// have several, while one replaces another.
func inspect(token string) (time.Time, error) {
	if token == "" {
		return time.Time{}, refused("it presented no token of a service account")
	}
	if len(token) > maxTokenBytes {
		return time.Time{}, refused("its token has %d bytes: those of service accounts are shorter", len(token))
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 || parts[2] == "" {
		return time.Time{}, refused("its token is no signed JWT, as those of service accounts are")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}, refused("the claims of its token cannot be decoded")
	}
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil {
		return time.Time{}, refused("the claims of its token cannot be read")
	}
	expires := time.Unix(c.Expires, 0)
	switch {
	case c.Expires <= 0:
		return time.Time{}, refused("its token names no time at which it ends")
	case time.Since(expires) > leeway:
		return time.Time{}, refused("its token has ended at %s", expires.UTC().Format(time.RFC3339))
	case !slices.Contains(c.Audience, v1alpha1.TokenAudience):
		return time.Time{}, refused("its token is not for the audience %s", v1alpha1.TokenAudience)
	case c.Issuer == "" || !strings.HasPrefix(c.Subject, serviceAccountPrefix):
		return time.Time{}, refused("its token is not that of a service account")
	}
	return expires, nil
}

const (
	// rememberRefused is how long a token that was refused is refused
	// again without asking: who guesses or repeats costs it one review.
	rememberRefused = 10 * time.Second
	// maxRefused bounds how many are remembered, of 40 bytes each.
	maxRefused = 16 << 10
)

// refusedTokens remembers, for a while, hashes of what was refused.
type refusedTokens struct {
	mu    sync.Mutex
	until map[[sha256.Size]byte]time.Time
	// order is that in which they were refused, and so that in which they are forgotten.
	order [][sha256.Size]byte
}

func (r *refusedTokens) add(token string) {
	hash, now := sha256.Sum256([]byte(token)), time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.until == nil {
		r.until = map[[sha256.Size]byte]time.Time{}
	}
	if _, known := r.until[hash]; !known {
		r.order = append(r.order, hash)
	}
	r.until[hash] = now.Add(rememberRefused)
	for len(r.order) > maxRefused || len(r.order) > 0 && r.until[r.order[0]].Before(now) {
		delete(r.until, r.order[0])
		r.order = r.order[1:]
	}
}

func (r *refusedTokens) has(token string) bool {
	hash := sha256.Sum256([]byte(token))
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Before(r.until[hash])
}
