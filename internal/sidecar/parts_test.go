package sidecar

import (
	"encoding/binary"
	"math"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
)

// costOf is what the parts of a message take, by the message that protobuf has made.
func costOf(m protoreflect.Message) (cost int64) {
	of := func(m protoreflect.Message) int64 {
		return costOfMessage(m.Descriptor()) + costOf(m)
	}
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.IsMap():
			value.Map().Range(func(_ protoreflect.MapKey, value protoreflect.Value) bool {
				cost += entryCost
				if field.MapValue().Message() != nil {
					cost += of(value.Message())
				}
				return true
			})
		case field.IsList() && field.Message() != nil:
			for i := range value.List().Len() {
				cost += of(value.List().Get(i).Message())
			}
		case field.IsList():
			cost += scalarCost * int64(value.List().Len())
		case field.Message() != nil:
			cost += of(value.Message())
		}
		return true
	})
	return cost
}

// requests are messages with all that is counted.
func requests() []proto.Message {
	event := &eventstorev1.Event{Id: "e", EventType: "T", ActorId: "a-1", Data: []byte(`{"a":[1,2]}`), Metadata: map[string]string{"k": `"{:,`, "l": ""}}
	save := &eventstorev1.SaveEventsRequest{Store: "orders", Events: []*eventstorev1.Event{event, {}, event}, ExpectedVersions: map[string]*eventstorev1.ExpectedVersion{
		"a-1": {Expected: &eventstorev1.ExpectedVersion_Version{Version: math.MaxInt64}},
	}}
	return []proto.Message{
		&eventstorev1.SaveEventRequest{Event: event},
		save,
		&eventstorev1.SaveBatchesRequest{Batches: []*eventstorev1.SaveBatch{{Save: save, TraceParent: "t"}, {}}},
		&eventstorev1.ReplayParkedRequest{Sequences: []uint64{1, 2, 127}},
		&eventstorev1.GetLatestVersionRequest{ActorId: "a-1"},
	}
}

// packed is what a list of numbers counts by itself.
func packed(message proto.Message) int64 {
	if _, isList := message.(*eventstorev1.ReplayParkedRequest); isList {
		return scalarCost
	}
	return 0
}

// counted is what a counter counts of bytes that come in pieces.
func counted(counter interface{ count(p []byte) int64 }, sent []byte, piece int) (cost int64) {
	for len(sent) > 0 {
		n := min(max(piece, 1), len(sent))
		cost += counter.count(sent[:n])
		sent = sent[n:]
	}
	return cost
}

func inEnvelope(message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

func TestPartsAreCounted(t *testing.T) {
	t.Parallel()
	for _, message := range requests() {
		sent, err := proto.Marshal(message)
		if err != nil {
			t.Fatal(err)
		}
		name, want := message.ProtoReflect().Descriptor(), costOf(message.ProtoReflect())
		for piece := 1; piece < 20; piece++ {
			if got := counted(newProtoParts(name, false), sent, piece); got != want+packed(message) {
				t.Errorf("%s in pieces of %d: counted %d, and the message takes %d", name.Name(), piece, got, want)
			}
			// What comes after the first message may be read too.
			two := append(inEnvelope(nil), inEnvelope(sent)...)
			if got := counted(newProtoParts(name, true), two, piece); got != want+packed(message) {
				t.Errorf("%s after another, in pieces of %d: counted %d, and the message takes %d", name.Name(), piece, got, want)
			}
		}
		document, err := protojson.Marshal(message)
		if err != nil {
			t.Fatal(err)
		}
		if got := counted(&jsonParts{}, document, 3); got < want {
			t.Errorf("%s of JSON: counted %d, want %d or more: %s", name.Name(), got, want, document)
		}
	}
}

// No bytes make protobuf take more apart than is counted, also where it fails in the end.
func FuzzPartsAreCounted(f *testing.F) {
	for _, message := range requests() {
		sent, err := proto.Marshal(message)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(sent, 1)
		f.Add(sent[:len(sent)/2], 2)
	}
	f.Add([]byte{0x13, 0x12, 0x00, 0x14, 0x12, 0x00}, 1)
	f.Add([]byte{0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, 4)
	f.Fuzz(func(t *testing.T, sent []byte, piece int) {
		for _, message := range requests() {
			proto.Reset(message)
			// What was taken apart before an error counts too.
			_ = proto.UnmarshalOptions{Merge: true}.Unmarshal(sent, message)
			want := costOf(message.ProtoReflect())
			if got := counted(newProtoParts(message.ProtoReflect().Descriptor(), false), sent, piece); got < want {
				t.Errorf("counted %d of %x as %s, which takes %d", got, sent, message.ProtoReflect().Descriptor().Name(), want)
			}
			proto.Reset(message)
			if protojson.Unmarshal(sent, message) == nil {
				if got, want := counted(&jsonParts{}, sent, piece), costOf(message.ProtoReflect()); got < want {
					t.Errorf("counted %d of %s as %s, which takes %d", got, sent, message.ProtoReflect().Descriptor().Name(), want)
				}
			}
		}
	})
}
