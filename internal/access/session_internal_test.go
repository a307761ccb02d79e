package access

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

func TestSession(t *testing.T) {
	t.Parallel()
	identity := Identity{Namespace: "shop", ServiceAccount: "checkout", PodUID: "0c2f"}
	s := newSession("standard", identity, []string{"shop_orders", "shop_payments"}, []Grant{{Stream: "shop_orders", Role: v1alpha1.RoleWriter}})
	const want = `{"aether":"standard","namespace":"shop","serviceAccount":"checkout","podUID":"0c2f","roles":{"shop_orders":"Writer","shop_payments":""}}`
	if s.String() != want {
		t.Errorf("a session is called %q, want %q", s, want)
	}
	read, ok := parseSession(want)
	if !ok || read.String() != want || read.class != "standard" || read.identity != identity || read.roles["shop_orders"] != v1alpha1.RoleWriter {
		t.Errorf("read as %+v, %t", read, ok)
	}
	for _, name := range []string{
		"", "{}", "null", "aether-operator", "aether standard shop/checkout 0c2f shop_orders=Writer", want + " ", want + want, " " + want, want[:len(want)-1],
		strings.Replace(want, `"podUID":"0c2f"`, `"podUID":""`, 1), strings.Replace(want, `"aether"`, `"AETHER"`, 1), strings.Replace(want, `{"shop`, `{"x":"","shop`, 1),
	} {
		if read, ok := parseSession(name); ok {
			t.Errorf("%q was read as a session: %+v", name, read)
		}
	}
}

// Nothing that a client asks for, nor any name of Kubernetes, hides a connection.
func FuzzSession(f *testing.F) {
	f.Add("standard", "shop", "checkout", "0c2f", "shop_orders")
	f.Add("a b", `"`, "x y,z=", "\u2028", "</script>")
	f.Fuzz(func(t *testing.T, class, namespace, account, uid, stream string) {
		if uid == "" {
			return
		}
		valid := func(text string) string { return strings.ToValidUTF8(text, "?") }
		s := newSession(valid(class), Identity{Namespace: valid(namespace), ServiceAccount: valid(account), PodUID: valid(uid)}, []string{valid(stream)}, nil)
		if read, ok := parseSession(s.String()); !ok || read.String() != s.String() {
			t.Errorf("%q was read as %+v, %t", s, read, ok)
		}
	})
}

func TestOutdated(t *testing.T) {
	t.Parallel()
	identity := Identity{Namespace: "shop", ServiceAccount: "checkout", PodUID: "0c2f"}
	store := func(access ...v1alpha1.AccessEntry) []v1alpha1.EventStore {
		s := v1alpha1.EventStore{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "orders"}, Spec: v1alpha1.EventStoreSpec{Access: access}}
		s.Status.Binding, s.Status.System = &v1alpha1.Binding{Name: "x"}, "here"
		s.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionStreamsOwned, Status: metav1.ConditionTrue}}
		return []v1alpha1.EventStore{s}
	}
	elsewhere := func(stores []v1alpha1.EventStore) []v1alpha1.EventStore {
		stores[0].Status.System = "elsewhere"
		return stores
	}
	disowned := func(stores []v1alpha1.EventStore) []v1alpha1.EventStore {
		stores[0].Status.Conditions[0].Status = metav1.ConditionFalse
		return stores
	}
	as := func(role v1alpha1.Role) v1alpha1.AccessEntry {
		return v1alpha1.AccessEntry{ServiceAccount: "checkout", Role: role}
	}
	for name, c := range map[string]struct {
		had    v1alpha1.Role
		stores []v1alpha1.EventStore
		want   bool
	}{
		"the same":            {v1alpha1.RoleWriter, store(), false},
		"the same, named now": {v1alpha1.RoleWriter, store(as(v1alpha1.RoleWriter)), false},
		"less":                {v1alpha1.RoleWriter, store(as(v1alpha1.RoleReader)), true},
		"more":                {v1alpha1.RoleReader, store(as(v1alpha1.RoleWriter)), true},
		"nothing any more":    {v1alpha1.RoleReader, store(v1alpha1.AccessEntry{ServiceAccount: "other"}), true},
		"no store any more":   {v1alpha1.RoleReader, nil, true},
		"nothing before":      {"", store(), true},
		"nothing as before":   {"", nil, false},

		"another's":         {v1alpha1.RoleWriter, disowned(store()), true},
		"not looked at yet": {v1alpha1.RoleWriter, elsewhere(store()), false},
		"not looked at since the status was gone": {v1alpha1.RoleWriter, []v1alpha1.EventStore{{ObjectMeta: store()[0].ObjectMeta}}, false},
		"not looked at yet, and less":             {v1alpha1.RoleWriter, elsewhere(store(as(v1alpha1.RoleReader))), true},
		"not looked at yet, and nothing any more": {v1alpha1.RoleWriter, elsewhere(store(v1alpha1.AccessEntry{ServiceAccount: "other"})), true},
		"not looked at yet, and nothing before":   {"", elsewhere(store()), false},
	} {
		s := newSession("standard", identity, []string{"shop_orders"}, []Grant{{Stream: "shop_orders", Role: c.had}})
		if got := s.outdated(c.stores, "here"); got != c.want {
			t.Errorf("%s: outdated is %t", name, got)
		}
	}
}
