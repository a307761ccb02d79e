package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// identity is how a connection proves who its pod is: with a token of the pod's
// service account, which the kubelet replaces before it ends, and which is read
// again at each connect.
type identity struct {
	tokenFile string
	// streams are what is asked for: whoever decides grants no others.
	streams []string
	logger  *slog.Logger
	conn    atomic.Pointer[nats.Conn]
}

// maxWanted bounds the names of streams that one connection asks for. They share
// a line of the protocol, at most 4,096 bytes, with the token.
const maxWanted = 1024

// options make a connection present the token.
func (i *identity) options() ([]nats.Option, error) {
	if i.tokenFile == "" {
		return nil, fmt.Errorf("the binding has access ServiceAccount, and %s is not set: it names the file with the token of the pod's service account, and the injector sets it; create the pod anew", envTokenFile)
	}
	token, err := os.ReadFile(i.tokenFile)
	if err != nil {
		return nil, fmt.Errorf("read the token of the pod's service account: %w: is %s right?", err, envTokenFile)
	}
	uid, err := podUID(string(token))
	if err != nil {
		return nil, fmt.Errorf("read the token of the pod's service account in %s: %w", i.tokenFile, err)
	}
	return []nats.Option{
		nats.UserInfoHandler(func() (string, string) { return strings.Join(i.streams, ","), "" }),
		nats.TokenHandler(func() string { return content(i.tokenFile) }),
		nats.CustomReconnectDelay(i.delay),
		// Nobody but this pod may listen there.
		nats.CustomInboxPrefix(inboxPrefix + "." + uid),
	}, nil
}

// podUID reads which pod a token is bound to. It is not verified here: NATS
// refuses a connection that listens where its token does not let it.
func podUID(token string) (string, error) {
	parts := strings.Split(strings.TrimSpace(token), ".")
	if len(parts) != 3 {
		return "", errors.New("it is no JWT")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", errors.New("its claims cannot be decoded")
	}
	var claims struct {
		Kubernetes struct {
			Pod struct {
				UID string `json:"uid"`
			} `json:"pod"`
		} `json:"kubernetes.io"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return "", errors.New("its claims are not JSON")
	}
	if uid := claims.Kubernetes.Pod.UID; uid != "" && !strings.ContainsAny(uid, " .*>\t\r\n") {
		return uid, nil
	}
	return "", errors.New("it is bound to no pod: use a projected volume")
}

// maxDelay is how long the pauses between tries grow while a pod is refused: each
// try has the API server asked, and access that is granted should be noticed soon.
const maxDelay = 5 * time.Second

// delay is the pause before the servers are tried again, after each round.
func (i *identity) delay(round int) time.Duration {
	pause := reconnectWait
	if conn := i.conn.Load(); conn != nil && isRefused(conn.LastError()) {
		i.logger.Warn("NATS refused this pod: kubectl describe pod tells the reason, and so does the log of the operator; trying again",
			"error", conn.LastError(), "streams", strings.Join(i.streams, ","), "token", i.tokenState())
		pause = min(reconnectWait<<min(round, 10), maxDelay)
	}
	return pause + rand.N(max(reconnectJitter, pause/2))
}

func isRefused(err error) bool {
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) || errors.Is(err, nats.ErrAuthRevoked)
}

// tokenState says what is wrong with the token, as far as that can be seen from
// here. It tells nothing of what is secret.
func (i *identity) tokenState() string {
	token := content(i.tokenFile)
	if token == "" {
		return "missing"
	}
	if _, err := podUID(token); err != nil {
		return err.Error()
	}
	return "present"
}
