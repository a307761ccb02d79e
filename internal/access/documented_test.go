package access_test

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/callout"
)

// The permissions of the operator are listed on two pages, and are the same.
func TestDocumentedPermissionsOfTheOperator(t *testing.T) {
	t.Parallel()
	setup, err := callout.New()
	if err != nil {
		t.Fatal(err)
	}
	options := &server.Options{}
	if err := options.ProcessConfigString(setup.Config); err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(options.Users, func(u *server.User) bool { return u.Username == "aether-operator" })
	if at < 0 {
		t.Fatal("docs/access.md has no user aether-operator")
	}
	configured := options.Users[at].Permissions
	page, err := os.ReadFile("../../docs/eventstoreclass.md")
	if err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[string][]string{"publish": configured.Publish.Allow, "subscribe": configured.Subscribe.Allow} {
		var listed []string
		for _, list := range regexp.MustCompile(`(?s)\n`+kind+`: \[(.*?)\]`).FindAllStringSubmatch(string(page), -1) {
			for _, quoted := range regexp.MustCompile(`"([^"]+)"`).FindAllStringSubmatch(list[1], -1) {
				listed = append(listed, quoted[1])
			}
		}
		slices.Sort(listed)
		want = slices.Sorted(slices.Values(want))
		if !slices.Equal(listed, want) {
			t.Errorf("to %s docs/eventstoreclass.md lists %q, and docs/access.md %q", kind, listed, want)
		}
	}
	if configured.Response == nil {
		t.Error("docs/access.md allows the operator no responses")
	}
}
