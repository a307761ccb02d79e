package injector

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

var update = flag.Bool("update", false, "write the golden files and the table of docs/injection.md")

var config = Config{Image: "registry.example/aether-sidecar:1.0"}

// TestGolden injects each testdata/*.in.yaml and compares with *.out.yaml.
func TestGolden(t *testing.T) {
	t.Parallel()
	inputs, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("find testdata/*.in.yaml: %v, %d files", err, len(inputs))
	}
	for _, input := range inputs {
		t.Run(strings.TrimSuffix(filepath.Base(input), ".in.yaml"), func(t *testing.T) {
			t.Parallel()
			got := describe(t, readPod(t, input))
			golden := strings.TrimSuffix(input, ".in.yaml") + ".out.yaml"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("%s differs; go test -update writes it anew. Got:\n%s", golden, got)
			}
			if first, _, _ := strings.Cut(filepath.Base(input), "-"); !strings.HasPrefix(got, "# "+strings.TrimSuffix(first, ".in.yaml")) {
				t.Errorf("%s, by its name, says another outcome than %q", input, strings.SplitN(got, "\n", 2)[0])
			}
		})
	}
}

// describe is the outcome as a comment, and the pod if there is one.
func describe(t *testing.T, pod *corev1.Pod) string {
	t.Helper()
	before := pod.DeepCopy()
	result, err := Inject(pod, config)
	if !equality.Semantic.DeepEqual(before, pod) {
		t.Error("Inject changed the pod that was passed in")
	}
	if refused, ok := errors.AsType[*RefusedError](err); ok {
		return "# refused: " + refused.Reason + "\n"
	} else if err != nil {
		t.Fatalf("Inject: %v is no *RefusedError", err)
	}
	if result.Outcome == Skipped {
		if !equality.Semantic.DeepEqual(result.Pod, before) {
			t.Error("a pod that is skipped was changed")
		}
		return "# skipped: " + result.Reason + "\n"
	}
	checkIdempotent(t, result)
	var out strings.Builder
	fmt.Fprintf(&out, "# injected: %s\n", strings.Join(result.Stores, ", "))
	for _, warning := range result.Warnings {
		fmt.Fprintf(&out, "# warning: %s\n", warning)
	}
	content, err := yaml.Marshal(result.Pod)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(content)
	return out.String()
}

func checkIdempotent(t *testing.T, once *Result) {
	t.Helper()
	twice, err := Inject(once.Pod, config)
	if err != nil {
		t.Fatalf("inject again: %v", err)
	}
	if !equality.Semantic.DeepEqual(once, twice) {
		t.Errorf("injected again, the result differs:\n%+v\n%+v", once, twice)
	}
}

// TestGoldenFilesCoverTheTable makes every row the answer of at least one file.
func TestGoldenFilesCoverTheTable(t *testing.T) {
	t.Parallel()
	inputs, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var decided []string
	for _, input := range inputs {
		row, _ := (&request{pod: readPod(t, input), config: config}).decide()
		decided = append(decided, row.When)
	}
	for _, rule := range Rules {
		if !slices.Contains(decided, rule.When) {
			t.Errorf("no file in testdata where %s", rule.When)
		}
	}
}

func TestNoImageAtAll(t *testing.T) {
	t.Parallel()
	_, err := Inject(readPod(t, "testdata/injected.in.yaml"), Config{})
	if err == nil || !strings.Contains(err.Error(), "--sidecar-image") {
		t.Errorf("Inject without any image: %v, want an error that names --sidecar-image", err)
	}
}

// TestContainersOfLaterWebhooks is a reinvocation as the API server does it.
func TestContainersOfLaterWebhooks(t *testing.T) {
	t.Parallel()
	once, err := Inject(readPod(t, "testdata/injected.in.yaml"), config)
	if err != nil {
		t.Fatal(err)
	}
	once.Pod.Spec.Containers = append(once.Pod.Spec.Containers, corev1.Container{Name: "late"})
	once.Pod.Spec.InitContainers = append([]corev1.Container{{Name: "pushed-in"}}, once.Pod.Spec.InitContainers...)
	twice, err := Inject(once.Pod, config)
	if err != nil {
		t.Fatal(err)
	}
	if first := twice.Pod.Spec.InitContainers[0].Name; first != ContainerName {
		t.Errorf("first init container: %s, want %s", first, ContainerName)
	}
	for _, container := range []corev1.Container{twice.Pod.Spec.InitContainers[1], twice.Pod.Spec.Containers[1]} {
		if got := literal(container.Env, EnvEndpoint); got != Endpoint {
			t.Errorf("container %s: %s=%q, want %q", container.Name, EnvEndpoint, got, Endpoint)
		}
	}
}

// TestDocumentedTable keeps the table of docs/injection.md that of the code.
func TestDocumentedTable(t *testing.T) {
	t.Parallel()
	const page, begin, end = "../../docs/injection.md", "<!-- table: begin -->\n", "<!-- table: end -->\n"
	content, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(content), begin)
	documented, after, foundEnd := strings.Cut(rest, end)
	if !found || !foundEnd {
		t.Fatalf("%s has no %q and %q", page, begin, end)
	}
	table := "| | when | the pod is |\n|---|---|---|\n"
	for i, rule := range Rules {
		table += fmt.Sprintf("| %d | %s | %s |\n", i+1, rule.When, rule.Outcome)
	}
	if documented == table {
		return
	}
	if !*update {
		t.Fatalf("%s does not show the table of the code; go test -update writes it anew", page)
	}
	if err := os.WriteFile(page, []byte(before+begin+table+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readPod(t *testing.T, path string) *corev1.Pod {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{}
	if err := yaml.UnmarshalStrict(content, pod); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return pod
}

// TestArguments: each flag of the sidecar either can be given, or says who the sidecar
// is, what it connects to, or where it listens.
func TestArguments(t *testing.T) {
	t.Parallel()
	help, err := exec.CommandContext(t.Context(), "go", "run", "../../cmd/sidecar", "--help").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, help)
	}
	examples := []string{
		"--max-body-bytes=1048576", "--max-calls=512", "--max-streams=1", "--request-timeout=1m30s", "--wait-for-stores=500ms",
		"--log-level=warn", "--allow-host=sidecar", "--allow-origin=http://localhost:3000",
	}
	known := []string{"listen", "health-listen", "memory", "duplicate-window", "store", "probe", "version"}
	for _, example := range examples {
		if !argument.MatchString(example) {
			t.Errorf("%s cannot be given", example)
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(example, "--"), "=")
		known = append(known, name)
	}
	flags := regexp.MustCompile(`(?m)^ +--([a-z-]+)`).FindAllStringSubmatch(string(help), -1)
	for _, found := range flags {
		if !slices.Contains(known, found[1]) {
			t.Errorf("the flag --%s of the sidecar is new: say whether a pod may give it", found[1])
		}
	}
	if len(flags) != len(known) {
		t.Errorf("the sidecar has %d flags, known are %v", len(flags), known)
	}
}

// TestClassIsHeldToTheSame: what the CRD lets a class give is what a pod may give.
func TestClassIsHeldToTheSame(t *testing.T) {
	t.Parallel()
	crd, err := os.ReadFile("../../config/crd/bases/aether.flowmade.one_eventstoreclasses.yaml")
	if err != nil {
		t.Fatal(err)
	}
	policy, err := os.ReadFile("../../config/components/mutating-admission-policy/injection.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{argument.String(), ownVariable.String(), variableName.String()} {
		if inCEL := strings.ReplaceAll(pattern, `\s`, `\\s`); !strings.Contains(string(crd), inCEL) {
			t.Errorf("the CRD of classes has no %s", inCEL)
		}
	}
	if inCEL := strings.ReplaceAll(argument.String(), `\s`, `\\s`); !strings.Contains(string(policy), inCEL) {
		t.Errorf("the policy has no %s", inCEL)
	}
}

// TestLimitRangesDecide is the row of the table that no pod alone can show.
func TestLimitRangesDecide(t *testing.T) {
	t.Parallel()
	with := config
	with.LimitRanges = []corev1.LimitRange{{Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{
		Type: corev1.LimitTypeContainer, Min: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")},
	}}}}}
	pod := readPod(t, "testdata/injected-settings.in.yaml")
	_, err := Inject(pod, with)
	if err == nil || !strings.Contains(err.Error(), v1alpha1.AnnotationSidecarCPURequest) {
		t.Errorf("50m of CPU where 1 is the least: %v", err)
	}
	delete(pod.Annotations, v1alpha1.AnnotationSidecarCPURequest)
	result, err := Inject(pod, with)
	if err != nil || result.Pod.Spec.InitContainers[0].Resources.Requests.Cpu().String() != "1" {
		t.Errorf("nothing asked for where 1 is the least: %v", err)
	}
}
