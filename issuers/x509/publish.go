package x509

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/daypass/daypass/issuers"
)

// The documents that everybody may read.
const (
	documentCA       = "ca.der" // the authority's own certificate
	documentChainPEM = "ca.pem" // the whole chain
	documentCRL      = "crl.der"
	documentCRLPEM   = "crl.pem"
)

const (
	chainAge = time.Hour
	crlAge   = time.Minute
	crlLife  = time.Hour // until nextUpdate: for how long a verifier goes on with a list when the broker is away
	maxCRL   = 200_000   // entries
)

// Documents implements [issuers.Publisher].
func (i *Issuer) Documents() []string {
	return []string{documentCA, documentChainPEM, documentCRL, documentCRLPEM}
}

// Publish implements [issuers.Publisher].
func (i *Issuer) Publish(ctx context.Context, name string, revoked issuers.Revocations) (*issuers.Document, error) {
	by := i.current()
	switch name {
	case documentCA:
		return &issuers.Document{Type: "application/pkix-cert", Body: by.chain[0].Raw, MaxAge: chainAge}, nil
	case documentChainPEM:
		return &issuers.Document{Type: "application/pem-certificate-chain", Body: []byte(by.whole), MaxAge: chainAge}, nil
	case documentCRL, documentCRLPEM:
		der, err := i.crl(ctx, by, revoked)
		if err != nil {
			return nil, fmt.Errorf("%w: making the list of revoked certificates: %w", issuers.ErrUnavailable, err)
		}
		if name == documentCRL {
			return &issuers.Document{Type: "application/pkix-crl", Body: der, MaxAge: crlAge}, nil
		}
		return &issuers.Document{Type: "application/x-pem-file", Body: pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), MaxAge: crlAge}, nil
	}
	return nil, fmt.Errorf("%w: %q", issuers.ErrNoDocument, name)
}

// crl is the list of those revoked before their end (RFC 5280, section 5). Those
// that have run out stand there for an hour more, for verifiers whose clocks are
// behind.
func (i *Issuer) crl(ctx context.Context, by *authority, revoked issuers.Revocations) ([]byte, error) {
	if i.config.Signer == nil {
		return nil, fmt.Errorf("this authority was opened without its key")
	}
	leases, err := revoked.RevokedEarly(ctx, i.config.Signer.KeyID())
	if err != nil {
		return nil, err
	}
	if len(leases) > maxCRL {
		return nil, fmt.Errorf("%d entries are more than a list can have: %d; verifiers can still ask by OCSP", len(leases), maxCRL)
	}
	entries := make([]x509.RevocationListEntry, 0, len(leases))
	for _, l := range leases {
		serial, err := serialOf(l.LeaseID)
		if err != nil {
			return nil, err
		}
		entries = append(entries, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: l.RevokedAt.UTC().Truncate(time.Second)})
	}
	slices.SortFunc(entries, func(a, b x509.RevocationListEntry) int { return a.SerialNumber.Cmp(b.SerialNumber) })
	now := revoked.Now()
	return x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		SignatureAlgorithm: i.signing.certificate, RevokedCertificateEntries: entries, Number: i.next(now),
		ThisUpdate: now.Add(-backdate).UTC().Truncate(time.Second), NextUpdate: now.Add(crlLife).UTC().Truncate(time.Second),
	}, by.chain[0], issuers.BindSigner(ctx, i.config.Signer))
}

// next is the number of a list: the time in milliseconds, and one more than the
// last where the clock was set back.
func (i *Issuer) next(now time.Time) *big.Int {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.number = max(now.UnixMilli(), i.number+1)
	return big.NewInt(i.number)
}
