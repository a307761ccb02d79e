package injector

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// What may be given to the sidecar, here and in the class: nothing that says who it is,
// what it connects to, or where it listens.
var (
	variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	ownVariable  = regexp.MustCompile(`^(AETHER_.*|KUBERNETES_.*|SERVICE_BINDING_ROOT|SSL_CERT_FILE|SSL_CERT_DIR|GODEBUG)$`)
	argument     = regexp.MustCompile(`^(--(max-body-bytes|max-calls|max-streams)=[1-9][0-9]{0,9}|--(request-timeout|wait-for-stores)=([1-9][0-9]{0,6}(ms|s|m|h))+|--log-level=(debug|info|warn|error)|--allow-host=[a-z0-9.-]+|--allow-origin=[a-z][a-z0-9+.-]*://[^\s/]+)$`)
	userID       = regexp.MustCompile(`^[1-9][0-9]{0,9}$`)
)

const (
	maxEnv           = 32
	maxVariableName  = 128
	maxVariableValue = 2048
	maxArgs          = 16
	maxArgument      = 300
)

// lines are those of an annotation that are not empty, without the white space around.
func lines(value string) []string {
	var found []string
	for line := range strings.SplitSeq(value, "\n") {
		if line = strings.TrimSpace(line); line != "" {
			found = append(found, line)
		}
	}
	return found
}

func (r *request) readEnv() string {
	for i, line := range lines(r.pod.Annotations[v1alpha1.AnnotationSidecarEnv]) {
		name, value, found := strings.Cut(line, "=")
		taken := slices.ContainsFunc(r.env, func(v corev1.EnvVar) bool { return v.Name == name })
		if i >= maxEnv || !found || taken || !variableName.MatchString(name) || ownVariable.MatchString(name) ||
			len(name) > maxVariableName || len([]rune(value)) > maxVariableValue {
			return fmt.Sprintf("annotation %s: %s cannot be given: give NAME=value, one a line, each name once, at most %d of at most %d characters, and none that says who the sidecar is or what it connects to (AETHER_, KUBERNETES_, SERVICE_BINDING_ROOT, SSL_CERT_FILE, SSL_CERT_DIR, GODEBUG)",
				v1alpha1.AnnotationSidecarEnv, quote(line), maxEnv, maxVariableValue)
		}
		r.env = append(r.env, corev1.EnvVar{Name: name, Value: value})
	}
	for _, variable := range r.class().Env {
		if !slices.ContainsFunc(r.env, func(v corev1.EnvVar) bool { return v.Name == variable.Name }) {
			r.env = append(r.env, corev1.EnvVar{Name: variable.Name, Value: variable.Value})
		}
	}
	return ""
}

func (r *request) readUserID() string {
	r.user = new(nonRoot)
	if class := r.class().UserID; class != nil {
		r.user = userOf(class)
	}
	value, annotated := r.pod.Annotations[v1alpha1.AnnotationSidecarUserID]
	switch id, err := strconv.ParseInt(value, 10, 32); {
	case !annotated:
	case value == noUser:
		r.user = nil
	case err == nil && userID.MatchString(value):
		r.user = &id
	default:
		return fmt.Sprintf("annotation %s: %s is not the id of a user: give a number above 0, or %s to leave it to the platform", v1alpha1.AnnotationSidecarUserID, quote(value), noUser)
	}
	return ""
}

// noUser leaves the user to the platform.
const noUser = "None"

// userOf is what a class says, nil for None.
func userOf(value *intstr.IntOrString) *int64 {
	if value.Type == intstr.String {
		return nil
	}
	return new(int64(value.IntVal))
}

func (r *request) readArgs() string {
	for _, arg := range r.class().Args {
		r.args = append(r.args, string(arg))
	}
	for i, line := range lines(r.pod.Annotations[v1alpha1.AnnotationSidecarArgs]) {
		if i >= maxArgs || len(line) > maxArgument || !argument.MatchString(line) {
			return fmt.Sprintf("annotation %s: %s cannot be given: give --name=value, one a line, at most %d, of max-body-bytes, max-calls, max-streams, request-timeout, wait-for-stores, log-level, allow-host and allow-origin",
				v1alpha1.AnnotationSidecarArgs, quote(line), maxArgs)
		}
		r.args = append(r.args, line)
	}
	return ""
}

// class is the injection of the class, empty where there is none.
func (r *request) class() v1alpha1.Injection {
	if r.config.Class == nil {
		return v1alpha1.Injection{}
	}
	return r.config.Class.Spec.Injection
}

// waitArgument goes before the others, so that one of them may say otherwise.
const waitArgument = "--wait-for-stores=20s"

// arguments are those of a new sidecar.
func (r *request) arguments() []string {
	args := r.args
	if r.logLevel != "" {
		args = append(args, "--log-level="+r.logLevel)
	}
	return r.withWait(args)
}

// withWait puts the bound of the wait for NATS in front where a proxy starts after the
// sidecar, and takes that of an earlier injection away where none does.
func (r *request) withWait(args []string) []string {
	if len(args) > 0 && args[0] == waitArgument {
		args = args[1:]
	}
	if r.proxyFollows() {
		return append([]string{waitArgument}, args...)
	}
	if len(args) == 0 {
		return nil
	}
	return args
}

// Containers of service meshes by their names: what leads the traffic of a pod through
// a proxy, and the proxies. Istio, Linkerd, Kuma, Consul.
var (
	meshProxies    = []string{"istio-proxy", "linkerd-proxy", "kuma-sidecar", "consul-dataplane"}
	meshContainers = append([]string{
		"istio-validation", "istio-init", "enable-core-dump", "linkerd-network-validator", "linkerd-init",
		"kuma-validation", "kuma-init", "consul-connect-inject-init",
	}, meshProxies...)
)

// otherInitContainers are those that are not the sidecar.
func (r *request) otherInitContainers() []corev1.Container {
	return slices.DeleteFunc(slices.Clone(r.pod.Spec.InitContainers), isNamedSidecar)
}

// place is where the sidecar stands among the other init containers: the first, so that
// what comes after it may save events too, but for the containers that a mesh has put
// in front, which the way to NATS leads through.
func (r *request) place() int {
	others := r.otherInitContainers()
	first := slices.IndexFunc(others, func(c corev1.Container) bool { return !slices.Contains(meshContainers, c.Name) })
	if first < 0 {
		return len(others)
	}
	return first
}

// proxyFollows says whether the proxy of a mesh starts after the sidecar, so that NATS
// may be out of reach until the sidecar lets it start.
func (r *request) proxyFollows() bool {
	later := slices.Concat(r.otherInitContainers()[r.place():], r.pod.Spec.Containers)
	return slices.ContainsFunc(later, func(c corev1.Container) bool { return slices.Contains(meshProxies, c.Name) })
}

// forWindows looks at all that says so: the sidecar needs Linux.
func forWindows(r *request) string {
	var field string
	switch {
	case r.pod.Spec.OS != nil && r.pod.Spec.OS.Name == corev1.Windows:
		field = "spec.os.name is windows"
	case r.pod.Spec.NodeSelector[corev1.LabelOSStable] == string(corev1.Windows):
		field = "spec.nodeSelector asks for " + corev1.LabelOSStable + ": windows"
	case onWindowsNodes(r.pod.Spec.Affinity):
		field = "spec.affinity.nodeAffinity requires " + corev1.LabelOSStable + ": windows"
	default:
		return ""
	}
	return field + " and the sidecar needs Linux: take the label " + v1alpha1.LabelEventStore + " away, and save events from a pod on Linux"
}

// onWindowsNodes says whether each term of what is required is about Windows alone.
func onWindowsNodes(affinity *corev1.Affinity) bool {
	if affinity == nil || affinity.NodeAffinity == nil || affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return false
	}
	terms := affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	isWindows := func(e corev1.NodeSelectorRequirement) bool {
		return e.Key == corev1.LabelOSStable && e.Operator == corev1.NodeSelectorOpIn && slices.Equal(e.Values, []string{string(corev1.Windows)})
	}
	return len(terms) > 0 && !slices.ContainsFunc(terms, func(t corev1.NodeSelectorTerm) bool {
		return !slices.ContainsFunc(t.MatchExpressions, isWindows)
	})
}

// securityContext passes the Pod Security Standard restricted in any pod.
func (r *request) securityContext() *corev1.SecurityContext {
	return &corev1.SecurityContext{
		RunAsNonRoot:             new(true),
		RunAsUser:                r.user,
		AllowPrivilegeEscalation: new(false),
		ReadOnlyRootFilesystem:   new(true),
		Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
}
