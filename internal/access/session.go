package access

import (
	"slices"
	"strings"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// session is what the servers are told to call a connection: who it is and what
// it was granted. The servers tell it back when they are asked who is connected,
// so that any replica of the operator, also one that has just started, can see
// whose access has changed.
type session struct {
	class    string
	identity Identity
	// roles are what the connection has of each stream that it asked for, empty for
	// nothing.
	roles map[string]v1alpha1.Role
}

// sessionMark is what the name of each session starts with.
const sessionMark = "aether"

// noRole stands for a role that is empty.
const noRole = "None"

func newSession(class string, identity Identity, wanted []string, grants []Grant) session {
	s := session{class: class, identity: identity, roles: map[string]v1alpha1.Role{}}
	for _, stream := range wanted {
		s.roles[stream] = ""
	}
	for _, grant := range grants {
		s.roles[grant.Stream] = grant.Role
	}
	return s
}

// wanted are the streams that the connection asked for.
func (s session) wanted() []string {
	streams := make([]string, 0, len(s.roles))
	for stream := range s.roles {
		streams = append(streams, stream)
	}
	slices.Sort(streams)
	return streams
}

// String is such as
// "aether standard shop/checkout 0c2f... shop_orders=Writer,shop_payments=None".
// None of its parts holds a space, ',' or '='.
func (s session) String() string {
	var roles []string
	for _, stream := range s.wanted() {
		role := string(s.roles[stream])
		if role == "" {
			role = noRole
		}
		roles = append(roles, stream+"="+role)
	}
	return strings.Join([]string{
		sessionMark, s.class, s.identity.Namespace + "/" + s.identity.ServiceAccount, s.identity.PodUID, strings.Join(roles, ","),
	}, " ")
}

// parseSession reads what String wrote; false for the name of any other user.
func parseSession(name string) (session, bool) {
	parts := strings.Split(name, " ")
	if len(parts) != 5 || parts[0] != sessionMark {
		return session{}, false
	}
	namespace, serviceAccount, found := strings.Cut(parts[2], "/")
	if !found {
		return session{}, false
	}
	s := session{
		class: parts[1], identity: Identity{Namespace: namespace, ServiceAccount: serviceAccount, PodUID: parts[3]},
		roles: map[string]v1alpha1.Role{},
	}
	for entry := range strings.SplitSeq(parts[4], ",") {
		stream, role, found := strings.Cut(entry, "=")
		if !found {
			return session{}, false
		}
		if role == noRole {
			role = ""
		}
		s.roles[stream] = v1alpha1.Role(role)
	}
	return s, true
}

// outdated says whether the connection would be granted something else now.
func (s session) outdated(stores []v1alpha1.EventStore) bool {
	now := Decide(stores, s.identity, s.wanted())
	return newSession(s.class, s.identity, s.wanted(), now.Grants).String() != s.String()
}
