package x509

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	maxChain     = 8
	maxChainFile = 256 << 10
	lookAgain    = 5 * time.Second // at the chain file
)

// authority is the chain in force.
type authority struct {
	stamp   string              // of the file that it was read from
	chain   []*x509.Certificate // its own first
	between string              // PEM: what goes with a certificate, the root aside
	whole   string              // PEM: all of it
	roots   *x509.CertPool
	middle  *x509.CertPool
}

// current gives the chain in force, and looks now and then whether its file has
// changed. A new one that can't be used is told of, and the former one stays.
func (i *Issuer) current() *authority {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := i.config.Now()
	if since := now.Sub(i.looked); since >= 0 && since < lookAgain {
		return i.authority
	}
	i.looked = now
	stamp, err := stampOf(i.config.ChainFile)
	if err == nil && stamp == i.authority.stamp {
		return i.authority
	}
	next, err := i.read()
	if err != nil {
		i.config.Logger.Warn("the authority's chain has changed and can't be used: the former one stays", "error", err)
		return i.authority
	}
	i.authority = next
	i.answers.forget()
	i.config.Logger.Info("the authority's chain was read again", "file", i.config.ChainFile)
	return next
}

func stampOf(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("reading the authority's chain: %w", err)
	}
	return fmt.Sprintf("%d %s", info.Size(), info.ModTime().UTC().Format(time.RFC3339Nano)), nil
}

func (i *Issuer) read() (*authority, error) {
	const hint = "\nhint: `daypassd keys csr --issuer NAME` prints the request that the authority above signs; `--self-signed` makes a chain for a trial"
	stamp, err := stampOf(i.config.ChainFile)
	if err != nil {
		return nil, fmt.Errorf("%w%s", err, hint)
	}
	f, err := os.Open(i.config.ChainFile)
	if err != nil {
		return nil, fmt.Errorf("reading the authority's chain: %w", err)
	}
	defer f.Close() //nolint:errcheck // opened for reading
	text, err := io.ReadAll(io.LimitReader(f, maxChainFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading the authority's chain: %w", err)
	}
	var public crypto.PublicKey
	if i.config.Signer != nil {
		public = i.config.Signer.Public()
	}
	a, err := parseChain(text, public)
	if err != nil {
		return nil, fmt.Errorf("%s: %w%s", i.config.ChainFile, err, hint)
	}
	for name, role := range i.roles {
		if err := a.allows(role.usages()); err != nil {
			return nil, fmt.Errorf("%s: role %q: %w", i.config.ChainFile, name, err)
		}
	}
	a.stamp = stamp
	return a, nil
}

// parseChain reads an authority's chain and checks all that doesn't depend on
// time. public is the authority's key; nil where it isn't known.
func parseChain(text []byte, public crypto.PublicKey) (*authority, error) {
	if len(text) > maxChainFile {
		return nil, fmt.Errorf("more than %d bytes: a chain alone is expected", maxChainFile)
	}
	a := &authority{roots: x509.NewCertPool(), middle: x509.NewCertPool()}
	for rest := bytes.TrimSpace(text); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		block, after := pem.Decode(rest)
		if block == nil || block.Type != blockCertificate || len(a.chain) == maxChain {
			return nil, fmt.Errorf("1 to %d PEM blocks CERTIFICATE are expected, and nothing else", maxChain)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(a.chain)+1, err)
		}
		a.chain, rest = append(a.chain, certificate), after
	}
	if len(a.chain) == 0 {
		return nil, errors.New("no certificate stands there")
	}
	if err := a.check(public); err != nil {
		return nil, err
	}
	for n, certificate := range a.chain {
		encoded := string(pem.EncodeToMemory(&pem.Block{Type: blockCertificate, Bytes: certificate.Raw}))
		a.whole += encoded
		if !bytes.Equal(certificate.RawSubject, certificate.RawIssuer) {
			a.between += encoded
		}
		if n == len(a.chain)-1 {
			a.roots.AddCert(certificate)
		} else {
			a.middle.AddCert(certificate)
		}
	}
	return a, nil
}

func (a *authority) check(public crypto.PublicKey) error {
	own := a.chain[0]
	if same, ok := own.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); public != nil && (!ok || !same.Equal(public)) {
		return errors.New("the first certificate is for another key than the one that this issuer has")
	}
	if own.KeyUsage&x509.KeyUsageCRLSign == 0 || len(own.SubjectKeyId) == 0 {
		return errors.New("the first certificate lacks the key usage cRLSign or a subject key identifier: the list of those revoked couldn't be signed")
	}
	for n, c := range a.chain {
		name := fmt.Sprintf("certificate %d (%s)", n+1, c.Subject)
		switch {
		case !c.BasicConstraintsValid || !c.IsCA || c.KeyUsage&x509.KeyUsageCertSign == 0:
			return fmt.Errorf("%s is no authority's: basic constraints CA and key usage keyCertSign are needed", name)
		case (c.MaxPathLen > 0 || c.MaxPathLenZero) && c.MaxPathLen < n:
			return fmt.Errorf("%s may have %d authorities below it, and has %d", name, c.MaxPathLen, n)
		}
		if n == len(a.chain)-1 {
			break
		}
		above := a.chain[n+1]
		if !bytes.Equal(c.RawIssuer, above.RawSubject) {
			return fmt.Errorf("%s was issued by %s, and behind it stands %s: the order is own, the one above, …", name, c.Issuer, above.Subject)
		}
		if err := c.CheckSignatureFrom(above); err != nil {
			return fmt.Errorf("%s isn't signed by the one behind it: %w", name, err)
		}
	}
	return nil
}

// allows says whether every certificate of the chain leaves these purposes to
// those below it.
func (a *authority) allows(usages []x509.ExtKeyUsage) error {
	for _, c := range a.chain {
		if len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0 || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny) {
			continue
		}
		for _, usage := range usages {
			if !slices.Contains(c.ExtKeyUsage, usage) {
				return fmt.Errorf("the authority %s is limited to other extended key usages than the role's", c.Subject)
			}
		}
	}
	return nil
}

// current says whether the chain is valid at a time.
func (a *authority) current(now time.Time) error { return a.covers(now, now) }

// covers says whether the whole chain is valid from one time to another: a
// certificate must not outlive those that it rests on.
func (a *authority) covers(from, until time.Time) error {
	for _, c := range a.chain {
		switch {
		case from.Before(c.NotBefore):
			return fmt.Errorf("the authority %s is valid from %s on", c.Subject, c.NotBefore.Format(time.RFC3339))
		case until.After(c.NotAfter):
			return fmt.Errorf("the authority %s runs out at %s, before the certificate would: renew it, or ask for a shorter ttl", c.Subject, c.NotAfter.Format(time.RFC3339))
		}
	}
	return nil
}

// verify tries what was made as a verifier would, name constraints and purposes
// of the chain included: what wouldn't be accepted isn't handed out.
func (a *authority) verify(der []byte, now time.Time, usages []x509.ExtKeyUsage) error {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("reading what was signed: %w", err)
	}
	for _, usage := range usages {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: a.roots, Intermediates: a.middle, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			return fmt.Errorf("no verifier would take the certificate: %s", strings.TrimPrefix(err.Error(), "x509: "))
		}
	}
	return nil
}
