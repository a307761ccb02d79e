package jetstream

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

func TestKeepTimes(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for _, c := range []struct{ age, window, pause, idle time.Duration }{
		{time.Second, 500 * time.Millisecond, 250 * time.Millisecond, 250 * time.Millisecond},
		{16 * time.Minute, 8 * time.Minute, time.Minute, time.Minute},
		{day, 12 * time.Hour, 5 * time.Minute, 675 * time.Second},
		{60 * day, 30 * day, 5 * time.Minute, 675 * time.Minute},
		{365 * day, 30 * day, 5 * time.Minute, 675 * time.Minute},
	} {
		if window, pause, idle := KeepWindow(c.age), keepPause(c.age), keepIdle(c.age); window != c.window || pause != c.pause || idle != c.idle {
			t.Errorf("age %s: window %s, pause %s, idle %s; want %s, %s, %s", c.age, window, pause, idle, c.window, c.pause, c.idle)
		}
	}
	now := time.Unix(1e9, 0)
	for first, want := range map[time.Duration]time.Duration{-time.Hour: 5 * time.Minute, 0: 5 * time.Minute, 6 * time.Minute: 6 * time.Minute, 300 * day: 675 * time.Minute} {
		if due := nextDue(now, now.Add(first), 365*day).Sub(now); due != want {
			t.Errorf("the next event is in its window in %s: due in %s, want %s", first, due, want)
		}
	}
}

func TestVersionsRecordIsDue(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	record := versionsRecord{Due: now.Add(time.Second), MaxAge: time.Hour}
	for _, c := range []struct {
		name   string
		record versionsRecord
		now    time.Time
		age    time.Duration
		want   bool
	}{
		{"before it is due", record, now, time.Hour, false},
		{"with a longer age", record, now, 2 * time.Hour, false},
		{"with a shorter age", record, now, time.Minute, true},
		{"when it is due", record, record.Due, time.Hour, true},
		{"without a record", versionsRecord{}, now, time.Hour, true},
	} {
		if got := c.record.isDue(c.now, c.age); got != c.want {
			t.Errorf("%s: %t, want %t", c.name, got, c.want)
		}
	}
}

// A record counts while it shows that nothing came before its place that nobody has
// looked at.
func TestVersionsRecordIsOfTheStream(t *testing.T) {
	t.Parallel()
	at := time.Unix(1e9, 1)
	record, there := versionsRecord{LastSequence: 10, LastTime: at}, &message{Sequence: 10, Time: at.UTC()}
	for _, c := range []struct {
		name        string
		record      versionsRecord
		first, last uint64
		there       *message
		want        bool
	}{
		{"nothing was looked at, of an empty stream", versionsRecord{}, 0, 0, nil, true},
		{"nothing was looked at", versionsRecord{}, 1, 20, nil, true},
		{"it is as it was", record, 1, 10, there, true},
		{"it goes on", record, 5, 20, there, true},
		{"the place has expired", record, 11, 20, nil, true},
		{"all has expired", record, 11, 10, nil, true},
		{"it went back", record, 1, 9, nil, false},
		{"it went back to nothing", record, 0, 0, nil, false},
		{"it went back, and caught up", record, 1, 10, &message{Sequence: 10, Time: at.Add(1)}, false},
		{"it went back, and overtook", record, 1, 20, &message{Sequence: 10, Time: at.Add(-1)}, false},
		{"the message was erased, and earlier ones were not", record, 1, 20, nil, false},
	} {
		if got := c.record.isOf(c.first, c.last, c.there); got != c.want {
			t.Errorf("%s: %t, want %t", c.name, got, c.want)
		}
	}
}

// versionMessage is an event, or what is none, of order-1.
func versionMessage(sequence uint64, version string) *message {
	return &message{Subject: "s.events.order.order-1", Sequence: sequence, Header: nats.Header{
		headerSpecVersion: {specVersion}, headerID: {"e"}, headerType: {"Tested"}, headerSubject: {"order-1"},
		headerTime: {"2026-01-02T03:04:05Z"}, headerActorVersion: {version},
	}}
}

func TestRemembered(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		version, latest string
		want            int64
	}{
		{"5", "", 5}, {"5", "7", 7}, {"5", "3", 5}, {"5", "x", 5}, {"5", "-1", 5}, {"x", "7", 7}, {"x", "", 0}, {"x", "x", 0},
		{"5", fmt.Sprint(int64(eventstore.MaxVersion) + 1), 5}, {"5", "99999999999999999999", 5},
	} {
		m := versionMessage(1, c.version)
		m.Header[headerLatestVersion] = []string{c.latest}
		if got := remembered(m); got != c.want {
			t.Errorf("version %q, latest %q: %d is remembered, want %d", c.version, c.latest, got, c.want)
		}
	}
}

func TestNewestVersions(t *testing.T) {
	t.Parallel()
	other := versionMessage(5, "9")
	other.Subject = "s.elsewhere.order.order-1"
	messages := []*message{versionMessage(1, "3"), versionMessage(2, "4"), versionMessage(3, "2"), versionMessage(4, "x"), other}
	got := newestVersions("s.events.", messages)
	if len(got) != 1 || got[0] != (actorVersion{ActorID: "order-1", Version: 4, Sequence: 2}) {
		t.Errorf("newest versions are %+v", got)
	}
}

func TestOutlived(t *testing.T) {
	t.Parallel()
	large := versionMessage(3, "5")
	large.tooLarge = true
	for _, c := range []struct {
		name string
		last *message
		want bool
	}{
		{"nothing is left", nil, false},
		{"it is the last", versionMessage(2, "4"), false},
		{"the replica is behind", versionMessage(1, "3"), false},
		{"a later one", versionMessage(3, "5"), true},
		{"a later one of a lower version", versionMessage(3, "3"), false},
		{"no event", versionMessage(3, "x"), false},
		{"too large for an event", large, false},
	} {
		if got := (actorVersion{ActorID: "order-1", Version: 4, Sequence: 2}).outlived(c.last); got != c.want {
			t.Errorf("%s: %t, want %t", c.name, got, c.want)
		}
	}
}

// A pass ends before its time is over where the servers would have the rest of it for others.
func TestPassIsOver(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, c := range []struct {
		name         string
		atMost       time.Duration
		asked, began time.Duration
		behind, want bool
	}{
		{"its time is over", time.Hour, 61 * time.Minute, 0, false, true},
		{"the rest is a pause", time.Hour, 50 * time.Minute, 6 * time.Minute, false, true},
		{"there is time after the pause", time.Hour, 50 * time.Minute, 4 * time.Minute, false, false},
		{"it is behind, and makes none", time.Hour, 50 * time.Minute, 6 * time.Minute, true, false},
		{"it has all the time", 0, 50 * time.Minute, 6 * time.Minute, false, false},
	} {
		p := &versionsPass{opts: KeepOptions{AtMost: c.atMost}, age: time.Hour, asked: now.Add(-c.asked), began: now.Add(-c.began)}
		p.info.Now = now
		if c.behind {
			p.oldest = now.Add(-time.Hour)
		}
		if got := p.isOver(); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}
