package access

import (
	"bytes"
	"encoding/json"
	"slices"

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

// sessionName is the name of a session. It is JSON, so that nothing that a client
// asks for can make it another.
type sessionName struct {
	Class          string                   `json:"aether"`
	Namespace      string                   `json:"namespace"`
	ServiceAccount string                   `json:"serviceAccount"`
	PodUID         string                   `json:"podUID"`
	Roles          map[string]v1alpha1.Role `json:"roles"`
}

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

// String is such as {"aether":"standard","namespace":"shop","serviceAccount":"checkout",
// "podUID":"0c2f...","roles":{"shop_orders":"Writer","shop_payments":""}}, on one line.
func (s session) String() string {
	name, err := json.Marshal(sessionName{
		Class: s.class, Namespace: s.identity.Namespace, ServiceAccount: s.identity.ServiceAccount, PodUID: s.identity.PodUID, Roles: s.roles,
	})
	if err != nil {
		// Strings: only a mistake in the code can fail here.
		panic(err)
	}
	return string(name)
}

// parseSession reads what String wrote; false for anything else.
func parseSession(name string) (session, bool) {
	decoder := json.NewDecoder(bytes.NewReader([]byte(name)))
	decoder.DisallowUnknownFields()
	var read sessionName
	if err := decoder.Decode(&read); err != nil || read.PodUID == "" {
		return session{}, false
	}
	s := session{
		class: read.Class, identity: Identity{Namespace: read.Namespace, ServiceAccount: read.ServiceAccount, PodUID: read.PodUID}, roles: read.Roles,
	}
	return s, s.String() == name
}

// outdated says whether the connection would be granted something else now, on that
// NATS system. Where nobody has looked yet whose a stream is, it keeps what it has.
func (s session) outdated(stores []v1alpha1.EventStore, system string) bool {
	now := Decide(stores, system, s.identity, s.wanted())
	grants := now.Grants
	for _, grant := range now.Unproven {
		if s.roles[grant.Stream] != "" {
			grants = append(grants, grant)
		}
	}
	return newSession(s.class, s.identity, s.wanted(), grants).String() != s.String()
}
