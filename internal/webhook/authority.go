package webhook

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"time"
)

// skew is how far the clocks of the replicas and of the API server may be apart.
const skew = 5 * time.Minute

// authority is a CA that signs serving certificates of the webhook.
type authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

// newAuthority makes a CA that is valid for lifetime from now.
func newAuthority(now time.Time, lifetime time.Duration) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: SecretName},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(lifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	certificate, err := create(template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &authority{certificate: certificate, key: key}, nil
}

// parseAuthority reads a CA from PEM.
func parseAuthority(certificatePEM, keyPEM []byte) (*authority, error) {
	pair, err := tls.X509KeyPair(certificatePEM, keyPEM)
	if err != nil {
		return nil, err
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA {
		return nil, errors.New("the certificate is not that of a CA")
	}
	return &authority{certificate: pair.Leaf, key: key}, nil
}

// encode is the CA in PEM.
func (a *authority) encode() (certificatePEM, keyPEM []byte, err error) {
	key, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return nil, nil, err
	}
	return encodeCertificate(a.certificate), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), nil
}

// sign makes a serving certificate with a key of its own. It does not outlive
// the CA.
func (a *authority) sign(names []string, now time.Time, lifetime time.Duration) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: names[0]},
		NotBefore:   now.Add(-skew),
		NotAfter:    now.Add(lifetime),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if template.NotAfter.After(a.certificate.NotAfter) {
		template.NotAfter = a.certificate.NotAfter
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	leaf, err := create(template, a.certificate, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// signed says whether the certificate is of this CA.
func (a *authority) signed(certificate *x509.Certificate) bool {
	return certificate.CheckSignatureFrom(a.certificate) == nil
}

func create(template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	// Without a serial number Go makes a random one.
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate for %s: %w", template.Subject.CommonName, err)
	}
	return x509.ParseCertificate(der)
}

// inLastThird says whether a certificate is to be renewed.
func inLastThird(certificate *x509.Certificate, now time.Time, lifetime time.Duration) bool {
	return now.After(certificate.NotAfter.Add(-lifetime / 3))
}

// bundle is what the API server is to trust: this CA, and another of ours that
// the bundle has, until the younger of the two has been there for as long as a
// certificate lives. By then none of the elder is in use. A CA of ours is known
// by its name.
func (a *authority) bundle(current []byte, now time.Time, lifetime time.Duration) []*x509.Certificate {
	isYoung := func(ca *x509.Certificate) bool { return now.Before(ca.NotBefore.Add(skew + lifetime)) }
	trusted := []*x509.Certificate{a.certificate}
	for _, other := range parseBundle(current) {
		isOurs := other.IsCA && other.Subject.CommonName == SecretName && now.Before(other.NotAfter)
		if isOurs && !other.Equal(a.certificate) && (isYoung(a.certificate) || isYoung(other)) {
			trusted = append(trusted, other)
		}
	}
	return trusted
}

// parseBundle reads what it can: a caBundle may hold anything.
func parseBundle(content []byte) []*x509.Certificate {
	var certificates []*x509.Certificate
	for {
		var block *pem.Block
		if block, content = pem.Decode(content); block == nil {
			return certificates
		}
		if certificate, err := x509.ParseCertificate(block.Bytes); err == nil {
			certificates = append(certificates, certificate)
		}
	}
}

func encodeBundle(certificates []*x509.Certificate) []byte {
	var content []byte
	for _, certificate := range certificates {
		content = append(content, encodeCertificate(certificate)...)
	}
	return content
}

func encodeCertificate(certificate *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
}
