package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"github.com/KimMachineGun/automemlimit/memlimit"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
)

// TestMemoryAtTheStart: who may write in one namespace has made objects of nearly a
// megabyte each, as many as would fill the memory of the operator were they there at once.
func TestMemoryAtTheStart(t *testing.T) {
	user := applyRights(t)
	const count = 100
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "large"}}
	if err := kubernetes.Client.Create(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
	large := bytes.Repeat([]byte("x"), 950_000)
	// Of all that may be in an EventStore, the API server takes this in the shortest time.
	owners := []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", UID: "1", Name: string(large)}}
	var last *v1alpha1.EventStore
	for i := range count {
		meta := metav1.ObjectMeta{Namespace: namespace.Name, Name: fmt.Sprintf("large-%d", i)}
		create(t, &corev1.Secret{ObjectMeta: meta, Type: v1alpha1.BindingSecretType, Data: map[string][]byte{"x": large}})
		meta.OwnerReferences = owners
		last = &v1alpha1.EventStore{ObjectMeta: meta}
		create(t, last)
	}
	// So it asks for lists as it must where the API server streams none.
	t.Setenv("KUBE_FEATURE_WatchListClient", "false")
	r := startReplica(t, writeKubeconfig(t, user, ""), "--webhook-port=0")
	// A first pass comes after all caches are filled.
	testenv.Eventually(t, deadline, "a pass over an EventStore", func() error {
		found := &v1alpha1.EventStore{}
		if err := kubernetes.Client.Get(t.Context(), client.ObjectKeyFromObject(last), found); err != nil {
			return err
		}
		if len(found.Status.Conditions) == 0 {
			return errors.New("it has no conditions")
		}
		return nil
	})
	peak, limit := peakMemory(t, r.process.Process.Pid), memoryLimit(t)
	t.Logf("the operator has had %d MiB at most, of %d", peak>>20, limit>>20)
	if peak > limit {
		t.Errorf("the operator has had %d MiB, and config/manager gives it %d", peak>>20, limit>>20)
	}
}

// peakMemory is the most bytes that a process has had resident.
func peakMemory(t *testing.T, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kibibytes, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kibibytes << 10
}

// memoryLimit is what config/manager gives the operator, in bytes.
func memoryLimit(t *testing.T) int64 {
	t.Helper()
	objects, err := testenv.Render("config/manager")
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range objects {
		if object.GetKind() != "Deployment" {
			continue
		}
		deployment := &appsv1.Deployment{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, deployment); err != nil {
			t.Fatal(err)
		}
		return deployment.Spec.Template.Spec.Containers[0].Resources.Limits.Memory().Value()
	}
	t.Fatal("config/manager has no Deployment")
	return 0
}

func TestBoundGarbage(t *testing.T) {
	for _, variable := range []string{"GOMEMLIMIT", "GOGC"} {
		// It is put back at the end.
		t.Setenv(variable, "")
		if err := os.Unsetenv(variable); err != nil {
			t.Fatal(err)
		}
	}
	before, percent := debug.SetMemoryLimit(-1), debug.SetGCPercent(100)
	t.Cleanup(func() { debug.SetMemoryLimit(before); debug.SetGCPercent(percent) })
	for _, c := range []struct {
		name      string
		container memlimit.Provider
		want      int64
		err       error
	}{
		{"no container", func() (uint64, error) { return 0, memlimit.ErrNoCgroup }, before, nil},
		{"no limit", func() (uint64, error) { return 0, memlimit.ErrNoLimit }, math.MaxInt64, nil},
		{"unreadable", func() (uint64, error) { return 0, fs.ErrPermission }, math.MaxInt64, fs.ErrPermission},
		{"that of config/manager", memlimit.Limit(256 << 20), 214748364, nil},
	} {
		if err := boundGarbage(c.container); !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", c.name, err, c.err)
		}
		if got := debug.SetMemoryLimit(-1); got != c.want {
			t.Errorf("%s: the limit is %d, want %d", c.name, got, c.want)
		}
		if got := debug.SetGCPercent(100); got != keenGC {
			t.Errorf("%s: garbage is collected at %d %%, want %d %%", c.name, got, keenGC)
		}
	}
}
