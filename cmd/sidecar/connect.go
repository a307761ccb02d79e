package main

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"git.flowmade.one/flowmade-one/aether-operator/internal/natsconn"
	"git.flowmade.one/flowmade-one/aether-operator/internal/sidecar/binding"
)

const (
	// dialTimeout bounds the connection to one server.
	dialTimeout = 2 * time.Second
	// reconnectWait and its jitter keep the sidecars of a whole cluster from coming
	// back to a NATS server in the same moment.
	reconnectWait      = 250 * time.Millisecond
	reconnectJitter    = 500 * time.Millisecond
	reconnectJitterTLS = 2 * time.Second
	// inboxPrefix is below the default one, which permissions commonly allow, and
	// tells whose inbox it is.
	inboxPrefix = "_INBOX.aether"
)

// connect connects to the servers of a binding, and keeps trying when none
// answers: the sidecar may be there before NATS is. who is nil where the binding
// holds all that proves who one is.
func connect(b binding.Binding, who *identity, logger *slog.Logger, more ...nats.Option) (*nats.Conn, error) {
	credentials, err := credentialOptions(b.Credentials)
	if err != nil {
		return nil, fmt.Errorf("use the credentials in %s: %w", b.Dir, err)
	}
	logger = logger.With("servers", redacted(b.Servers))
	options := []nats.Option{
		nats.Name("aether-sidecar"),
		nats.Timeout(dialTimeout),
		nats.MaxReconnects(-1),
		nats.RetryOnFailedConnect(true),
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectJitter, reconnectJitterTLS),
		// Nothing may wait for a connection: a save that was answered as unavailable
		// must not be sent after that.
		nats.ReconnectBufSize(-1),
		// Credentials that were refused may be replaced in the binding.
		nats.IgnoreAuthErrorAbort(),
		nats.CustomInboxPrefix(inboxPrefix),
		nats.ConnectHandler(func(nc *nats.Conn) { logger.Info("connected to NATS", "server", nc.ConnectedUrlRedacted()) }),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			logger.Info("connected to NATS again", "server", nc.ConnectedUrlRedacted())
		}),
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) { logDisconnect(nc, err, logger) }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { logger.Debug("NATS does not answer", "error", err) }),
		nats.ErrorHandler(func(nc *nats.Conn, _ *nats.Subscription, err error) {
			logger.Warn("NATS refused", "error", err)
			if isRefused(err) {
				giveUpOldKey(nc, b.Credentials.NKey, logger)
			}
		}),
	}
	options = append(append(append(options, natsconn.Lively()...), credentials...), more...)
	if who != nil {
		who.logger = logger
		proof, err := who.options()
		if err != nil {
			return nil, err
		}
		options = append(options, proof...)
	}
	conn, err := nats.Connect(strings.Join(b.Servers, ","), options...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS at %s: %w", strings.Join(redacted(b.Servers), ", "), err)
	}
	if who != nil {
		who.conn.Store(conn)
	}
	if !conn.IsConnected() {
		logger.Warn("NATS does not answer yet: trying again until it does")
	}
	return conn, nil
}

// logDisconnect is silent about the end that the sidecar itself brings about.
func logDisconnect(nc *nats.Conn, err error, logger *slog.Logger) {
	if !nc.IsClosed() {
		logger.Warn("connection to NATS lost: trying again until it is back", "error", err)
	}
}

// giveUpOldKey closes a connection whose user has another nkey by now: it can present no
// other than the one that it was made with. Who keeps the connection makes another.
func giveUpOldKey(nc *nats.Conn, seedFile string, logger *slog.Logger) {
	if seedFile == "" {
		return
	}
	pair, err := nkeys.ParseDecoratedNKey([]byte(content(seedFile)))
	if err != nil {
		// It may be in the middle of being replaced.
		return
	}
	defer pair.Wipe()
	if public, err := pair.PublicKey(); err == nil && public != nc.Opts.Nkey {
		logger.Info("the nkey was replaced: connecting with the new one")
		nc.Close()
	}
}

// credentialOptions read the files again at each connect, so that new
// credentials are used without a restart.
func credentialOptions(c binding.Credentials) ([]nats.Option, error) {
	var options []nats.Option
	if c.Creds != "" {
		options = append(options, nats.UserCredentials(c.Creds))
	}
	if c.Username != "" {
		options = append(options, nats.UserInfoHandler(func() (string, string) { return content(c.Username), content(c.Password) }))
	}
	if c.Token != "" {
		options = append(options, nats.TokenHandler(func() string { return content(c.Token) }))
	}
	if c.NKey != "" {
		option, err := nats.NkeyOptionFromSeed(c.NKey)
		if err != nil {
			return nil, err
		}
		options = append(options, option)
	}
	if c.TLSCert != "" {
		options = append(options, nats.ClientCert(c.TLSCert, c.TLSKey))
	}
	if c.CA != "" {
		options = append(options, nats.RootCAs(c.CA))
	}
	return options, nil
}

// content is a credential, and empty for a file that cannot be read: the server
// then refuses it, which is logged, and the next try reads again.
func content(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// redacted hides what URLs may carry before an @.
func redacted(servers []string) []string {
	out := make([]string, len(servers))
	for i, server := range servers {
		if at := strings.LastIndex(server, "@"); at >= 0 {
			scheme := ""
			if end := strings.Index(server, "://"); end >= 0 {
				scheme = server[:end+len("://")]
			}
			server = scheme + "***" + server[at:]
		}
		out[i] = server
	}
	return out
}
