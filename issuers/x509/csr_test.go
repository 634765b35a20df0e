package x509_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/issuertest"
	daypass "github.com/daypass/daypass/issuers/x509"
)

func rsaKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestRequestsThatAreTaken(t *testing.T) {
	p := newPKI(t, "ES256")
	issuer := p.open()
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	own := newKey(t)
	spiffe := &url.URL{Scheme: "spiffe", Host: "example.com", Path: "/ci/payments"}
	for name, text := range map[string]string{
		"p256":                 csr(t, own, x509.CertificateRequest{}),
		"p384":                 csr(t, p384, x509.CertificateRequest{}),
		"ed25519":              csr(t, edwards, x509.CertificateRequest{}),
		"rsa":                  csr(t, rsaKey(t), x509.CertificateRequest{}),
		"rsa with PSS":         csr(t, rsaKey(t), x509.CertificateRequest{SignatureAlgorithm: x509.SHA256WithRSAPSS}),
		"white space about it": "\r\n " + csr(t, own, x509.CertificateRequest{}) + "\n\n",
		"names of the grant":   csr(t, own, x509.CertificateRequest{DNSNames: []string{"a.svc.example.com"}, URIs: []*url.URL{spiffe}, Subject: pkix.Name{CommonName: "a.svc.example.com"}}),
		// Whatever else it asks for is left aside.
		"other attributes": csr(t, own, x509.CertificateRequest{Subject: pkix.Name{Organization: []string{"Evil"}, SerialNumber: "1"}}),
		"to be a CA":       csr(t, own, x509.CertificateRequest{ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}}}),
	} {
		_, c := p.issue(issuer, issuers.IssueRequest{Lease: p.lease("own"), Parameters: with, CSR: text})
		if c.IsCA || c.Subject.String() != "CN=a.svc.example.com,O=Example" || len(c.DNSNames) != 1 || len(c.URIs) != 1 {
			t.Errorf("%s: CA %v, %s, %v %v", name, c.IsCA, c.Subject, c.DNSNames, c.URIs)
		}
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	p := newPKI(t, "ES256")
	config := p.config()
	narrow := roles()["own"]
	narrow.AcceptedKeys = []string{daypass.KeyEd25519}
	config.Roles["narrow"] = narrow
	issuer, err := daypass.New(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	own := newKey(t)
	good := csr(t, own, x509.CertificateRequest{})
	curve := func(c elliptic.Curve) crypto.Signer {
		key, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	block, _ := pem.Decode([]byte(good))
	forged := append([]byte{}, block.Bytes...)
	forged[len(forged)-1] ^= 1
	encode := func(kind string, headers map[string]string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Headers: headers, Bytes: der}))
	}
	small := rsaKey(t)
	small.E = 3 // the request isn't signed by it, but the exponent is looked at before
	for name, c := range map[string]struct{ text, want string }{
		"empty":             {"", "a CSR is needed"},
		"no PEM":            {"hello", "one PEM block"},
		"another block":     {encode("CERTIFICATE", nil, block.Bytes), "one PEM block"},
		"an old name":       {encode("NEW CERTIFICATE REQUEST", nil, block.Bytes), "one PEM block"},
		"headers":           {encode("CERTIFICATE REQUEST", map[string]string{"A": "b"}, block.Bytes), "one PEM block"},
		"two":               {good + good, "one PEM block"},
		"text before it":    {"Certificate Request:\n" + good, "one PEM block"},
		"a key behind it":   {good + encode("PRIVATE KEY", nil, []byte("x")), "one PEM block"},
		"too long":          {good + strings.Repeat("\n", 16<<10), "is the limit"},
		"no DER":            {encode("CERTIFICATE REQUEST", nil, []byte("x")), "no PKCS#10"},
		"bytes behind it":   {encode("CERTIFICATE REQUEST", nil, append(slices.Clip(block.Bytes), 0)), "no PKCS#10"},
		"forged":            {encode("CERTIFICATE REQUEST", nil, forged), "its signature"},
		"P-224":             {csr(t, curve(elliptic.P224()), x509.CertificateRequest{}), "its key is none of"},
		"P-521":             {csr(t, curve(elliptic.P521()), x509.CertificateRequest{}), "its key is none of"},
		"RSA-8192":          {big8192(t), "its key is none of"},
		"small exponent":    {publicOf(t, &small.PublicKey), "its key is none of"},
		"SHA-1":             {weakHash(t), "a hash that is weak"},
		"a DNS name":        {csr(t, own, x509.CertificateRequest{DNSNames: []string{"a.svc.example.com", "evil.example.com"}}), `DNS name "evil.example.com"`},
		"a name within":     {csr(t, own, x509.CertificateRequest{DNSNames: []string{"db.example.com"}}), `DNS name "db.example.com"`}, // the role's, and not the grant's
		"capital letters":   {csr(t, own, x509.CertificateRequest{DNSNames: []string{"A.svc.example.com"}}), "DNS name"},
		"an address":        {csr(t, own, x509.CertificateRequest{IPAddresses: []net.IP{{10, 1, 2, 3}}}), `address "10.1.2.3"`},
		"a URI":             {csr(t, own, x509.CertificateRequest{URIs: []*url.URL{{Scheme: "spiffe", Host: "example.com", Path: "/ci/other"}}}), `URI "spiffe://example.com/ci/other"`},
		"an e-mail address": {csr(t, own, x509.CertificateRequest{EmailAddresses: []string{"a@example.com"}}), "e-mail address"},
		"a common name":     {csr(t, own, x509.CertificateRequest{Subject: pkix.Name{CommonName: "deployer"}}), `common name "deployer"`},
	} {
		lease := p.lease("own")
		_, err := issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: lease, Parameters: with, CSR: c.text})
		sent, ok := errors.AsType[*issuers.SentError](err)
		if !ok || !strings.Contains(sent.Detail, c.want) || !errors.Is(err, issuers.ErrRejected) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	for role, text := range map[string]string{"narrow": good, "made": good} {
		if _, err := issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: p.lease(role), Parameters: with, CSR: text}); !errors.Is(err, issuers.ErrRejected) {
			t.Errorf("role %s took a request: %v", role, err)
		}
	}
}

// publicOf is a request for a key, signed by nobody: what is looked at before the
// signature needs none.
func publicOf(t *testing.T, public any) string {
	t.Helper()
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: unsignedRequest(t, public, []int{1, 2, 840, 113549, 1, 1, 11})}))
}

// big8192 is a request for a key that takes long to check.
func big8192(t *testing.T) string {
	t.Helper()
	n := new(big.Int).Lsh(big.NewInt(1), 8191)
	return publicOf(t, &rsa.PublicKey{N: n.Add(n, big.NewInt(1)), E: 65537})
}

func weakHash(t *testing.T) string {
	t.Helper()
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: unsignedRequest(t, rsaKey(t).Public(), []int{1, 2, 840, 113549, 1, 1, 5})}))
}

func unsignedRequest(t *testing.T, public any, algorithm asn1.ObjectIdentifier) []byte {
	t.Helper()
	key, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	type request struct {
		Info struct {
			Version    int
			Subject    asn1.RawValue
			Key        asn1.RawValue
			Attributes []asn1.RawValue `asn1:"tag:0"`
		}
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	r := request{Algorithm: pkix.AlgorithmIdentifier{Algorithm: algorithm, Parameters: asn1.NullRawValue}, Signature: asn1.BitString{Bytes: make([]byte, 256), BitLength: 2048}}
	r.Info.Subject, r.Info.Key = asn1.RawValue{FullBytes: []byte{0x30, 0}}, asn1.RawValue{FullBytes: key}
	der, err := asn1.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func FuzzCSR(f *testing.F) {
	p := newPKI(f, "ES256")
	issuer := p.open()
	good := csr(f, newKey(f), x509.CertificateRequest{DNSNames: []string{"a.svc.example.com"}})
	block, _ := pem.Decode([]byte(good))
	f.Add([]byte(good), false)
	f.Add(block.Bytes, true)
	f.Add([]byte(csr(f, newKey(f), x509.CertificateRequest{EmailAddresses: []string{"a@example.com"}})), false)
	f.Fuzz(func(t *testing.T, text []byte, der bool) {
		if der { // so that mutations reach what stands in the block
			text = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: text})
		}
		res, err := issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: issuertest.NewLease("testtesttest", "own", p.now), Parameters: with, CSR: string(text)})
		if err != nil {
			if _, ok := errors.AsType[*issuers.SentError](err); !ok {
				t.Fatalf("refused by another reason than the request: %v", err)
			}
			return
		}
		block, _ := pem.Decode([]byte(res.Values[0].Value.Reveal()))
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil || c.IsCA || len(c.DNSNames) != 1 || c.DNSNames[0] != "a.svc.example.com" || len(c.URIs) != 1 || len(c.EmailAddresses)+len(c.IPAddresses) != 0 || c.Subject.String() != "CN=a.svc.example.com,O=Example" {
			t.Fatalf("issued %+v, %v", c, err)
		}
	})
}

func FuzzParameters(f *testing.F) {
	p := newPKI(f, "ES256")
	issuer := p.open()
	f.Add([]byte(with))
	f.Add([]byte(`{"dns_names":["{{ claims.a }}.svc.example.com"],"ip_addresses":["10.1.2.3"]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		err := issuer.CheckParameters("web", json.RawMessage(raw))
		if err == nil && !json.Valid(raw) {
			t.Fatalf("took %q", raw)
		}
	})
}
