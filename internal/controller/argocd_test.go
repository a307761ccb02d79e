package controller_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	lua "github.com/yuin/gopher-lua"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
)

// TestHealthOfArgoCD runs the health check of docs/operations.md on what the operator
// writes.
func TestHealthOfArgoCD(t *testing.T) {
	t.Parallel()
	condition := func(kind string, status metav1.ConditionStatus, reason string) metav1.Condition {
		return metav1.Condition{Type: kind, Status: status, Reason: reason, Message: "why"}
	}
	const yes, no, unknown = metav1.ConditionTrue, metav1.ConditionFalse, metav1.ConditionUnknown
	for name, test := range map[string]struct {
		observed        int64
		conditions      []metav1.Condition
		status, message string
	}{
		"new":         {-1, nil, "Progressing", "not looked at yet"},
		"edited":      {1, []metav1.Condition{condition("Ready", yes, "Ready")}, "Progressing", "not looked at yet"},
		"ready":       {2, []metav1.Condition{condition("Ready", yes, "Ready")}, "Healthy", "why"},
		"full":        {2, []metav1.Condition{condition("Ready", yes, "Ready"), condition("Full", yes, "NearlyFull")}, "Healthy", "why"},
		"at work":     {2, []metav1.Condition{condition("Ready", no, "Progressing"), condition("Reconciling", yes, "Progressing")}, "Progressing", "why"},
		"stalled":     {2, []metav1.Condition{condition("Ready", no, "Conflict"), condition("Stalled", yes, "Conflict")}, "Degraded", "Conflict: why"},
		"lost":        {2, []metav1.Condition{condition("Ready", no, "StreamMissing"), condition("DataLoss", yes, "StreamMissing"), condition("Stalled", yes, "StreamMissing")}, "Degraded", "StreamMissing: why"},
		"paused":      {2, []metav1.Condition{condition("Ready", unknown, "Paused")}, "Suspended", "why"},
		"not Stalled": {2, []metav1.Condition{condition("Ready", yes, "Observed"), condition("Connected", yes, "Connected")}, "Healthy", "why"},
	} {
		store := &v1alpha1.EventStore{Status: v1alpha1.EventStoreStatus{ObservedGeneration: test.observed, Conditions: test.conditions}}
		store.Generation = 2
		if status, message := healthOf(t, store); status != test.status || message != test.message {
			t.Errorf("%s: %s, %q, want %s, %q", name, status, message, test.status, test.message)
		}
	}
}

// healthOf is what Argo CD says of an object.
func healthOf(t *testing.T, object any) (status, message string) {
	t.Helper()
	state := lua.NewState()
	defer state.Close()
	encoded, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	var decoded any
	if err := json.Unmarshal(encoded, &decoded); err != nil {
		t.Fatal(err)
	}
	state.SetGlobal("obj", luaValue(state, decoded))
	if err := state.DoString(documentedCheck(t)); err != nil {
		t.Fatal(err)
	}
	health := state.Get(-1)
	return state.GetField(health, "status").String(), state.GetField(health, "message").String()
}

// documentedCheck is the script in docs/operations.md.
func documentedCheck(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	const key = "resource.customizations.health.aether.flowmade.one_EventStore"
	for _, block := range strings.Split(string(page), "```") {
		var config struct {
			Data map[string]string `json:"data"`
		}
		if after, ok := strings.CutPrefix(block, "yaml\n"); ok && yaml.Unmarshal([]byte(after), &config) == nil && config.Data[key] != "" {
			return config.Data[key]
		}
	}
	t.Fatal("docs/operations.md has no health check for Argo CD")
	return ""
}

func luaValue(state *lua.LState, value any) lua.LValue {
	switch v := value.(type) {
	case map[string]any:
		table := state.NewTable()
		for key, field := range v {
			table.RawSetString(key, luaValue(state, field))
		}
		return table
	case []any:
		table := state.NewTable()
		for _, element := range v {
			table.Append(luaValue(state, element))
		}
		return table
	case string:
		return lua.LString(v)
	case float64:
		return lua.LNumber(v)
	case bool:
		return lua.LBool(v)
	default:
		return lua.LNil
	}
}
