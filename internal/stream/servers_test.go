package stream_test

import (
	"strings"
	"testing"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/oldserver"
)

func TestVersions(t *testing.T) {
	t.Parallel()
	for version, old := range map[string]bool{
		"2.10.29": true, "2.11.17": true, "2.12.0": false, "2.12.0-RC.1": false, "2.15.3": false, "3.0.0": false, "1.4.1": true, "": false, "of our own": false,
	} {
		err := stream.CheckVersions([]stream.Server{{Name: "new", Version: "2.15.3"}, {Name: "another", Version: version}}, 2)
		if old {
			wantFault(t, err, stream.Stall, v1alpha1.ReasonServerTooOld)
			if !strings.Contains(err.Error(), "another is "+version) {
				t.Errorf("it says %v", err)
			}
		} else if err != nil {
			t.Errorf("%q: %v", version, err)
		}
	}
	// JetStream in another domain is of a server that is not connected to.
	wantFault(t, stream.CheckVersions(nil, 1), stream.Stall, v1alpha1.ReasonServerTooOld)
}

// Every server of a cluster is seen, with its version.
func TestServers(t *testing.T) {
	t.Parallel()
	conn, _ := connect(t, natsserver.Run(t, 3), nil)
	servers, err := conn.Servers(t.Context())
	fail(t, err)
	if len(servers) != 3 {
		t.Fatalf("there are %v, want three servers", servers)
	}
	for _, server := range servers {
		if !strings.HasPrefix(server.Version, "2.") || !strings.HasPrefix(server.Name, "nats-") {
			t.Errorf("one is %+v", server)
		}
	}
}

// A server that is too old takes a stream, and what it does not know it leaves out:
// said of the server, and of the stream.
func TestOldServer(t *testing.T) {
	t.Parallel()
	conn := connectTo(t, oldserver.Run(t))
	account, err := conn.Account(t.Context())
	fail(t, err)
	servers, err := conn.Servers(t.Context())
	fail(t, err)
	wantFault(t, stream.CheckVersions(servers, account.APILevel), stream.Stall, v1alpha1.ReasonServerTooOld)
	wantFault(t, stream.CheckVersions(nil, account.APILevel), stream.Stall, v1alpha1.ReasonServerTooOld)
	config := desired(t, orders(func(s *v1alpha1.EventStore) { s.Spec.Replicas = 1 }))[0].Config
	_, err = conn.Create(t.Context(), config)
	wantFault(t, err, stream.Stall, v1alpha1.ReasonFieldIgnored)
	_, err = conn.Update(t.Context(), config)
	wantFault(t, err, stream.Stall, v1alpha1.ReasonFieldIgnored)
	if !strings.Contains(err.Error(), "ignored allowAtomicPublish") {
		t.Errorf("it says %v", err)
	}
}
