package stream

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/natsconn"
)

const (
	// dialTimeout bounds the connection to one server.
	dialTimeout = 2 * time.Second
	// requestTimeout bounds one request: JetStream answers in milliseconds, and an
	// election of a leader takes a few seconds.
	requestTimeout = 5 * time.Second
	// pingTimeout bounds the look at whether a server answers that JetStream does not.
	pingTimeout = time.Second
)

// Conn is a connection to the NATS system of a class. All its errors are Faults,
// except that of a context that ended.
type Conn struct {
	nc *nats.Conn
	// api is the prefix of the JetStream API, in domain, and servers are where it is.
	api, domain string
	servers     []string
	// system is that of the Target.
	system string

	mu sync.Mutex
	// denied is what the server said when it last refused a request for lack of
	// permission: it does not answer the request itself.
	denied map[string]string
	// firstEvents are the stores whose first event is awaited, by stream.
	firstEvents map[string]firstWatch
	// first is where the notifications of all first events arrive: one channel and
	// one goroutine, since those of a subscription each take 10 KB. closed ends it.
	first  chan *nats.Msg
	closed chan struct{}
	// notify wakes the store behind a stream, notifyFirst also tells where its first event
	// was stored, and measure counts a request.
	notify      func(stream string)
	notifyFirst func(stream string, first Stored)
	measure     Measure
	// own are notices of changes of our own.
	own map[notice]expected
	// peers is how many servers there were at peersAt, at least.
	peers   int
	peersAt time.Time
	// outage is the last one that somebody met, counted from 1, and since when.
	outage      uint64
	outageSince time.Time

	// operator is what this one is called on this connection, among those that are there,
	// and answers are where its questions are answered.
	operator  string
	answers   string
	self      Self
	operators operators
	echoes    echoes
	inquiries inquiries

	// probing is held while permissions are tried. permitted is the connection on which
	// none is missing, counted from 1; lacked says that some were when they were tried last.
	probing   sync.Mutex
	permitted atomic.Uint64
	lacked    atomic.Bool

	// listing is held while all streams are listed. told are the streams of which
	// something was told since it began, and canList says that it worked.
	listing sync.Mutex
	told    map[string]bool
	canList bool
}

// Measure is told about each request to JetStream: what was asked, such as
// STREAM.INFO, how long the answer took, and what was wrong.
type Measure func(operation string, took time.Duration, err error)

// Login is where and how to connect to NATS.
type Login struct {
	// Name is what the servers are told that the connection is called.
	Name    string
	Servers []string
	// Credentials is the data of a Secret, nil for servers that ask for none, and
	// Field is where the class names that Secret.
	Credentials map[string][]byte
	Field       string
}

// Dial connects. An error is a Fault.
func Dial(login Login, options ...nats.Option) (*nats.Conn, error) {
	authentication, err := credentialOptions(login.Credentials)
	if err != nil {
		return nil, &Fault{Handling: Stall, Reason: v1alpha1.ReasonCredentialsInvalid, Err: err}
	}
	options = append(options,
		nats.Name(login.Name),
		nats.Timeout(dialTimeout),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(time.Second),
		// A request while there is no connection fails at once rather than wait in a
		// buffer for a server that may never come.
		nats.ReconnectBufSize(-1),
	)
	options = append(append(options, natsconn.Lively()...), authentication...)
	nc, err := nats.Connect(strings.Join(login.Servers, ","), options...)
	if err != nil {
		return nil, dialFault(login, err)
	}
	return nc, nil
}

// connect connects as the operator, and finds JetStream.
func connect(servers []string, credentials map[string][]byte, options ...nats.Option) (*Conn, error) {
	c := &Conn{
		api: apiPrefix(""), servers: servers, operator: rand.Text(), denied: map[string]string{}, firstEvents: map[string]firstWatch{},
		first: make(chan *nats.Msg, firstBuffer), closed: make(chan struct{}), own: map[notice]expected{}, told: map[string]bool{},
	}
	options = append(options, nats.ErrorHandler(c.asyncError), nats.ClosedHandler(func(*nats.Conn) { close(c.closed) }))
	nc, err := Dial(operatorLogin(servers, credentials), options...)
	if err != nil {
		return nil, err
	}
	c.nc = nc
	return c, nil
}

func operatorLogin(servers []string, credentials map[string][]byte) Login {
	return Login{Name: "aether-operator", Servers: servers, Credentials: credentials, Field: "spec.credentials"}
}

func dialFault(login Login, err error) *Fault {
	list := strings.Join(login.Servers, ", ")
	if isAuthenticationError(err) {
		return Stalled(v1alpha1.ReasonAuthenticationFailed,
			"the NATS servers %s refused the credentials of the operator: %w: correct the Secret that %s of the class names, or name one", list, err, login.Field)
	}
	if isCertificateError(err) {
		return Stalled(v1alpha1.ReasonCertificateInvalid,
			"the NATS servers %s and the operator do not agree on TLS: %w: give the Secret that %s of the class names the ca.crt that signed the servers' certificates, and tls.crt and tls.key where they ask for a client's", list, err, login.Field)
	}
	return Retrying(v1alpha1.ReasonUnreachable,
		"no NATS server of %s answers: %w: check spec.servers of the class and that the servers run; the operator tries again by itself", list, err)
}

// isCertificateError: a certificate was refused, by us or, as an alert that has no
// type of its own, by the server.
func isCertificateError(err error) bool {
	var refused *tls.CertificateVerificationError
	return errors.As(err, &refused) || strings.Contains(err.Error(), "remote error: tls:")
}

func isAuthenticationError(err error) bool {
	for _, known := range []error{nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired} {
		if errors.Is(err, known) {
			return true
		}
	}
	// The client passes some refusals on as the server words them.
	return strings.Contains(strings.ToLower(err.Error()), "authorization violation") ||
		strings.Contains(strings.ToLower(err.Error()), "authentication")
}

// credentialOptions reads a Secret's data; nil is for servers that ask for none.
func credentialOptions(data map[string][]byte) ([]nats.Option, error) {
	if data == nil {
		return nil, nil
	}
	var options []nats.Option
	get := func(key string) string { return strings.TrimSpace(string(data[key])) }
	if creds := data[v1alpha1.CredentialsKeyCreds]; len(creds) > 0 {
		options = append(options, nats.UserCredentialBytes(creds))
	}
	if user := get(v1alpha1.CredentialsKeyUsername); user != "" {
		if _, ok := data[v1alpha1.CredentialsKeyPassword]; !ok {
			return nil, fmt.Errorf("the Secret has the key %s but not %s", v1alpha1.CredentialsKeyUsername, v1alpha1.CredentialsKeyPassword)
		}
		options = append(options, nats.UserInfo(user, get(v1alpha1.CredentialsKeyPassword)))
	}
	if token := get(v1alpha1.CredentialsKeyToken); token != "" {
		options = append(options, nats.Token(token))
	}
	if seed := get(v1alpha1.CredentialsKeyNKey); seed != "" {
		option, err := nkeyOption(seed)
		if err != nil {
			return nil, err
		}
		options = append(options, option)
	}
	secure, err := tlsOption(data)
	if err != nil {
		return nil, err
	}
	if options = append(options, secure...); len(options) == 0 {
		return nil, fmt.Errorf("the Secret has none of the keys %s; %s and %s; %s; %s; %s and %s; %s",
			v1alpha1.CredentialsKeyCreds, v1alpha1.CredentialsKeyUsername, v1alpha1.CredentialsKeyPassword, v1alpha1.CredentialsKeyToken,
			v1alpha1.CredentialsKeyNKey, v1alpha1.CredentialsKeyTLSCert, v1alpha1.CredentialsKeyTLSKey, v1alpha1.CredentialsKeyCA)
	}
	return options, nil
}

func nkeyOption(seed string) (nats.Option, error) {
	pair, err := nkeys.FromSeed([]byte(seed))
	if err != nil {
		return nil, fmt.Errorf("the key %s of the Secret is no seed of an nkey: %w", v1alpha1.CredentialsKeyNKey, err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("the key %s of the Secret is no seed of a user: %w", v1alpha1.CredentialsKeyNKey, err)
	}
	return nats.Nkey(public, pair.Sign), nil
}

func tlsOption(data map[string][]byte) ([]nats.Option, error) {
	cert, key, ca := data[v1alpha1.CredentialsKeyTLSCert], data[v1alpha1.CredentialsKeyTLSKey], data[v1alpha1.CredentialsKeyCA]
	if len(cert) == 0 && len(key) == 0 && len(ca) == 0 {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(cert) > 0 || len(key) > 0 {
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("the keys %s and %s of the Secret are no certificate and its key: %w", v1alpha1.CredentialsKeyTLSCert, v1alpha1.CredentialsKeyTLSKey, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	if len(ca) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(ca) {
			return nil, fmt.Errorf("the key %s of the Secret holds no certificate in PEM", v1alpha1.CredentialsKeyCA)
		}
	}
	return []nats.Option{nats.Secure(config)}, nil
}

// asyncError keeps what the server says about requests that it refuses.
func (c *Conn) asyncError(_ *nats.Conn, _ *nats.Subscription, err error) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	// Each inbox is another, and nobody asks for it again.
	_, quoted, _ := strings.Cut(err.Error(), `"`)
	if subject, _, found := strings.Cut(quoted, `"`); found && !strings.HasPrefix(subject, nats.InboxPrefix) {
		c.denied[strings.ToLower(subject)] = err.Error()
	}
}

func (c *Conn) denial(subject string) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	said, denied := c.denied[strings.ToLower(subject)]
	delete(c.denied, strings.ToLower(subject))
	return said, denied
}

// ServerVersion is the version of the server at the other end.
func (c *Conn) ServerVersion() string { return c.nc.ConnectedServerVersion() }

// AccountName is the NATS account that the connection is in, which holds the
// streams.
func (c *Conn) AccountName(ctx context.Context) (string, error) {
	var user struct {
		Data struct {
			Account string `json:"account"`
		} `json:"data"`
	}
	if err := c.ask(ctx, "$SYS.REQ.USER.INFO", nil, &user); err != nil {
		return "", err
	}
	return user.Data.Account, nil
}

// request asks the JetStream API for an operation, on a stream where it is about
// one, and decodes the answer into response. An answer that is an error is an
// *jetstream.APIError.
func (c *Conn) request(ctx context.Context, operation, stream string, payload, response any) error {
	subject := c.api + operation
	if stream != "" {
		subject += "." + stream
	}
	started := time.Now()
	err := c.ask(ctx, subject, payload, response)
	c.measure(operation, time.Since(started), err)
	return err
}

func (c *Conn) ask(ctx context.Context, subject string, payload, response any) error {
	body, err := json.Marshal(payload)
	if err != nil {
		return fmt.Errorf("encode the request %s: %w", subject, err)
	}
	if payload == nil {
		body = nil
	}
	deadline, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	answer, err := c.nc.RequestWithContext(deadline, subject, body)
	if err != nil {
		return c.requestFault(ctx, subject, err)
	}
	var refused struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(answer.Data, &refused); err != nil {
		return Retrying(v1alpha1.ReasonJetStreamUnavailable, "the answer to %s is not JSON: %w", subject, err)
	}
	if refused.Error != nil {
		return refused.Error
	}
	if err := json.Unmarshal(answer.Data, response); err != nil {
		return Retrying(v1alpha1.ReasonJetStreamUnavailable, "the answer to %s cannot be read: %w", subject, err)
	}
	return nil
}

func (c *Conn) requestFault(ctx context.Context, subject string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("request %s: %w", subject, context.Cause(ctx))
	}
	if said, denied := c.denial(subject); denied {
		return Stalled(v1alpha1.ReasonPermissionDenied,
			"the operator may not use %s (%s): give its NATS user the permissions of section Credentials in the documentation of EventStoreClass (docs/eventstoreclass.md)", subject, said)
	}
	switch {
	case !c.nc.IsConnected():
		return Retrying(v1alpha1.ReasonUnreachable,
			"the connection to NATS is lost (%w): check that its servers run; the operator connects again by itself", err)
	case errors.Is(err, nats.ErrNoResponders):
		return Stalled(v1alpha1.ReasonJetStreamUnavailable,
			"the NATS servers answer but JetStream does not (%w): turn JetStream on for the servers and the account. If it was on, a server has turned it off, as it does when its disk is full or cannot be written: its log says so; make room and restart it", err)
	default:
		return Retrying(v1alpha1.ReasonJetStreamUnavailable,
			"JetStream did not answer %s within %s (%w)%s; the operator tries again by itself", subject, requestTimeout, err, c.whyLate(ctx))
	}
}

// whyLate says what may keep JetStream from an answer.
func (c *Conn) whyLate(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if err := c.nc.FlushWithContext(ctx); err != nil {
		return ": the server does not answer a ping either; check that it runs, and the network to it"
	}
	return ": the server answers a ping. Check that a majority of the servers runs; if it does, they may be busy with requests, as with those of pods that read all the time (docs/access.md, Limits)"
}
