package jetstream

import (
	"fmt"
	"strings"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// The subjects of a store start with the name of its events stream, those of
// its snapshots and notifications too: {stream}.events.{actorType}.{actorId}.
// Each actor has one literal subject of each kind. Compare-and-set is safe on
// literal subjects alone: with wildcards a replicated stream lets two writers
// win.

// EventsSubjects is the subject of the events stream, all events of the store.
func EventsSubjects(stream string) string { return stream + ".events.>" }

// SnapshotsSubjects is the subject of the snapshots stream; stream is the name
// of the events stream.
func SnapshotsSubjects(stream string) string { return stream + ".snapshots.>" }

// StoredSubjects is where the server republishes the headers of stored events.
func StoredSubjects(stream string) string { return stream + ".stored.>" }

// EventsSubject is the subject of the events of one actor.
func EventsSubject(stream, actorID string) string { return eventsPrefix(stream) + actorTokens(actorID) }

// eventsPrefix is how the subjects of all events begin. What comes after it tells the
// actor.
func eventsPrefix(stream string) string { return stream + ".events." }

// SnapshotsSubject is the subject of the snapshots of one actor; stream is the
// name of the events stream.
func SnapshotsSubject(stream, actorID string) string {
	return stream + ".snapshots." + actorTokens(actorID)
}

// StoredSubject is the subject of the notifications about one actor's events.
func StoredSubject(stream, actorID string) string { return stream + ".stored." + actorTokens(actorID) }

// GroupSubject is where the members of a durable subscription tell each other what
// they have settled. key is the random one of the subscription: who may not use the
// store cannot guess it, and have something sent there.
func GroupSubject(stream, key string) string { return stream + ".work." + key }

// MakeConsumerSubject is where the operator makes consumers of the events stream
// for those who may not ask JetStream to. The request is that of
// $JS.API.CONSUMER.CREATE, and so is the answer.
func MakeConsumerSubject(stream string) string { return "aether.consumer.create." + stream }

func actorTokens(actorID string) string {
	return EncodeToken(eventstore.ActorType(actorID)) + "." + EncodeToken(actorID)
}

const upperHex = "0123456789ABCDEF"

// EncodeToken makes any text one token of a subject: bytes at which NATS or a
// reader could trip become %XX. Two texts never share a token.
func EncodeToken(text string) string {
	first := strings.IndexFunc(text, func(r rune) bool { return r > 0x7e || mustEncode(byte(r)) })
	if first < 0 {
		return text
	}
	var token strings.Builder
	token.Grow(len(text) + 16)
	for _, b := range []byte(text) {
		if mustEncode(b) {
			token.WriteByte('%')
			token.WriteByte(upperHex[b>>4])
			token.WriteByte(upperHex[b&0xf])
		} else {
			token.WriteByte(b)
		}
	}
	return token.String()
}

// mustEncode is true for control bytes, space, what is not ASCII, what means
// something in a subject, and the sign of the encoding itself.
func mustEncode(b byte) bool {
	return b <= ' ' || b >= 0x7f || b == '.' || b == '*' || b == '>' || b == '%'
}

// DecodeToken is the text of a token that EncodeToken made, and an error for
// any other: each text has exactly one token.
func DecodeToken(token string) (string, error) {
	var text strings.Builder
	text.Grow(len(token))
	for i := 0; i < len(token); i++ {
		if token[i] != '%' {
			text.WriteByte(token[i])
			continue
		}
		if i+2 >= len(token) {
			return "", fmt.Errorf("subject token %.100q ends inside %%XX", token)
		}
		high, low := strings.IndexByte(upperHex, token[i+1]), strings.IndexByte(upperHex, token[i+2])
		if high < 0 || low < 0 {
			return "", fmt.Errorf("subject token %.100q has %.100q where %%XX in upper case belongs", token, token[i:i+3])
		}
		text.WriteByte(byte(high<<4 | low))
		i += 2
	}
	if EncodeToken(text.String()) != token {
		return "", fmt.Errorf("subject token %.100q is not how %.100q is encoded", token, text.String())
	}
	return text.String(), nil
}
