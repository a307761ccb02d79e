package injector

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/yaml"
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
