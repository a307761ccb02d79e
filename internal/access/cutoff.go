package access

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

const (
	// askServers is where all servers answer who is connected, and askServer one.
	askServers = "$SYS.REQ.SERVER.PING.CONNZ"
	askServer  = "$SYS.REQ.SERVER.%s.CONNZ"
	// endConnection ends one connection of one server.
	endConnection = "$SYS.REQ.SERVER.%s.KICK"
	// pageSize is how many connections a server tells of at once.
	pageSize = 128
	// quiet is how long nothing arrives before all servers have answered, and
	// serverTimeout bounds the answer of one.
	quiet         = 500 * time.Millisecond
	serverTimeout = 2 * time.Second
)

// globalAccount is that of servers without accounts.
const globalAccount = "$G"

// connection is one in the account of the workloads.
type connection struct {
	server string
	id     uint64
	start  time.Time
	// user is what the servers call it.
	user string
	// session is what it was granted, and known says that the operator has let it in for
	// the class.
	session
	known bool
}

// page is what a server answers.
type page struct {
	Server struct {
		ID string `json:"id"`
	} `json:"server"`
	Data struct {
		Total       int `json:"total"`
		Offset      int `json:"offset"`
		Limit       int `json:"limit"`
		Connections []struct {
			ID    uint64    `json:"cid"`
			Start time.Time `json:"start"`
			User  string    `json:"authorized_user"`
			// Account is left out for the global one.
			Account string `json:"account"`
		} `json:"connections"`
	} `json:"data"`
	Error *struct {
		Description string `json:"description"`
	} `json:"error"`
}

// CutOff ends the connections in the account of the workloads that would not be let in
// now as they were, and says how many: those of pods whose access has changed, those of
// which a pod has too many, and those that this operator knows nothing of. They may come
// back, and are asked anew who they are.
func (s *Server) CutOff(ctx context.Context) (int, error) {
	connections, err := s.connections(ctx)
	if err != nil {
		return 0, err
	}
	// Of those of one pod the newest are too many.
	slices.SortFunc(connections, func(a, b connection) int { return a.start.Compare(b.start) })
	var count int
	var failed error
	had := map[string]int{}
	for _, c := range connections {
		why, err := s.unwanted(ctx, c, had)
		if err != nil {
			return count, err
		}
		if why == "" {
			continue
		}
		if err := s.kick(ctx, c); err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		count++
		ended.WithLabelValues(s.config.Class).Inc()
		s.log.Info("ended a connection", "reason", why, "serviceAccount", c.identity.String(), "podUID", c.identity.PodUID, "had", clip(c.user))
	}
	return count, failed
}

// unwanted says why a connection is to be ended, empty where it is not. had counts
// those of each pod.
func (s *Server) unwanted(ctx context.Context, c connection, had map[string]int) (string, error) {
	if !c.known {
		return "the operator has not let it in for this class", nil
	}
	stores, err := s.config.Stores(ctx, c.wanted())
	switch {
	case err != nil:
		return "", fmt.Errorf("find the EventStores that a connection of %s uses: %w", c.identity, err)
	case c.outdated(stores, s.config.System):
		return "the access has changed", nil
	}
	if had[c.identity.PodUID]++; had[c.identity.PodUID] > maxConnections {
		return fmt.Sprintf("its pod has more than %d", maxConnections), nil
	}
	return "", nil
}

// connections are those in the account of the workloads, on all servers.
func (s *Server) connections(ctx context.Context) ([]connection, error) {
	pages, err := s.firstPages(ctx)
	if err != nil {
		return nil, err
	}
	var all []connection
	for len(pages) > 0 {
		p := pages[0]
		pages = pages[1:]
		if p.Error != nil {
			return nil, stream.Retrying(v1alpha1.ReasonCalloutUnavailable, "server %s does not say who is connected: %s", p.Server.ID, p.Error.Description)
		}
		for _, c := range p.Data.Connections {
			if account := cmp.Or(c.Account, globalAccount); account != s.config.Account {
				return nil, stream.Stalled(v1alpha1.ReasonCalloutUnavailable,
					"asked who is connected in account %s, server %s tells of account %s, so pods whose access has changed stay connected until their tokens end: put the callout user into the system account",
					s.config.Account, p.Server.ID, account)
			}
			of, ok := parseSession(c.User)
			all = append(all, connection{
				server: p.Server.ID, id: c.ID, start: c.Start, user: c.User, session: of, known: ok && of.class == s.config.Class,
			})
		}
		if next := p.Data.Offset + len(p.Data.Connections); len(p.Data.Connections) > 0 && next < p.Data.Total {
			more, err := s.nextPage(ctx, p.Server.ID, next)
			if err != nil {
				return nil, err
			}
			pages = append(pages, more)
		}
	}
	return all, nil
}

func (s *Server) question(offset int) []byte {
	body, err := json.Marshal(map[string]any{"auth": true, "acc": s.config.Account, "offset": offset, "limit": pageSize})
	if err != nil {
		// Strings and numbers: only a mistake in the code can fail here.
		panic(err)
	}
	return body
}

// firstPages asks all servers. How many there are nobody knows: it is over when
// none has answered for a while. One that was missed is seen by the next sweep.
func (s *Server) firstPages(ctx context.Context) ([]page, error) {
	inbox := s.conn.NewInbox()
	answers, err := s.conn.SubscribeSync(inbox)
	if err == nil {
		// It fails when the connection is closed, and then there is nothing to do.
		defer func() { _ = answers.Unsubscribe() }()
		err = s.conn.PublishRequest(askServers, inbox, s.question(0))
	}
	if err != nil {
		return nil, stream.Retrying(v1alpha1.ReasonCalloutUnavailable, "ask the servers who is connected: %w", err)
	}
	var pages []page
	for {
		wait := quiet
		if len(pages) == 0 {
			wait = serverTimeout
		}
		p, err := nextAnswer(ctx, answers, wait)
		switch {
		case err == nil:
			pages = append(pages, p)
		case ctx.Err() != nil:
			return nil, fmt.Errorf("ask the servers who is connected: %w", context.Cause(ctx))
		case len(pages) == 0:
			return nil, s.unanswered(askServers, err)
		default:
			return pages, nil
		}
	}
}

func nextAnswer(ctx context.Context, answers *nats.Subscription, wait time.Duration) (page, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	answer, err := answers.NextMsgWithContext(ctx)
	if err != nil {
		return page{}, err
	}
	return decodePage(answer)
}

func decodePage(answer *nats.Msg) (page, error) {
	var p page
	if err := json.Unmarshal(answer.Data, &p); err != nil {
		return p, fmt.Errorf("the answer of a server cannot be read: %w", err)
	}
	return p, nil
}

func (s *Server) nextPage(ctx context.Context, server string, offset int) (page, error) {
	answer, err := s.ask(ctx, fmt.Sprintf(askServer, server), s.question(offset))
	if err != nil {
		return page{}, err
	}
	return decodePage(answer)
}

func (s *Server) kick(ctx context.Context, c connection) error {
	body, err := json.Marshal(map[string]uint64{"cid": c.id})
	if err != nil {
		return fmt.Errorf("encode the end of a connection: %w", err)
	}
	// A connection that is gone is what was asked for: the other replica was first.
	_, err = s.ask(ctx, fmt.Sprintf(endConnection, c.server), body)
	return err
}

func (s *Server) ask(ctx context.Context, subject string, body []byte) (*nats.Msg, error) {
	bounded, cancel := context.WithTimeout(ctx, serverTimeout)
	defer cancel()
	answer, err := s.conn.RequestWithContext(bounded, subject, body)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("request %s: %w", subject, context.Cause(ctx))
	}
	if err != nil {
		return nil, s.unanswered(subject, err)
	}
	return answer, nil
}

// unanswered gives a request that no server answered its meaning. Whose access
// has changed stays connected then until its token ends, so it is said out loud.
func (s *Server) unanswered(subject string, err error) error {
	if said := s.denied.of(subject); said != "" {
		return stream.Stalled(v1alpha1.ReasonCalloutUnavailable,
			"the callout user may not use %s (%s), so pods whose access has changed stay connected until their tokens end: put it into the system account, with the permissions that the documentation of access lists", subject, said)
	}
	if errors.Is(err, nats.ErrNoResponders) {
		return stream.Stalled(v1alpha1.ReasonCalloutUnavailable,
			"no server answers %s (%w), so pods whose access has changed stay connected until their tokens end: put the callout user into the system account", subject, err)
	}
	return stream.Retrying(v1alpha1.ReasonCalloutUnavailable, "no server answers %s: %w: the operator tries again by itself", subject, err)
}
