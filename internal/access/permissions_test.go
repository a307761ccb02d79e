package access_test

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/access"
)

var update = flag.Bool("update", false, "write the table of docs/access.md")

// TestDocumentedTable keeps the table of docs/access.md that of the code.
func TestDocumentedTable(t *testing.T) {
	t.Parallel()
	const page, begin, end = "../../docs/access.md", "<!-- table: begin -->\n", "<!-- table: end -->\n"
	content, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(content), begin)
	documented, after, foundEnd := strings.Cut(rest, end)
	if !found || !foundEnd {
		t.Fatalf("%s has no %q and %q", page, begin, end)
	}
	table := "| calls | role | publish | subscribe |\n|---|---|---|---|\n"
	for _, call := range access.Table {
		table += fmt.Sprintf("| %s | %s | %s | %s |\n", call.Calls, cell(call.Roles), cell(call.Publish), cell(call.Subscribe))
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

func cell[T ~string](names []T) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = "`" + string(name) + "`"
	}
	return strings.Join(quoted, ", ")
}

func TestPermissionsFor(t *testing.T) {
	t.Parallel()
	grant := access.Grant{Stream: "shop_orders", SnapshotStream: "shop_orders_snapshots", Role: v1alpha1.RoleReader}
	reader := access.PermissionsFor("uid", "hub", []access.Grant{grant})
	grant.Role = v1alpha1.RoleWriter
	writer := access.PermissionsFor("uid", "hub", []access.Grant{grant})
	for _, subject := range reader.Publish {
		// A writer may publish all snapshots, and with them these records.
		if !slices.Contains(writer.Publish, subject) && !strings.HasPrefix(subject, "shop_orders.snapshots.%") {
			t.Errorf("a reader may publish %s, and a writer not", subject)
		}
		if strings.HasPrefix(subject, "shop_orders.events.") || subject == "shop_orders.snapshots.*.*" {
			t.Errorf("a reader may publish %s", subject)
		}
	}
	for _, subject := range writer.Publish {
		if strings.HasPrefix(subject, "$JS.API") || strings.ContainsAny(subject, "{}") || !strings.Contains(subject, "shop_orders") {
			t.Errorf("a writer may publish %s", subject)
		}
	}
	if want := []string{"_INBOX.aether.uid.>", "shop_orders.work.*"}; !slices.Equal(writer.Subscribe, want) {
		t.Errorf("a writer may subscribe to %v, want %v", writer.Subscribe, want)
	}
	plain := access.PermissionsFor("uid", "", []access.Grant{grant})
	if !slices.Contains(plain.Publish, "$JS.API.STREAM.MSG.GET.shop_orders_snapshots") {
		t.Errorf("without a domain a writer may publish %v", plain.Publish)
	}
	// To NATS an empty list is all subjects.
	if nothing := access.PermissionsFor("uid", "", nil); len(nothing.Publish) == 0 || len(nothing.Subscribe) == 0 {
		t.Errorf("nothing is granted as %+v", nothing)
	}
}
