package webhook

import (
	"crypto"
	"crypto/x509"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func mustAuthority(t *testing.T, made time.Time, lifetime time.Duration) *authority {
	t.Helper()
	written, err := newAuthority(made, lifetime)
	if err != nil {
		t.Fatal(err)
	}
	certificatePEM, keyPEM, err := written.encode()
	if err != nil {
		t.Fatal(err)
	}
	// As another replica reads it.
	read, err := parseAuthority(certificatePEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return read
}

func TestCertificateIsTrustedUnderEachName(t *testing.T) {
	t.Parallel()
	ca := mustAuthority(t, start, time.Hour)
	certificate, err := ca.sign([]string{"aether-webhook.aether-system.svc", "127.0.0.1", "::1"}, start, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.certificate)
	for _, name := range []string{"aether-webhook.aether-system.svc", "127.0.0.1", "::1"} {
		if _, err := certificate.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, CurrentTime: start}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if mustAuthority(t, start, time.Hour).signed(certificate.Leaf) {
		t.Error("a CA takes the certificate of another for its own")
	}
}

func TestCertificateDoesNotOutliveItsCA(t *testing.T) {
	t.Parallel()
	ca := mustAuthority(t, start, time.Hour)
	certificate, err := ca.sign([]string{"localhost"}, start.Add(59*time.Minute), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if !certificate.Leaf.NotAfter.Equal(ca.certificate.NotAfter) {
		t.Errorf("valid until %s, its CA until %s", certificate.Leaf.NotAfter, ca.certificate.NotAfter)
	}
}

func TestRenewalIsInTheLastThird(t *testing.T) {
	t.Parallel()
	ca := mustAuthority(t, start, 30*time.Hour)
	for after, want := range map[time.Duration]bool{0: false, 19 * time.Hour: false, 21 * time.Hour: true, 31 * time.Hour: true} {
		if got := inLastThird(ca.certificate, start.Add(after), 30*time.Hour); got != want {
			t.Errorf("after %s of 30h: %t, want %t", after, got, want)
		}
	}
}

func TestParseAuthorityRefuses(t *testing.T) {
	t.Parallel()
	ca := mustAuthority(t, start, time.Hour)
	certificatePEM, keyPEM, err := ca.encode()
	if err != nil {
		t.Fatal(err)
	}
	_, otherKey, err := mustAuthority(t, start, time.Hour).encode()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.sign([]string{"localhost"}, start, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	_, leafKey, err := (&authority{certificate: leaf.Leaf, key: leaf.PrivateKey.(crypto.Signer)}).encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, pair := range map[string][2][]byte{
		"nothing":                {nil, nil},
		"no PEM":                 {[]byte("nonsense"), keyPEM},
		"the key of another":     {certificatePEM, otherKey},
		"a certificate of no CA": {encodeCertificate(leaf.Leaf), leafKey},
	} {
		if _, err := parseAuthority(pair[0], pair[1]); err == nil {
			t.Errorf("%s is taken for a CA", name)
		}
	}
}

func TestBundleKeepsTheOtherCAWhileItMayBeInUse(t *testing.T) {
	t.Parallel()
	const life, day = 365 * 24 * time.Hour, 24 * time.Hour
	elder, younger := mustAuthority(t, start, life), mustAuthority(t, start.Add(100*day), life)
	stranger, err := elder.sign([]string{"somebody"}, start, life)
	if err != nil {
		t.Fatal(err)
	}
	both := encodeBundle([]*x509.Certificate{elder.certificate, younger.certificate, stranger.Leaf})
	for _, c := range []struct {
		name  string
		ca    *authority
		now   time.Time
		other bool
	}{
		{"just after the change", younger, start.Add(100*day + time.Hour), true},
		{"a replica that has not seen the change", elder, start.Add(100*day + time.Hour), true},
		{"a certificate's life after the change", younger, start.Add(140 * day), false},
		{"the elder has ended", younger, start.Add(life + time.Hour), false},
	} {
		bundle := c.ca.bundle(append([]byte("nonsense\n"), both...), c.now, 30*day)
		if !bundle[0].Equal(c.ca.certificate) {
			t.Errorf("%s: the first is not the CA itself", c.name)
		}
		if want := map[bool]int{false: 1, true: 2}[c.other]; len(bundle) != want {
			t.Errorf("%s: %d certificates, want %d", c.name, len(bundle), want)
		}
	}
}
