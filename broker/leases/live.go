package leases

import (
	"context"
	"crypto/hmac"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/audit"
)

// Place is where in the order of live leases a page ended. Its zero value is the
// beginning.
type Place struct{ policy, grant, id string }

// Live is one live lease with the session that it was made in.
type Live struct {
	*Lease
	Session Session // who asked: provider, iss, subject, claims and the token's end
	Forged  bool    // its claims are not those that its job token had
}

// LivePage asks for live leases.
type LivePage struct {
	Policy string // "": of all policies
	Digest string // leaves out those that the set of this digest allowed
	After  Place
	Limit  int // how many are looked at
}

// Two statements, so that each of them is planned for the index.
const (
	liveOfAll = `l.tenant = $1 AND l.state IN ('issuing', 'active') AND (l.policy, l.grant_name, l.id) > ($2, $3, $4)`
	liveOfOne = `l.tenant = $1 AND l.state IN ('issuing', 'active') AND l.policy = $2 AND (l.grant_name, l.id) > ($3, $4)`

	// The sessions of those that are left out are not looked up.
	livePage = `
SELECT` + leaseColumns + `, coalesce(s.issuer, ''), s.claims, coalesce(s.claims_mac, ''), coalesce(s.token_expires_at, l.issued_at)
FROM page l LEFT JOIN LATERAL (SELECT * FROM sessions WHERE id = l.session_id AND l.policy_digest <> $6 OFFSET 0) s ON true
ORDER BY l.policy, l.grant_name, l.id`
)

// Live reads one page of the live leases of jobs, and where it ended; last says
// that there are no more.
func (s *Store) Live(ctx context.Context, page LivePage) (found []Live, end Place, last bool, err error) {
	which, policy := liveOfAll, page.After.policy
	if page.Policy != "" {
		which, policy = liveOfOne, page.Policy
	}
	rows, err := s.config.Pool.Query(ctx, `
WITH page AS MATERIALIZED (SELECT * FROM leases l WHERE `+which+` ORDER BY l.policy, l.grant_name, l.id LIMIT $5)`+livePage,
		s.config.Tenant, policy, page.After.grant, page.After.id, page.Limit, page.Digest)
	if err != nil {
		return nil, page.After, false, unavailable("reading live leases", err)
	}
	all, err := pgx.CollectRows(rows, s.scanLive)
	if err != nil {
		return nil, page.After, false, unavailable("reading live leases", err)
	}
	end = page.After
	for _, l := range all {
		end = Place{l.Policy, l.Grant, l.ID}
		if l.PolicyDigest != page.Digest && l.Provider != systemProvider {
			found = append(found, l)
		}
	}
	return found, end, len(all) < page.Limit, nil
}

// systemProvider is that of the sessions in which the broker tries its targets:
// no policy speaks of them.
const systemProvider = "system"

func (s *Store) scanLive(row pgx.CollectableRow) (live Live, err error) {
	var mac []byte
	session := &live.Session
	if live.Lease, err = scanLeaseAnd(row, &session.Issuer, &session.Claims, &mac, &session.TokenExpiresAt); err != nil {
		return live, err
	}
	session.ID, session.Provider, session.Subject = live.SessionID, live.Provider, live.Subject
	sum := s.authenticate(session)
	live.Forged = !hmac.Equal(sum[:], mac)
	return live, nil
}

// CountLive counts the live leases.
func (s *Store) CountLive(ctx context.Context) (int, error) {
	const count = `SELECT count(*) FROM leases l WHERE l.tenant = $1 AND l.state IN ('issuing', 'active')`
	var n int
	if err := s.config.Pool.QueryRow(ctx, count, s.config.Tenant).Scan(&n); err != nil {
		return 0, unavailable("counting live leases", err)
	}
	return n, nil
}

// Record writes an event of something that is no lease or session.
func (s *Store) Record(ctx context.Context, entry audit.Entry) error {
	event, err := s.config.Audit.Event(entry)
	if err != nil {
		return err
	}
	return s.inTx(ctx, "recording an event", func(tx pgx.Tx) error {
		batch := &pgx.Batch{}
		audit.InsertIf(batch, []audit.Event{event}, "true")
		return commitBatch(ctx, tx, batch)
	})
}

// ConfirmPolicies remembers that an operator confirmed a set of policies, for all
// brokers, with the event of it.
func (s *Store) ConfirmPolicies(ctx context.Context, digest string, entry audit.Entry) error {
	event, err := s.config.Audit.Event(entry)
	if err != nil {
		return err
	}
	return s.inTx(ctx, "confirming policies", func(tx pgx.Tx) error {
		batch := &pgx.Batch{}
		batch.Queue(`
INSERT INTO policy_confirmations (tenant, digest, actor, at) VALUES ($1, $2, $3, $4)
ON CONFLICT (tenant, digest) DO UPDATE SET actor = excluded.actor, at = excluded.at`, s.config.Tenant, digest, entry.Actor, entry.At)
		audit.InsertIf(batch, []audit.Event{event}, "true")
		return commitBatch(ctx, tx, batch)
	})
}

// PoliciesConfirmed says who confirmed a set of policies since a time; "" where
// nobody did.
func (s *Store) PoliciesConfirmed(ctx context.Context, digest string, since time.Time) (actor string, err error) {
	const confirmed = `SELECT coalesce(max(actor), '') FROM policy_confirmations WHERE tenant = $1 AND digest = $2 AND at >= $3`
	if err := s.config.Pool.QueryRow(ctx, confirmed, s.config.Tenant, digest, since).Scan(&actor); err != nil {
		return "", unavailable("looking for a confirmation", err)
	}
	return actor, nil
}
