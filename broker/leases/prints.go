package leases

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/ids"
)

// Printed is a value that a lease got, by its fingerprint.
type Printed struct {
	Sum     [32]byte
	LeaseID string
	Field   string
}

// maxHolders is how many of the leases that got one value are found: the last ones.
// Only a static secret has more than one.
const maxHolders = 100

// FindPrints finds the leases that got values, by the values' fingerprints; of each
// the latest first. With among, only those leases count, and how long it takes tells
// nothing of others.
func (s *Store) FindPrints(ctx context.Context, sums [][32]byte, among []string) ([]Printed, error) {
	find := func(condition string) string {
		return `
SELECT w.sum, f.lease_id, f.field FROM unnest($1::bytea[]) AS w(sum) CROSS JOIN LATERAL (
    SELECT p.lease_id, p.field FROM fingerprints p WHERE p.fingerprint = w.sum` + condition + ` ORDER BY p.fingerprint, p.lease_id DESC LIMIT $2) AS f`
	}
	sql, args := find(""), []any{column(sums, func(sum [32]byte) []byte { return sum[:] }), maxHolders}
	if among != nil {
		sql, args = find(` AND p.lease_id = ANY ($3)`), append(args, among)
	}
	rows, err := s.config.Pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, unavailable("looking fingerprints up", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p Printed, err error) {
		var sum []byte
		err = row.Scan(&sum, &p.LeaseID, &p.Field)
		copy(p.Sum[:], sum)
		return p, err
	})
	if err != nil {
		return nil, unavailable("looking fingerprints up", err)
	}
	return found, nil
}

// Anchored is a fingerprint with its sealed anchor.
type Anchored struct {
	Sum     [32]byte
	Anchor  []byte
	LeaseID string
}

func scanAnchored(row pgx.CollectableRow) (a Anchored, err error) {
	var sum []byte
	err = row.Scan(&sum, &a.Anchor, &a.LeaseID)
	copy(a.Sum[:], sum)
	return a, err
}

// Anchors reads anchors by the key of their fingerprints: of leases from an id on,
// and (unless it is "") of none behind another, the latest first.
func (s *Store) Anchors(ctx context.Context, keyID, from, upTo string, most int) ([]Anchored, error) {
	const list = `
SELECT fingerprint, anchor, lease_id FROM fingerprints
WHERE anchor IS NOT NULL AND lease_id >= $2 AND ($3 = '' OR lease_id <= $3) AND key_id = $1 ORDER BY lease_id DESC LIMIT $4`
	return s.anchored(ctx, list, keyID, from, upTo, most)
}

// AnchorsOf reads the anchors of what was obtained with one session token.
func (s *Store) AnchorsOf(ctx context.Context, keyID string, held *Held, most int) ([]Anchored, error) {
	const list = `
SELECT f.fingerprint, f.anchor, f.lease_id FROM leases l JOIN fingerprints f ON f.lease_id = l.id AND f.anchor IS NOT NULL
WHERE l.tenant = $2 AND l.session_id = $3 AND l.session_token = $4 AND f.key_id = $1 ORDER BY f.lease_id DESC LIMIT $5`
	return s.anchored(ctx, list, keyID, s.config.Tenant, held.ID, held.TokenHash[:], most)
}

func (s *Store) anchored(ctx context.Context, sql string, args ...any) ([]Anchored, error) {
	rows, err := s.config.Pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, unavailable("reading anchors", err)
	}
	found, err := pgx.CollectRows(rows, scanAnchored)
	if err != nil {
		return nil, unavailable("reading anchors", err)
	}
	return found, nil
}

// ByID reads leases, in the order of their ids. Those that are no longer on record
// are left out: see Remembered.
func (s *Store) ByID(ctx context.Context, leaseIDs []string) ([]*Lease, error) {
	low, high := span(leaseIDs)
	rows, err := s.config.Pool.Query(ctx, selectLeases+` WHERE l.tenant = $1 AND l.id = ANY ($2) AND l.id BETWEEN $3 AND $4 ORDER BY l.id`, s.config.Tenant, leaseIDs, low, high)
	if err != nil {
		return nil, unavailable("reading leases", err)
	}
	found, err := pgx.CollectRows(rows, scanLease)
	if err != nil {
		return nil, unavailable("reading leases", err)
	}
	return found, nil
}

// Remembered is what the audit log still says of a lease whose row is gone, in the
// event with which it began: policy and grant, issuer, whose it was and its first
// end. Its state is "". ErrNotFound where the event is gone too.
//
// Both ids begin with one time, so that the event is found without an index.
func (s *Store) Remembered(ctx context.Context, id string) (*Lease, error) {
	began := ids.Time(ids.Lease, id)
	const find = `
SELECT body FROM audit_events WHERE tenant = $1 AND subject = $2 AND count = 1 AND type = ANY ($3) AND id >= $4 AND id < $5 ORDER BY id LIMIT 1`
	var text string
	err := s.config.Pool.QueryRow(ctx, find, s.config.Tenant, id, []string{string(audit.LeaseReserved), string(audit.LeaseIssued)},
		ids.From(ids.Event, began.Add(-time.Second)), ids.From(ids.Event, began.Add(2*time.Second))).Scan(&text)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	if err != nil {
		return nil, unavailable("reading the event of a lease", err)
	}
	var body struct {
		Actor string `json:"actor"`
		Data  struct {
			Grant     string    `json:"grant"`
			Issuer    string    `json:"issuer"`
			Role      string    `json:"role"`
			Job       string    `json:"job"`
			ExpiresAt time.Time `json:"expires_at"`
		} `json:"data"`
	}
	if err := json.Unmarshal([]byte(text), &body); err != nil {
		return nil, fmt.Errorf("%w: the event of %s can't be read", ErrForged, id)
	}
	l := &Lease{ID: id, Tenant: s.config.Tenant, Issuer: body.Data.Issuer, Role: body.Data.Role, Job: body.Data.Job, IssuedAt: began, ExpiresAt: body.Data.ExpiresAt}
	l.Policy, l.Grant, _ = strings.Cut(body.Data.Grant, "/")
	if provider, subject, ok := strings.Cut(strings.TrimPrefix(body.Actor, jobActor), " "); ok {
		l.Provider, l.Subject = provider, subject
	}
	return l, nil
}

// FindTokens finds the sessions of session tokens, by the tokens' hashes.
func (s *Store) FindTokens(ctx context.Context, hashes [][32]byte) ([]*Held, error) {
	const find = `
SELECT t.hash, s.id, s.provider, s.issuer, s.subject, s.opened_at, s.expires_at, s.token_expires_at, s.revoked_at, t.revoked_at IS NOT NULL
FROM session_tokens t JOIN sessions s ON s.id = t.session_id WHERE s.tenant = $1 AND t.hash = ANY ($2)`
	rows, err := s.config.Pool.Query(ctx, find, s.config.Tenant, column(hashes, func(hash [32]byte) []byte { return hash[:] }))
	if err != nil {
		return nil, unavailable("looking session tokens up", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*Held, error) {
		h := &Held{}
		var hash []byte
		err := row.Scan(&hash, &h.ID, &h.Provider, &h.Issuer, &h.Subject, &h.OpenedAt, &h.ExpiresAt, &h.TokenExpiresAt, &h.RevokedAt, &h.TokenRevoked)
		copy(h.TokenHash[:], hash)
		return h, err
	})
	if err != nil {
		return nil, unavailable("looking session tokens up", err)
	}
	return found, nil
}
