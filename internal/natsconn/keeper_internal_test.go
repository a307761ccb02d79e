package natsconn

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
)

// Who dials in vain for long says so, and pauses for longer each time.
func TestKeeperThatDialsInVain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int64
		k := &Keeper{conn: &nats.Conn{}, dial: func(nats.Option) (*nats.Conn, error) {
			dials.Add(1)
			return nil, errors.New("the credentials cannot be read")
		}}
		k.mu.Lock()
		k.again(nil)
		k.mu.Unlock()
		time.Sleep(hopeless - time.Second)
		if err := k.Check(); err != nil {
			t.Errorf("before two minutes: %v", err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if err := k.Check(); err == nil || !strings.Contains(err.Error(), "cannot be read") {
			t.Errorf("after two minutes: %v", err)
		}
		if most, dialled := int64(hopeless/maxPause)*2+10, dials.Load(); dialled > most || dialled < 10 {
			t.Errorf("%d dials in two minutes, want 10 to %d", dialled, most)
		}
		k.mu.Lock()
		k.closed = true
		k.mu.Unlock()
		time.Sleep(maxPause)
		after := dials.Load()
		time.Sleep(hopeless)
		if dials.Load() != after {
			t.Error("it dials after it was closed")
		}
	})
}
