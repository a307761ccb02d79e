package access

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// Config is how the callouts of one class are answered.
type Config struct {
	// Class is the name of the EventStoreClass.
	Class string
	// Account is the NATS account that pods are placed in, and Domain the JetStream
	// domain of the streams.
	Account, Domain string
	// System is the NATS system that pods are let into, as the status of an EventStore
	// names it.
	System string
	// Issuer signs. XKey, nil where the servers do not encrypt, reads what they do.
	Issuer, XKey nkeys.KeyPair
	// Review asks the API server to review a token.
	Review CreateReview
	// Stores are the EventStores of the class that name one of these streams of
	// events.
	Stores func(ctx context.Context, streams []string) ([]v1alpha1.EventStore, error)

	// refused are tokens that the API server has refused, or that a pod came with too often,
	// and comings bounds how often a pod connects, let in or not.
	refused *refusedTokens
	comings *allowance
}

// Limits of what one pod has. A sidecar has one connection for its stores, and some
// that it has lost may not be noticed yet.
const (
	// maxConnections is how many connections a pod has at most, and so often it may
	// connect at once; comeEvery is how often it may after that.
	maxConnections = 32
	comeEvery      = 2 * time.Second
	// maxSubscriptions is how many one connection has.
	maxSubscriptions = 4096
)

// maxLifetime bounds a connection, whatever its token says: it comes back with a
// token of then.
const maxLifetime = time.Hour

// leeway is how far the clocks of a server and of the operator may be apart. An
// answer that comes too late is no danger: the server does not wait for it.
const leeway = 30 * time.Second

// Outcome is what came of a callout.
type Outcome string

const (
	// Granted: the connection is let in, to all or some of what it wants.
	Granted Outcome = "granted"
	// Refused: it is not.
	Refused Outcome = "refused"
	// Failed: it is not, and that is not its fault.
	Failed Outcome = "failed"
	// Malformed: what arrived is no callout of a server, and is not answered.
	Malformed Outcome = "malformed"
	// Dropped: there was more to do than can be done while whoever asked waits.
	Dropped Outcome = "dropped"
)

// answered is a callout and what came of it.
type answered struct {
	outcome Outcome
	// identity is who asked, as far as that is known, and host from where.
	identity Identity
	host     string
	wanted   []string
	// refusals say what was not granted, and why.
	refusals []string
	err      error
	// reply is what the server is answered, nil for nothing.
	reply []byte
}

// answer decides on one callout.
func (c Config) answer(ctx context.Context, request *jwt.AuthorizationRequestClaims) answered {
	a := answered{host: request.ClientInformation.Host}
	user, err := c.admit(ctx, request, &a)
	var no *refusal
	switch {
	case err == nil:
		a.outcome = Granted
	case errors.As(err, &no):
		a.outcome, a.err = Refused, err
	default:
		a.outcome, a.err = Failed, err
	}
	if a.reply, err = c.seal(request, user, a.err); err != nil {
		return answered{outcome: Failed, identity: a.identity, host: a.host, wanted: a.wanted, err: err}
	}
	return a
}

// admit makes the JWT of the user that the connection is to be.
func (c Config) admit(ctx context.Context, request *jwt.AuthorizationRequestClaims, a *answered) (string, error) {
	var err error
	if a.wanted, err = Wanted(request.ConnectOptions.Username); err != nil {
		return "", err
	}
	proven, err := c.review(ctx, request.ConnectOptions.Token)
	if err != nil {
		return "", err
	}
	a.identity = proven.identity
	if !c.comings.take(a.identity.PodUID) {
		// The next ones cost the API server nothing.
		c.refused.add(request.ConnectOptions.Token)
		return "", refused("its pod connects too often: %d times at once, and then once in %s", maxConnections, comeEvery)
	}
	if len(a.wanted) == 0 {
		return "", refused("%s does not say which streams it wants", a.identity)
	}
	stores, err := c.Stores(ctx, a.wanted)
	if err != nil {
		return "", fmt.Errorf("find the EventStores of %s: %w", clip(strings.Join(a.wanted, ", ")), err)
	}
	decision := Decide(stores, c.System, a.identity, a.wanted)
	a.refusals = decision.Refusals
	if len(decision.Grants) == 0 {
		return "", refused("%s", reasons(decision.Refusals))
	}
	return c.userJWT(request.UserNkey, proven, a.wanted, decision.Grants)
}

func (c Config) userJWT(key string, proven proof, wanted []string, grants []Grant) (string, error) {
	user := jwt.NewUserClaims(key)
	user.Audience = c.Account
	user.Name = newSession(c.Class, proven.identity, wanted, grants).String()
	user.Expires = min(proven.expires.Unix(), time.Now().Add(maxLifetime).Unix())
	user.Limits.Subs = maxSubscriptions
	permissions := PermissionsFor(proven.identity.PodUID, c.Domain, grants)
	user.Permissions.Pub.Allow.Add(permissions.Publish...)
	user.Permissions.Sub.Allow.Add(permissions.Subscribe...)
	user.AllowedConnectionTypes.Add(jwt.ConnectionTypeStandard, jwt.ConnectionTypeWebsocket)
	token, err := user.Encode(c.Issuer)
	if err != nil {
		return "", fmt.Errorf("sign what %s may do: %w", proven.identity, err)
	}
	return token, nil
}

// maxReasons bounds how many refusals are told of one connection.
const maxReasons = 8

// reasons are refusals in one text, the first of them where there are many.
func reasons(refusals []string) string {
	if more := len(refusals) - maxReasons; more > 0 {
		return fmt.Sprintf("%s; and %d more", strings.Join(refusals[:maxReasons], "; "), more)
	}
	return strings.Join(refusals, "; ")
}

// open reads what a server asks. serverXKey is what the server says its curve key is,
// empty where it does not encrypt. Only a server can have signed it, and only for
// a moment ago.
func (c Config) open(data []byte, serverXKey string) (*jwt.AuthorizationRequestClaims, error) {
	if c.XKey != nil {
		if serverXKey == "" {
			return nil, fmt.Errorf("a callout is not encrypted, and the Secret has the key %s: name its public key as xkey in auth_callout of the servers", v1alpha1.CalloutKeyXKey)
		}
		var err error
		if data, err = c.XKey.Open(data, serverXKey); err != nil {
			return nil, fmt.Errorf("a callout cannot be decrypted: %w: see that the public key of %s is the xkey of the servers", err, v1alpha1.CalloutKeyXKey)
		}
	} else if serverXKey != "" {
		return nil, fmt.Errorf("a callout is encrypted, and the Secret has no key %s", v1alpha1.CalloutKeyXKey)
	}
	request, err := jwt.DecodeAuthorizationRequestClaims(string(data))
	if err != nil {
		return nil, fmt.Errorf("a callout cannot be read: %w", err)
	}
	validation := jwt.CreateValidationResults()
	request.Validate(validation)
	switch {
	case validation.IsBlocking(false):
		return nil, fmt.Errorf("a callout is not valid: %s", validation.Issues[0].Description)
	case request.Expires > 0 && time.Since(time.Unix(request.Expires, 0)) > leeway:
		return nil, errors.New("a callout came long after its server has stopped to wait for the answer")
	case c.XKey != nil && request.Server.XKey != serverXKey:
		return nil, errors.New("a callout is encrypted with another key than it names")
	}
	return request, nil
}

// seal makes the answer to a server: the user, or why there is none.
func (c Config) seal(request *jwt.AuthorizationRequestClaims, user string, why error) ([]byte, error) {
	response := jwt.NewAuthorizationResponseClaims(request.UserNkey)
	response.Audience = request.Server.ID
	if why != nil {
		response.Error = why.Error()
	} else {
		response.Jwt = user
	}
	token, err := response.Encode(c.Issuer)
	if err != nil {
		return nil, fmt.Errorf("sign the answer to a callout: %w", err)
	}
	if c.XKey == nil {
		return []byte(token), nil
	}
	sealed, err := c.XKey.Seal([]byte(token), request.Server.XKey)
	if err != nil {
		return nil, fmt.Errorf("encrypt the answer to a callout: %w", err)
	}
	return sealed, nil
}
