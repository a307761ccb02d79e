package access

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// What a TokenReview says of the pod that a token is bound to.
const (
	extraPodName = "authentication.kubernetes.io/pod-name"
	extraPodUID  = "authentication.kubernetes.io/pod-uid"
)

// proof is what a token proves.
type proof struct {
	identity Identity
	expires  time.Time
}

// refusal is why a connection is not let in: its own fault, and not that of a
// call that failed.
type refusal struct{ reason string }

func (r *refusal) Error() string { return r.reason }

func refused(format string, args ...any) error { return &refusal{fmt.Sprintf(format, args...)} }

// CreateReview asks the API server to review a token.
type CreateReview func(context.Context, *authenticationv1.TokenReview) error

// review asks the API server whose a token is. Nothing is kept: who is not what
// its token says any more, since the pod is gone say, is refused at once.
func review(ctx context.Context, create CreateReview, token string) (proof, error) {
	if token == "" {
		return proof{}, refused("it presented no token of a service account")
	}
	r := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{v1alpha1.TokenAudience}}}
	if err := create(ctx, r); err != nil {
		return proof{}, fmt.Errorf("ask the API server whose the token is: %w", err)
	}
	if !r.Status.Authenticated {
		return proof{}, refused("the API server does not take its token for the audience %s: %s", v1alpha1.TokenAudience, r.Status.Error)
	}
	if !slices.Contains(r.Status.Audiences, v1alpha1.TokenAudience) {
		// An API server that knows no audiences has not looked at it.
		return proof{}, refused("the API server did not check that its token is for the audience %s", v1alpha1.TokenAudience)
	}
	identity, err := identityOf(r.Status.User)
	if err != nil {
		return proof{}, err
	}
	expires, err := expiryOf(token)
	return proof{identity, expires}, err
}

func identityOf(user authenticationv1.UserInfo) (Identity, error) {
	account, found := strings.CutPrefix(user.Username, "system:serviceaccount:")
	namespace, name, both := strings.Cut(account, ":")
	if !found || !both {
		return Identity{}, refused("its token is that of %s, who is no service account", user.Username)
	}
	identity := Identity{Namespace: namespace, ServiceAccount: name}
	for key, value := range map[string]*string{extraPodName: &identity.PodName, extraPodUID: &identity.PodUID} {
		if values := user.Extra[key]; len(values) == 1 {
			*value = values[0]
		}
	}
	if identity.PodUID == "" {
		return Identity{}, refused("the token of %s is bound to no pod: use a projected volume", user.Username)
	}
	return identity, nil
}

// expiryOf reads when a token ends, which the review has verified and does not
// tell.
func expiryOf(token string) (time.Time, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}, refused("its token is no JWT, so that its end is not known")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}, refused("the claims of its token cannot be decoded")
	}
	var claims struct {
		Expires int64 `json:"exp"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil || claims.Expires <= 0 {
		return time.Time{}, refused("its token names no time at which it ends")
	}
	return time.Unix(claims.Expires, 0), nil
}
