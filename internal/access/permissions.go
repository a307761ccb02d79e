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
// that can be granted.
//
// Nothing here lets a pod say what a consumer is: JetStream publishes what a consumer
// delivers with all rights of the account of the streams, to any subject that its
// configuration names. Nor does a pod hear what another store has stored or republished.
var Table = []Call{
	{Calls: "`SaveEvent`, `SaveEvents`", Roles: writer, Publish: []string{"{events}.events.*.*"}},
	{Calls: "`SaveSnapshot`, `DeleteSnapshot`; the records of durable subscriptions", Roles: writer, Publish: []string{"{events}.snapshots.*.*"}},
	{
		Calls: "`GetEvents`, `GetEventsWithErrors`, `Events`, `GetLatestVersion`, `GetLatestSnapshot`; the reads of a save; `/readyz`", Roles: both,
		Publish: []string{
			"{api}.DIRECT.GET.{events}", "{api}.DIRECT.GET.{snapshots}",
			"{api}.STREAM.MSG.GET.{events}", "{api}.STREAM.MSG.GET.{snapshots}",
		},
	},
	{
		Calls: "`Subscribe`, `SubscribeDurable`: have the operator make a consumer, and ask it for events", Roles: both,
		Publish: []string{"aether.consumer.create.{events}", "{api}.CONSUMER.MSG.NEXT.{events}.*"},
	},
	{
		Calls: "`SubscribeDurable`, `DeleteDurable`: speak to the other members", Roles: both,
		Publish: []string{"{events}.work.*"}, Subscribe: []string{"{events}.work.*"},
	},
	{
		Calls: "The records of durable subscriptions", Roles: reader,
		Publish: []string{"{events}.snapshots.%durable.*", "{events}.snapshots.%waiting.*"},
	},
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

// apiPrefix is that of JetStream in a domain, empty for that of the servers.
func apiPrefix(domain string) string {
	if domain == "" {
		return "$JS.API"
	}
	return "$JS." + domain + ".API"
}

// PermissionsFor is what a pod may do with the stores that it is granted; domain
// is the JetStream domain, empty for that of the servers. Neither list is ever
// empty: to NATS that would mean everything.
func PermissionsFor(podUID, domain string, grants []Grant) Permissions {
	p := Permissions{Subscribe: []string{InboxPrefix(podUID) + ".>"}}
	api := apiPrefix(domain)
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
