package webhook

import (
	"strings"
	"testing"
)

// Who knows the path may send what no API server passes on: a quantity of millions of digits, or
// with an exponent far below 0, which takes minutes to read.
func TestCostlyQuantitiesAreNotRead(t *testing.T) {
	t.Parallel()
	pod := func(quantity string) []byte {
		return []byte(`{"spec":{"containers":[{"name":"app","resources":{"limits":{"cpu":` + quantity + `}}}]}}`)
	}
	for _, quantity := range []string{
		`"1.` + strings.Repeat("9", 2000) + `"`, strings.Repeat("9", 2000), `"1e-20000000"`, `1e-20000000`, `" -1.5E-20000"`, ` 1E-20000 `,
	} {
		if reason := tooLarge(pod(quantity)); !strings.Contains(reason, "takes long") {
			t.Errorf("%.40s: %q", quantity, reason)
		}
	}
	for _, quantity := range []string{`"500m"`, `"1e-3"`, `0.5`, `"1Gi"`, `"4d1e-9012-8a31"`, `"x1e-20000"`, `"` + strings.Repeat("9", 900) + `"`} {
		if reason := tooLarge(pod(quantity)); reason != "" {
			t.Errorf("%.40s: %q", quantity, reason)
		}
	}
}
