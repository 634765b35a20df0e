package leases

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// findPrinted starts from the one fingerprint, by its primary key; each lease is
// then looked up by its own. A static secret may hold a token of another lease, and
// a lease of that is none of the token.
//
// Which key it is bound to stands with the session token that it was obtained with:
// what one exchange brings is bound to one key. A lease without that row is none: a
// token that lost it must not become a bearer's.
const findPrinted = `
SELECT` + leaseColumns + `, t.dpop_jkt FROM (
    SELECT lease_id FROM fingerprints WHERE fingerprint = $2 AND field = $3 ORDER BY lease_id LIMIT 100 OFFSET 0) f
JOIN leases l ON l.id = f.lease_id JOIN session_tokens t ON t.hash = l.session_token WHERE l.tenant = $1 AND l.kind = ANY ($4) LIMIT 1`

// TokenLease is a lease that was found by one of its values.
type TokenLease struct {
	*Lease
	Thumbprint []byte // of the key that the exchange was bound to; nil: there was none
}

// FindPrinted finds the lease of one of these kinds whose value of that field has
// this fingerprint; ErrNotFound where there is none.
func (s *Store) FindPrinted(ctx context.Context, sum [32]byte, field string, kinds []string) (*TokenLease, error) {
	rows, err := s.config.Pool.Query(ctx, findPrinted, s.config.Tenant, sum[:], field, kinds)
	if err != nil {
		return nil, unavailable("looking a token up", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*TokenLease, error) {
		var p TokenLease
		var err error
		p.Lease, err = scanLeaseAnd(row, &p.Thumbprint)
		return &p, err
	})
	if err != nil {
		return nil, unavailable("looking a token up", err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%w of this token", ErrNotFound)
	}
	return found[0], nil
}
