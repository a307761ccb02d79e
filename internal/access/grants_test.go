package access_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/access"
)

// here is the NATS system that pods are let into.
const here = "here"

// usable is an EventStore shop/orders that can be used.
func usable(edit ...func(*v1alpha1.EventStore)) v1alpha1.EventStore {
	store := v1alpha1.EventStore{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "orders"}}
	store.Status.Binding = &v1alpha1.Binding{Name: "orders-eventstore"}
	owned(metav1.ConditionTrue, v1alpha1.ReasonOwned)(&store)
	for _, e := range edit {
		e(&store)
	}
	return store
}

func entries(all ...v1alpha1.AccessEntry) func(*v1alpha1.EventStore) {
	return func(s *v1alpha1.EventStore) { s.Spec.Access = all }
}

func has(condition string, status metav1.ConditionStatus, reason string) func(*v1alpha1.EventStore) {
	return func(s *v1alpha1.EventStore) {
		meta.SetStatusCondition(&s.Status.Conditions, metav1.Condition{Type: condition, Status: status, Reason: reason, Message: "because"})
	}
}

func ready(status metav1.ConditionStatus, reason string) func(*v1alpha1.EventStore) {
	return has(v1alpha1.ConditionReady, status, reason)
}

// owned says whose the streams are on the NATS system that pods are let into.
func owned(status metav1.ConditionStatus, reason string) func(*v1alpha1.EventStore) {
	return func(s *v1alpha1.EventStore) {
		s.Status.System = here
		has(v1alpha1.ConditionStreamsOwned, status, reason)(s)
	}
}

func disowned(reason string) func(*v1alpha1.EventStore) {
	return owned(metav1.ConditionFalse, reason)
}

func TestDecide(t *testing.T) {
	t.Parallel()
	checkout := access.Identity{Namespace: "shop", ServiceAccount: "checkout", PodUID: "1"}
	stranger := access.Identity{Namespace: "evil", ServiceAccount: "checkout", PodUID: "1"}
	writer, reader := v1alpha1.RoleWriter, v1alpha1.RoleReader
	deleted := func(s *v1alpha1.EventStore) { s.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }
	unbound := func(s *v1alpha1.EventStore) { s.Status.Binding = nil }
	elsewhere := func(s *v1alpha1.EventStore) { s.Status.System = "elsewhere" }
	// A store of another namespace that names the streams of shop/orders.
	thief := func(edit ...func(*v1alpha1.EventStore)) v1alpha1.EventStore {
		return usable(append([]func(*v1alpha1.EventStore){func(s *v1alpha1.EventStore) { s.Namespace, s.Spec.Namespace = "evil", "shop" }}, edit...)...)
	}
	for name, c := range map[string]struct {
		stores   []v1alpha1.EventStore
		identity access.Identity
		role     v1alpha1.Role
		refusal  string
	}{
		"no access named, own namespace":            {[]v1alpha1.EventStore{usable()}, checkout, writer, ""},
		"no access named, another namespace":        {[]v1alpha1.EventStore{usable()}, stranger, "", `may not use stream "shop_orders"`},
		"named":                                     {[]v1alpha1.EventStore{usable(entries(v1alpha1.AccessEntry{ServiceAccount: "checkout", Role: writer}))}, checkout, writer, ""},
		"named as a reader":                         {[]v1alpha1.EventStore{usable(entries(v1alpha1.AccessEntry{ServiceAccount: "checkout", Role: reader}))}, checkout, reader, ""},
		"named twice, the reader last":              {[]v1alpha1.EventStore{usable(entries(v1alpha1.AccessEntry{ServiceAccount: "checkout", Role: writer}, v1alpha1.AccessEntry{ServiceAccount: "checkout", Namespace: "shop", Role: reader}))}, checkout, writer, ""},
		"named with an unknown role":                {[]v1alpha1.EventStore{usable(entries(v1alpha1.AccessEntry{ServiceAccount: "checkout", Role: "Owner"}))}, checkout, "", "may not use"},
		"another is named":                          {[]v1alpha1.EventStore{usable(entries(v1alpha1.AccessEntry{ServiceAccount: "reports", Role: writer}))}, checkout, "", "may not use"},
		"nobody is named":                           {[]v1alpha1.EventStore{usable(entries([]v1alpha1.AccessEntry{}...), func(s *v1alpha1.EventStore) { s.Spec.Access = []v1alpha1.AccessEntry{} })}, checkout, "", "may not use"},
		"named in another namespace":                {[]v1alpha1.EventStore{usable(entries(v1alpha1.AccessEntry{ServiceAccount: "checkout", Namespace: "evil", Role: writer}))}, checkout, "", "may not use"},
		"named in another namespace, from there":    {[]v1alpha1.EventStore{usable(entries(v1alpha1.AccessEntry{ServiceAccount: "checkout", Namespace: "evil", Role: writer}))}, stranger, writer, ""},
		"no store":                                  {nil, checkout, "", "there is no EventStore"},
		"a store of other streams":                  {[]v1alpha1.EventStore{usable(func(s *v1alpha1.EventStore) { s.Name = "payments" })}, checkout, "", "there is no EventStore"},
		"being deleted":                             {[]v1alpha1.EventStore{usable(deleted)}, checkout, "", "is being deleted"},
		"not made yet":                              {[]v1alpha1.EventStore{usable(unbound)}, checkout, "", "not made yet"},
		"out of reach":                              {[]v1alpha1.EventStore{usable(ready(metav1.ConditionFalse, v1alpha1.ReasonUnreachable))}, checkout, writer, ""},
		"paused":                                    {[]v1alpha1.EventStore{usable(ready(metav1.ConditionUnknown, v1alpha1.ReasonPaused))}, checkout, writer, ""},
		"in conflict, and out of reach since":       {[]v1alpha1.EventStore{usable(disowned(v1alpha1.ReasonNotGivenBack), ready(metav1.ConditionFalse, v1alpha1.ReasonUnreachable))}, checkout, "", "because"},
		"in conflict, and paused since":             {[]v1alpha1.EventStore{usable(disowned(v1alpha1.ReasonNotGivenBack), ready(metav1.ConditionUnknown, v1alpha1.ReasonPaused))}, checkout, "", "because"},
		"its own on other servers":                  {[]v1alpha1.EventStore{usable(elsewhere)}, checkout, "", "has not looked yet"},
		"another's on other servers":                {[]v1alpha1.EventStore{usable(disowned(v1alpha1.ReasonConflict), elsewhere)}, checkout, "", "has not looked yet"},
		"not looked at":                             {[]v1alpha1.EventStore{usable(owned(metav1.ConditionUnknown, v1alpha1.ReasonUnknown))}, checkout, "", "has not looked yet"},
		"its status was taken away":                 {[]v1alpha1.EventStore{usable(func(s *v1alpha1.EventStore) { s.Status = v1alpha1.EventStoreStatus{} })}, checkout, "", "not made yet"},
		"a thief beside one that was not looked at": {[]v1alpha1.EventStore{thief(unbound), usable(elsewhere)}, checkout, "", "shop/orders cannot be used: the operator has not looked yet"},
		"in conflict":                               {[]v1alpha1.EventStore{usable(disowned(v1alpha1.ReasonConflict))}, checkout, "", "because"},
		"forbidden by the class":                    {[]v1alpha1.EventStore{usable(disowned(v1alpha1.ReasonTenancyForbidden))}, checkout, "", "because"},
		"of an earlier namespace":                   {[]v1alpha1.EventStore{usable(disowned(v1alpha1.ReasonNotGivenBack))}, checkout, "", "because"},
		"on another class":                          {[]v1alpha1.EventStore{usable(disowned(v1alpha1.ReasonOnAnotherClass))}, checkout, "", "because"},
		"not owned":                                 {[]v1alpha1.EventStore{usable(disowned(v1alpha1.ReasonNotOwned))}, checkout, "", "because"},
		"not allowed by its class":                  {[]v1alpha1.EventStore{usable(disowned(v1alpha1.ReasonClassNotAllowed))}, checkout, "", "because"},
		"in conflict, to a stranger":                {[]v1alpha1.EventStore{usable(disowned(v1alpha1.ReasonConflict))}, stranger, "", `may not use stream "shop_orders"`},
		"a thief alone":                             {[]v1alpha1.EventStore{thief(unbound)}, stranger, "", "not made yet"},
		"a thief in conflict, to its own":           {[]v1alpha1.EventStore{thief(disowned(v1alpha1.ReasonConflict)), usable()}, stranger, "", `may not use stream "shop_orders"`},
		"a thief in conflict, to the others":        {[]v1alpha1.EventStore{thief(disowned(v1alpha1.ReasonConflict)), usable()}, checkout, writer, ""},
		"two that both have it":                     {[]v1alpha1.EventStore{thief(), usable()}, checkout, "", "more than one EventStore claims"},
	} {
		d := access.Decide(c.stores, here, c.identity, []string{"shop_orders"})
		switch {
		case c.role == "":
			if len(d.Grants) != 0 || len(d.Refusals) != 1 || !strings.Contains(d.Refusals[0], c.refusal) {
				t.Errorf("%s: %+v, want a refusal of %q", name, d, c.refusal)
			}
		case len(d.Refusals) != 0 || len(d.Grants) != 1 || d.Grants[0] != (access.Grant{Stream: "shop_orders", SnapshotStream: "shop_orders_snapshots", Role: c.role}):
			t.Errorf("%s: %+v, want %s", name, d, c.role)
		}
	}
}

// Whose namespace has nothing to do with a stream is told the same whatever there is of
// it: an Event of a pod would say which EventStores other teams have.
func TestRefusalsTellNothingOfOtherNamespaces(t *testing.T) {
	t.Parallel()
	stranger := access.Identity{Namespace: "evil", ServiceAccount: "checkout", PodUID: "1"}
	deleted := usable(func(s *v1alpha1.EventStore) { s.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} })
	contested := usable(func(s *v1alpha1.EventStore) { s.Namespace, s.Spec.Namespace = "other", "shop" })
	want := access.Decide(nil, here, stranger, []string{"shop_orders"})
	for name, stores := range map[string][]v1alpha1.EventStore{
		"usable": {usable()}, "being deleted": {deleted}, "in conflict": {usable(disowned(v1alpha1.ReasonConflict))},
		"claimed twice":  {usable(), contested},
		"another's name": {usable(entries(v1alpha1.AccessEntry{ServiceAccount: "reports", Namespace: "evil"}))},
	} {
		if got := access.Decide(stores, here, stranger, []string{"shop_orders"}); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: a stranger is told %+v, and %+v where there is none", name, got, want)
		}
	}
}

func TestWanted(t *testing.T) {
	t.Parallel()
	for user, want := range map[string]string{
		"": "", ",": "", "shop_orders": "shop_orders", "shop_b,shop_a,,shop_b,": "shop_a shop_b",
	} {
		if got, err := access.Wanted(user); err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q wants %q, want %q: %v", user, got, want, err)
		}
	}
	for _, user := range []string{
		" ", "shop_orders,x y", "shop_orders, shop_b", "shop_orders=Writer", "shop_orders,\"", "shop_orders,shop_é", "Shop_orders", "orders", "shop_orders_snapshots", "a_b_c",
		"shop_orders.events", "*", ">", "shop_>", "shop_\x00", strings.Repeat("a", 2049), strings.Repeat("a_b,", 600), "shop_" + strings.Repeat("x\n", 900),
	} {
		got, err := access.Wanted(user)
		if err == nil {
			t.Errorf("%.40q wants %q", user, got)
		} else if len(err.Error()) > 500 {
			t.Errorf("%.40q is refused in %d bytes", user, len(err.Error()))
		}
	}
	var many []string
	for i := range 257 {
		many = append(many, fmt.Sprintf("a_%d", i))
	}
	if _, err := access.Wanted(strings.Join(many, ",")); err == nil {
		t.Error("257 streams are not too many")
	}
}
