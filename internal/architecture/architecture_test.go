package architecture_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

const module = "git.flowmade.one/flowmade-one/aether-operator"

// rule forbids packages to depend on others, directly or through others.
type rule struct {
	// pkg is a package of this module.
	pkg string
	// allowed, when given, are the only dependencies outside the standard library.
	allowed []string
	// forbidden are prefixes that no dependency has.
	forbidden []string
	why       string
}

var (
	kubernetes = []string{"k8s.io/", "sigs.k8s.io/", module + "/api/v1alpha1"}
	rpc        = []string{"connectrpc.com/", "google.golang.org/grpc", "google.golang.org/protobuf"}
	nats       = []string{"github.com/nats-io/"}
	inside     = []string{module + "/internal", module + "/cmd", module + "/hack"}
)

var rules = []rule{
	{pkg: "api/eventstore", allowed: []string{}, why: "the contract is the standard library alone"},
	{pkg: "api/eventstore/memory", allowed: []string{module + "/api/eventstore"}, why: "the embedded default costs its user nothing"},
	{pkg: "api/eventstore/jetstream", forbidden: join(kubernetes, rpc, inside), why: "the engine knows neither Kubernetes nor RPC"},
	{pkg: "api/eventstore/sidecar", forbidden: join(kubernetes, nats, inside), why: "a workload knows neither Kubernetes nor NATS"},
	{pkg: "api/eventstore/storetest", forbidden: join(kubernetes, rpc, nats, inside), why: "others import it for Stores of their own"},
	{pkg: "api/v1alpha1", forbidden: join(nats, inside, []string{"sigs.k8s.io/controller-runtime", "k8s.io/client-go"}), why: "whoever imports the kinds gets no operator"},
	{pkg: "cmd/sidecar", forbidden: join(kubernetes, []string{"github.com/nats-io/nats-server"}), why: "it runs in every pod and stays small"},
	{pkg: "cmd/operator", forbidden: []string{"github.com/nats-io/nats-server", module + "/internal/sidecar", module + "/internal/testenv"}, why: "the control plane does not serve events"},
	{pkg: "internal/access", forbidden: []string{
		"connectrpc.com/", "google.golang.org/grpc", "github.com/nats-io/nats-server", "sigs.k8s.io/controller-runtime", "k8s.io/client-go",
		module + "/internal/controller", module + "/internal/sidecar", module + "/internal/testenv",
	}, why: "what is granted is decided without a cluster"},
	{pkg: "internal/injector", forbidden: join(nats, rpc, []string{"sigs.k8s.io/controller-runtime"}), why: "it is pure"},
}

func join(lists ...[]string) []string {
	var all []string
	for _, list := range lists {
		all = append(all, list...)
	}
	return all
}

func TestDependenciesPointOneWay(t *testing.T) {
	t.Parallel()
	for _, rule := range rules {
		t.Run(rule.pkg, func(t *testing.T) {
			t.Parallel()
			for _, dependency := range dependencies(t, rule.pkg) {
				if rule.breaks(dependency) {
					t.Errorf("%s depends on %s: %s", rule.pkg, dependency, rule.why)
				}
			}
		})
	}
}

func (r rule) breaks(dependency string) bool {
	if dependency == module+"/"+r.pkg {
		return false
	}
	if r.allowed != nil {
		return !hasPrefix(dependency, r.allowed)
	}
	return hasPrefix(dependency, r.forbidden)
}

func hasPrefix(s string, prefixes []string) bool {
	for _, prefix := range prefixes {
		if strings.HasPrefix(s, prefix) {
			return true
		}
	}
	return false
}

// dependencies lists what a package depends on, without the standard library.
func dependencies(t *testing.T, pkg string) []string {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Standard", module+"/"+pkg)
	var stderr bytes.Buffer
	list.Stderr = &stderr
	out, err := list.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", list, err, &stderr)
	}
	var paths []string
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var listed struct {
			ImportPath string
			Standard   bool
		}
		if err := decoder.Decode(&listed); errors.Is(err, io.EOF) {
			return paths
		} else if err != nil {
			t.Fatal(err)
		}
		if !listed.Standard {
			paths = append(paths, listed.ImportPath)
		}
	}
}

// The sidecar, as the image has it, links no templates: they call methods by their
// names, so that the linker keeps every method there is, 4 MB of the file and 2.4 MiB
// of what each pod has resident.
func TestSidecarHasNoTemplates(t *testing.T) {
	t.Parallel()
	dockerfile, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	flags := regexp.MustCompile(`go build .*-tags (\S+)`).FindSubmatch(dockerfile)
	if flags == nil {
		t.Fatal("the Dockerfile builds without -tags grpcnotrace")
	}
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-tags", string(flags[1]), module+"/cmd/sidecar")
	out, err := list.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", list, err, out)
	}
	for _, dependency := range strings.Fields(string(out)) {
		if dependency == "text/template" || dependency == "html/template" {
			t.Errorf("cmd/sidecar depends on %s: look for who imports it with go list -deps -tags %s", dependency, flags[1])
		}
	}
}
