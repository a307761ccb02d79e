package jetstream_test

import (
	"strings"
	"testing"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
)

func TestSubjects(t *testing.T) {
	t.Parallel()
	for actorID, tokens := range map[string]string{
		"order-1":    "order.order-1",
		"lonely":     "unknown.lonely",
		"-x":         "unknown.-x",
		"a.b *>%/ü":  "unknown.a%2Eb%20%2A%3E%25/%C3%BC",
		"a.b-\n\x7f": "a%2Eb.a%2Eb-%0A%7F",
	} {
		for got, want := range map[string]string{
			jetstream.EventsSubject("shop_orders", actorID):    "shop_orders.events." + tokens,
			jetstream.SnapshotsSubject("shop_orders", actorID): "shop_orders.snapshots." + tokens,
			jetstream.StoredSubject("shop_orders", actorID):    "shop_orders.stored." + tokens,
		} {
			if got != want {
				t.Errorf("actor %q: subject %q, want %q", actorID, got, want)
			}
		}
	}
}

func TestDecodeTokenRefusesWhatEncodeTokenDoesNotMake(t *testing.T) {
	t.Parallel()
	for _, token := range []string{"a b", "a.b", "%", "%2", "%2e", "%41", "%G0", "ü"} {
		if text, err := jetstream.DecodeToken(token); err == nil {
			t.Errorf("token %q decodes to %q, want an error", token, text)
		}
	}
}

func FuzzEncodeToken(f *testing.F) {
	for _, seed := range []string{"order-1", "a.b *>%/ü\n", "%2E", "\x00\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		token := jetstream.EncodeToken(text)
		if strings.ContainsAny(token, " .*>\t\r\n") {
			t.Errorf("%q becomes %q, which is not one token", text, token)
		}
		back, err := jetstream.DecodeToken(token)
		if err != nil || back != text {
			t.Errorf("%q becomes %q and %q again (%v)", text, token, back, err)
		}
	})
}

func FuzzDecodeToken(f *testing.F) {
	f.Add("a%2Eb")
	f.Fuzz(func(t *testing.T, token string) {
		if text, err := jetstream.DecodeToken(token); err == nil && jetstream.EncodeToken(text) != token {
			t.Errorf("token %q decodes to %q, whose token is another", token, text)
		}
	})
}
