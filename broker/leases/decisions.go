package leases

import (
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/ids"
)

// Decision is what was once decided, with all that it was decided on. An
// allowed one is read from its lease and session, a denied one was kept by
// SaveDenials.
type Decision struct {
	ID             string // of the lease, or of the denial
	At             time.Time
	RequestID      string
	Provider       string
	Issuer         string // the token's iss
	Subject        string
	Claims         []byte // JSON, as verified
	TokenExpiresAt time.Time
	Grant          string // POLICY/GRANT
	AskedTTL       time.Duration
	IP             string // "" where it isn't known
	Allowed        bool
	Job            string // of an allowed one: the job entry
	Digest         string // of the set that decided
	Detail         string // of a denied one: why
	Sampled        bool   // of a denied one: a stranger's, of which few are kept
}

// SaveDenials keeps decisions that denied, and writes the events that came with
// them, in one transaction.
func (s *Store) SaveDenials(ctx context.Context, denials []Decision, entries []audit.Entry) error {
	events := make([]audit.Event, len(entries))
	for i, e := range entries {
		event, err := s.config.Audit.Event(e)
		if err != nil {
			return err
		}
		events[i] = event
	}
	const save = `
INSERT INTO denials (id, tenant, request_id, at, provider, issuer, subject, claims, claims_mac, token_expires_at, grant_name, asked_ttl_seconds, ip, policy_digest, detail, sampled)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) ON CONFLICT DO NOTHING`
	return s.inTx(ctx, "keeping denials", func(tx pgx.Tx) error {
		batch := &pgx.Batch{}
		for i := range denials {
			d := &denials[i]
			mac := s.authenticateDenial(d)
			batch.Queue(save, d.ID, s.config.Tenant, d.RequestID, d.At, d.Provider, d.Issuer, d.Subject, string(d.Claims), mac[:], d.TokenExpiresAt,
				d.Grant, int64(min(d.AskedTTL, maxAsked)/time.Second), d.IP, d.Digest, truncate(d.Detail, maxDetail), d.Sampled)
		}
		if len(events) > 0 {
			audit.InsertIf(batch, events, "true")
		}
		return commitBatch(ctx, tx, batch)
	})
}

const maxDetail = 2000

// authenticateDenial is the MAC of a denial's claims, as that of a session of
// this id would be.
func (s *Store) authenticateDenial(d *Decision) [32]byte {
	return s.authenticate(&Session{ID: d.ID, Provider: d.Provider, Issuer: d.Issuer, Subject: d.Subject, Claims: d.Claims})
}

const (
	// The columns of a decision; the last two are the MAC and the id that it is of.
	selectAllowed = `
SELECT l.id, l.issued_at, l.request_id, s.provider, s.issuer, s.subject, s.claims, s.token_expires_at, l.policy || '/' || l.grant_name,
    l.asked_ttl_seconds, l.ip, true, l.job, l.policy_digest, '', false, s.claims_mac, s.id
FROM leases l CROSS JOIN LATERAL (SELECT * FROM sessions WHERE id = l.session_id OFFSET 0) s WHERE l.tenant = $1 AND l.provider <> '` + systemProvider + `'`

	selectDenied = `
SELECT d.id, d.at, d.request_id, d.provider, d.issuer, d.subject, d.claims, d.token_expires_at, d.grant_name,
    d.asked_ttl_seconds, d.ip, false, '', d.policy_digest, d.detail, d.sampled, d.claims_mac, d.id
FROM denials d WHERE d.tenant = $1`
)

// scanDecision reads a decision; of one whose claims were changed the Claims are nil.
func (s *Store) scanDecision(row pgx.CollectableRow) (*Decision, error) {
	d := &Decision{}
	var asked int64
	var mac []byte
	var named string
	if err := row.Scan(&d.ID, &d.At, &d.RequestID, &d.Provider, &d.Issuer, &d.Subject, &d.Claims, &d.TokenExpiresAt, &d.Grant,
		&asked, &d.IP, &d.Allowed, &d.Job, &d.Digest, &d.Detail, &d.Sampled, &mac, &named); err != nil {
		return nil, err
	}
	d.AskedTTL, d.At, d.TokenExpiresAt = time.Duration(asked)*time.Second, d.At.UTC(), d.TokenExpiresAt.UTC()
	sum := s.authenticate(&Session{ID: named, Provider: d.Provider, Issuer: d.Issuer, Subject: d.Subject, Claims: d.Claims})
	if !hmac.Equal(sum[:], mac) {
		d.Claims = nil
	}
	return d, nil
}

func (s *Store) decisions(ctx context.Context, sql string, args ...any) ([]*Decision, error) {
	rows, err := s.config.Pool.Query(ctx, sql, append([]any{s.config.Tenant}, args...)...)
	if err != nil {
		return nil, unavailable("reading decisions", err)
	}
	found, err := pgx.CollectRows(rows, s.scanDecision)
	if err != nil {
		return nil, unavailable("reading decisions", err)
	}
	return found, nil
}

// Decisions reads up to limit decisions, oldest first: those that began at since
// or later and stand behind the cursor ("" for the first page). It returns the
// cursor of the next page, "" when there is none. Those whose claims were changed
// in the database are left out, and said in the log.
func (s *Store) Decisions(ctx context.Context, since time.Time, cursor string, limit int) (page []*Decision, next string, err error) {
	after := max(cursor, ids.From("", since))
	allowed, err := s.decisions(ctx, selectAllowed+` AND l.id > $2 ORDER BY l.id LIMIT $3`, ids.Lease+after, limit+1)
	if err != nil {
		return nil, "", err
	}
	denied, err := s.decisions(ctx, selectDenied+` AND d.id > $2 ORDER BY d.id LIMIT $3`, ids.Denial+after, limit+1)
	if err != nil {
		return nil, "", err
	}
	page = append(allowed, denied...)
	slices.SortFunc(page, func(a, b *Decision) int { return strings.Compare(a.place(), b.place()) })
	if len(page) > limit {
		page, next = page[:limit], page[limit-1].place()
	}
	return slices.DeleteFunc(page, func(d *Decision) bool {
		if d.Claims == nil {
			s.config.Logger.ErrorContext(ctx, "a decision is left out: its claims are not those that its job token had", "decision", d.ID)
		}
		return d.Claims == nil
	}), next, nil
}

// place is a decision's place in time among all others.
func (d *Decision) place() string {
	_, place, _ := strings.Cut(d.ID, "_")
	return place
}

// requestTime is how far the times in the ids of a request and of what was
// decided in it may be apart: the first is of the broker's clock, the second of
// the database's.
const requestTime = 5 * time.Minute

// DecisionsOf reads what was decided in a request: one denial, or its leases in
// their order. ErrNotFound when nothing was kept, ErrForged when a claim was changed.
func (s *Store) DecisionsOf(ctx context.Context, requestID string) ([]*Decision, error) {
	at := ids.Time(ids.Request, requestID)
	found, err := s.decisions(ctx, selectDenied+` AND d.request_id = $2`, requestID)
	if err == nil && len(found) == 0 {
		found, err = s.decisions(ctx, selectAllowed+` AND l.id > $3 AND l.id < $4 AND l.request_id = $2 ORDER BY l.id`,
			requestID, ids.From(ids.Lease, at.Add(-requestTime)), ids.From(ids.Lease, at.Add(requestTime)))
	}
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0:
		return nil, fmt.Errorf("%w: nothing was kept of %s", ErrNotFound, requestID)
	}
	for _, d := range found {
		if d.Claims == nil {
			return nil, fmt.Errorf("%w: %s", ErrForged, d.ID)
		}
	}
	return found, nil
}

// DeleteDenials deletes up to limit denials that are older than before, and
// those of strangers that are older than sampledBefore.
func (s *Store) DeleteDenials(ctx context.Context, before, sampledBefore time.Time, limit int) (int, error) {
	const old = `DELETE FROM denials WHERE id IN (SELECT id FROM denials WHERE id < $1 ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED)`
	const sampled = `DELETE FROM denials WHERE id IN (SELECT id FROM denials WHERE sampled AND id < $1 ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED)`
	deleted := 0
	for sql, end := range map[string]time.Time{old: before, sampled: sampledBefore} {
		tag, err := s.config.Pool.Exec(ctx, sql, ids.From(ids.Denial, end), limit)
		if err != nil {
			return deleted, unavailable("deleting old denials", err)
		}
		deleted += int(tag.RowsAffected())
	}
	return deleted, nil
}

// Session reads a session by its id: ErrForged when its claims were changed.
func (s *Store) Session(ctx context.Context, id string) (*Session, error) {
	const find = `
SELECT id, provider, issuer, subject, claims, claims_mac, opened_at, expires_at, token_expires_at, revoked_at
FROM sessions WHERE tenant = $1 AND id = $2`
	found := &Session{}
	var mac []byte
	err := s.config.Pool.QueryRow(ctx, find, s.config.Tenant, id).Scan(&found.ID, &found.Provider, &found.Issuer, &found.Subject, &found.Claims, &mac,
		&found.OpenedAt, &found.ExpiresAt, &found.TokenExpiresAt, &found.RevokedAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, unavailable("reading session", err)
	}
	if sum := s.authenticate(found); !hmac.Equal(sum[:], mac) {
		return nil, fmt.Errorf("%w: %s", ErrForged, found.ID)
	}
	return found, nil
}
