// Package binding reads how to reach a store, as the operator has written it: a
// directory after the Service Binding specification, one file a key.
package binding

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The keys, which are names of files. They are those of the binding Secret that
// package v1alpha1 documents; naming them here keeps Kubernetes out of the
// sidecar.
const (
	keyType           = "type"
	keyProvider       = "provider"
	keyServers        = "servers"
	keyNamespace      = "namespace"
	keyStream         = "stream"
	keySnapshotStream = "snapshot-stream"
	keyDomain         = "domain"
	keyAccess         = "access"
	keyCreds          = "user.creds"
	keyUsername       = "username"
	keyPassword       = "password"
	keyToken          = "token"
	keyNKey           = "nkey"
	keyTLSCert        = "tls.crt"
	keyTLSKey         = "tls.key"
	keyCA             = "ca.crt"
)

// accessServiceAccount is the value of the key access with which a workload proves
// who it is with a token of its service account.
const accessServiceAccount = "ServiceAccount"

// maxFileBytes bounds a file: a Secret as a whole is at most 1 MiB.
const maxFileBytes = 1 << 20

// Binding is how to reach one store.
type Binding struct {
	// Dir is the directory that it was read from.
	Dir string
	// Servers are the URLs of the NATS system.
	Servers []string
	// Namespace is the event namespace.
	Namespace string
	// Stream and SnapshotStream are the names of the streams.
	Stream, SnapshotStream string
	// Domain is the JetStream domain; empty for none.
	Domain string
	// ServiceAccount: one proves who one is with a token of the pod's service
	// account, which is not part of the binding.
	ServiceAccount bool
	// Credentials says how to prove who one is.
	Credentials Credentials

	// proof is what the files with credentials hold, by key.
	proof map[string]string
}

// Credentials are paths of files, which are read again at each connect, so that
// new ones are used without a restart. Empty paths are not in the binding. Of
// Creds, Username with Password, Token and NKey at most one is given; TLS may go
// with each.
type Credentials struct {
	// Creds is a NATS credentials file: a JWT and its seed.
	Creds string
	// Username and Password belong together.
	Username, Password string
	// Token is a NATS token.
	Token string
	// NKey is the seed of an NKey.
	NKey string
	// TLSCert and TLSKey, which belong together, are the client's certificate.
	TLSCert, TLSKey string
	// CA verifies the servers.
	CA string
}

// List names the bindings below root, in the order of their names.
func List(root string) ([]string, error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("list the bindings: %w: is SERVICE_BINDING_ROOT right?", err)
	}
	var names []string
	for _, entry := range entries {
		// A kubelet keeps what it mounts behind links whose names start with a dot.
		if strings.HasPrefix(entry.Name(), ".") {
			continue
		}
		info, err := os.Stat(filepath.Join(root, entry.Name()))
		if err != nil {
			return nil, fmt.Errorf("list the bindings: %w", err)
		}
		if info.IsDir() {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// Read reads the binding in a directory. What is missing or wrong is named by
// its file; several are told at once.
func Read(dir string) (Binding, error) {
	r := reader{dir: dir, proof: map[string]string{}}
	b := Binding{
		Dir:            dir,
		Namespace:      r.required(keyNamespace),
		Stream:         r.required(keyStream),
		SnapshotStream: r.required(keySnapshotStream),
		Domain:         r.optional(keyDomain),
		proof:          r.proof,
	}
	if access := r.optional(keyAccess); access != "" {
		r.must(keyAccess, accessServiceAccount)
		b.ServiceAccount = access == accessServiceAccount
	}
	r.must(keyType, "eventstore")
	r.must(keyProvider, "nats")
	for _, server := range strings.Split(r.required(keyServers), ",") {
		if server = strings.TrimSpace(server); server != "" {
			b.Servers = append(b.Servers, server)
		}
	}
	b.Credentials = Credentials{
		Creds: r.credential(keyCreds), Username: r.credential(keyUsername), Password: r.credential(keyPassword),
		Token: r.credential(keyToken), NKey: r.credential(keyNKey),
		TLSCert: r.credential(keyTLSCert), TLSKey: r.credential(keyTLSKey), CA: r.credential(keyCA),
	}
	r.validate(b.ServiceAccount)
	if len(r.errs) > 0 {
		return Binding{}, fmt.Errorf("read the binding in %s: %w", dir, errors.Join(r.errs...))
	}
	return b, nil
}

// SameConnection says whether two bindings lead to the same servers with the
// same credentials, so that one connection does for both.
func (b Binding) SameConnection(other Binding) bool {
	if !slices.Equal(b.Servers, other.Servers) || b.ServiceAccount != other.ServiceAccount || len(b.proof) != len(other.proof) {
		return false
	}
	for key, value := range b.proof {
		if given, has := other.proof[key]; !has || given != value {
			return false
		}
	}
	return true
}

// reader collects what is wrong.
type reader struct {
	dir   string
	proof map[string]string
	errs  []error
}

func (r *reader) fail(key, format string, args ...any) {
	r.errs = append(r.errs, fmt.Errorf("%s %s", key, fmt.Sprintf(format, args...)))
}

// file is the content of a file; not there when there is none.
func (r *reader) file(key string) (content string, there bool) {
	path := filepath.Join(r.dir, key)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false
	}
	if err == nil && info.Size() > maxFileBytes {
		r.fail(key, "has %d bytes: at most %d are allowed", info.Size(), maxFileBytes)
		return "", true
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(path)
	}
	if err != nil {
		r.fail(key, "cannot be read: %v", err)
	}
	// Who writes a file by hand ends it with a line break.
	return strings.TrimSpace(string(data)), true
}

func (r *reader) required(key string) string {
	value, there := r.file(key)
	switch {
	case !there:
		r.fail(key, "is missing")
	case value == "":
		r.fail(key, "is empty")
	}
	return value
}

func (r *reader) optional(key string) string {
	value, _ := r.file(key)
	return value
}

func (r *reader) must(key, want string) {
	if value := r.required(key); value != "" && value != want {
		r.fail(key, "is %q: only %q can be bound", value, want)
	}
}

// credential is the path of a file with a credential, and empty for none.
func (r *reader) credential(key string) string {
	value, there := r.file(key)
	if !there {
		return ""
	}
	if value == "" {
		r.fail(key, "is empty")
	}
	r.proof[key] = value
	return filepath.Join(r.dir, key)
}

// validate says which credentials do not go together.
func (r *reader) validate(serviceAccount bool) {
	for _, pair := range [][2]string{{keyUsername, keyPassword}, {keyTLSCert, keyTLSKey}} {
		_, first := r.proof[pair[0]]
		_, second := r.proof[pair[1]]
		if first && !second {
			r.fail(pair[1], "is missing, and %s is there", pair[0])
		}
		if second && !first {
			r.fail(pair[0], "is missing, and %s is there", pair[1])
		}
	}
	var ways []string
	if serviceAccount {
		ways = append(ways, keyAccess)
	}
	for _, key := range []string{keyCreds, keyUsername, keyToken, keyNKey} {
		if _, given := r.proof[key]; given {
			ways = append(ways, key)
		}
	}
	if len(ways) > 1 {
		r.fail(strings.Join(ways, ", "), "are more than one way to prove who one is: keep one")
	}
}
