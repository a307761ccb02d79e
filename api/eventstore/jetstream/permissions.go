package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// permissionPoll is how often a request that waits looks for a violation. Most
// are answered long before the first look.
const permissionPoll = 20 * time.Millisecond

// permissions sees that the server refuses to take messages on some subjects.
// NATS tells this to the connection, not to the request, which waits in vain.
// Only an error that is new counts: the connection keeps the last one for ever.
type permissions struct {
	nc       *nats.Conn
	subjects []string
	before   error
}

func (s *Store) permissions(subjects ...string) permissions {
	return permissions{nc: s.nc, subjects: subjects, before: s.nc.LastError()}
}

// denied is ErrPermissionDenied once the server has refused.
func (p permissions) denied() error {
	now := p.nc.LastError()
	if now == nil || now == p.before || !errors.Is(now, nats.ErrPermissionViolation) {
		return nil
	}
	text := now.Error()
	for _, subject := range p.subjects {
		if strings.Contains(text, fmt.Sprintf("Publish to %q", subject)) {
			return fmt.Errorf("%w: publish to %s: grant it to the user of this connection", eventstore.ErrPermissionDenied, subject)
		}
	}
	return nil
}

// watch ends the context when the server has refused.
func (p permissions) watch(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	var mu sync.Mutex
	var timer *time.Timer
	look := func() {
		mu.Lock()
		defer mu.Unlock()
		if p.denied() != nil {
			cancel()
		}
		if ctx.Err() == nil {
			timer.Reset(permissionPoll)
		}
	}
	mu.Lock()
	timer = time.AfterFunc(permissionPoll, look)
	mu.Unlock()
	return ctx, func() {
		cancel()
		mu.Lock()
		defer mu.Unlock()
		timer.Stop()
	}
}
