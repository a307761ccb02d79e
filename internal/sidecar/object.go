package sidecar

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// encoding/json alone is too kind to what comes from outside: it takes the last
// of two members of one name, matches names without regard to case and puts
// U+FFFD where a string is broken. Each would change an event in silence.

// member is one member of a JSON object; value is as it was sent.
type member struct {
	name  string
	value json.RawMessage
}

func invalid(field, format string, args ...any) error {
	return &eventstore.InvalidEventError{Field: field, Reason: fmt.Sprintf(format, args...)}
}

// bodyField names the body as a whole in an error.
const bodyField = "body"

// validateBody says what keeps a body from being one JSON document.
func validateBody(body []byte) error {
	switch {
	case len(bytes.TrimSpace(body)) == 0:
		return invalid(bodyField, "is empty: send JSON")
	case !utf8.Valid(body):
		return invalid(bodyField, "is not valid UTF-8")
	case json.Valid(body):
		return nil
	}
	var first json.RawMessage
	decoder := json.NewDecoder(bytes.NewReader(body))
	if err := decoder.Decode(&first); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return invalid(bodyField, "is not valid JSON: it ends in the middle")
		}
		return invalid(bodyField, "is not valid JSON: %v", err)
	}
	return invalid(bodyField, "goes on after its JSON, at byte %d", decoder.InputOffset())
}

// decodeArray returns the elements of a JSON array, and the one document where
// it is no array. The document is valid; what is returned are parts of it. More
// elements than a batch may have are refused before they are kept: the smallest are of
// three bytes each.
func decodeArray(document json.RawMessage, parts *parts) ([]json.RawMessage, error) {
	if document = bytes.TrimSpace(document); document[0] != '[' {
		return []json.RawMessage{document}, nil
	}
	decoder := json.NewDecoder(bytes.NewReader(document))
	if _, err := decoder.Token(); err != nil {
		return nil, invalid(bodyField, "is no array: %v", err)
	}
	var elements []json.RawMessage
	for decoder.More() {
		element, err := nextValue(decoder, document)
		if err != nil {
			return nil, invalid(bodyField, "is no array: %v", err)
		}
		if len(elements) == eventstore.MaxBatchEvents {
			return nil, fmt.Errorf("the body has more than %d events, which are saved at once at most: %w", eventstore.MaxBatchEvents, eventstore.ErrTooLarge)
		}
		if err := parts.add(eventCost); err != nil {
			return nil, err
		}
		elements = append(elements, element)
	}
	return elements, nil
}

// nextValue returns the next value of a decoder that reads document, as a part
// of that. A copy of each would take the memory of a small pod several times.
func nextValue(decoder *json.Decoder, document []byte) (json.RawMessage, error) {
	start := decoder.InputOffset()
	if err := decoder.Decode(&skipped{}); err != nil {
		return nil, err
	}
	return bytes.TrimLeft(document[start:decoder.InputOffset()], " \t\r\n,:"), nil
}

// skipped is a value that nothing is kept of.
type skipped struct{}

// UnmarshalJSON is for package json.
func (*skipped) UnmarshalJSON([]byte) error { return nil }

// maxMembers is more than an object of a request may have: that many keys of metadata
// have no room in it, each with the 16 bytes that it counts.
const maxMembers = eventstore.MaxMetadataBytes / 16

// decodeObject returns the members of a JSON object, whose names are all known
// and all different. The document is valid; the values are parts of it. prefix
// names where it is, as "metadata." does. Where any name is known memory is taken for each
// member; the others are few.
func decodeObject(document json.RawMessage, prefix string, known []string, parts *parts) ([]member, error) {
	decoder := json.NewDecoder(bytes.NewReader(document))
	if opening, err := decoder.Token(); err != nil || opening != json.Delim('{') {
		return nil, invalid(whole(prefix), "is %s: an object is wanted", kindOf(document))
	}
	var members []member
	names := map[string]bool{}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return nil, invalid(whole(prefix), "is not valid JSON: %v", err)
		}
		m := member{name: fmt.Sprint(name)}
		if m.value, err = nextValue(decoder, document); err != nil {
			return nil, invalid(prefix+cut(m.name), "is not valid JSON: %v", err)
		}
		if known != nil && !slices.Contains(known, m.name) {
			return nil, invalid(prefix+cut(m.name), "is no known field: there are %s", strings.Join(known, ", "))
		}
		if names[m.name] {
			return nil, invalid(prefix+cut(m.name), "is given twice")
		}
		if len(members) == maxMembers {
			return nil, invalid(whole(prefix), "has more than %d members: fewer are allowed", maxMembers)
		}
		if known == nil {
			if err := parts.add(entryCost); err != nil {
				return nil, err
			}
		}
		names[m.name] = true
		members = append(members, m)
	}
	return members, nil
}

func whole(prefix string) string {
	if field := strings.TrimSuffix(prefix, "."); field != "" {
		return field
	}
	return bodyField
}

// isNull is true for null, which leaves a field out: many writers of JSON put it
// where there is nothing.
func isNull(value json.RawMessage) bool { return string(value) == "null" }

func kindOf(value json.RawMessage) string {
	switch value[0] {
	case '"':
		return "a string"
	case '{':
		return "an object"
	case '[':
		return "an array"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "the number " + cut(string(value))
}

// cut is how much of what was sent an error repeats: 100 characters.
func cut(text string) string { return fmt.Sprintf("%.100s", text) }

func decodeString(field string, value json.RawMessage) (string, error) {
	if value[0] != '"' {
		return "", invalid(field, "is %s: a string is wanted", kindOf(value))
	}
	var s string
	if err := json.Unmarshal(value, &s); err != nil {
		return "", invalid(field, "is no string: %v", err)
	}
	if strings.ContainsRune(s, utf8.RuneError) && hasLoneSurrogate(s, value) {
		return "", invalid(field, "holds half a surrogate pair")
	}
	return s, nil
}

// hasLoneSurrogate is true when a U+FFFD of the decoded string was not sent as
// one.
func hasLoneSurrogate(s string, sent json.RawMessage) bool {
	lower := bytes.ToLower(sent)
	return strings.Count(s, "\uFFFD") > bytes.Count(lower, []byte("\uFFFD"))+bytes.Count(lower, []byte(`\ufffd`))
}

func decodeInt(field string, value json.RawMessage) (int64, error) {
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil {
		if kind := kindOf(value); !strings.HasPrefix(kind, "the number") {
			return 0, invalid(field, "is %s: a whole number is wanted", kind)
		}
		return 0, invalid(field, "is %.100s: a whole number of 64 bits is wanted", value)
	}
	return n, nil
}

func decodeTime(field string, value json.RawMessage) (time.Time, error) {
	s, err := decodeString(field, value)
	if err != nil {
		return time.Time{}, err
	}
	t, reason := parseTime(s)
	if reason != "" {
		return time.Time{}, invalid(field, "%s", reason)
	}
	return t, nil
}

// dateTime is date-time of RFC 3339, section 5.6, to the nanosecond: time.Parse takes
// a comma and hours of one digit too, drops further digits in silence, and refuses
// small letters.
var dateTime = regexp.MustCompile(`^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)$`)

// parseTime reads a time, or says what is wrong with it. The first of all times is
// what programs have for none; who means none leaves it out.
func parseTime(text string) (t time.Time, reason string) {
	var err error
	if dateTime.MatchString(text) {
		t, err = time.Parse(time.RFC3339Nano, strings.ToUpper(text))
	}
	switch {
	case err != nil || t.IsZero() && !dateTime.MatchString(text):
		return t, fmt.Sprintf("is %.100q: give a time as RFC 3339 has it, such as 2026-01-02T15:04:05.123456789Z", text)
	case t.IsZero():
		return t, fmt.Sprintf("is %.100q, the zero of a program: leave it out where there is none", text)
	}
	return t, ""
}

func decodeBase64(field string, value json.RawMessage) ([]byte, error) {
	s, err := decodeString(field, value)
	if err != nil {
		return nil, err
	}
	data, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, invalid(field, "is not base64, standard alphabet with padding: %v", err)
	}
	return data, nil
}

func decodeMetadata(value json.RawMessage, parts *parts) (map[string]string, error) {
	members, err := decodeObject(value, "metadata.", nil, parts)
	if err != nil || len(members) == 0 {
		return nil, err
	}
	metadata := make(map[string]string, len(members))
	for _, m := range members {
		if metadata[m.name], err = decodeString("metadata."+cut(m.name), m.value); err != nil {
			return nil, err
		}
	}
	return metadata, nil
}

// decodeExpected reads an expected version: a number from 0, or a word.
func decodeExpected(value json.RawMessage) (eventstore.ExpectedVersion, error) {
	text := string(value)
	if value[0] == '"' {
		var err error
		if text, err = decodeString("expectedVersion", value); err != nil {
			return 0, err
		}
		if _, err := strconv.ParseInt(text, 10, 64); err == nil {
			return 0, invalid("expectedVersion", "is the string %.100q: a number is wanted", text)
		}
	}
	expected, reason := parseExpected(text)
	if reason != "" {
		return 0, invalid("expectedVersion", "%s", reason)
	}
	return expected, nil
}

// encodeExpected is an expected version as it is sent, nil for none.
func encodeExpected(expected eventstore.ExpectedVersion) any {
	switch expected {
	case eventstore.ExpectAny:
		return nil
	case eventstore.ExpectNone:
		return "none"
	case eventstore.ExpectExists:
		return "exists"
	}
	return int64(expected)
}

// parseExpected reads an expected version, or says what is wrong with it.
func parseExpected(text string) (expected eventstore.ExpectedVersion, reason string) {
	switch text {
	case "none":
		return eventstore.ExpectNone, ""
	case "exists":
		return eventstore.ExpectExists, ""
	case "any":
		return eventstore.ExpectAny, ""
	}
	n, err := strconv.ParseInt(text, 10, 64)
	// Below 0 are the words, and they have names.
	if err != nil || n < 0 {
		return 0, fmt.Sprintf("is %.100s: give a number from 0, none, exists or any", text)
	}
	return eventstore.ExpectedVersion(n), ""
}
