package access_test

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore/jetstream"
	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/access"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/callout"
)

// literals are all texts in the source of the server that this test runs.
var literals = sync.OnceValues(func() ([]string, error) {
	file, _ := runtime.FuncForPC(reflect.ValueOf(server.NewServer).Pointer()).FileLine(0)
	files, err := filepath.Glob(filepath.Join(filepath.Dir(file), "*.go"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("find the source of the server at %s: %w", file, err)
	}
	found := map[string]bool{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		ast.Inspect(parsed, func(node ast.Node) bool {
			if literal, ok := node.(*ast.BasicLit); ok && literal.Kind == token.STRING {
				if text, err := strconv.Unquote(literal.Value); err == nil {
					found[text] = true
				}
			}
			return true
		})
	}
	return slices.Sorted(maps.Keys(found)), nil
})

func literalsLike(t *testing.T, pattern string) []string {
	t.Helper()
	all, err := literals()
	if err != nil {
		t.Fatal(err)
	}
	like := regexp.MustCompile(pattern)
	return slices.DeleteFunc(slices.Clone(all), func(text string) bool { return !like.MatchString(text) })
}

var placeholder = regexp.MustCompile(`%[sdvq]|\*`)

// subjectsOfTheServer are all that a server knows, with the names of a stream and of a
// durable subscription where it has names.
func subjectsOfTheServer(t *testing.T, stream string) []string {
	t.Helper()
	found := map[string]bool{}
	for _, template := range literalsLike(t, `^(\$JS|\$JSC|\$SYS|\$NRG|\$GR|_GR_|_R_)\.[^ ]*$`) {
		for _, names := range [][]string{{stream, durable}, {callout.Account, stream, durable}, {"AETHER", stream, durable}} {
			at := 0
			subject := placeholder.ReplaceAllStringFunc(template, func(string) string {
				name := "x"
				if at < len(names) {
					name = names[at]
				}
				at++
				return name
			})
			subject = strings.TrimSuffix(subject, ">")
			for _, end := range []string{"", ".", stream, stream + "." + durable} {
				whole := subject + end
				if end != "" && !strings.HasSuffix(subject, ".") {
					whole = subject + "." + end
				}
				whole = strings.TrimRight(whole, ".")
				if strings.Contains(whole, "..") || strings.ContainsAny(whole, "%>*") {
					continue
				}
				found[whole] = true
				found[strings.Replace(whole, plain, api, 1)] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// denied keeps what a server does not let a connection do: "Publish" or
// "Subscription", and the subject.
type denied struct {
	mu   sync.Mutex
	said map[string]bool
}

var violation = regexp.MustCompile(`(Publish|Subscription) to "([^"]*)"`)

func (d *denied) see(_ *nats.Conn, _ *nats.Subscription, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if said := violation.FindStringSubmatch(err.Error()); said != nil {
		d.said[said[1]+" "+said[2]] = true
	}
}

func (d *denied) missing(what string, subjects []string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(subjects), func(subject string) bool { return d.said[what+" "+subject] })
}

// Whatever a server knows, a subject, a field or a header, a pod of one store reaches
// no other with it.
func TestNothingThatTheServerKnows(t *testing.T) {
	t.Parallel()
	for size, system := range systems {
		for _, role := range []v1alpha1.Role{v1alpha1.RoleWriter, v1alpha1.RoleReader} {
			t.Run(fmt.Sprintf("%d servers, %s", size, role), func(t *testing.T) {
				t.Parallel()
				theirs, ours := newNamespace(t), newNamespace(t)
				other := system.newStore(t, theirs)
				own := system.newStore(t, ours, v1alpha1.AccessEntry{ServiceAccount: "attacker", Role: role})
				v, inboxes := system.newVictim(t, other)
				before := v.state()
				p := newPod(t, ours, "attacker")
				a := &attacker{T: t, nc: system.connect(t, p, own.EventsStreamName()), own: own.EventsStreamName(), other: other.EventsStreamName(), inboxes: inboxes}
				d := &denied{said: map[string]bool{}}
				a.nc.SetErrorHandler(d.see)
				a.everySubject(d, access.PermissionsFor(string(p.UID), callout.Domain, []access.Grant{{Stream: a.own, SnapshotStream: a.own + "_snapshots", Role: role}}))
				a.everyField()
				a.everyHeader(role)
				a.request(api+"DIRECT.GET."+a.own, nil, `{"seq":1}`)
				if after := v.state(); after != before {
					t.Errorf("the other store was changed, from\n%s to\n%s", before, after)
				}
				v.wantNothingHeard()
				v.wantServed()
				t.Logf("%d attempts were refused and %d came to nothing", a.refused, a.sent)
			})
		}
	}
}

// everySubject publishes and subscribes to whatever is not granted.
func (a *attacker) everySubject(d *denied, granted access.Permissions) {
	a.Helper()
	subjects := slices.DeleteFunc(append(subjectsOfTheServer(a.T, a.other), subjectsOfTheServer(a.T, a.own)...), func(subject string) bool {
		return slices.ContainsFunc(granted.Publish, func(pattern string) bool { return matches(pattern, subject) })
	})
	slices.Sort(subjects)
	subjects = slices.Compact(subjects)
	for _, subject := range subjects {
		if err := a.nc.Publish(subject, []byte("{}")); err != nil {
			a.Fatalf("publish %s: %v", subject, err)
		}
		if _, err := a.nc.SubscribeSync(subject); err != nil {
			a.Fatalf("subscribe to %s: %v", subject, err)
		}
	}
	if err := a.nc.FlushTimeout(limit); err != nil {
		a.Fatal(err)
	}
	testenv.Eventually(a.T, limit, "all subjects to be refused", func() error {
		for _, what := range []string{"Publish", "Subscription"} {
			if missing := d.missing(what, subjects); len(missing) > 0 {
				return fmt.Errorf("%s of %d was not refused, %v among them", what, len(missing), missing[:min(len(missing), 10)])
			}
		}
		return nil
	})
	a.refused += 2 * len(subjects)
}

// matches says whether a subject is one of a pattern.
func matches(pattern, subject string) bool {
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i := range p {
		switch {
		case p[i] == ">":
			return len(s) > i
		case i >= len(s), p[i] != "*" && p[i] != s[i]:
			return false
		}
	}
	return len(p) == len(s)
}

// fieldsOf are the names in JSON of what a request has.
func fieldsOf(of reflect.Type) []string {
	var names []string
	for field := range of.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case field.Anonymous && field.Type.Kind() == reflect.Struct:
			names = append(names, fieldsOf(field.Type)...)
		case name != "" && name != "-":
			names = append(names, name)
		}
	}
	return names
}

// everyField asks for a consumer with each field that one has, and for messages with
// each that such a request has.
func (a *attacker) everyField() {
	a.Helper()
	purge := plain + "STREAM.PURGE." + a.other
	values := []any{purge, a.other, a.other + ".events.>", 7, true, []string{purge}, map[string]any{"x": purge}, map[string]any{"subject": purge, "src": ">", "dest": purge}}
	// What a consumer of the library may have in its own store, whatever it is.
	mayBe := map[string]any{"opt_start_seq": 7, "inactive_threshold": 7, "mem_storage": true}
	create := jetstream.MakeConsumerSubject(a.own)
	for _, field := range fieldsOf(reflect.TypeFor[server.ConsumerConfig]()) {
		for _, value := range values {
			if may, is := mayBe[field]; is && may == value {
				continue
			}
			body := consumerFor(a.own, newName(), func(_, config map[string]any) { config[field] = value })
			a.wantRefused(fmt.Sprintf("a consumer whose %s is %v", field, value), a.request(create, nil, body), "10003")
		}
	}
	for _, field := range slices.Concat(fieldsOf(reflect.TypeFor[server.CreateConsumerRequest]()), fieldsOf(reflect.TypeFor[server.StreamConfig]())) {
		for _, value := range values {
			body := consumerFor(a.own, newName(), func(request, _ map[string]any) { request[field] = value })
			a.wantRefused(fmt.Sprintf("a request whose %s is %v", field, value), a.request(create, nil, body), "10003")
		}
	}
	a.make(consumerFor(a.own, mine, unchanged))
	for _, value := range values {
		for _, field := range fieldsOf(reflect.TypeFor[server.JSApiMsgGetRequest]()) {
			body := encoded(a.T, map[string]any{"seq": 1, field: value})
			for _, call := range []string{"STREAM.MSG.GET.", "DIRECT.GET."} {
				answer := a.ask(api+call+a.own, nil, body)
				// Either tells what it answers with: the one in headers, the other in JSON.
				if from := answer.Header.Get("Nats-Stream"); from != "" && from != a.own || strings.Contains(string(answer.Data), `"subject":"`+a.other) {
					a.Errorf("%s%s of %s was answered with what is stored elsewhere: %v %s", call, a.own, body, answer.Header, answer.Data)
					continue
				}
				a.refused++
			}
		}
		for _, field := range fieldsOf(reflect.TypeFor[server.JSApiConsumerGetNextRequest]()) {
			body := encoded(a.T, map[string]any{"batch": 1, "no_wait": true, field: value})
			a.send(&nats.Msg{Subject: api + "CONSUMER.MSG.NEXT." + a.own + "." + mine, Reply: a.nc.NewInbox(), Data: []byte(body)})
		}
	}
}

func encoded(t *testing.T, value any) string {
	t.Helper()
	body, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// everyHeader sends what a pod may send with each header that servers know.
func (a *attacker) everyHeader(role v1alpha1.Role) {
	a.Helper()
	subjects := []string{
		a.own + ".snapshots.%durable.x", a.own + ".snapshots.%waiting.x", a.own + ".work.x", api + "DIRECT.GET." + a.own, api + "STREAM.MSG.GET." + a.own, api + "CONSUMER.MSG.NEXT." + a.own + "." + mine,
		jetstream.MakeConsumerSubject(a.own),
	}
	if role == v1alpha1.RoleWriter {
		subjects = append(subjects, a.own+".events.order.order-1")
	}
	victim := a.other + ".events.order.order-1"
	values := []string{
		victim, a.other, plain + "STREAM.PURGE." + a.other, plain + "CONSUMER.RESET." + a.other + "." + durable, "1", "all", "@every 1s",
		fmt.Sprintf(`{"acc":"AETHER","svc":"AETHER","user":"aether-operator","reply":%q}`, victim),
	}
	for _, header := range append(literalsLike(a.T, `^Nats-[A-Za-z-]+$`), "traceparent", "Status", "Description") {
		for _, value := range values {
			for _, subject := range subjects {
				a.send(&nats.Msg{Subject: subject, Reply: a.nc.NewInbox(), Header: nats.Header{header: {value}, "Nats-Schedule": {"@every 1s"}}, Data: []byte(`{"seq":1}`)})
				a.send(&nats.Msg{Subject: subject, Reply: a.nc.NewInbox(), Header: nats.Header{header: {value}}, Data: []byte(`{"seq":1}`)})
			}
		}
	}
}
