package openport

import (
	"testing"
	"time"
)

// Which connection goes when one comes from 2001:db8::1.
func TestWhichConnectionGoes(t *testing.T) {
	t.Parallel()
	now := time.Now()
	const (
		comes   = "2001:db8::1"
		beside  = "2001:db8::2"
		distant = "192.0.2.1"
		another = "192.0.2.2"
	)
	fresh := func(from string, ago time.Duration) *connection {
		return &connection{peer: PeerOf("[" + from + "]:1"), doing: doing{since: now.Add(-ago)}}
	}
	idle := func(from string, ago time.Duration) *connection {
		c := fresh(from, ago)
		c.asked = true
		return c
	}
	asks := func(from string) *connection {
		c := idle(from, time.Minute)
		c.asks = true
		return c
	}
	const moment, while = time.Millisecond, 2 * time.Second
	for name, c := range map[string]struct {
		open []*connection
		// goes is the place in open, or negative.
		goes int
	}{
		"nobody who is answered":                 {[]*connection{asks(distant), asks(distant), asks(comes)}, -1},
		"who sends nothing before who has asked": {[]*connection{idle(distant, time.Hour), idle(distant, while), fresh(another, while)}, 2},
		"who has asked before who has come":      {[]*connection{fresh(distant, moment), fresh(distant, moment), idle(another, moment)}, 2},
		"who has most":                           {[]*connection{idle(another, time.Hour), idle(distant, while), idle(distant, 2*while)}, 2},
		"its own, where it has most with it":     {[]*connection{fresh(distant, 2*moment), fresh(comes, moment), asks(distant)}, 1},
		"its own, where others have as many":     {[]*connection{fresh(distant, 3*moment), fresh(distant, 2*moment), fresh(comes, moment)}, 2},
		"one of any, where nobody has more":      {[]*connection{fresh(distant, moment), fresh(another, 2*moment)}, 1},
		"in a network, the address with most":    {[]*connection{idle("2001:db8::3", time.Hour), idle(beside, while), idle(beside, 2*while), idle(distant, time.Hour)}, 2},
		"of a network before others":             {[]*connection{idle("2001:db8:1::1", moment), idle("2001:db8:1::2", moment*2), idle("2001:db8:1::3", moment), idle(distant, time.Hour)}, 1},
	} {
		open := map[*connection]struct{}{}
		for _, one := range c.open {
			open[one] = struct{}{}
		}
		out := goes(open, fresh(comes, 0))
		if c.goes < 0 && out == nil {
			continue
		}
		if c.goes < 0 || out != c.open[c.goes] {
			t.Errorf("%s: %+v goes", name, out)
		}
	}
}

func TestPeerOf(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]Peer{
		"192.0.2.1:80":          {"192.0.2.1", "192.0.2.1"},
		"[::ffff:192.0.2.1]:80": {"192.0.2.1", "192.0.2.1"},
		"[2001:db8::1]:80":      {"2001:db8::/64", "2001:db8::1"},
		"[2001:db8::2:0:0:1]:1": {"2001:db8::/64", "2001:db8::2:0:0:1"},
		"[2001:db8:0:1::1]:1":   {"2001:db8:0:1::/64", "2001:db8:0:1::1"},
		"[fe80::1%eth0]:1":      {"fe80::/64", "fe80::1"},
		"x":                     {"x", "x"},
	} {
		if got := PeerOf(address); got != want {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
	}
}
