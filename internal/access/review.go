package access

import (
	"context"
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
type refusal struct {
	reason string
	// again: it was refused for the same before, and told then.
	again bool
}

func (r *refusal) Error() string { return r.reason }

func refused(format string, args ...any) error { return &refusal{reason: fmt.Sprintf(format, args...)} }

// CreateReview asks the API server to review a token.
type CreateReview func(context.Context, *authenticationv1.TokenReview) error

// review asks the API server whose a token is. Nothing good is kept: who is not what
// its token says any more, since the pod is gone say, is refused at once.
func (c Config) review(ctx context.Context, token string) (proof, error) {
	expires, err := inspect(token)
	if err != nil {
		return proof{}, err
	}
	if c.refused.has(token) {
		return proof{}, &refusal{reason: "its token was refused a moment ago", again: true}
	}
	r := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{v1alpha1.TokenAudience}}}
	if err := c.Review(ctx, r); err != nil {
		return proof{}, fmt.Errorf("ask the API server whose the token is: %w", err)
	}
	if !r.Status.Authenticated {
		c.refused.add(token)
		return proof{}, refused("the API server does not take its token for the audience %s: %s", v1alpha1.TokenAudience, clip(r.Status.Error))
	}
	if !slices.Contains(r.Status.Audiences, v1alpha1.TokenAudience) {
		// An API server that knows no audiences has not looked at it.
		return proof{}, refused("the API server did not check that its token is for the audience %s", v1alpha1.TokenAudience)
	}
	identity, err := identityOf(r.Status.User)
	return proof{identity, expires}, err
}

const serviceAccountPrefix = "system:serviceaccount:"

func identityOf(user authenticationv1.UserInfo) (Identity, error) {
	account, found := strings.CutPrefix(user.Username, serviceAccountPrefix)
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
