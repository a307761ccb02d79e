package stream

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// Effect is what a step does to stored messages.
type Effect int

const (
	// Safe: nothing that is stored is touched.
	Safe Effect = iota
	// DestroysData: stored messages would go.
	DestroysData
	// ReachesOthers: messages of others who use the stream would go elsewhere.
	ReachesOthers
	// Impossible: JetStream cannot do it to a stream that exists.
	Impossible
)

// Step is one field of one stream that differs.
type Step struct {
	Field, From, To string
	Effect          Effect
}

// effectNames are the effects as a status tells them.
var effectNames = map[Effect]v1alpha1.Effect{
	Safe: v1alpha1.EffectSafe, DestroysData: v1alpha1.EffectDestroysData, ReachesOthers: v1alpha1.EffectReachesOthers, Impossible: v1alpha1.EffectImpossible,
}

// maxText is what a status takes of a value.
const maxText = 1024

// Status is a plan as a status tells it.
func (p Plan) Status() []v1alpha1.PlanStep {
	name := p.Wanted.Config.Name
	if p.Create() {
		return []v1alpha1.PlanStep{{Stream: name, Field: "stream", From: "absent", To: "created", Effect: v1alpha1.EffectSafe}}
	}
	var steps []v1alpha1.PlanStep
	for _, s := range p.Steps {
		steps = append(steps, v1alpha1.PlanStep{
			Stream: name, Field: s.Field, From: s.From[:min(len(s.From), maxText)], To: s.To[:min(len(s.To), maxText)], Effect: effectNames[s.Effect],
		})
	}
	return steps
}

// String reads as "maxAge from 365d to 30d".
func (s Step) String() string { return fmt.Sprintf("%s from %s to %s", s.Field, s.From, s.To) }

// Plan leads from a stream as it is to the stream as it is asked for.
type Plan struct {
	Wanted Wanted
	// Live is the stream as it is, nil when it must be created.
	Live  *jetstream.StreamInfo
	Steps []Step
	// surplus is how many messages are more than the wanted number for each subject;
	// at least, until they are counted.
	surplus uint64
}

// Create says whether the stream must be created.
func (p Plan) Create() bool { return p.Live == nil }

// Settled says whether nothing is to be done.
func (p Plan) Settled() bool { return !p.Create() && len(p.Steps) == 0 }

// OnlyMarks says whether nothing is to be done but to write marks into a stream that names
// its EventStore: a version of the operator writes what those before it did not.
func (p Plan) OnlyMarks() bool {
	if p.Create() || len(p.Steps) != 1 || p.Steps[0].Field != fieldMetadata {
		return false
	}
	key := v1alpha1.MetadataUID
	return p.Live.Config.Metadata[key] == p.Wanted.Config.Metadata[key]
}

// With gives the steps of one effect.
func (p Plan) With(effect Effect) []Step {
	return slices.DeleteFunc(slices.Clone(p.Steps), func(s Step) bool { return s.Effect != effect })
}

// Waiting gives the steps that wait for a person.
func (p Plan) Waiting() []Step {
	return slices.DeleteFunc(slices.Clone(p.Steps), func(s Step) bool { return s.Effect != DestroysData && s.Effect != ReachesOthers })
}

// Adopting is the plan where the stream had no owner: others who use it may rely on
// where its messages come from and go to.
func (p Plan) Adopting() Plan {
	p.Steps = slices.Clone(p.Steps)
	for i, s := range p.Steps {
		if s.Effect == Safe && slices.Contains(routing, s.Field) {
			p.Steps[i].Effect = ReachesOthers
		}
	}
	return p
}

// routing are the fields that say where messages come from and go to.
var routing = []string{"subjects", "mirror", "sources", "subjectTransform", "republish"}

// MustCount says whether only a count for each subject tells what the plan destroys.
func (p Plan) MustCount() bool {
	return slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Field == fieldHistory && s.Effect == DestroysData })
}

// Counted is the plan once it is known how many messages are more than the wanted
// number for each subject.
func (p Plan) Counted(surplus uint64) Plan {
	p.Steps, p.surplus = slices.Clone(p.Steps), surplus
	for i, s := range p.Steps {
		if s.Field == fieldHistory && surplus == 0 {
			p.Steps[i].Effect = Safe
		}
	}
	return p
}

// Changes says whether the plan changes a field.
func (p Plan) Changes(field string) bool {
	return slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Field == field })
}

// ShortensAge says whether messages of a stream that exists will expire earlier.
func (p Plan) ShortensAge() bool {
	if p.Create() || p.Wanted.Config.MaxAge == 0 {
		return false
	}
	return p.Live.Config.MaxAge == 0 || p.Wanted.Config.MaxAge < p.Live.Config.MaxAge
}

// OnlyLongerAge is the plan without all steps but that to a longer age.
func (p Plan) OnlyLongerAge() Plan {
	p.Steps = slices.DeleteFunc(slices.Clone(p.Steps), func(s Step) bool { return s.Field != FieldMaxAge || p.ShortensAge() })
	return p
}

// Config is what to send to the server: the wanted one, and of the live one what
// others wrote into its metadata and what cannot be changed later.
func (p Plan) Config() jetstream.StreamConfig {
	config := p.Wanted.Config
	if p.Live == nil {
		return config
	}
	config.FirstSeq = p.Live.Config.FirstSeq
	config.Metadata = maps.Clone(config.Metadata)
	for key, value := range p.Live.Config.Metadata {
		if _, ours := config.Metadata[key]; !ours && !serverMetadata(key) {
			config.Metadata[key] = value
		}
	}
	return config
}

// Readable is the configuration of a stream as it is, but that replicas answer reads.
func Readable(live *jetstream.StreamInfo) jetstream.StreamConfig {
	config := live.Config
	config.AllowDirect = true
	config.Metadata = maps.Clone(config.Metadata)
	maps.DeleteFunc(config.Metadata, func(key, _ string) bool { return serverMetadata(key) })
	return config
}

// serverMetadata are the keys that the server itself writes.
func serverMetadata(key string) bool { return strings.HasPrefix(key, "_nats.") }

// FieldReplicas and FieldMaxAge are the fields that others than the plan look at.
const (
	FieldReplicas = "replicas"
	FieldMaxAge   = "maxAge"
	fieldMaxBytes = "maxBytes"
	fieldMaxMsgs  = "maxMessages"
	fieldHistory  = "maxMessagesPerSubject"
	fieldMetadata = "metadata"
)

// NewPlan compares field by field. The time decides which messages a shorter
// age would drop; see LatestTime.
func NewPlan(wanted Wanted, live *jetstream.StreamInfo, now time.Time) Plan {
	plan := Plan{Wanted: wanted, Live: live}
	if live == nil {
		return plan
	}
	plan.surplus, now = surplus(&wanted.Config, live), LatestTime(live, now)
	for _, f := range fields {
		from, to := f.value(&live.Config), f.value(&wanted.Config)
		if from == to {
			continue
		}
		step := Step{Field: f.name, From: from, To: to}
		if f.effect != nil {
			step.Effect = f.effect(&wanted.Config, live, now)
		}
		plan.Steps = append(plan.Steps, step)
	}
	return plan
}

// field is one field of a stream's configuration, as text so that it can be
// compared and told. Without an effect a change of it is safe.
type field struct {
	name   string
	value  func(*jetstream.StreamConfig) string
	effect func(wanted *jetstream.StreamConfig, live *jetstream.StreamInfo, now time.Time) Effect
}

// fields are all that JetStream knows, except the name, which is what streams
// are compared by, and the first sequence, which counts only at creation.
var fields = []field{
	{"description", func(c *jetstream.StreamConfig) string { return c.Description }, nil},
	{"subjects", func(c *jetstream.StreamConfig) string { return strings.Join(c.Subjects, ",") }, nil},
	{"retention", func(c *jetstream.StreamConfig) string { return c.Retention.String() }, retentionEffect},
	{"maxConsumers", func(c *jetstream.StreamConfig) string { return strconv.Itoa(c.MaxConsumers) }, nil},
	{fieldMaxMsgs, func(c *jetstream.StreamConfig) string { return strconv.FormatInt(c.MaxMsgs, 10) }, maxMessagesEffect},
	{fieldMaxBytes, func(c *jetstream.StreamConfig) string { return strconv.FormatInt(c.MaxBytes, 10) }, maxBytesEffect},
	{fieldHistory, func(c *jetstream.StreamConfig) string { return strconv.FormatInt(c.MaxMsgsPerSubject, 10) }, historyEffect},
	{"maxMessageSize", func(c *jetstream.StreamConfig) string { return strconv.Itoa(int(c.MaxMsgSize)) }, nil},
	{"discard", func(c *jetstream.StreamConfig) string { return c.Discard.String() }, nil},
	{"discardNewPerSubject", func(c *jetstream.StreamConfig) string { return strconv.FormatBool(c.DiscardNewPerSubject) }, nil},
	{FieldMaxAge, func(c *jetstream.StreamConfig) string { return FormatAge(c.MaxAge) }, maxAgeEffect},
	{"storage", func(c *jetstream.StreamConfig) string { return c.Storage.String() }, always(Impossible)},
	{FieldReplicas, func(c *jetstream.StreamConfig) string { return strconv.Itoa(c.Replicas) }, nil},
	{"noAck", func(c *jetstream.StreamConfig) string { return strconv.FormatBool(c.NoAck) }, nil},
	{"duplicateWindow", func(c *jetstream.StreamConfig) string { return FormatAge(c.Duplicates) }, nil},
	{"placement", func(c *jetstream.StreamConfig) string { return placementText(c.Placement) }, nil},
	{"mirror", func(c *jetstream.StreamConfig) string { return text(c.Mirror) }, nil},
	{"sources", func(c *jetstream.StreamConfig) string { return text(c.Sources) }, nil},
	{"sealed", func(c *jetstream.StreamConfig) string { return strconv.FormatBool(c.Sealed) }, always(Impossible)},
	{"denyDelete", func(c *jetstream.StreamConfig) string { return strconv.FormatBool(c.DenyDelete) }, denyEffect(func(c *jetstream.StreamConfig) bool { return c.DenyDelete })},
	{"denyPurge", func(c *jetstream.StreamConfig) string { return strconv.FormatBool(c.DenyPurge) }, denyEffect(func(c *jetstream.StreamConfig) bool { return c.DenyPurge })},
	{"allowRollup", func(c *jetstream.StreamConfig) string { return strconv.FormatBool(c.AllowRollup) }, nil},
	{"compression", func(c *jetstream.StreamConfig) string { return c.Compression.String() }, nil},
	{"subjectTransform", func(c *jetstream.StreamConfig) string { return text(c.SubjectTransform) }, nil},
	{"republish", func(c *jetstream.StreamConfig) string { return text(c.RePublish) }, nil},
	{"allowDirect", func(c *jetstream.StreamConfig) string { return strconv.FormatBool(c.AllowDirect) }, nil},
	{"mirrorDirect", func(c *jetstream.StreamConfig) string { return strconv.FormatBool(c.MirrorDirect) }, nil},
	{"consumerLimits", func(c *jetstream.StreamConfig) string { return text(c.ConsumerLimits) }, nil},
	{fieldMetadata, func(c *jetstream.StreamConfig) string { return ownMetadata(c.Metadata) }, nil},
	{"allowMessageTTL", func(c *jetstream.StreamConfig) string { return strconv.FormatBool(c.AllowMsgTTL) }, always(Impossible)},
	{"subjectDeleteMarkerTTL", func(c *jetstream.StreamConfig) string { return c.SubjectDeleteMarkerTTL.String() }, nil},
	{"allowMessageCounter", func(c *jetstream.StreamConfig) string { return strconv.FormatBool(c.AllowMsgCounter) }, always(Impossible)},
	{"allowAtomicPublish", func(c *jetstream.StreamConfig) string { return strconv.FormatBool(c.AllowAtomicPublish) }, nil},
	{"allowMessageSchedules", func(c *jetstream.StreamConfig) string { return strconv.FormatBool(c.AllowMsgSchedules) }, always(Impossible)},
	{"persistMode", func(c *jetstream.StreamConfig) string { return c.PersistMode.String() }, always(Impossible)},
	{"allowBatchPublish", func(c *jetstream.StreamConfig) string { return strconv.FormatBool(c.AllowBatchPublish) }, nil},
}

func always(effect Effect) func(*jetstream.StreamConfig, *jetstream.StreamInfo, time.Time) Effect {
	return func(*jetstream.StreamConfig, *jetstream.StreamInfo, time.Time) Effect { return effect }
}

func retentionEffect(_ *jetstream.StreamConfig, live *jetstream.StreamInfo, _ time.Time) Effect {
	if live.Config.Retention == jetstream.WorkQueuePolicy {
		return Impossible
	}
	return Safe
}

// maxAgeEffect: of a stream from which nobody may erase no event goes earlier than
// was promised when it was saved, whoever asks.
func maxAgeEffect(wanted *jetstream.StreamConfig, live *jetstream.StreamInfo, now time.Time) Effect {
	shorter := wanted.MaxAge != 0 && (live.Config.MaxAge == 0 || wanted.MaxAge < live.Config.MaxAge)
	switch {
	case shorter && Immutable(live):
		return Impossible
	case live.State.Msgs > 0 && wanted.MaxAge != 0 && live.State.FirstTime.Before(now.Add(-wanted.MaxAge)):
		return DestroysData
	}
	return Safe
}

// Immutable says whether nobody may erase messages of a stream.
func Immutable(live *jetstream.StreamInfo) bool {
	return live.Config.DenyDelete || live.Config.DenyPurge
}

// denyEffect: what was denied once is denied for ever.
func denyEffect(denied func(*jetstream.StreamConfig) bool) func(*jetstream.StreamConfig, *jetstream.StreamInfo, time.Time) Effect {
	return func(_ *jetstream.StreamConfig, live *jetstream.StreamInfo, _ time.Time) Effect {
		if denied(&live.Config) {
			return Impossible
		}
		return Safe
	}
}

// WayOut says what to do about a change that is impossible.
func (s Step) WayOut() string {
	switch s.Field {
	case "denyDelete", "denyPurge":
		return "set spec.protection to Immutable, which the stream is and stays, or copy the events to an EventStore of another name"
	case FieldMaxAge:
		return "set spec.retention.maxAge to what the stream has, or longer: of an Immutable store no event goes earlier than was promised; a shorter age takes an EventStore of another name"
	case "storage":
		return "set spec.storage to what the stream has, in a new EventStore, or copy the events to an EventStore of another name"
	}
	return "copy the stream to a new one without this setting, or delete the stream if its messages are not needed"
}

// placementText treats a placement that says nothing as none.
func placementText(p *jetstream.Placement) string {
	if p != nil && p.Cluster == "" && len(p.Tags) == 0 {
		p = nil
	}
	return text(p)
}

// ownMetadata is only what we write: others may add keys of their own.
func ownMetadata(metadata map[string]string) string {
	keys := []string{
		v1alpha1.MetadataUID, v1alpha1.MetadataNamespace, v1alpha1.MetadataName,
		v1alpha1.MetadataNamespaceUID, v1alpha1.MetadataClusterUID, v1alpha1.MetadataSchema, v1alpha1.MetadataDeletionPolicy,
	}
	own := make([]string, 0, len(keys))
	for _, key := range keys {
		own = append(own, key+"="+metadata[key])
	}
	return strings.Join(own, ",")
}

// text writes a value that has no text of its own; "null" is none.
func text(value any) string {
	encoded, err := json.Marshal(value)
	if err != nil {
		// Plain data of the client library: only a mistake in the code can fail here.
		panic(err)
	}
	return string(encoded)
}
