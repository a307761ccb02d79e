package sidecar

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	eventstorev1 "git.flowmade.one/flowmade-one/aether-operator/api/eventstore/v1"
)

// What a part of a request takes in memory beside its bytes: the smallest event is two
// bytes of protobuf, and some hundreds when it is taken apart.
const (
	// messageCost is that of a message, with fieldCost for each of the fields that it may
	// have; of an event it is what the event takes as a message and as one of the store.
	messageCost = 64
	fieldCost   = 32
	// entryCost is that of an entry of a map, scalarCost that of a number in a list.
	entryCost  = 128
	scalarCost = 16
	// maxPartsCost is the most that the parts of one request may take: those of 16,000
	// events and more.
	maxPartsCost = 16 << 20
)

// eventCost is that of an event, which has the most fields of all.
var eventCost = costOfMessage((&eventstorev1.Event{}).ProtoReflect().Descriptor())

// parts is the memory that the parts of one request take.
type parts struct {
	account     *account
	taken, most int64
}

func newParts(account *account) *parts {
	return &parts{account: account, most: min(maxPartsCost, account.limits.config.Memory/2)}
}

// add takes memory for more parts, before they are made. What would have no room, with the
// body that they are of, also when nothing else is under way is too large.
func (p *parts) add(cost int64) error {
	p.taken += cost
	if p.taken > p.most || callCost+p.account.owed+cost > p.account.limits.config.Memory {
		return fmt.Errorf("the request has more events, fields and keys of metadata than there is memory for, %d KiB and what the body leaves of %d KiB: send fewer events at once: %w",
			p.most>>10, p.account.limits.config.Memory>>10, eventstore.ErrTooLarge)
	}
	return p.account.charge(cost)
}

// partsBody takes memory for the parts of a message while its bytes arrive, and so before
// Connect makes a message of them.
type partsBody struct {
	io.ReadCloser
	parts   *parts
	counter interface{ count(p []byte) int64 }
}

func (b *partsBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if cost := b.counter.count(p[:n]); cost > 0 {
		if tooMany := b.parts.add(cost); tooMany != nil {
			return n, tooMany
		}
	}
	return n, err
}

// countParts counts the parts of the messages of a procedure that a request has.
func countParts(r *http.Request, input protoreflect.MessageDescriptor, account *account) io.ReadCloser {
	kind := contentType(r)
	body := &partsBody{ReadCloser: r.Body, parts: newParts(account)}
	if strings.HasSuffix(kind, "json") {
		body.counter = &jsonParts{}
		return body
	}
	enveloped := strings.HasPrefix(kind, "application/grpc") || strings.HasPrefix(kind, "application/connect+")
	body.counter = newProtoParts(input, enveloped)
	return body
}

// jsonParts counts the parts of JSON of protobuf messages: what is outside of its strings,
// since bytes are strings there.
type jsonParts struct{ inString, escaped bool }

func (c *jsonParts) count(p []byte) (cost int64) {
	for _, b := range p {
		switch {
		case c.escaped:
			c.escaped = false
		case c.inString && b == '\\':
			c.escaped = true
		case b == '"':
			c.inString = !c.inString
		case c.inString:
		case b == '{':
			cost += eventCost
		case b == ':':
			cost += entryCost
		case b == ',':
			cost += scalarCost
		}
	}
	return cost
}

// protoParts counts the parts of protobuf messages. It keeps no bytes of them, and what it
// is given may end anywhere. Of what is no protobuf it counts at least what protobuf makes
// of it before it finds that out.
type protoParts struct {
	root protoreflect.MessageDescriptor
	// head is what has arrived of the five bytes before a message of gRPC, and of the
	// streams of Connect: a flag, and the length.
	head []byte
	// at counts the bytes, of which those before skip are not looked at; packed says that
	// they are numbers, of a byte each or more.
	at, skip uint64
	packed   bool
	// number is the varint that is being read, shift the bits that there are of it, and
	// reads what it is.
	number uint64
	shift  uint
	reads  reading
	field  protoreflect.FieldDescriptor
	// inside are the messages that are being read, the last the innermost.
	inside []insideOf
	cost   int64
}

type insideOf struct {
	message protoreflect.MessageDescriptor
	end     uint64
}

type reading int

const (
	readsTag reading = iota
	readsLength
	readsValue
	readsHead
)

func newProtoParts(root protoreflect.MessageDescriptor, enveloped bool) *protoParts {
	if enveloped {
		return &protoParts{root: root, reads: readsHead}
	}
	return &protoParts{root: root, inside: []insideOf{{root, math.MaxUint64}}}
}

func (c *protoParts) count(p []byte) int64 {
	c.cost = 0
	for len(p) > 0 {
		if c.skip > c.at {
			n := min(uint64(len(p)), c.skip-c.at)
			c.at, p = c.at+n, p[n:]
			if c.packed {
				c.cost += scalarCost * int64(n)
			}
			continue
		}
		c.packed = false
		c.leave()
		b := p[0]
		c.at, p = c.at+1, p[1:]
		if c.reads == readsHead {
			c.enter(b)
		} else {
			c.take(b)
		}
	}
	return c.cost
}

// enter takes a byte of what comes before a message.
func (c *protoParts) enter(b byte) {
	if c.head = append(c.head, b); len(c.head) == 5 {
		c.inside = append(c.inside, insideOf{c.root, c.at + uint64(binary.BigEndian.Uint32(c.head[1:]))})
		c.head, c.reads = c.head[:0], readsTag
	}
}

// leave leaves the messages that have ended. After the outermost another may come.
func (c *protoParts) leave() {
	for len(c.inside) > 0 && c.inside[len(c.inside)-1].end <= c.at {
		c.inside = c.inside[:len(c.inside)-1]
		c.number, c.shift, c.reads = 0, 0, readsTag
	}
	if len(c.inside) == 0 {
		c.reads = readsHead
	}
}

// take takes a byte of a varint.
func (c *protoParts) take(b byte) {
	end := c.inside[len(c.inside)-1].end
	if c.shift > 63 {
		// No varint is longer: the message is none.
		c.number, c.shift, c.skip = 0, 0, end
		return
	}
	c.number |= uint64(b&0x7f) << c.shift
	c.shift += 7
	if b >= 0x80 {
		return
	}
	number, reads := c.number, c.reads
	c.number, c.shift, c.reads = 0, 0, readsTag
	switch reads {
	case readsTag:
		c.tag(number, end)
	case readsLength:
		c.bytes(c.at + min(number, end-c.at))
	}
}

// tag begins a field.
func (c *protoParts) tag(tag, end uint64) {
	number, kind := protowire.DecodeTag(tag)
	c.field = c.inside[len(c.inside)-1].message.Fields().ByNumber(number)
	if kind != protowire.BytesType && c.field != nil && c.field.IsList() {
		c.cost += scalarCost
	}
	switch kind {
	case protowire.VarintType:
		c.reads = readsValue
	case protowire.Fixed32Type:
		c.skip = min(c.at+4, end)
	case protowire.Fixed64Type:
		c.skip = min(c.at+8, end)
	case protowire.BytesType:
		c.reads = readsLength
	case protowire.StartGroupType, protowire.EndGroupType:
		// Of a field that is not known: its bytes are kept as they are.
	default:
		c.skip = end
	}
}

// bytes begins the content of a field: a message, numbers, or what is only long.
func (c *protoParts) bytes(end uint64) {
	field := c.field
	if field == nil || field.Message() == nil {
		c.skip, c.packed = end, field != nil && field.IsList()
		if c.packed {
			c.cost += scalarCost
		}
		return
	}
	c.inside = append(c.inside, insideOf{field.Message(), end})
	switch value := field.MapValue(); {
	case field.IsMap() && value.Message() != nil:
		// An entry has a value, also when none was sent.
		c.cost += entryCost + costOfMessage(value.Message())
	case field.IsMap():
		c.cost += entryCost
	case !field.ContainingMessage().IsMapEntry():
		c.cost += costOfMessage(field.Message())
	}
}

func costOfMessage(message protoreflect.MessageDescriptor) int64 {
	return messageCost + fieldCost*int64(message.Fields().Len())
}
