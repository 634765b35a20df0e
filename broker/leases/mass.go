package leases

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// MassStep is one step of ending many leases: a stretch of the live ones.
type MassStep struct {
	Filter Filter   // which of them
	Until  string   // leases from this id on aren't meant
	Place  []string // where the step before ended; empty at the beginning
	Limit  int      // how many are looked at, and so how long the transaction is
	Job    string   // that it is for
	Why    Why
	// Record is called in the step's transaction, before it commits.
	Record func(ctx context.Context, tx pgx.Tx, done MassResult) error
}

// MassResult is what a step did.
type MassResult struct {
	Place   []string
	Last    bool // there are no more
	Begun   int
	Ended   int // of those begun: nothing outside had to be undone
	Issuers []string
}

const (
	// matches is Filter over the live leases, from the third parameter on.
	matches = `($3 = '' OR l.policy = $3) AND ($4 = '' OR l.grant_name = $4) AND ($5 = '' OR l.issuer = $5)
  AND ($6 = '' OR l.session_id = $6) AND ($7 = '' OR l.subject = $7) AND ($8 = '' OR l.provider = $8) AND ($9 = '' OR l.target = $9)
  AND ($10 = '' OR l.state = $10) AND ($11::timestamptz IS NULL OR l.expires_at < $11) AND l.id < $2`

	countMatching = `
SELECT count(*) FROM (SELECT FROM leases l WHERE l.tenant = $1 AND l.state IN ('issuing', 'active') AND ` + matches + ` LIMIT $12) found`

	massPage = `
SELECT l.policy, l.grant_name, l.id, ` + matches + ` FROM (
    SELECT * FROM leases l WHERE l.tenant = $1 AND l.state IN ('issuing', 'active') AND (l.policy, l.grant_name, l.id) > ($12, $13, $14)
    ORDER BY l.policy, l.grant_name, l.id LIMIT $15) l`
)

func (f Filter) args(tenant, until string) []any {
	var before *time.Time
	if !f.ExpiresBefore.IsZero() {
		before = &f.ExpiresBefore
	}
	return []any{tenant, until, f.Policy, f.Grant, f.Issuer, f.Session, f.Subject, f.Provider, f.Target, string(f.State), before}
}

// CountLiveMatching counts the live leases that a filter fits, up to a limit.
func (s *Store) CountLiveMatching(ctx context.Context, f Filter, until string, limit int) (n int, err error) {
	if err := s.config.Pool.QueryRow(ctx, countMatching, append(f.args(s.config.Tenant, until), limit)...).Scan(&n); err != nil {
		return 0, unavailable("counting leases", err)
	}
	return n, nil
}

// EndMatching begins to end the leases of one stretch that a filter fits. They
// are no longer good for anything from here on; their credentials are taken back
// when nothing is due by its own end.
func (s *Store) EndMatching(ctx context.Context, step MassStep) (done MassResult, err error) {
	err = s.inTx(ctx, "ending leases", func(tx pgx.Tx) error {
		wanted, err := s.massPage(ctx, tx, step, &done)
		if err != nil {
			return err
		}
		rows, err := tx.Query(ctx, selectLeases+` WHERE l.tenant = $1 AND l.id = ANY($2) ORDER BY l.id FOR UPDATE OF l`, s.config.Tenant, wanted)
		if err != nil {
			return unavailable("ending leases", err)
		}
		found, err := pgx.CollectRows(rows, scanLease)
		if err != nil {
			return unavailable("ending leases", err)
		}
		return s.endQueued(ctx, tx, step, found, &done)
	})
	return done, err
}

func (s *Store) massPage(ctx context.Context, tx pgx.Tx, step MassStep, done *MassResult) (wanted []string, err error) {
	done.Place = step.Place
	if len(done.Place) != 3 {
		done.Place = []string{"", "", ""}
	}
	args := append(step.Filter.args(s.config.Tenant, step.Until), done.Place[0], done.Place[1], done.Place[2], step.Limit)
	rows, err := tx.Query(ctx, massPage, args...)
	if err != nil {
		return nil, unavailable("looking for leases to end", err)
	}
	var policy, grant, id string
	var fits bool
	seen := 0
	_, err = pgx.ForEachRow(rows, []any{&policy, &grant, &id, &fits}, func() error {
		seen++
		done.Place = []string{policy, grant, id}
		if fits {
			wanted = append(wanted, id)
		}
		return nil
	})
	if err != nil {
		return nil, unavailable("looking for leases to end", err)
	}
	done.Last = seen < step.Limit
	return wanted, nil
}

func (s *Store) endQueued(ctx context.Context, tx pgx.Tx, step MassStep, found []*Lease, done *MassResult) error {
	now := s.Now()
	var changes []change
	var queued []*Lease
	for _, l := range found {
		due := l.ExpiresAt
		if due.Before(now) {
			due = now
		}
		c, err := s.end(l, step.Why, due, now)
		if err != nil {
			return err
		}
		if c == nil {
			continue // somebody else has begun it meanwhile
		}
		changes = append(changes, *c)
		if l.State.Ended() {
			done.Ended++
			continue
		}
		queued = append(queued, l)
		if !slices.Contains(done.Issuers, l.Issuer) {
			done.Issuers = append(done.Issuers, l.Issuer)
		}
	}
	done.Begun = len(changes)
	if step.Record != nil {
		if err := step.Record(ctx, tx, *done); err != nil {
			return err
		}
	}
	batch := &pgx.Batch{}
	if len(changes) > 0 {
		queueChanges(batch, changes)
	}
	if len(queued) > 0 {
		batch.Queue(`INSERT INTO revocation_queue (lease_id, job_id, issuer) SELECT id, $2, issuer FROM unnest($1::text[], $3::text[]) AS q(id, issuer) ON CONFLICT DO NOTHING`,
			column(queued, func(l *Lease) string { return l.ID }), step.Job, column(queued, func(l *Lease) string { return l.Issuer }))
	}
	return commitBatch(ctx, tx, batch)
}

// takeWaiting takes leases from the queues of jobs that aren't paused.
const takeWaiting = `
SELECT q.lease_id FROM revocation_jobs j CROSS JOIN LATERAL (
    SELECT lease_id FROM revocation_queue q WHERE q.issuer = $2 AND q.job_id = j.id AND q.waiting ORDER BY lease_id LIMIT $3 FOR UPDATE SKIP LOCKED) q
WHERE j.tenant = $1 AND j.state = 'running' LIMIT $3`

// ClaimQueued takes up to limit leases that jobs have begun to revoke. took is how
// many left the queue: some may have ended by themselves. From here on a lease is
// like any other that is being taken back: when we die it is due as soon as the
// claim runs out.
func (s *Store) ClaimQueued(ctx context.Context, issuer string, limit int, claim time.Duration) (claimed []Claimed, took int, err error) {
	until := s.Now().Add(claim)
	var found []*Lease
	err = s.inTx(ctx, "claiming queued leases", func(tx pgx.Tx) error {
		var taken []string
		rows, err := tx.Query(ctx, takeWaiting, s.config.Tenant, issuer, limit)
		if err != nil {
			return unavailable("claiming queued leases", err)
		}
		if taken, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			return unavailable("claiming queued leases", err)
		}
		if took = len(taken); took == 0 {
			return nil
		}
		slices.Sort(taken)
		batch := &pgx.Batch{}
		batch.Queue(`UPDATE revocation_queue SET waiting = false WHERE lease_id = ANY ($1)`, taken)
		batch.Queue(`UPDATE leases l SET due_at = $2 WHERE l.id = ANY ($1) AND l.state = 'revoking' RETURNING`+leaseColumns, taken, until).
			Query(func(rows pgx.Rows) (err error) {
				found, err = pgx.CollectRows(rows, scanLease)
				return err
			})
		return commitBatch(ctx, tx, batch)
	})
	if err != nil {
		return nil, 0, err
	}
	for _, l := range found {
		claimed = append(claimed, s.opened(ctx, l, until, true))
	}
	return claimed, took, nil
}
