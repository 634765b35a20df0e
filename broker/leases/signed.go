package leases

import (
	"cmp"
	"context"
	"errors"
	"slices"
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

// LastSigned is the last end of what a key signed, whatever became of it; zero
// when it signed nothing.
func (s *Store) LastSigned(ctx context.Context, keyID string) (time.Time, error) {
	const last = `SELECT expires_at FROM leases WHERE signing_key = $2 AND tenant = $1 ORDER BY expires_at DESC LIMIT 1`
	var at time.Time
	err := s.config.Pool.QueryRow(ctx, last, s.config.Tenant, keyID).Scan(&at)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return time.Time{}, unavailable("looking for what a key signed", err)
	}
	return at.UTC(), nil
}

// signedBatch is how many leases EndSigned ends with one commit.
const signedBatch = 256

// EndSigned ends some of the live leases that a key signed, and says how many it
// ended and which issuers have something to take back. It is called until there
// are none: a lease that somebody else holds just now is left for the next call.
func (s *Store) EndSigned(ctx context.Context, keyID string, why Why) (ended int, involved []string, err error) {
	err = s.inTx(ctx, "ending what a key signed", func(tx pgx.Tx) error {
		// What has run out long ago is the revoker's, or has ended.
		rows, err := tx.Query(ctx, selectLeases+`
WHERE l.signing_key = $2 AND l.expires_at > $3 AND l.tenant = $1 AND l.state IN ('issuing', 'active') ORDER BY l.expires_at, l.id LIMIT $4 FOR UPDATE OF l SKIP LOCKED`,
			s.config.Tenant, keyID, s.Now().Add(-endedAgo), signedBatch)
		if err != nil {
			return unavailable("ending what a key signed", err)
		}
		found, err := pgx.CollectRows(rows, scanLease)
		if err != nil {
			return unavailable("ending what a key signed", err)
		}
		ended = len(found)
		if ended == 0 {
			return nil
		}
		for _, l := range found {
			if !slices.Contains(involved, l.Issuer) {
				involved = append(involved, l.Issuer)
			}
		}
		slices.SortFunc(found, func(a, b *Lease) int { return cmp.Compare(a.ID, b.ID) })
		return s.endAll(ctx, tx, found, why, s.Now())
	})
	return ended, involved, err
}
