//go:build browser

package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// openBrowser starts Chromium and returns the context of a page in it. No other
// name than the one of an attacker can be resolved.
func openBrowser(t *testing.T) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("start a browser: %v: make test-browser installs Chromium as root on Debian; elsewhere install it so that PATH leads to chromium", err)
	}
	options := []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()), chromedp.Headless, chromedp.NoFirstRun, chromedp.DisableGPU,
		chromedp.Flag("host-resolver-rules", "MAP "+attacker+" 127.0.0.1"),
	}
	for _, flag := range []string{"disable-quic", "disable-background-networking", "disable-component-update", "disable-sync", "disable-dev-shm-usage"} {
		options = append(options, chromedp.Flag(flag, true))
	}
	if os.Geteuid() == 0 {
		// Its sandbox is not for root.
		options = append(options, chromedp.NoSandbox)
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(cancel)
	ctx, _ = chromedp.NewContext(ctx)
	// Waits until it has ended, so that its directory can go.
	t.Cleanup(func() { _ = chromedp.Cancel(ctx) })
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start %s: %v", path, err)
	}
	return ctx
}

// attacker is a name that whoever it belongs to lets lead to this machine.
const attacker = "attacker.example"

// serveFollower serves a page that follows the events at an address, and returns
// the origin of the page.
func serveFollower(t *testing.T, events string) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `<!doctype html><script>
			const ids = [], source = new EventSource(%q)
			let opened = 0
			source.onopen = () => opened++
			source.onmessage = message => ids.push(message.lastEventId + " " + JSON.parse(message.data).id)
		</script>`, events)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// until waits for an expression of the page to be true.
func until(t *testing.T, page context.Context, expression string) {
	t.Helper()
	if _, err := chromedp.Run(page, chromedp.Poll[bool](expression, chromedp.WithPollingTimeout(deadline))); err != nil {
		ids, _ := chromedp.Run(page, chromedp.Evaluate[[]string]("ids"))
		t.Fatalf("wait for %s: %v; the page has the events %q", expression, err, ids)
	}
}

// A page follows events; when the sidecar ends, or its connection is cut, it comes
// back by itself, misses nothing and gets nothing twice.
func TestBrowserFollows(t *testing.T) {
	t.Parallel()
	cluster := natsserver.Run(t, 1)
	root := t.TempDir()
	bind(t, cluster, root, "orders", cluster.Connect(t), nil)
	ports, err := natsserver.ReservePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", ports[0])
	origin := serveFollower(t, "http://"+address+"/v1/stores/orders/events")
	start := func() *started {
		s := startBinary(t, map[string]string{"SERVICE_BINDING_ROOT": root}, "--listen="+address, "--allow-origin="+origin)
		s.waitReady("")
		return s
	}
	var want []string
	save := func(s *started) {
		id := fmt.Sprintf("e-%d", len(want)+1)
		if status, body := s.post("orders", fmt.Sprintf(`{"id":%q,"eventType":"T","actorId":"order-1"}`, id)); status != http.StatusCreated {
			t.Fatalf("save: %d %s", status, body)
		}
		want = append(want, fmt.Sprintf("%d %s", len(want)+1, id))
	}
	s := start()
	save(s)
	page := openBrowser(t)
	if err := chromedp.Do(page, chromedp.Navigate(origin)); err != nil {
		t.Fatal(err)
	}
	save(s)
	until(t, page, "ids.length >= 2")
	comeBack := func(opened int) {
		s = start()
		// Before the page is back, and after.
		save(s)
		until(t, page, fmt.Sprintf("opened == %d", opened))
		save(s)
		until(t, page, fmt.Sprintf("ids.length >= %d", len(want)))
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	comeBack(2)
	s.kill()
	comeBack(3)
	if got, err := chromedp.Run(page, chromedp.Evaluate[[]string]("ids")); err != nil || !slices.Equal(got, want) {
		t.Errorf("the page has %q, %v, want %q", got, err, want)
	}
}

// A page of elsewhere is refused, also where its name leads to this machine.
func TestBrowserIsRefused(t *testing.T) {
	t.Parallel()
	s := startBinary(t, nil, "--memory", "--store=orders", "--allow-origin=http://localhost:3000")
	if status, body := s.post("orders", `{"id":"1","eventType":"T","actorId":"order-1"}`); status != http.StatusCreated {
		t.Fatalf("save: %d %s", status, body)
	}
	page := openBrowser(t)
	if err := chromedp.Do(page, chromedp.Navigate(serveFollower(t, s.api+"/v1/stores/orders/events"))); err != nil {
		t.Fatal(err)
	}
	until(t, page, "source.readyState == EventSource.CLOSED && opened == 0 && ids.length == 0")
	// It was not only kept from reading.
	if _, body := s.get(s.health + "/metrics"); !strings.Contains(body, `aether_sidecar_requests_total{code="403",protocol="http",route="none"} 1`) {
		t.Errorf("the sidecar did not refuse the page:\n%s", body)
	}
	rebound := strings.Replace(s.api, "127.0.0.1", attacker, 1)
	if err := chromedp.Do(page, chromedp.Navigate(rebound+"/v1/stores")); err != nil {
		t.Fatal(err)
	}
	if answer, err := chromedp.Run(page, chromedp.Evaluate[string]("document.body.innerText")); err != nil || !strings.Contains(answer, `"code":"foreign_origin"`) {
		t.Errorf("%s answered %q, %v", rebound, answer, err)
	}
}
