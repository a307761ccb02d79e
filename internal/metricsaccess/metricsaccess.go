// Package metricsaccess lets those read the metrics of the operator whom the API
// server knows by their token and allows to get the path.
//
// It does what the filter of controller-runtime does, which would be preferred if
// it did not bring the libraries of an API server with it: they are resident with
// 14 MiB, a fifth of what the operator with a thousand stores takes.
package metricsaccess

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/hashicorp/golang-lru/v2/expirable"
	"golang.org/x/time/rate"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authenticationclient "k8s.io/client-go/kubernetes/typed/authentication/v1"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"git.flowmade.one/flowmade-one/aether-operator/internal/openport"
)

const (
	// askTimeout bounds the questions to the API server for one request.
	askTimeout = 10 * time.Second
	// answerAge is how long an answer of the API server holds: a token or a right
	// that is taken back opens nothing for longer. Scrapes are seconds apart.
	answerAge = time.Minute
	// answers is for how many tokens an answer is kept: those who scrape are few.
	answers = 64
	// A peer has reviewsAtOnce tokens reviewed, and then one more each reviewEvery: whoever
	// reaches the port may try any, and the API server answers for all of the operator.
	reviewsAtOnce = 8
	reviewEvery   = time.Second
	// peers is of how many that is known.
	peers = 1024
)

// Filter is a metricsserver.Options.FilterProvider. Whoever has no token that the
// API server accepts gets 401, whoever may not get the path 403, whoever tries very many
// tokens 429, and 503 when the API server cannot be asked.
func Filter(config *rest.Config, client *http.Client) (metricsserver.Filter, error) {
	authentication, err := authenticationclient.NewForConfigAndClient(config, client)
	if err != nil {
		return nil, fmt.Errorf("make a client for TokenReviews: %w", err)
	}
	authorization, err := authorizationclient.NewForConfigAndClient(config, client)
	if err != nil {
		return nil, fmt.Errorf("make a client for SubjectAccessReviews: %w", err)
	}
	g := &gate{
		tokens:   authentication.TokenReviews(),
		accesses: authorization.SubjectAccessReviews(),
		let:      expirable.NewLRU[question, int](answers, nil, answerAge),
		refused:  expirable.NewLRU[question, int](answers, nil, answerAge),
		peers:    expirable.NewLRU[string, *rate.Limiter](peers, nil, 0),
	}
	return func(log logr.Logger, handler http.Handler) (http.Handler, error) {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			status, err := g.ask(r)
			if err != nil {
				log.Error(err, "Could not ask the API server who reads the metrics", "path", r.URL.Path)
			}
			if status != http.StatusOK {
				http.Error(w, http.StatusText(status), status)
				return
			}
			handler.ServeHTTP(w, r)
		}), nil
	}, nil
}

// gate asks the API server, and remembers what it said.
type gate struct {
	tokens   authenticationclient.TokenReviewInterface
	accesses authorizationclient.SubjectAccessReviewInterface
	// let and refused are apart: tokens that open nothing push none out that do.
	let, refused *expirable.LRU[question, int]

	mu    sync.Mutex
	peers *expirable.LRU[string, *rate.Limiter]
}

// question is a token, which is not kept itself, and what it is to open.
type question struct {
	token      [sha256.Size]byte
	path, verb string
}

func (g *gate) ask(r *http.Request) (status int, err error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return http.StatusUnauthorized, nil
	}
	q := question{sha256.Sum256([]byte(token)), r.URL.Path, strings.ToLower(r.Method)}
	for _, known := range []*expirable.LRU[question, int]{g.let, g.refused} {
		if status, ok := known.Get(q); ok {
			return status, nil
		}
	}
	if !g.mayAsk(openport.PeerOf(r.RemoteAddr).Network) {
		return http.StatusTooManyRequests, nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	if status, err = g.review(ctx, token, q); err != nil {
		return http.StatusServiceUnavailable, err
	}
	if status == http.StatusOK {
		g.let.Add(q, status)
	} else {
		g.refused.Add(q, status)
	}
	return status, nil
}

// mayAsk says whether a token of a peer is to be reviewed now.
func (g *gate) mayAsk(peer string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	limiter, known := g.peers.Get(peer)
	if !known {
		limiter = rate.NewLimiter(rate.Every(reviewEvery), reviewsAtOnce)
		g.peers.Add(peer, limiter)
	}
	return limiter.Allow()
}

func (g *gate) review(ctx context.Context, token string, q question) (int, error) {
	who, err := g.tokens.Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		return 0, fmt.Errorf("review a token: %w", err)
	}
	if !who.Status.Authenticated {
		return http.StatusUnauthorized, nil
	}
	extra := map[string]authorizationv1.ExtraValue{}
	for key, value := range who.Status.User.Extra {
		extra[key] = authorizationv1.ExtraValue(value)
	}
	may, err := g.accesses.Create(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: who.Status.User.Username, Groups: who.Status.User.Groups, UID: who.Status.User.UID, Extra: extra,
		NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: q.path, Verb: q.verb},
	}}, metav1.CreateOptions{})
	if err != nil {
		return 0, fmt.Errorf("review whether %s may %s %s: %w", who.Status.User.Username, q.verb, q.path, err)
	}
	if !may.Status.Allowed {
		return http.StatusForbidden, nil
	}
	return http.StatusOK, nil
}
