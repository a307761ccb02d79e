package injector

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// Rule is one row of the truth table of injection.
type Rule struct {
	// When says in words when the row applies.
	When string
	// Outcome is what becomes of the pod then.
	Outcome Outcome

	// reason is empty when the row does not apply, and else says why for this
	// pod. What it reads of the pod on the way is kept in the request.
	reason func(*request) string
}

// Rules is the truth table of injection: the first row that applies decides.
// docs/injection.md shows it.
var Rules = []Rule{
	{"the pod has no label `" + v1alpha1.LabelEventStore + "`", Skipped, withoutLabel},
	{"the pod is the API server's mirror of a static pod, which may not use Secrets", Skipped, isMirror},
	{fmt.Sprintf("the pod has more than %d containers, %d environment variables in `env`, or %d volumes", MaxContainers, MaxVariables, MaxVolumes), Refused, tooLarge},
	{"the label's value is not the name of an EventStore (a DNS label)", Refused, (*request).readLabel},
	{"the annotation `" + v1alpha1.AnnotationEventStores + "` holds anything but names of EventStores, separated by commas, or more than " + strconv.Itoa(MaxStores-1) + " of them", Refused, (*request).readStores},
	{"the annotation `" + v1alpha1.AnnotationSidecarImage + "` is empty or holds white space, or there is none, in the class and of the operator neither", Refused, (*request).readImage},
	{"an annotation `aether.flowmade.one/sidecar-cpu-request`, `-cpu-limit`, `-memory-request` or `-memory-limit` is not a quantity above 0, of at most 32 characters", Refused, (*request).readQuantities},
	{"the annotation `" + v1alpha1.AnnotationSidecarLogLevel + "` is not debug, info, warn or error", Refused, (*request).readLogLevel},
	{fmt.Sprintf("the annotation `%s` holds anything but lines of NAME=value, or more than %d, or a variable that says who the sidecar is or what it connects to", v1alpha1.AnnotationSidecarEnv, maxEnv), Refused, (*request).readEnv},
	{"the annotation `" + v1alpha1.AnnotationSidecarUserID + "` is neither a number above 0 nor `None`", Refused, (*request).readUserID},
	{fmt.Sprintf("the annotation `%s` holds anything but lines of --name=value with arguments that can be given, or more than %d", v1alpha1.AnnotationSidecarArgs, maxArgs), Refused, (*request).readArgs},
	{"the pod has `hostNetwork: true`", Refused, onHostNetwork},
	{"the pod is for Windows (`os.name`, or `kubernetes.io/os` in its node selector or required node affinity)", Refused, forWindows},
	{"the pod has a container `" + ContainerName + "` that Aether did not add", Refused, (*request).readSidecar},
	{"the pod has a volume with the name of a volume of the sidecar, and with other content", Refused, (*request).foreignVolume},
	{"what the pod or the class gives the sidecar of CPU or memory contradicts itself, or fits neither `spec.resources` of the pod nor a LimitRange of the namespace", Refused, (*request).fitResources},
	{"none of the above", Injected, func(*request) string { return "asked for" }},
}

// request is a pod, and what was read of it so far.
type request struct {
	pod    *corev1.Pod
	config Config

	stores   []string
	image    string
	logLevel string
	env      []corev1.EnvVar
	args     []string
	// user is nil where the platform chooses it.
	user *int64
	// These are the annotations, nil where they are left out.
	cpuRequest, cpuLimit, memoryRequest, memoryLimit *resource.Quantity
	// resources are what comes of them, of the class, and of what fits.
	resources corev1.ResourceRequirements
	// existing is the sidecar of an earlier injection.
	existing *corev1.Container
	// previousBindings are the volumes that it mounts for its stores.
	previousBindings map[string]bool
}

// decide finds the row that applies.
func (r *request) decide() (Rule, string) {
	for _, rule := range Rules {
		if reason := rule.reason(r); reason != "" {
			return rule, reason
		}
	}
	panic("the last rule applies always")
}

func withoutLabel(r *request) string {
	if _, labelled := r.pod.Labels[v1alpha1.LabelEventStore]; labelled {
		return ""
	}
	return "the pod has no label " + v1alpha1.LabelEventStore
}

func isMirror(r *request) string {
	if _, mirror := r.pod.Annotations[corev1.MirrorPodAnnotationKey]; !mirror {
		return ""
	}
	return "the pod is the mirror of a static pod, which may not use Secrets"
}

// What a pod may have, so that the work on one pod has a bound that others do not
// notice. The pods that people write are far below.
const (
	// MaxContainers counts init containers too.
	MaxContainers = 100
	// MaxVariables counts those of all containers in env.
	MaxVariables = 5000
	// MaxVolumes are those of the pod before the sidecar's are added.
	MaxVolumes = 500
	// MaxStores is how many stores a sidecar serves, with the default one.
	MaxStores = 32
)

// Size is how much of a pod injection has to look at.
type Size struct {
	Containers, Variables, Volumes int
	// Again: the pod has traces of an earlier injection, which has added to it. Then
	// it may have twice as much.
	Again bool
}

// Add counts a container in, by its name and the names of its variables.
func (s *Size) Add(container string, variables []string) {
	s.Containers++
	s.Variables += len(variables)
	s.Again = s.Again || container == ContainerName || slices.Contains(variables, EnvStores)
}

// Excess says which bound is exceeded, and is empty where none is.
func (s Size) Excess() string {
	for _, bound := range []struct {
		what      string
		have, max int
	}{
		{"containers", s.Containers, MaxContainers},
		{"environment variables", s.Variables, MaxVariables},
		{"volumes", s.Volumes, MaxVolumes},
	} {
		if s.Again {
			bound.max *= 2
		}
		if bound.have > bound.max {
			return fmt.Sprintf("the pod has %d %s, and the sidecar is added to a pod with at most %d: have fewer, or take the label %s away",
				bound.have, bound.what, bound.max, v1alpha1.LabelEventStore)
		}
	}
	return ""
}

func tooLarge(r *request) string {
	size := Size{Volumes: len(r.pod.Spec.Volumes)}
	for _, containers := range [][]corev1.Container{r.pod.Spec.InitContainers, r.pod.Spec.Containers} {
		for i := range containers {
			variables := make([]string, len(containers[i].Env))
			for j := range variables {
				variables[j] = containers[i].Env[j].Name
			}
			size.Add(containers[i].Name, variables)
		}
	}
	return size.Excess()
}

func (r *request) readLabel() string {
	store := r.pod.Labels[v1alpha1.LabelEventStore]
	r.stores = []string{store}
	return notAStore("label "+v1alpha1.LabelEventStore, store)
}

func (r *request) readStores() string {
	value := r.pod.Annotations[v1alpha1.AnnotationEventStores]
	if strings.TrimSpace(value) == "" {
		return ""
	}
	if count := strings.Count(value, ",") + 1; count > MaxStores-1 {
		return fmt.Sprintf("annotation %s: it names %d stores: a sidecar serves at most %d beside that of the label", v1alpha1.AnnotationEventStores, count, MaxStores-1)
	}
	for name := range strings.SplitSeq(value, ",") {
		name = strings.TrimSpace(name)
		if reason := notAStore("annotation "+v1alpha1.AnnotationEventStores, name); reason != "" {
			return reason
		}
		if !slices.Contains(r.stores, name) {
			r.stores = append(r.stores, name)
		}
	}
	return ""
}

func notAStore(key, name string) string {
	if len(validation.IsDNS1123Label(name)) == 0 {
		return ""
	}
	return fmt.Sprintf("%s: %s is not the name of an EventStore: give lower case letters, digits and '-', at most 63, with a letter or digit at both ends", key, quote(name))
}

// quote is a value in a message: an annotation may have hundreds of KiB.
func quote(value string) string {
	const most = 100
	if runes := []rune(value[:min(len(value), 4*most+4)]); len(runes) > most {
		value = string(runes[:most]) + "..."
	}
	return strconv.Quote(value)
}

func (r *request) readImage() string {
	image, annotated := r.pod.Annotations[v1alpha1.AnnotationSidecarImage]
	r.image = cmp.Or(image, r.class().Image, r.config.Image)
	switch {
	case annotated && (image == "" || strings.ContainsAny(image, " \t\r\n")):
		return fmt.Sprintf("annotation %s: %s is not an image: give one, such as registry.example/aether-sidecar:1.0, or leave the annotation out", v1alpha1.AnnotationSidecarImage, quote(image))
	case r.image == "":
		return fmt.Sprintf("no image for the sidecar: start the operator with --sidecar-image or AETHER_SIDECAR_IMAGE, or set the annotation %s", v1alpha1.AnnotationSidecarImage)
	}
	return ""
}

func (r *request) readQuantities() (reason string) {
	for _, annotation := range []struct {
		key, example string
		into         **resource.Quantity
	}{
		{v1alpha1.AnnotationSidecarCPURequest, "50m", &r.cpuRequest},
		{v1alpha1.AnnotationSidecarCPULimit, "500m", &r.cpuLimit},
		{v1alpha1.AnnotationSidecarMemoryRequest, "64Mi", &r.memoryRequest},
		{v1alpha1.AnnotationSidecarMemoryLimit, "128Mi", &r.memoryLimit},
	} {
		if *annotation.into, reason = r.readQuantity(annotation.key, annotation.example); reason != "" {
			return reason
		}
	}
	return ""
}

// maxQuantity is how many characters a quantity has at most, as in the classes.
const maxQuantity = 32

func (r *request) readQuantity(key, example string) (*resource.Quantity, string) {
	value, annotated := r.pod.Annotations[key]
	if !annotated {
		return nil, ""
	}
	// What it takes to read one grows with the square of its length, and with its exponent if
	// that is below 0.
	if len(value) <= maxQuantity && !strings.Contains(strings.ToLower(value), "e-") {
		if quantity, err := resource.ParseQuantity(value); err == nil && quantity.Sign() > 0 {
			return &quantity, ""
		}
	}
	return nil, fmt.Sprintf("annotation %s: %s is not a quantity above 0: give one, such as %s", key, quote(value), example)
}

func (r *request) readLogLevel() string {
	level, annotated := r.pod.Annotations[v1alpha1.AnnotationSidecarLogLevel]
	if annotated && !slices.Contains([]string{"debug", "info", "warn", "error"}, level) {
		return fmt.Sprintf("annotation %s: %s is not a log level: give debug, info, warn or error", v1alpha1.AnnotationSidecarLogLevel, quote(level))
	}
	r.logLevel = level
	return ""
}

func onHostNetwork(r *request) string {
	if !r.pod.Spec.HostNetwork {
		return ""
	}
	return fmt.Sprintf("spec.hostNetwork is true: ports %d and %d would be the node's, where two pods collide and every process of the node reaches the events of this one; take hostNetwork away, or the label %s",
		apiPort, healthPort, v1alpha1.LabelEventStore)
}

// IsSidecar says whether an init container is the sidecar of an earlier injection.
// Another webhook may have added to it, or changed its image to a mirror of the
// registry, so only what it cannot work without tells it from a stranger.
func IsSidecar(c *corev1.Container) bool {
	return isNamedSidecar(*c) && isNative(c) && literal(c.Env, envBindingRoot) == bindingRoot
}

func isNative(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// readSidecar finds the sidecar of an earlier injection.
func (r *request) readSidecar() string {
	for i, container := range r.pod.Spec.InitContainers {
		if IsSidecar(&container) {
			r.existing = &r.pod.Spec.InitContainers[i]
			r.previousBindings = bindingsOf(r.existing)
			return ""
		}
	}
	if !slices.ContainsFunc(slices.Concat(r.pod.Spec.InitContainers, r.pod.Spec.Containers), isNamedSidecar) {
		return ""
	}
	return fmt.Sprintf("container %s is not the one that Aether adds: give it another name, or take the label %s away", ContainerName, v1alpha1.LabelEventStore)
}

func (r *request) foreignVolume() string {
	for _, want := range r.sidecarVolumes() {
		if r.isPreviousBinding(want.Name) {
			continue
		}
		for i, volume := range r.pod.Spec.Volumes {
			if volume.Name == want.Name && !isSameVolume(volume, want) {
				return fmt.Sprintf("spec.volumes[%d]: the name %s belongs to the sidecar's volume for %s: give this volume another name", i, want.Name, contentOf(want))
			}
		}
	}
	return ""
}

// contentOf says what a volume of the sidecar is for.
func contentOf(volume corev1.Volume) string {
	if volume.Secret != nil {
		return "Secret " + volume.Secret.SecretName
	}
	return "a token of the service account"
}

func isSameVolume(volume, want corev1.Volume) bool {
	if want.Secret != nil {
		return isWholeSecret(volume, want.Secret.SecretName)
	}
	return equality.Semantic.DeepEqual(volume, want)
}

func isWholeSecret(volume corev1.Volume, name string) bool {
	secret := volume.Secret
	return secret != nil && secret.SecretName == name && len(secret.Items) == 0 && (secret.Optional == nil || !*secret.Optional)
}
