package access

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
)

const (
	// maxConsumerRequest bounds the body of a request: the engine's are below 2 KiB.
	maxConsumerRequest = 8 << 10
	// maxConsumerMessage bounds it with its subjects and headers.
	maxConsumerMessage = maxConsumerRequest + 1<<10
	// maxInactive bounds how long a consumer in memory is kept that nobody asks.
	maxInactive = time.Minute
)

// consumerRequest is what a pod may ask of the service that makes consumers, and
// what the operator asks of JetStream then. It has the fields of
// $JS.API.CONSUMER.CREATE that the engine uses and no others: a consumer does what
// its configuration says with all rights of the account of the streams.
type consumerRequest struct {
	Stream string         `json:"stream_name"`
	Action string         `json:"action"`
	Config consumerConfig `json:"config"`
}

type consumerConfig struct {
	Name          string        `json:"name"`
	DeliverPolicy string        `json:"deliver_policy"`
	StartSequence uint64        `json:"opt_start_seq,omitempty"`
	FilterSubject string        `json:"filter_subject,omitempty"`
	AckPolicy     string        `json:"ack_policy"`
	ReplayPolicy  string        `json:"replay_policy"`
	Replicas      int           `json:"num_replicas"`
	Inactive      time.Duration `json:"inactive_threshold,omitempty"`
	Memory        bool          `json:"mem_storage,omitempty"`
}

// temporaryName is that of a consumer of Subscribe.
var temporaryName = regexp.MustCompile(`^aether-[A-Z2-7]{26}$`)

// readConsumerRequest says what a pod that may use a stream of events asks for. It
// answers with a request made anew from what was found good, so that nothing else of
// the body reaches JetStream.
func readConsumerRequest(stream string, body []byte) (consumerRequest, error) {
	if len(body) > maxConsumerRequest {
		return consumerRequest{}, fmt.Errorf("it has %d bytes: at most %d are allowed", len(body), maxConsumerRequest)
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	var asked consumerRequest
	if err := decoder.Decode(&asked); err != nil {
		return consumerRequest{}, fmt.Errorf("it cannot be read: %s", clip(err.Error()))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return consumerRequest{}, errors.New("something comes after its end")
	}
	config := asked.Config
	if asked.Stream != stream {
		return consumerRequest{}, fmt.Errorf("it is for stream %q, and was sent to %q", clip(asked.Stream), stream)
	}
	made, err := checkTemporary(asked.Action, config)
	if err == nil {
		err = checkFilter(stream, config.FilterSubject)
	}
	return consumerRequest{Stream: stream, Action: asked.Action, Config: made}, err
}

// checkTemporary is for the consumers of Subscribe: in the memory of one server, and
// gone soon after nobody asks them any more.
func checkTemporary(action string, c consumerConfig) (consumerConfig, error) {
	made := consumerConfig{
		Name: c.Name, DeliverPolicy: "by_start_sequence", StartSequence: c.StartSequence, FilterSubject: c.FilterSubject,
		AckPolicy: "none", ReplayPolicy: "instant", Replicas: 1, Inactive: c.Inactive, Memory: true,
	}
	switch {
	case !temporaryName.MatchString(c.Name):
		return made, fmt.Errorf("its name is %q: one is called aether- and 26 random letters and digits", clip(c.Name))
	case action != "create":
		return made, fmt.Errorf("its action is %q: only create is made", clip(action))
	case c.StartSequence == 0:
		return made, errors.New("its opt_start_seq is 0: give 1 or more")
	case c.Inactive <= 0 || c.Inactive > maxInactive:
		return made, fmt.Errorf("its inactive_threshold is %s: give up to %s", c.Inactive, maxInactive)
	}
	return made, same(made, c)
}

// same refuses what was asked for beside what is made: who asks for something must
// not believe to have it.
func same(made, asked consumerConfig) error {
	for _, field := range []struct {
		name        string
		made, asked any
	}{
		{"deliver_policy", made.DeliverPolicy, asked.DeliverPolicy}, {"ack_policy", made.AckPolicy, asked.AckPolicy},
		{"replay_policy", made.ReplayPolicy, asked.ReplayPolicy}, {"num_replicas", made.Replicas, asked.Replicas},
		{"inactive_threshold", made.Inactive, asked.Inactive}, {"mem_storage", made.Memory, asked.Memory},
	} {
		if field.made != field.asked {
			return fmt.Errorf("its %s is %s: only %v is made", field.name, clip(fmt.Sprintf("%q", fmt.Sprint(field.asked))), field.made)
		}
	}
	return nil
}

// checkFilter refuses what is not all events of the stream, those of one type of
// actors, or those of one actor. Without a filter a consumer has all that its stream has,
// and the stream is the one whose subject the pod may ask on: nothing else of the request
// says which.
func checkFilter(stream, filter string) error {
	if filter == "" {
		return nil
	}
	rest, ours := strings.CutPrefix(filter, strings.TrimSuffix(jetstream.EventsSubjects(stream), ">"))
	if ours && rest == ">" {
		return nil
	}
	actorType, actor, two := strings.Cut(rest, ".")
	if ours && two && isToken(actorType) && (actor == "*" || isToken(actor)) {
		return nil
	}
	return fmt.Errorf("its filter_subject is %q: give one of the events of stream %s", clip(filter), stream)
}

// isToken says whether a token can be that of an event. A longer one is in no subject of
// an event; and in that of the operator's own request it would be more than a server
// takes on one line, which ends the connection that all stores share.
func isToken(token string) bool {
	text, err := jetstream.DecodeToken(token)
	return text != "" && len(text) <= eventstore.MaxActorIDBytes && err == nil
}

// maxQuoted bounds what is quoted of what somebody else has sent.
const maxQuoted = 100

// clip bounds a text that somebody else has sent.
func clip(text string) string {
	if len(text) <= maxQuoted {
		return text
	}
	return strings.ToValidUTF8(text[:maxQuoted], "") + "..."
}
