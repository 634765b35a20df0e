package x509_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/issuertest"
	daypass "github.com/daypass/daypass/issuers/x509"
)

const publicURL = "https://daypass.example.com/v1/issuers/ci"

// pki is a root with an authority of ours below it.
type pki struct {
	t       testing.TB
	rootKey crypto.Signer
	root    *x509.Certificate
	signer  *issuertest.Signer
	file    string // the chain, the root included
	now     time.Time
}

func newPKI(t testing.TB, algorithm string) *pki {
	t.Helper()
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &pki{t: t, rootKey: rootKey, signer: issuertest.NewSigner(t, algorithm), file: filepath.Join(t.TempDir(), "chain.pem"), now: time.Now().Truncate(time.Second)}
	template := p.template("Root")
	template.MaxPathLen = 1
	p.root = p.sign(template, template, rootKey.Public(), rootKey)
	p.write(p.intermediate(nil), p.root)
	return p
}

func (p *pki) template(name string) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		p.t.Fatal(err)
	}
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: p.now.Add(-time.Hour), NotAfter: p.now.Add(48 * time.Hour),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

func (p *pki) sign(template, parent *x509.Certificate, public any, key crypto.Signer) *x509.Certificate {
	p.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		p.t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		p.t.Fatal(err)
	}
	return certificate
}

// intermediate is the authority's certificate, changed as a test wants it.
func (p *pki) intermediate(change func(*x509.Certificate)) *x509.Certificate {
	template := p.template("Daypass CI")
	template.MaxPathLenZero = true
	if change != nil {
		change(template)
	}
	return p.sign(template, p.root, p.signer.Public(), p.rootKey)
}

func (p *pki) write(chain ...*x509.Certificate) {
	p.t.Helper()
	var text []byte
	for _, c := range chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	if err := os.WriteFile(p.file, text, 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func roles() map[string]daypass.Role {
	web := daypass.Role{
		Usage: daypass.UsageBoth, DNSNames: []string{"db.example.com", "*.svc.example.com"}, IPNetworks: []string{"10.1.0.0/16", "fd00::/8"},
		URIs: []string{"spiffe://example.com/ci/*", "https://example.com/**"}, CommonNames: []string{"deployer"}, Organization: []string{"Example"},
	}
	own := web
	own.CSR = daypass.CSRRequired
	made := web
	made.CSR, made.MadeKey = daypass.CSRNever, daypass.KeyEd25519
	return map[string]daypass.Role{"web": web, "own": own, "made": made}
}

func (p *pki) config() daypass.Config {
	return daypass.Config{Signer: p.signer, ChainFile: p.file, PublicURL: publicURL, Roles: roles(), Now: func() time.Time { return p.now }}
}

func (p *pki) open() *daypass.Issuer {
	p.t.Helper()
	issuer, err := daypass.New(p.t.Context(), p.config())
	if err != nil {
		p.t.Fatal(err)
	}
	return issuer
}

func (p *pki) lease(role string) issuers.Lease {
	return issuertest.NewLease("testtesttest", role, p.now)
}

// issue gives the values of a certificate, and the certificate.
func (p *pki) issue(issuer *daypass.Issuer, req issuers.IssueRequest) (map[string]string, *x509.Certificate) {
	p.t.Helper()
	res, err := issuer.Issue(p.t.Context(), &req)
	if err != nil {
		p.t.Fatal(err)
	}
	values := map[string]string{}
	for _, v := range res.Values {
		values[v.Name] = v.Value.Reveal()
	}
	block, _ := pem.Decode([]byte(values["certificate"]))
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		p.t.Fatal(err)
	}
	return values, certificate
}

func csr(t testing.TB, key crypto.Signer, template x509.CertificateRequest) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// leases stands for the broker's: what was revoked, and when.
type leases struct {
	mu      sync.Mutex
	keyID   string
	now     time.Time
	issued  map[string]issuers.Lease
	revoked map[string]time.Time
	asked   int
	err     error
}

func (p *pki) leases(list ...issuers.Lease) *leases {
	l := &leases{keyID: p.signer.KeyID(), now: p.now, issued: map[string]issuers.Lease{}, revoked: map[string]time.Time{}}
	for _, lease := range list {
		l.issued[lease.ID] = lease
	}
	return l
}

func (l *leases) RevokedEarly(_ context.Context, keyID string) ([]issuers.Revoked, error) {
	var list []issuers.Revoked
	for id, at := range l.revoked {
		if keyID == l.keyID {
			list = append(list, issuers.Revoked{LeaseID: id, RevokedAt: at, ExpiresAt: l.issued[id].ExpiresAt})
		}
	}
	slices.SortFunc(list, func(a, b issuers.Revoked) int { return -1 })
	return list, l.err
}

func (l *leases) Status(_ context.Context, id string) (issuers.Status, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	lease, ok := l.issued[id]
	if !ok && l.err == nil {
		return issuers.Status{}, issuers.ErrNoLease
	}
	return issuers.Status{KeyID: l.keyID, IssuedAt: lease.IssuedAt, ExpiresAt: lease.ExpiresAt, RevokedAt: l.revoked[id]}, l.err
}

func (l *leases) Now() time.Time { return l.now }

var with = json.RawMessage(`{"dns_names":["a.svc.example.com"],"uris":["spiffe://example.com/ci/payments"],"common_name":"a.svc.example.com"}`)
