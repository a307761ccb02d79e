package stream

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Listing is every stream of an account at one time.
type Listing struct {
	streams map[string]*jetstream.StreamInfo
	// missing are streams of which no server could tell.
	missing map[string]bool
	at      time.Time
}

// Find gives a stream, nil where there is none, and whether the listing knows.
func (l *Listing) Find(name string) (*jetstream.StreamInfo, bool) {
	return l.streams[name], !l.missing[name]
}

// listingAge is how long a listing can stand for a look at a stream: as long as
// it takes to go through thousands of stores once.
const listingAge = 5 * time.Second

// List asks for all streams: some 250 with one request. What it answers stands,
// for some seconds, for what Listed is asked; a notice about a stream makes the
// listing of that stream void.
func (c *Conn) List(ctx context.Context) (*Listing, error) {
	c.listing.Lock()
	defer c.listing.Unlock()
	return c.list(ctx)
}

func (c *Conn) list(ctx context.Context) (*Listing, error) {
	// Before the first page: what is told meanwhile counts.
	c.mu.Lock()
	c.told, c.canList = map[string]bool{}, false
	c.mu.Unlock()
	l := &Listing{streams: map[string]*jetstream.StreamInfo{}, missing: map[string]bool{}, at: time.Now()}
	for offset := 0; ; {
		var page struct {
			Total   int                     `json:"total"`
			Streams []*jetstream.StreamInfo `json:"streams"`
			Missing []string                `json:"missing"`
		}
		if err := c.request(ctx, c.api+"STREAM.LIST", map[string]int{"offset": offset}, &page); err != nil {
			return nil, apiFault("list the streams", err)
		}
		for _, info := range page.Streams {
			l.streams[info.Config.Name] = info
		}
		for _, name := range page.Missing {
			l.missing[name] = true
		}
		offset += len(page.Streams) + len(page.Missing)
		if len(page.Streams) == 0 || offset >= page.Total {
			break
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.latest, c.canList = l, true
	return l, nil
}

// CanList says whether the last try to list the streams came to anything.
func (c *Conn) CanList() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.canList
}

// Listed gives streams as the last listing has them, and false where there is
// none that is young enough, or one of them was told about since. The first to
// ask on a connection makes the listing where there is none yet: after a start all
// stores ask at once.
func (c *Conn) Listed(ctx context.Context, names ...string) ([]*jetstream.StreamInfo, bool) {
	c.firstListing.Do(func() {
		c.listing.Lock()
		defer c.listing.Unlock()
		if !c.CanList() {
			// When it fails each stream is asked for by itself.
			_, _ = c.list(ctx)
		}
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.latest == nil || time.Since(c.latest.at) > listingAge {
		// What is too old is not kept in memory.
		c.latest = nil
		return nil, false
	}
	found := make([]*jetstream.StreamInfo, len(names))
	for i, name := range names {
		info, known := c.latest.Find(name)
		if !known || c.told[name] {
			return nil, false
		}
		found[i] = info
	}
	return found, true
}

// tell passes a notice about a stream on.
func (c *Conn) tell(stream string) {
	c.void(stream)
	c.notify(stream)
}

// void: what was listed of a stream does not hold any more.
func (c *Conn) void(stream string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told[stream] = true
}
