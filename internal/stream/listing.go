package stream

import (
	"context"
	"maps"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// List asks for all streams, some 250 with one request, and passes each on as its
// page comes: those of thousands of stores are never in memory together. One of
// which no server could tell comes as nil.
func (c *Conn) List(ctx context.Context, pass func(name string, live *jetstream.StreamInfo)) error {
	c.listing.Lock()
	defer c.listing.Unlock()
	// Before the first page: what is told meanwhile counts.
	c.mu.Lock()
	c.told, c.canList = map[string]bool{}, false
	maps.DeleteFunc(c.own, func(_ notice, e expected) bool { return time.Now().After(e.until) })
	c.mu.Unlock()
	for offset := 0; ; {
		var page struct {
			Total   int                     `json:"total"`
			Streams []*jetstream.StreamInfo `json:"streams"`
			Missing []string                `json:"missing"`
		}
		if err := c.request(ctx, "STREAM.LIST", "", map[string]int{"offset": offset}, &page); err != nil {
			return apiFault("list the streams", err)
		}
		for _, info := range page.Streams {
			pass(info.Config.Name, info)
		}
		for _, name := range page.Missing {
			pass(name, nil)
		}
		offset += len(page.Streams) + len(page.Missing)
		if len(page.Streams) == 0 || offset >= page.Total {
			break
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.canList = true
	return nil
}

// CanList says whether the last try to list the streams came to anything.
func (c *Conn) CanList() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.canList
}

// Told says whether something was told of a stream, or asked of it, since the
// last listing began: what the listing had of it does not hold any more.
func (c *Conn) Told(stream string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.told[stream]
}

// void: what was listed of a stream does not hold any more.
func (c *Conn) void(stream string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told[stream] = true
}
