// Package callout sets up nats-servers that ask the operator what a pod may do,
// with the very configuration that docs/access.md shows.
package callout

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nkeys"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

// Names that the documented configuration has.
const (
	// Account is that of the workloads, and Domain what they import JetStream as.
	Account = "WORKLOADS"
	Domain  = "aether"
)

// Setup is the configuration of servers and what logs in to them.
type Setup struct {
	// Config is the text of the configuration.
	Config string
	// Operator and Callout are the data of the two Secrets of a class.
	Operator, Callout map[string]string
}

// New reads the configuration of the documentation, and puts values in the place
// of what it leaves open.
func New() (*Setup, error) {
	config, err := documented()
	if err != nil {
		return nil, err
	}
	issuer, err := newKey(nkeys.CreateAccount)
	if err != nil {
		return nil, err
	}
	xkey, err := newKey(nkeys.CreateCurveKeys)
	if err != nil {
		return nil, err
	}
	s := &Setup{
		Operator: map[string]string{v1alpha1.CredentialsKeyUsername: "aether-operator", v1alpha1.CredentialsKeyPassword: "of-the-operator"},
		Callout: map[string]string{
			v1alpha1.CredentialsKeyUsername: "aether-callout", v1alpha1.CredentialsKeyPassword: "of-the-callout",
			v1alpha1.CalloutKeyIssuer: issuer.seed, v1alpha1.CalloutKeyXKey: xkey.seed,
		},
	}
	s.Config = strings.NewReplacer(
		// The servers of a test have a name and a directory each.
		"server_name: SERVER_NAME\n", "", "store_dir: STORE_DIR\n", "",
		"OPERATOR_PASSWORD", s.Operator[v1alpha1.CredentialsKeyPassword], "CALLOUT_PASSWORD", s.Callout[v1alpha1.CredentialsKeyPassword],
		"ISSUER_PUBLIC_KEY", issuer.public, "XKEY_PUBLIC_KEY", xkey.public,
	).Replace(config)
	return s, nil
}

// documented is the configuration as docs/access.md shows it.
func documented() (string, error) {
	root, err := testenv.Root()
	if err != nil {
		return "", err
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "access.md"))
	if err != nil {
		return "", fmt.Errorf("read the documented configuration of NATS: %w", err)
	}
	var config strings.Builder
	for _, name := range []string{"nats.conf", "cluster.conf"} {
		_, rest, begins := strings.Cut(string(page), "<!-- "+name+": begin -->\n```\n")
		part, _, ends := strings.Cut(rest, "```\n<!-- "+name+": end -->")
		if !begins || !ends {
			return "", fmt.Errorf("docs/access.md has no %s between its marks", name)
		}
		config.WriteString(part)
	}
	return config.String(), nil
}

type key struct{ seed, public string }

func newKey(create func() (nkeys.KeyPair, error)) (key, error) {
	pair, err := create()
	if err != nil {
		return key{}, fmt.Errorf("make a key: %w", err)
	}
	seed, err := pair.Seed()
	if err != nil {
		return key{}, fmt.Errorf("make a key: %w", err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		return key{}, fmt.Errorf("make a key: %w", err)
	}
	return key{string(seed), public}, nil
}

// Start runs so many servers with the configuration, whose data goes below dir.
func (s *Setup) Start(dir string, size int, options ...natsserver.Option) (*natsserver.Cluster, error) {
	withConfig, err := natsserver.WithConfig(s.Config)
	if err != nil {
		return nil, err
	}
	return natsserver.Start(dir, size, append([]natsserver.Option{withConfig}, options...)...)
}

// Class is an EventStoreClass for servers with the configuration, and its Secrets.
func (s *Setup) Class(name string, servers *natsserver.Cluster) []client.Object {
	secret := func(suffix string, data map[string]string) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name + suffix}, StringData: data}
	}
	operator, asked := secret("-operator", s.Operator), secret("-callout", s.Callout)
	class := &v1alpha1.EventStoreClass{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, url := range servers.URLs() {
		class.Spec.Servers = append(class.Spec.Servers, v1alpha1.ServerURL(url))
	}
	class.Spec.Credentials = &v1alpha1.Credentials{SecretRef: v1alpha1.SecretReference{Namespace: operator.Namespace, Name: operator.Name}}
	class.Spec.Workloads = v1alpha1.Workloads{
		Domain: Domain, Access: v1alpha1.AccessServiceAccount,
		Callout: &v1alpha1.Callout{SecretRef: v1alpha1.SecretReference{Namespace: asked.Namespace, Name: asked.Name}, Account: Account},
	}
	return []client.Object{operator, asked, class}
}
