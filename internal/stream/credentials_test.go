package stream_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"git.flowmade.one/flowmade-one/aether-operator/api/v1alpha1"
	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
	"git.flowmade.one/flowmade-one/aether-operator/internal/testenv/natsserver"
)

func TestCredentials(t *testing.T) {
	t.Parallel()
	public, seed := newKey(t, nkeys.CreateUser)
	creds, trusting := operatorMode(t)
	ca := newAuthority(t)
	client := ca.sign(t, x509.ExtKeyUsageClientAuth)
	data := func(keyValues ...string) map[string][]byte {
		m := map[string][]byte{}
		for i := 0; i < len(keyValues); i += 2 {
			m[keyValues[i]] = []byte(keyValues[i+1])
		}
		return m
	}
	systems := map[string]struct {
		option natsserver.Option
		right  map[string][]byte
		wrong  map[string][]byte
	}{
		"user":  {natsserver.WithUser("u", "p"), data("username", "u", "password", "p\n"), data("username", "u", "password", "x")},
		"token": {func(o *server.Options) { o.Authorization = "t" }, data("token", "t"), data("token", "x")},
		"nkey": {func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: public}} },
			data("nkey", string(seed)), data("token", "x")},
		"user.creds":         {trusting, data("user.creds", string(creds)), data("token", "x")},
		"authority and user": {both(ca.serving(t, false), natsserver.WithUser("u", "p")), data("ca.crt", ca.pem, "username", "u", "password", "p"), data("ca.crt", ca.pem, "username", "u", "password", "x")},
		"client certificate": {ca.serving(t, true), data("ca.crt", ca.pem, "tls.crt", client.cert, "tls.key", client.key), nil},
	}
	for name, system := range systems {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			servers := natsserver.Run(t, 1, system.option)
			conn, _ := connect(t, servers, system.right)
			_, err := conn.Account(t.Context())
			fail(t, err)
			connections := stream.NewConnections(func(stream.Notice) {}, func(string, time.Duration, error) {}, nobodyKnows)
			t.Cleanup(connections.Close)
			if system.wrong != nil {
				_, err = connections.Get(t.Context(), stream.Target{Class: "c", Servers: servers.URLs(), Credentials: system.wrong})
				wantFault(t, err, stream.Stall, v1alpha1.ReasonAuthenticationFailed)
			}
			if _, err = connections.Get(t.Context(), stream.Target{Class: "c", Servers: servers.URLs()}); err == nil {
				t.Error("connected without credentials")
			}
			// What was corrected counts at once.
			_, err = connections.Get(t.Context(), stream.Target{Class: "c", Servers: servers.URLs(), Credentials: system.right})
			fail(t, err)
		})
	}
}

func TestCredentialsThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	connections := stream.NewConnections(func(stream.Notice) {}, func(string, time.Duration, error) {}, nobodyKnows)
	for name, data := range map[string]map[string][]byte{
		"empty":                    {},
		"unknown keys":             {"user": []byte("u")},
		"user without a password":  {"username": []byte("u")},
		"no seed":                  {"nkey": []byte("x")},
		"no certificate":           {"tls.crt": []byte("x"), "tls.key": []byte("y")},
		"certificate without key":  {"tls.crt": []byte("x")},
		"no certificate authority": {"ca.crt": []byte("x")},
	} {
		_, err := connections.Get(t.Context(), stream.Target{Class: name, Servers: []string{"nats://127.0.0.1:1"}, Credentials: data})
		wantFault(t, err, stream.Stall, v1alpha1.ReasonCredentialsInvalid)
	}
}

// TestUntrustedServer: a certificate that no authority of ours signed is told from
// a server that is away.
func TestUntrustedServer(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t), newAuthority(t)
	servers := natsserver.Run(t, 1, ca.serving(t, false))
	connections := stream.NewConnections(func(stream.Notice) {}, func(string, time.Duration, error) {}, nobodyKnows)
	t.Cleanup(connections.Close)
	for name, data := range map[string]map[string][]byte{"another authority": {"ca.crt": []byte(other.pem)}, "none": nil} {
		_, err := connections.Get(t.Context(), stream.Target{Class: name, Servers: servers.URLs(), Credentials: data})
		wantFault(t, err, stream.Stall, v1alpha1.ReasonCertificateInvalid)
	}
}

func newKey(t *testing.T, create func() (nkeys.KeyPair, error)) (public string, seed []byte) {
	t.Helper()
	pair, err := create()
	fail(t, err)
	public, err = pair.PublicKey()
	fail(t, err)
	seed, err = pair.Seed()
	fail(t, err)
	return public, seed
}

// operatorMode makes servers that trust JWTs of an operator, and a user's file of
// credentials.
func operatorMode(t *testing.T) (creds []byte, option natsserver.Option) {
	t.Helper()
	operator, err := nkeys.CreateOperator()
	fail(t, err)
	account, err := nkeys.CreateAccount()
	fail(t, err)
	system, err := nkeys.CreateAccount()
	fail(t, err)
	operatorKey, _ := operator.PublicKey()
	accountKey, _ := account.PublicKey()
	systemKey, _ := system.PublicKey()
	userKey, userSeed := newKey(t, nkeys.CreateUser)

	claims := jwt.NewAccountClaims(accountKey)
	claims.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
	accountJWT, err := claims.Encode(operator)
	fail(t, err)
	systemJWT, err := jwt.NewAccountClaims(systemKey).Encode(operator)
	fail(t, err)
	user := jwt.NewUserClaims(userKey)
	userJWT, err := user.Encode(account)
	fail(t, err)
	creds, err = jwt.FormatUserConfig(userJWT, userSeed)
	fail(t, err)
	return creds, func(o *server.Options) {
		resolver := &server.MemAccResolver{}
		fail(t, resolver.Store(accountKey, accountJWT))
		fail(t, resolver.Store(systemKey, systemJWT))
		o.TrustedKeys, o.AccountResolver, o.SystemAccount = []string{operatorKey}, resolver, systemKey
	}
}

func both(options ...natsserver.Option) natsserver.Option {
	return func(o *server.Options) {
		for _, option := range options {
			option(o)
		}
	}
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

// signed is a certificate and its key in PEM.
type signed struct{ cert, key string }

func newAuthority(t *testing.T) *authority {
	t.Helper()
	template := template(x509.ExtKeyUsageAny)
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	fail(t, err)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	fail(t, err)
	cert, err := x509.ParseCertificate(der)
	fail(t, err)
	return &authority{cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

func template(usage x509.ExtKeyUsage) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{usage}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
}

func (a *authority) sign(t *testing.T, usage x509.ExtKeyUsage) signed {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	fail(t, err)
	der, err := x509.CreateCertificate(rand.Reader, template(usage), a.cert, key.Public(), a.key)
	fail(t, err)
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	fail(t, err)
	return signed{
		cert: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		key:  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded})),
	}
}

// serving makes servers that speak TLS alone, and ask clients for a certificate.
func (a *authority) serving(t *testing.T, clients bool) natsserver.Option {
	t.Helper()
	s := a.sign(t, x509.ExtKeyUsageServerAuth)
	pair, err := tls.X509KeyPair([]byte(s.cert), []byte(s.key))
	fail(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return func(o *server.Options) {
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, ClientCAs: pool}
		o.TLS, o.TLSTimeout = true, 10
		if clients {
			o.TLSVerify, o.TLSConfig.ClientAuth = true, tls.RequireAndVerifyClientCert
		}
	}
}
