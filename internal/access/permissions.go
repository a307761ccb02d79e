package access

import (
	"slices"
	"strings"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// Call is one row of the table of permissions: what calls of the API ask of NATS.
// In a subject {events} and {snapshots} are the names of the streams, and {api}
// is $JS.API, or $JS.{domain}.API.
type Call struct {
	// Calls are those of the Store of package eventstore, and what goes on beside.
	Calls string
	// Roles are whose pods have it.
	Roles []v1alpha1.Role
	// Publish and Subscribe are the subjects.
	Publish, Subscribe []string
}

var (
	both   = []v1alpha1.Role{v1alpha1.RoleWriter, v1alpha1.RoleReader}
	writer = []v1alpha1.Role{v1alpha1.RoleWriter}
	reader = []v1alpha1.Role{v1alpha1.RoleReader}
)

// Table is the least that every call needs. docs/access.md shows it.
//
// Direct gets, leader gets and consumers cannot be bounded to subjects of the
// stream where several messages are asked for, so a store is the smallest thing
// that can be granted. $JS.ACK.*.*.{events} is left out although servers with the
// feature js_ack_fc_v2, which is off by default, acknowledge there: a consumer of
// another store would take it as its own, and answer with that store's events.
var Table = []Call{
	{Calls: "`SaveEvent`, `SaveEvents`", Roles: writer, Publish: []string{"{events}.events.*.*"}},
	{Calls: "`SaveSnapshot`; what parks and replays events of a durable subscription", Roles: writer, Publish: []string{"{events}.snapshots.*.*"}},
	{
		Calls: "`GetEvents`, `GetEventsWithErrors`, `Events`, `GetLatestVersion`, `GetLatestSnapshot`; the reads of a save; `/readyz`", Roles: both,
		Publish: []string{
			"{api}.DIRECT.GET.{events}", "{api}.DIRECT.GET.{snapshots}",
			"{api}.STREAM.MSG.GET.{events}", "{api}.STREAM.MSG.GET.{snapshots}",
		},
	},
	{
		Calls: "`Subscribe`, `SubscribeDurable`: make a consumer, and ask it for events", Roles: both,
		Publish: []string{"{api}.CONSUMER.CREATE.{events}.*.{events}.events.>", "{api}.CONSUMER.MSG.NEXT.{events}.*"},
	},
	{
		Calls: "`SubscribeDurable`: look at the consumer, acknowledge, and tell other members", Roles: both,
		Publish:   []string{"{api}.CONSUMER.INFO.{events}.*", "$JS.ACK.{events}.*.>", "{events}.work.*"},
		Subscribe: []string{"{events}.work.*"},
	},
	{
		Calls: "What parks and replays events of a durable subscription", Roles: reader,
		Publish: []string{"{events}.snapshots.%parked.*"},
	},
	{Calls: "`DeleteDurable`", Roles: both, Publish: []string{"{api}.CONSUMER.DELETE.{events}.*"}},
	{Calls: "`SubscribeStored`", Roles: both, Subscribe: []string{"{events}.stored.>"}},
}

// InboxPrefix is where all answers to one pod go. Nobody else may listen there.
func InboxPrefix(podUID string) string { return "_INBOX.aether." + podUID }

// Grant is what a pod may do with one store.
type Grant struct {
	// Stream and SnapshotStream are the names of the store's streams.
	Stream, SnapshotStream string
	Role                   v1alpha1.Role
}

// Permissions are subjects that a connection may use; all others it may not.
type Permissions struct {
	Publish, Subscribe []string
}

// PermissionsFor is what a pod may do with the stores that it is granted; domain
// is the JetStream domain, empty for that of the servers. Neither list is ever
// empty: to NATS that would mean everything.
func PermissionsFor(podUID, domain string, grants []Grant) Permissions {
	p := Permissions{Subscribe: []string{InboxPrefix(podUID) + ".>"}}
	api := "$JS.API"
	if domain != "" {
		api = "$JS." + domain + ".API"
	}
	for _, grant := range grants {
		names := strings.NewReplacer("{api}", api, "{events}", grant.Stream, "{snapshots}", grant.SnapshotStream)
		for _, call := range Table {
			if !slices.Contains(call.Roles, grant.Role) {
				continue
			}
			for _, subject := range call.Publish {
				p.Publish = append(p.Publish, names.Replace(subject))
			}
			for _, subject := range call.Subscribe {
				p.Subscribe = append(p.Subscribe, names.Replace(subject))
			}
		}
	}
	if len(p.Publish) == 0 {
		// A pod that is granted nothing may speak to itself.
		p.Publish = slices.Clone(p.Subscribe)
	}
	return p
}
