package stream_test

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// withPermissions makes servers whose user u may do this and no more.
func withPermissions(allowed stream.Permissions) natsserver.Option {
	return func(o *server.Options) {
		o.Users = []*server.User{{Username: "u", Password: "p", Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Allow: allowed.Publish}, Subscribe: &server.SubjectPermission{Allow: allowed.Subscribe},
		}}}
	}
}

var asU = map[string][]byte{"username": []byte("u"), "password": []byte("p")}

// The documentation lists what is tried, no more and no less.
func TestNeededPermissionsAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/eventstoreclass.md")
	fail(t, err)
	needed := stream.NeededPermissions("")
	for verb, want := range map[string][]string{"publish": needed.Publish, "subscribe": needed.Subscribe} {
		list := regexp.MustCompile(`(?s)` + verb + `: \[(.*?)\]`).FindSubmatch(page)
		if list == nil {
			t.Fatalf("docs/eventstoreclass.md has no list of what the operator may %s", verb)
		}
		got := strings.FieldsFunc(string(list[1]), func(r rune) bool { return strings.ContainsRune(", \n\"", r) })
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("docs/eventstoreclass.md lists %v to %s, and tried is %v", got, verb, want)
		}
	}
}

func TestPermissionsThatAreThere(t *testing.T) {
	t.Parallel()
	needed := stream.NeededPermissions("")
	for name, option := range map[string]natsserver.Option{
		"all there are": natsserver.WithUser("u", "p"),
		"the list":      withPermissions(needed),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, size := range []int{1, 3} {
				conn, told := connect(t, natsserver.Run(t, size, option), asU)
				for range 2 {
					if err := conn.CheckPermissions(t.Context()); err != nil {
						t.Error(err)
					}
				}
				// It is asked only, and changes nothing.
				if account, err := conn.Account(t.Context()); err != nil || account.APILevel == 0 || len(told) > 0 {
					t.Errorf("after trying: %v, %v, %d notices", account, err, len(told))
				}
			}
		})
	}
}

// Each that is missing is told by its subject, and no other.
func TestPermissionsThatAreMissing(t *testing.T) {
	t.Parallel()
	needed := stream.NeededPermissions("")
	without := func(all []string, one string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return s == one })
	}
	missing := func(want string, allowed stream.Permissions) {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			conn, _ := connect(t, natsserver.Run(t, 1, withPermissions(allowed)), asU)
			for range 2 {
				err := conn.CheckPermissions(t.Context())
				wantFault(t, err, stream.Stall, v1alpha1.ReasonPermissionDenied)
				if err == nil || !strings.Contains(err.Error(), "may not "+want+": give it") {
					t.Errorf("it says %v", err)
				}
			}
		})
	}
	for _, one := range needed.Publish {
		missing("publish to "+one, stream.Permissions{Publish: without(needed.Publish, one), Subscribe: needed.Subscribe})
	}
	for _, one := range needed.Subscribe {
		missing("subscribe to "+one, stream.Permissions{Publish: needed.Publish, Subscribe: without(needed.Subscribe, one)})
	}
	missing(fmt.Sprintf("publish to %s and not subscribe to %s", "aether.owner.*", "aether.owner.*"), stream.Permissions{
		Publish: without(needed.Publish, "aether.owner.*"), Subscribe: without(needed.Subscribe, "aether.owner.*"),
	})
}

// An operator that gets a permission which it lacked, as by a reload of the servers, hears
// from then on what it was not told before, without a restart.
func TestPermissionsThatAreGiven(t *testing.T) {
	t.Parallel()
	servers := natsserver.Run(t, 1, silencedUser("deaf"))
	asks := operatorOf(t, silencedTarget(servers, "deaf"), "cluster-1", always(stream.Ending))
	wantFault(t, asks.CheckPermissions(t.Context()), stream.Stall, v1alpha1.ReasonPermissionDenied)
	fail(t, servers.Reload(0, func(o *server.Options) {
		o.Users = []*server.User{{Username: "all", Password: "p"}, {Username: "deaf", Password: "p"}}
	}))
	testenv.Eventually(t, time.Minute, "that it hears itself", func() error {
		if err := asks.CheckPermissions(t.Context()); err != nil {
			return err
		}
		heard, err := hear(t, asks, ordersOf("cluster-1", "uid-1"))
		if err == nil && !heard.Has(stream.Ending) {
			t.Errorf("it heard %q", heard)
		}
		return err
	})
}
