// Package ssh certifies keys for OpenSSH: of users, for logging in, and of hosts,
// for proving their names.
//
// A server trusts the authority's public key, and needs no list of keys any more.
// What a certificate is good for is bounded twice: the role in the server's
// configuration says whom it may name at most and what sessions may do, and the
// grant chooses among that ([Parameters]). Nothing comes from the job but its
// public key.
//
// Nothing outside changes when a certificate is signed. Its serial derives from
// the lease's id and its key id names the grant and the lease, so a line in a
// server's log leads to the lease, and a lease that is revoked early to the list
// that servers read ([Issuer.Publish]). A server that doesn't read it accepts the
// certificate until it runs out: it lives 5 minutes unless a policy says otherwise.
package ssh

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/daypass/daypass/issuers"
)

// Kind is this issuer's name in the configuration.
const Kind = "ssh"

const (
	valueCertificate = "certificate"
	valuePrivateKey  = "private_key"
	// privateKeyBits is what nobody can guess of a key that is made here.
	privateKeyBits = 256
	// backdate is for servers whose clock runs behind.
	backdate = time.Minute
)

// Issuer certifies keys. It implements [issuers.Issuer], [issuers.ParameterChecker]
// and [issuers.Publisher].
type Issuer struct {
	config    Config
	authority ssh.PublicKey
	algorithm string // of the authority's signatures
	revoked   []ssh.PublicKey
}

// New prepares an authority. It doesn't sign anything.
func New(_ context.Context, config Config) (*Issuer, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	i := &Issuer{config: config}
	if i.authority, err = ssh.NewPublicKey(config.Signer.Public()); err != nil {
		return nil, fmt.Errorf("the authority's key: %w", err)
	}
	if i.algorithm, err = signatureAlgorithm(config.Signer.Algorithm(), i.authority); err != nil {
		return nil, err
	}
	for _, line := range config.RevokedAuthorities {
		key, err := parsePublicKey(line, keyTypes())
		if err != nil {
			return nil, fmt.Errorf("revoked_authorities: %w", err)
		}
		if bytes.Equal(key.Marshal(), i.authority.Marshal()) {
			return nil, errors.New("revoked_authorities: one is this authority's own key: nobody could log in (hint: make a new key first)")
		}
		i.revoked = append(i.revoked, key)
	}
	return i, nil
}

// signatureAlgorithm names the signatures of a key (RFC 5656, 8332, 8709). RSA
// with SHA-1 is none of them, and SSH has none with PSS.
func signatureAlgorithm(algorithm string, public ssh.PublicKey) (string, error) {
	algorithms := map[string][2]string{ // of signatures, and of keys
		"ES256": {ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA256},
		"ES384": {ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA384},
		"EdDSA": {ssh.KeyAlgoED25519, ssh.KeyAlgoED25519},
		"RS256": {ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSA},
	}
	names, ok := algorithms[algorithm]
	if !ok {
		return "", fmt.Errorf("the authority's key is for %s, which SSH doesn't have (hint: ES256, ES384, EdDSA or RS256)", algorithm)
	}
	if public.Type() != names[1] {
		return "", fmt.Errorf("the authority's key is a %s, and none for %s", public.Type(), algorithm)
	}
	return names[0], nil
}

// Describe implements [issuers.Issuer].
func (i *Issuer) Describe(role string) issuers.Description {
	r, known := i.config.Roles[role]
	d := issuers.Description{
		Kind: Kind, Revocation: issuers.Expiry, SideEffectFree: true, DefaultTTL: r.DefaultTTL, MaxTTL: r.MaxTTL, Env: r.Env,
		Values: map[string]bool{valueCertificate: false},
	}
	switch {
	case !known:
		d.DefaultTTL = i.config.DefaultTTL
	case r.PublicKey == KeyMade:
		d.Values[valuePrivateKey] = true
	default:
		d.Accepts = issuers.Accepts{PublicKey: true, PublicKeyNeeded: true}
	}
	return d
}

// CheckParameters implements [issuers.ParameterChecker]. What holds a template is
// checked again, filled, by Issue.
func (i *Issuer) CheckParameters(role string, parameters json.RawMessage) error {
	_, _, err := i.terms(role, parameters, true)
	return err
}

func (i *Issuer) terms(role string, raw json.RawMessage, templates bool) (Role, *terms, error) {
	r, ok := i.config.Roles[role]
	if !ok {
		return r, nil, fmt.Errorf("there is no role %q of this authority", role)
	}
	p, err := parseParameters(raw)
	if err != nil {
		return r, nil, err
	}
	t, err := r.terms(p, templates)
	return r, t, err
}

// Issue implements [issuers.Issuer]. It changes nothing outside; the same lease
// can be issued again, which is the caller's to prevent.
func (i *Issuer) Issue(ctx context.Context, req *issuers.IssueRequest) (*issuers.IssueResponse, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: certifying a key: %w", issuers.ErrUnavailable, err)
	}
	role, terms, err := i.terms(req.Lease.Role, req.Parameters, false)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", issuers.ErrRejected, err)
	}
	if err := checkLease(req.Lease, role); err != nil {
		return nil, fmt.Errorf("%w: %w", issuers.ErrRejected, err)
	}
	key, private, err := role.key(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", issuers.ErrRejected, err)
	}
	certificate := role.certificate(req.Lease, terms)
	certificate.Key = key
	if err := i.sign(ctx, certificate); err != nil {
		return nil, fmt.Errorf("%w: certifying a key: %w", issuers.ErrUnavailable, err)
	}
	line := strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(certificate)), "\n")
	response := &issuers.IssueResponse{
		SigningKey: i.config.Signer.KeyID(),
		Values:     []issuers.Value{{Name: valueCertificate, Value: issuers.NewSecret(line)}},
	}
	if !private.IsZero() {
		response.Values = append(response.Values, issuers.Value{Name: valuePrivateKey, Value: private, Sensitive: true, RandomBits: privateKeyBits})
	}
	return response, nil
}

func checkLease(lease issuers.Lease, role Role) error {
	life := lease.ExpiresAt.Sub(lease.IssuedAt)
	switch {
	case lease.Tenant == "" || lease.Policy == "" || lease.Grant == "" || lease.ID == "" || life <= 0 || lease.IssuedAt.Unix() <= 0:
		return errors.New("the lease has no tenant, policy, grant, id or life")
	case life > role.MaxTTL:
		return fmt.Errorf("a life of %s is longer than the role's max_ttl of %s", life, role.MaxTTL)
	}
	return nil
}

// key gives the key to certify: the job's, or a new one and its private part.
func (r Role) key(req *issuers.IssueRequest) (ssh.PublicKey, issuers.Secret, error) {
	if r.PublicKey != KeyMade {
		key, err := parsePublicKey(req.PublicKey, r.KeyTypes)
		if err != nil {
			err = &issuers.SentError{Detail: err.Error()}
		}
		return key, issuers.Secret{}, err
	}
	if req.PublicKey != "" {
		return nil, issuers.Secret{}, &issuers.SentError{Detail: "the key is made for the job: it sends none"}
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, issuers.Secret{}, fmt.Errorf("making a key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, req.Lease.ID)
	if err != nil {
		return nil, issuers.Secret{}, fmt.Errorf("writing a key: %w", err)
	}
	key, err := ssh.NewPublicKey(public)
	return key, issuers.NewSecret(string(pem.EncodeToMemory(block))), err
}

// certificate says everything but for whose key.
func (r Role) certificate(lease issuers.Lease, terms *terms) *ssh.Certificate {
	c := &ssh.Certificate{
		Serial:          serial(lease.ID),
		CertType:        ssh.UserCert,
		KeyId:           "daypass:" + lease.Tenant + "/" + lease.Policy + "/" + lease.Grant + " lease=" + lease.ID,
		ValidPrincipals: terms.principals,
		ValidAfter:      unix(lease.IssuedAt.Add(-backdate)),
		ValidBefore:     unix(lease.ExpiresAt),
	}
	if r.Type == TypeHost {
		c.CertType = ssh.HostCert
		return c
	}
	c.CriticalOptions, c.Extensions = map[string]string{}, map[string]string{}
	if terms.forceCommand != "" {
		c.CriticalOptions["force-command"] = terms.forceCommand
	}
	if len(terms.networks) > 0 {
		c.CriticalOptions["source-address"] = joinNetworks(terms.networks)
	}
	if r.VerifyRequired {
		c.CriticalOptions["verify-required"] = ""
	}
	for _, name := range r.Extensions {
		c.Extensions[name] = ""
	}
	return c
}

// unix is for times that checkLease has seen.
func unix(t time.Time) uint64 { return uint64(max(t.Unix(), 0)) }

func joinNetworks(networks []netip.Prefix) string {
	texts := make([]string, len(networks))
	for i, network := range networks {
		texts[i] = network.String()
	}
	return strings.Join(texts, ",")
}

// serial is 64 bits that derive from the lease's id, so that a revocation needs
// nothing else. Where two leases share one, revoking either takes both back.
func serial(leaseID string) uint64 {
	sum := sha256.Sum256([]byte("daypass ssh serial\x00" + leaseID))
	return max(binary.BigEndian.Uint64(sum[:8]), 1) // 0 means none, and can't be revoked
}

// sign makes the authority certify, within ctx.
func (i *Issuer) sign(ctx context.Context, certificate *ssh.Certificate) error {
	signer, err := ssh.NewSignerFromSigner(issuers.BindSigner(ctx, i.config.Signer))
	if err != nil {
		return err
	}
	plain, ok := signer.(ssh.AlgorithmSigner)
	if !ok {
		return errors.New("the authority's key can't choose its algorithm")
	}
	fixed, err := ssh.NewSignerWithAlgorithms(plain, []string{i.algorithm})
	if err != nil {
		return err
	}
	return certificate.SignCert(rand.Reader, fixed)
}

// Revoke implements [issuers.Issuer]: nothing outside can be undone. From now on
// the lease stands in the list of revoked certificates.
func (i *Issuer) Revoke(context.Context, *issuers.RevokeRequest) (*issuers.RevokeResponse, error) {
	return &issuers.RevokeResponse{Found: true}, nil
}
