package webhook

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// counting is an API server that refuses, and counts how often it is asked.
type counting struct {
	client.Reader
	calls atomic.Int64
}

func (c *counting) Get(context.Context, client.ObjectKey, client.Object, ...client.GetOption) error {
	c.calls.Add(1)
	return errors.New("forbidden")
}

// TestPauseOfRetries: an API server that refuses for an hour is asked a few times a
// minute at most, also at the end of it.
func TestPauseOfRetries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		asked := &counting{}
		c := &certificates{live: asked, options: Options{Namespace: DefaultNamespace}.withDefaults()}
		go func() { _ = c.Start(t.Context()) }()
		time.Sleep(time.Hour)
		synctest.Wait()
		// 1, 2, 4, 8, 16, 32 s, and then once a minute.
		if calls := asked.calls.Load(); calls < 60 || calls > 66 {
			t.Errorf("asked %d times in an hour", calls)
		}
	})
}
