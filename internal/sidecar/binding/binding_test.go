package binding_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"git.flowmade.one/flowmade-one/aether-operator/internal/sidecar/binding"
)

// complete are the files that every binding has.
func complete() map[string]string {
	return map[string]string{
		"type": "eventstore", "provider": "nats", "servers": "nats://a:4222, nats://b:4222\n",
		"namespace": "shop", "stream": "shop_orders", "snapshot-stream": "shop_orders_snapshots",
	}
}

func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func with(files map[string]string, more ...string) map[string]string {
	for i := 0; i < len(more); i += 2 {
		files[more[i]] = more[i+1]
	}
	return files
}

func without(files map[string]string, key string) map[string]string {
	delete(files, key)
	return files
}

func TestRead(t *testing.T) {
	t.Parallel()
	dir := write(t, with(complete(), "domain", "hub\n", "username", "app", "password", "secret", "ca.crt", "PEM"))
	got, err := binding.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"nats://a:4222", "nats://b:4222"}; !reflect.DeepEqual(got.Servers, want) {
		t.Errorf("servers %q, want %q", got.Servers, want)
	}
	if got.Namespace != "shop" || got.Stream != "shop_orders" || got.SnapshotStream != "shop_orders_snapshots" || got.Domain != "hub" {
		t.Errorf("binding %+v", got)
	}
	want := binding.Credentials{Username: filepath.Join(dir, "username"), Password: filepath.Join(dir, "password"), CA: filepath.Join(dir, "ca.crt")}
	if got.Credentials != want {
		t.Errorf("credentials %+v, want %+v", got.Credentials, want)
	}
}

func TestReadServiceAccount(t *testing.T) {
	t.Parallel()
	dir := write(t, with(complete(), "access", "ServiceAccount\n", "ca.crt", "PEM"))
	got, err := binding.Read(dir)
	if want := (binding.Credentials{CA: filepath.Join(dir, "ca.crt")}); err != nil || !got.ServiceAccount || got.Credentials != want {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestReadNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		files map[string]string
		want  []string
	}{
		"nothing there":     {nil, []string{"type is missing", "provider is missing", "servers is missing", "namespace is missing", "stream is missing", "snapshot-stream is missing"}},
		"no stream":         {without(complete(), "stream"), []string{"stream is missing"}},
		"empty namespace":   {with(complete(), "namespace", "\n"), []string{"namespace is empty"}},
		"another type":      {with(complete(), "type", "postgresql"), []string{`type is "postgresql": only "eventstore"`}},
		"another provider":  {with(complete(), "provider", "kafka"), []string{`provider is "kafka": only "nats"`}},
		"no password":       {with(complete(), "username", "app"), []string{"password is missing, and username is there"}},
		"no key":            {with(complete(), "tls.crt", "PEM"), []string{"tls.key is missing, and tls.crt is there"}},
		"two ways":          {with(complete(), "token", "t", "nkey", "s"), []string{"token, nkey are more than one way"}},
		"another access":    {with(complete(), "access", "Everyone"), []string{`access is "Everyone": only "ServiceAccount"`}},
		"access and a way":  {with(complete(), "access", "ServiceAccount", "token", "t"), []string{"access, token are more than one way"}},
		"empty credentials": {with(complete(), "user.creds", ""), []string{"user.creds is empty"}},
		"too large":         {with(complete(), "ca.crt", strings.Repeat("x", 1<<20+1)), []string{"ca.crt has 1048577 bytes"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := binding.Read(write(t, c.files))
			if err == nil {
				t.Fatal("a binding that is wrong was read")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for _, dir := range []string{"orders", "..2026_01_01", "invoices"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(root, "orders"), filepath.Join(root, "linked")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "README"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := binding.List(root)
	if want := []string{"invoices", "linked", "orders"}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("bindings %q, %v, want %q", got, err, want)
	}
	if _, err := binding.List(filepath.Join(root, "none")); err == nil || !strings.Contains(err.Error(), "SERVICE_BINDING_ROOT") {
		t.Errorf("error %v does not name the variable to correct", err)
	}
}

func TestSameConnection(t *testing.T) {
	t.Parallel()
	read := func(files map[string]string) binding.Binding {
		t.Helper()
		b, err := binding.Read(write(t, files))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	one := read(with(complete(), "token", "t"))
	for name, c := range map[string]struct {
		other map[string]string
		want  bool
	}{
		"another store, same class": {with(complete(), "token", "t", "stream", "shop_payments"), true},
		"another token":             {with(complete(), "token", "u"), false},
		"another kind":              {with(complete(), "nkey", "t"), false},
		"no credentials":            {complete(), false},
		"a service account":         {with(complete(), "access", "ServiceAccount"), false},
		"other servers":             {with(complete(), "token", "t", "servers", "nats://c:4222"), false},
	} {
		if got := one.SameConnection(read(c.other)); got != c.want {
			t.Errorf("%s: same connection is %t, want %t", name, got, c.want)
		}
	}
}
