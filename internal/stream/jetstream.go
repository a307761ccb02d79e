package stream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// Codes of errors of the JetStream API that the client library does not name.
const (
	errNoSuitablePeers      = 10005
	errMaxConsumers         = 10026
	errInvalidConfig        = 10052
	errStreamLimits         = 10053
	errNameInUse            = 10058
	errStreamNotFound       = 10059
	errReplicasNotSupported = 10074
	errReconfiguring        = 10226
)

// refusals are the errors that a person must mend although the server gives them
// the status of a fault of its own.
var refusals = []jetstream.ErrorCode{errInvalidConfig, errStreamLimits}

// Account is what the server tells about itself and the account.
type Account struct {
	APILevel int
	// usages are how much it holds and may hold; largest is the largest message that
	// the servers take, in bytes.
	usages  []usage
	largest int64
}

// Account asks for the JetStream account.
func (c *Conn) Account(ctx context.Context) (Account, error) {
	var info jetstream.AccountInfo
	if err := c.request(ctx, "INFO", "", nil, &info); err != nil {
		return Account{}, apiFault("read the JetStream account", err)
	}
	return Account{APILevel: info.API.Level, usages: usagesOf(&info), largest: c.nc.MaxPayload()}, nil
}

// Stream asks for a stream. Nil without an error: there is none.
func (c *Conn) Stream(ctx context.Context, name string) (*jetstream.StreamInfo, error) {
	var info jetstream.StreamInfo
	if err := c.request(ctx, "STREAM.INFO", name, nil, &info); err != nil {
		if hasCode(err, errStreamNotFound) {
			return nil, nil
		}
		return nil, apiFault("read stream "+name, err)
	}
	return &info, nil
}

// streamRequest asks the server to refuse what it would otherwise adjust in
// silence.
type streamRequest struct {
	jetstream.StreamConfig
	Pedantic bool `json:"pedantic"`
}

// Create creates a stream, and gives it back as the server has it. One that is there is a
// fault, which another look mends: an earlier try has made it, of which no answer came, or
// somebody has restored it at this moment. The server gives back what is there to who asks
// for just that, so that each request asks for another stream. One that this request made,
// with messages of an earlier stream of that name, which the server brought back to life,
// is deleted again.
func (c *Conn) Create(ctx context.Context, config jetstream.StreamConfig) (*jetstream.StreamInfo, error) {
	config.Metadata = maps.Clone(config.Metadata)
	if config.Metadata == nil {
		config.Metadata = map[string]string{}
	}
	config.Metadata[v1alpha1.MetadataCreation] = rand.Text()
	told := []string{wasCreated}
	if config.Replicas > 1 {
		told = append(told, gotLeader)
	}
	info, err := c.change(ctx, "CREATE", config, told...)
	if err != nil {
		return nil, apiFault("create stream "+config.Name, err)
	}
	if !resurrected(info) {
		return info, nil
	}
	// The server had not finished removing a stream of that name, which somebody
	// deleted a moment before. What it holds was deleted, and it is ours only by name;
	// unless something was saved to it meanwhile, which stays.
	now, err := c.Stream(ctx, config.Name)
	if err != nil {
		return nil, err
	}
	if now == nil || !now.State.LastTime.Before(born(info)) {
		return nil, Retrying(v1alpha1.ReasonProgressingWithRetry, "the new stream %s changed at this moment: looking again", config.Name)
	}
	fault := Retrying(v1alpha1.ReasonProgressingWithRetry,
		"the new stream %s holds %d messages of a stream of that name that was deleted before: it is deleted and created again", config.Name, info.State.Msgs)
	return nil, errors.Join(fault, c.Delete(ctx, config.Name))
}

// clockSkew is how far the clocks of the servers of a cluster may be apart: one gives
// a stream the time of its creation, and another its messages theirs.
const clockSkew = time.Second

// born is the time from which on a message of a stream is its own.
func born(info *jetstream.StreamInfo) time.Time {
	if info.Cluster != nil && info.Cluster.Name != "" {
		return info.Created.Add(-clockSkew)
	}
	return info.Created
}

// resurrected says whether a stream that was just created holds messages that are
// older than itself.
func resurrected(info *jetstream.StreamInfo) bool {
	return info.State.Msgs > 0 && info.State.FirstTime.Before(born(info))
}

// Update changes the configuration of a stream.
func (c *Conn) Update(ctx context.Context, config jetstream.StreamConfig) (*jetstream.StreamInfo, error) {
	info, err := c.change(ctx, "UPDATE", config, wasUpdated)
	if err != nil {
		return nil, apiFault("update stream "+config.Name, err)
	}
	return info, nil
}

// change sends a configuration. What it causes to be told wakes nobody.
func (c *Conn) change(ctx context.Context, verb string, config jetstream.StreamConfig, told ...string) (*jetstream.StreamInfo, error) {
	c.void(config.Name)
	c.expect(config.Name, told...)
	var info jetstream.StreamInfo
	if err := c.request(ctx, "STREAM."+verb, config.Name, streamRequest{config, true}, &info); err != nil {
		c.unexpect(config.Name, told...)
		return nil, err
	}
	if ignored := ignoredFields(config, &info); len(ignored) > 0 {
		return nil, Stalled(v1alpha1.ReasonFieldIgnored,
			"the server took the configuration of stream %s and ignored %s: it is older than %s, or does not know the field; %s: upgrade the NATS servers of the class",
			config.Name, strings.Join(ignored, ", "), oldestVersion, c.serverText())
	}
	return &info, nil
}

// ignoredFields are those that were sent and that the stream came back without, as
// from a server that does not know them. What came back as another value was not
// ignored: somebody else may have changed it.
func ignoredFields(sent jetstream.StreamConfig, info *jetstream.StreamInfo) []string {
	var ignored []string
	for _, f := range fields {
		sent, got := f.value(&sent), f.value(&info.Config)
		if sent != got && got == f.value(&jetstream.StreamConfig{}) {
			ignored = append(ignored, f.name)
		}
	}
	return ignored
}

// Delete deletes a stream with all it holds. One that is gone already is no error.
func (c *Conn) Delete(ctx context.Context, name string) error {
	c.void(name)
	var done struct{}
	if err := c.request(ctx, "STREAM.DELETE", name, nil, &done); err != nil && !hasCode(err, errStreamNotFound) {
		return apiFault("delete stream "+name, err)
	}
	return nil
}

// FirstSince gives the sequence of the first message stored at or after a time,
// and one beyond the last when there is none.
func (c *Conn) FirstSince(ctx context.Context, info *jetstream.StreamInfo, since time.Time) (uint64, error) {
	found, err := c.firstMessage(ctx, info.Config.Name, "since "+since.Format(time.RFC3339), map[string]any{"start_time": since.UTC()})
	if err == nil && found.Sequence == 0 {
		return info.State.LastSeq + 1, nil
	}
	return found.Sequence, err
}

// Stored is where a message is in a stream, and when it was stored; the zero one is none.
type Stored struct {
	Sequence uint64    `json:"seq"`
	Time     time.Time `json:"time"`
}

// FirstFrom gives the first message of a stream from a sequence on, which is at least 1.
func (c *Conn) FirstFrom(ctx context.Context, stream string, sequence uint64) (Stored, error) {
	return c.firstMessage(ctx, stream, fmt.Sprintf("from sequence %d on", sequence), map[string]any{"seq": sequence})
}

func (c *Conn) firstMessage(ctx context.Context, stream, from string, query map[string]any) (Stored, error) {
	query["next_by_subj"] = ">"
	var found struct {
		Message Stored `json:"message"`
	}
	err := c.request(ctx, "STREAM.MSG.GET", stream, query, &found)
	if hasCode(err, int(jetstream.JSErrCodeMessageNotFound)) {
		return Stored{}, nil
	}
	if err != nil {
		return Stored{}, apiFault(fmt.Sprintf("find the first message of stream %s %s", stream, from), err)
	}
	return found.Message, nil
}

// maxCounted is how many subjects are counted one by one: a server tells of as many in
// one answer.
const maxCounted = 100_000

// Surplus counts the messages that are more than a number for each subject. A stream
// with very many subjects is not counted: then at least one is.
func (c *Conn) Surplus(ctx context.Context, plan Plan) (uint64, error) {
	if plan.Live.State.NumSubjects > maxCounted {
		return plan.surplus, nil
	}
	name, each := plan.Live.Config.Name, uint64(plan.Wanted.Config.MaxMsgsPerSubject)
	var info jetstream.StreamInfo
	if err := c.request(ctx, "STREAM.INFO", name, map[string]string{"subjects_filter": ">"}, &info); err != nil {
		return 0, apiFault("count the messages of stream "+name, err)
	}
	surplus := uint64(0)
	for _, messages := range info.State.Subjects {
		surplus += messages - min(each, messages)
	}
	return surplus, nil
}

// apiFault gives an error of the JetStream API its meaning.
func apiFault(doing string, err error) error {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return err
	}
	if fault := resourceFault(doing, api); fault != nil {
		return fault
	}
	switch {
	case api.ErrorCode == errReconfiguring:
		return Waiting(v1alpha1.ReasonProgressing, "%s: replicas are still moving (%w)", doing, err)
	case api.ErrorCode == errNoSuitablePeers && strings.Contains(api.Description, "offline"):
		// There are enough servers, and one of them is away or has just come.
		return Retrying(v1alpha1.ReasonInsufficientPeers,
			"%s: a server that the replicas need is not there now (%w): see that all servers run; the operator tries again by itself", doing, err)
	case api.ErrorCode == errNoSuitablePeers, api.ErrorCode == errReplicasNotSupported:
		return Stalled(v1alpha1.ReasonInsufficientPeers, "%s: no servers are suitable (%w): %s", doing, err, peersWayOut(api.Description))
	case api.ErrorCode == jetstream.JSErrCodeJetStreamNotEnabled, api.ErrorCode == jetstream.JSErrCodeJetStreamNotEnabledForAccount:
		return Stalled(v1alpha1.ReasonJetStreamUnavailable, "%s: %w: turn JetStream on for the account of the class. If it was on, a server has turned it off, as it does when its disk is full or cannot be written: its log says so; make room and restart it", doing, err)
	case api.ErrorCode == errMaxConsumers:
		return Stalled(v1alpha1.ReasonRefusedByServer,
			"%s: the NATS account limits the consumers of a stream to fewer than the %d that an event store may have (%w): raise max_consumers of the account, or set no limit there", doing, MaxConsumers, err)
	case api.ErrorCode == errNameInUse:
		return Retrying(v1alpha1.ReasonProgressingWithRetry, "%s: somebody created it at this moment (%w): looking again", doing, err)
	case api.Code == 500 && !slices.Contains(refusals, api.ErrorCode):
		// Such as a stream whose predecessor the server is still removing.
		return Retrying(v1alpha1.ReasonProgressingWithRetry, "%s: %w: the operator tries again by itself", doing, err)
	case api.Code > 500:
		return Retrying(v1alpha1.ReasonJetStreamUnavailable, "%s: %w: the operator tries again by itself", doing, err)
	default:
		return Stalled(v1alpha1.ReasonRefusedByServer,
			"%s: the server refused the configuration (%w): change the spec, or the limits of the server or account that it names", doing, err)
	}
}

// peersWayOut says which field is to be changed when servers lack what is asked for:
// the server tells why it left the others out.
func peersWayOut(description string) string {
	if strings.Contains(description, "tag") {
		return "too few servers carry the tags of spec.placement.tags: correct them, or tag servers so"
	}
	return "too few servers are in the cluster, which spec.placement.cluster names where it is set: correct that, set spec.replicas lower, or add servers"
}

func hasCode(err error, code int) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && int(api.ErrorCode) == code
}
