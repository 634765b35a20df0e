package leases

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/issuers"
)

// endedAgo is how long after its end a lease that was revoked early is still
// listed: for verifiers whose clocks run behind.
const endedAgo = time.Hour

// RevokedEarly lists an issuer's leases that were signed by a key and revoked
// before their end, for as long as somebody could still accept them.
func (s *Store) RevokedEarly(ctx context.Context, issuer, keyID string) ([]issuers.Revoked, error) {
	const list = `
SELECT id, ended_at, expires_at FROM leases
WHERE signing_key = $3 AND revocation = 'expiry' AND ended_at < expires_at AND expires_at > $4 AND tenant = $1 AND issuer = $2 ORDER BY id`
	rows, err := s.config.Pool.Query(ctx, list, s.config.Tenant, issuer, keyID, s.Now().Add(-endedAgo))
	if err != nil {
		return nil, unavailable("listing revoked leases", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[issuers.Revoked])
	if err != nil {
		return nil, unavailable("listing revoked leases", err)
	}
	return found, nil
}

// Status tells what became of one of an issuer's leases; issuers.ErrNoLease when
// it has none of that id.
func (s *Store) Status(ctx context.Context, issuer, id string) (issuers.Status, error) {
	l, err := s.Get(ctx, id)
	if errors.Is(err, ErrNotFound) || (err == nil && l.Issuer != issuer) {
		return issuers.Status{}, issuers.ErrNoLease
	}
	if err != nil {
		return issuers.Status{}, err
	}
	status := issuers.Status{KeyID: l.SigningKey, IssuedAt: l.IssuedAt, ExpiresAt: l.ExpiresAt}
	if l.EndedAt != nil && l.EndedAt.Before(l.ExpiresAt) {
		status.RevokedAt = *l.EndedAt
	}
	return status, nil
}
