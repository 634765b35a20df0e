package ssh

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/daypass/daypass/issuers"
)

const (
	documentAuthority = "ca.pub"
	documentRevoked   = "krl"

	// The authority's key is replaced by hand, the list changes with each revocation.
	authorityAge = 5 * time.Minute
	revokedAge   = 10 * time.Second
)

// Documents implements [issuers.Publisher].
func (i *Issuer) Documents() []string { return []string{documentAuthority, documentRevoked} }

// Publish implements [issuers.Publisher]: the authority's public key, as
// TrustedUserCAKeys and @cert-authority want it, and what was revoked early, as
// RevokedKeys wants it.
func (i *Issuer) Publish(ctx context.Context, name string, revoked issuers.Revocations) (*issuers.Document, error) {
	switch name {
	case documentAuthority:
		line := strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(i.authority)), "\n") + " daypass-" + i.config.Signer.KeyID() + "\n"
		return &issuers.Document{Type: "text/plain; charset=utf-8", Body: []byte(line), MaxAge: authorityAge}, nil
	case documentRevoked:
		leases, err := revoked.RevokedEarly(ctx, i.config.Signer.KeyID())
		if err != nil {
			return nil, fmt.Errorf("%w: listing revoked certificates: %w", issuers.ErrUnavailable, err)
		}
		serials := make([]uint64, len(leases))
		for n, lease := range leases {
			serials[n] = serial(lease.LeaseID)
		}
		return &issuers.Document{Type: "application/octet-stream", Body: i.revocationList(serials, revoked.Now()), MaxAge: revokedAge}, nil
	}
	return nil, fmt.Errorf("%w: %q", issuers.ErrNoDocument, name)
}
