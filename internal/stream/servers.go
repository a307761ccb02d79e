package stream

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// oldestVersion is the first of nats-server that has all that an event store is built
// on, such as atomic batches, and oldestLevel is its level of the JetStream API. An
// older one takes what it does not know, and ignores it.
const (
	oldestVersion = "2.12"
	oldestLevel   = 2
)

// CheckVersions says whether a server is too old, or what answers for JetStream, which
// may be another in another domain. An error is a Fault.
func CheckVersions(servers []Server, apiLevel int) error {
	var old []string
	for _, server := range servers {
		if server.tooOld() {
			old = append(old, fmt.Sprintf("%s is %s", server.Name, server.Version))
		}
	}
	if len(old) == 0 && apiLevel < oldestLevel {
		old = append(old, fmt.Sprintf("the level of the JetStream API is %d and not %d or higher", apiLevel, oldestLevel))
	}
	if len(old) == 0 {
		return nil
	}
	return Stalled(v1alpha1.ReasonServerTooOld,
		"NATS servers are older than %s, and ignore what an event store is built on: %s: upgrade every server to a version that the documentation of EventStoreClass lists", oldestVersion, strings.Join(old, ", "))
}

// tooOld: a version that cannot be read is not, as a build of one's own may have it.
func (s Server) tooOld() bool {
	var major, minor, oldMajor, oldMinor int
	_, err := fmt.Sscanf(s.Version, "%d.%d", &major, &minor)
	// A constant.
	_, _ = fmt.Sscanf(oldestVersion, "%d.%d", &oldMajor, &oldMinor)
	return err == nil && (major < oldMajor || major == oldMajor && minor < oldMinor)
}

const (
	// gatherTime is how long servers may take to answer the question who is there:
	// on a busy machine too, since one that is missed counts as absent.
	gatherTime = 2 * time.Second
	// askAgain is when the question is repeated: it can reach a server before that
	// server knows where to send the answer.
	askAgain = 200 * time.Millisecond
	// peersAge is how long the servers that were counted are taken for there.
	peersAge = 10 * time.Second
)

// Server is a server of the NATS system.
type Server struct{ Name, Version string }

// Peers counts the servers with JetStream in the cluster, and stops at enough. A
// server that is no part of a cluster is one.
func (c *Conn) Peers(ctx context.Context, enough int) (int, error) {
	if known := c.knownPeers(); known >= enough {
		return known, nil
	}
	servers, err := c.gather(ctx, enough)
	return len(servers), err
}

// Servers are those with JetStream in the cluster, in the order of their names, as
// far as they answer within two seconds. None answers where the user may not ask.
func (c *Conn) Servers(ctx context.Context) ([]Server, error) {
	servers, err := c.gather(ctx, math.MaxInt)
	slices.SortFunc(servers, func(a, b Server) int { return strings.Compare(a.Name, b.Name) })
	return servers, err
}

func (c *Conn) gather(ctx context.Context, enough int) ([]Server, error) {
	cluster := c.nc.ConnectedClusterName()
	if cluster == "" {
		return []Server{c.connectedServer()}, nil
	}
	inbox := c.nc.NewInbox()
	answers, err := c.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, Retrying(v1alpha1.ReasonUnreachable, "ask which servers there are: %w", err)
	}
	defer func() { _ = answers.Unsubscribe() }()
	peers := map[string]Server{}
	for started := time.Now(); len(peers) < enough && time.Since(started) < gatherTime; {
		// Each server of the cluster answers this for the account of whoever asks; no
		// right to the system account is needed.
		if err := c.nc.PublishRequest(statzSubject, inbox, []byte(`{"include_unused":true}`)); err != nil {
			return nil, Retrying(v1alpha1.ReasonUnreachable, "ask which servers there are: %w", err)
		}
		gatherPeers(ctx, answers, cluster, peers, enough)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("count the servers: %w", context.Cause(ctx))
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peers, c.peersAt = len(peers), time.Now()
	return slices.Collect(maps.Values(peers)), nil
}

func (c *Conn) connectedServer() Server {
	return Server{Name: c.nc.ConnectedServerName(), Version: c.nc.ConnectedServerVersion()}
}

func (c *Conn) serverText() string {
	server := c.connectedServer()
	return fmt.Sprintf("the operator is connected to %s of version %s", server.Name, server.Version)
}

// knownPeers is how many servers were counted a moment ago: thousands of stores
// may ask at once, and each answer is long.
func (c *Conn) knownPeers() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.peersAt) > peersAge {
		return 0
	}
	return c.peers
}

// gatherPeers adds the servers that answer, by their ids, until it is time to ask
// again, or there are enough.
func gatherPeers(ctx context.Context, answers *nats.Subscription, cluster string, peers map[string]Server, enough int) {
	gathering, cancel := context.WithTimeout(ctx, askAgain)
	defer cancel()
	for len(peers) < enough {
		answer, err := answers.NextMsgWithContext(gathering)
		if err != nil {
			return
		}
		var who struct {
			Server struct {
				ID        string `json:"id"`
				Name      string `json:"name"`
				Version   string `json:"ver"`
				Cluster   string `json:"cluster"`
				JetStream bool   `json:"jetstream"`
			} `json:"server"`
		}
		if json.Unmarshal(answer.Data, &who) == nil && who.Server.JetStream && who.Server.Cluster == cluster {
			peers[who.Server.ID] = Server{Name: who.Server.Name, Version: who.Server.Version}
		}
	}
}
