// Package x509 is an authority for short-lived certificates: of clients, servers
// or both, for a key that the job has (PKCS#10) or one made here in memory.
//
// What a certificate says is decided by the role in the server's configuration
// and by the grant in a policy, never by who asks: of a request (CSR) the public
// key counts, and the proof that the job has the private one. A request that asks
// for names is refused when the grant doesn't give all of them; whatever else
// stands in it is left aside.
//
// The serial number is the lease's id as a number, so that nothing has to be
// remembered to tell one from the other. A certificate can't be called back: it
// verifies until it runs out, which is 5 minutes unless a policy says otherwise.
// Verifiers who ask know better: the issuer publishes a list of those that were
// revoked before their end (RFC 5280) and answers about one at a time (OCSP,
// RFC 6960).
package x509

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/daypass/daypass/issuers"
)

// Kind is this issuer's name in the configuration.
const Kind = "x509"

// The values of a credential.
const (
	valueCertificate = "certificate"   // PEM: its own, and those between it and the root
	valueKey         = "private_key"   // PEM, PKCS#8; where no CSR was sent
	valueCA          = "ca"            // PEM: the authority's chain, as the chain file has it
	valueSerial      = "serial_number" // hexadecimal
)

// backdate is how much earlier than its lease a certificate begins, and a list of
// revoked ones: for verifiers whose clocks run behind.
const backdate = time.Minute

// Issuer signs certificates. It implements [issuers.Issuer],
// [issuers.ParameterChecker], [issuers.Publisher] and [issuers.Responder].
type Issuer struct {
	config  Config
	roles   map[string]*role
	signing signing

	mu        sync.Mutex
	authority *authority
	looked    time.Time // at the chain file
	number    int64     // of the last CRL that was made here

	answers answers
}

// New reads the chain and prepares an issuer. It signs nothing. A chain that
// doesn't fit the key or its purpose is an error; one that has run out isn't, since
// it may be replaced while the broker runs: until then nothing is issued.
func New(_ context.Context, config Config) (*Issuer, error) {
	config, roles, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	i := &Issuer{config: config, roles: roles, answers: newAnswers()}
	if config.Signer != nil {
		if i.signing, err = signingOf(config.Signer); err != nil {
			return nil, err
		}
	}
	if i.authority, err = i.read(); err != nil {
		return nil, err
	}
	i.looked = config.Now()
	if err := i.authority.current(i.looked); err != nil {
		config.Logger.Warn("the authority's chain is not valid now: nothing will be issued", "error", err)
	}
	return i, nil
}

// Describe implements [issuers.Issuer].
func (i *Issuer) Describe(name string) issuers.Description {
	d := issuers.Description{
		Kind: Kind, Revocation: issuers.Expiry, SideEffectFree: true, DefaultTTL: i.config.DefaultTTL,
		Values: map[string]bool{valueCertificate: false, valueCA: false, valueSerial: false},
	}
	r := i.roles[name]
	if r == nil {
		return d
	}
	d.DefaultTTL, d.MaxTTL, d.Env = r.DefaultTTL, r.MaxTTL, r.Env
	d.Accepts = issuers.Accepts{CSR: r.CSR != CSRNever, CSRNeeded: r.CSR == CSRRequired}
	if r.CSR != CSRRequired {
		d.Values[valueKey], d.MadeKey = true, valueKey
	}
	return d
}

// CheckParameters implements [issuers.ParameterChecker]. A name with a template in
// it is checked again, filled, by Issue.
func (i *Issuer) CheckParameters(role string, parameters json.RawMessage) error {
	_, _, err := i.names(role, parameters, true)
	return err
}

func (i *Issuer) names(name string, raw json.RawMessage, templates bool) (*role, *names, error) {
	r := i.roles[name]
	if r == nil {
		return nil, nil, fmt.Errorf("there is no role %q for certificates", name)
	}
	p, err := parseParameters(raw)
	if err != nil {
		return nil, nil, err
	}
	n, err := r.bind(p, templates)
	return r, n, err
}

// Issue implements [issuers.Issuer]. It changes nothing outside; the same lease
// can be issued again, which is the caller's to prevent.
func (i *Issuer) Issue(ctx context.Context, req *issuers.IssueRequest) (*issuers.IssueResponse, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: signing a certificate: %w", issuers.ErrUnavailable, err)
	}
	role, names, err := i.names(req.Lease.Role, req.Parameters, false)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", issuers.ErrRejected, err)
	}
	if i.config.Signer == nil {
		return nil, fmt.Errorf("%w: this authority was opened without its key", issuers.ErrRejected)
	}
	by := i.current()
	template, err := i.template(by, role, names, &req.Lease)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", issuers.ErrRejected, err)
	}
	subject, err := role.subjectKey(req.CSR, names)
	if err != nil {
		return nil, err // tells the kind itself
	}
	template.SubjectKeyId, err = keyIdentifier(subject.public)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", issuers.ErrRejected, err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.chain[0], subject.public, issuers.BindSigner(ctx, i.config.Signer))
	if err != nil {
		return nil, fmt.Errorf("%w: signing a certificate: %w", issuers.ErrUnavailable, err)
	}
	if err := by.verify(der, req.Lease.IssuedAt, role.usages()); err != nil {
		return nil, fmt.Errorf("%w: %w", issuers.ErrRejected, err)
	}
	leaf := pem.EncodeToMemory(&pem.Block{Type: blockCertificate, Bytes: der})
	values := []issuers.Value{
		{Name: valueCertificate, Value: issuers.NewSecret(string(leaf) + by.between)},
		{Name: valueCA, Value: issuers.NewSecret(by.whole)},
		{Name: valueSerial, Value: issuers.NewSecret(template.SerialNumber.Text(16))},
	}
	if subject.private != "" {
		values = append(values, issuers.Value{Name: valueKey, Value: issuers.NewSecret(subject.private), Sensitive: true, RandomBits: subject.bits})
	}
	return &issuers.IssueResponse{SigningKey: i.config.Signer.KeyID(), Values: values}, nil
}

// template is the certificate of a lease, but for its key.
func (i *Issuer) template(by *authority, role *role, names *names, lease *issuers.Lease) (*x509.Certificate, error) {
	serial, err := serialOf(lease.ID)
	if err != nil {
		return nil, err
	}
	if !lease.ExpiresAt.After(lease.IssuedAt) {
		return nil, errors.New("the lease has no life")
	}
	if life := lease.ExpiresAt.Sub(lease.IssuedAt); life > role.MaxTTL {
		return nil, fmt.Errorf("the certificate would live for %s, and the role's max_ttl is %s", life, role.MaxTTL)
	}
	if err := by.covers(lease.IssuedAt, lease.ExpiresAt); err != nil {
		return nil, err
	}
	begin := lease.IssuedAt.Add(-backdate)
	if own := by.chain[0].NotBefore; begin.Before(own) {
		begin = own
	}
	return &x509.Certificate{
		SerialNumber: serial, SignatureAlgorithm: i.signing.certificate,
		Subject: pkix.Name{
			CommonName: names.commonName, Organization: slices.Clone(role.Organization), OrganizationalUnit: slices.Clone(role.OrganizationalUnit),
		},
		NotBefore: begin.UTC(), NotAfter: lease.ExpiresAt.UTC(),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: role.usages(), BasicConstraintsValid: true,
		DNSNames: names.dns, IPAddresses: names.addresses(), URIs: names.uris,
		CRLDistributionPoints: []string{i.config.PublicURL + "/" + documentCRL},
		OCSPServer:            []string{i.config.PublicURL + "/ocsp"},
		IssuingCertificateURL: []string{i.config.PublicURL + "/" + documentCA},
	}, nil
}

// Revoke implements [issuers.Issuer]: nothing outside can be undone. The lists and
// answers of those revoked are made from the broker's leases.
func (i *Issuer) Revoke(context.Context, *issuers.RevokeRequest) (*issuers.RevokeResponse, error) {
	return &issuers.RevokeResponse{Found: true}, nil
}

// keyIdentifier is method 1 of RFC 7093, section 2: the leftmost 160 bits of the
// SHA-256 of the key.
func keyIdentifier(public any) ([]byte, error) {
	bits, err := keyBits(public)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(bits)
	return sum[:20], nil
}

var (
	_ issuers.Issuer           = (*Issuer)(nil)
	_ issuers.ParameterChecker = (*Issuer)(nil)
	_ issuers.Publisher        = (*Issuer)(nil)
	_ issuers.Responder        = (*Issuer)(nil)
)
