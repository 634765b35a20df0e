package leases

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/audit"
)

// completions are what workers have finished and nobody has written yet. Who
// comes while nothing is being written has its own written at once; who comes
// meanwhile joins the next write.
type completions struct {
	mu      sync.Mutex
	waiting []*completion
	writers int
}

// completion is one finished revocation.
type completion struct {
	event audit.Event
	done  bool
	err   error
	ended chan struct{}
}

const completionWriters = 2

// Complete records that a credential was taken back: exactly one caller gets
// true, and with it the one lease.revoked event. Callers that come together
// share a commit.
func (s *Store) Complete(ctx context.Context, l *Lease) (bool, error) {
	event, err := s.config.Audit.Event(audit.Entry{At: s.Now(), Type: audit.LeaseRevoked, Subject: l.ID, Count: l.events + 1, Actor: "daypassd"})
	if err != nil {
		return false, err
	}
	c := &completion{event: event, ended: make(chan struct{})}
	all := &s.completions
	all.mu.Lock()
	all.waiting = append(all.waiting, c)
	lead := all.writers < completionWriters
	if lead {
		all.writers++
	}
	all.mu.Unlock()
	if lead {
		s.done.Go(func() { s.writeCompletions(context.WithoutCancel(ctx)) })
	}
	select {
	case <-c.ended:
		return c.done, c.err
	case <-ctx.Done(): // it may be written all the same; who tries again finds that out
		return false, unavailable("recording revocation of "+l.ID, context.Cause(ctx))
	}
}

func (s *Store) writeCompletions(ctx context.Context) {
	all := &s.completions
	for {
		all.mu.Lock()
		n := min(len(all.waiting), maxBatch)
		if n == 0 {
			all.waiting = nil
			all.writers--
			all.mu.Unlock()
			return
		}
		batch := slices.Clone(all.waiting[:n])
		all.waiting = all.waiting[n:]
		all.mu.Unlock()
		s.completeAll(ctx, batch)
		for _, c := range batch {
			close(c.ended)
		}
	}
}

// completeAll writes what was finished. What the database refuses is tried row by
// row: one that can't be written must not keep its neighbours.
func (s *Store) completeAll(ctx context.Context, batch []*completion) {
	// Two writers take the locks of rows in the same order.
	slices.SortFunc(batch, func(a, b *completion) int { return cmp.Compare(a.event.Subject, b.event.Subject) })
	err := s.complete(ctx, batch)
	if err == nil {
		return
	}
	for _, c := range batch {
		c.done, c.err = false, err
		if len(batch) > 1 && !errors.Is(err, ErrUnavailable) {
			c.err = s.complete(ctx, []*completion{c})
		}
	}
}

// One statement, and so one round trip and one commit: the event is inserted from
// the update, so that there is none without the other, however many try.
const completeLeases = `
WITH asked AS (
    SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::int[], $7::text[], $8::bytea[], $9::bytea[], $10::text[])
        AS e(id, at, tenant, type, subject, count, body, leaf, mac, key_id)
), done AS (
    UPDATE leases l SET state = 'revoked', due_at = NULL, ended_at = e.at, events = e.count, stuck = false, last_error = NULL, handle = NULL
    FROM asked e WHERE l.id = e.subject AND l.id = ANY ($5) AND l.id BETWEEN $11 AND $12 AND l.state = 'revoking' AND l.events = e.count - 1 RETURNING l.id, e.id AS event
)
INSERT INTO audit_events (id, at, tenant, type, subject, count, body, leaf, mac, key_id)
SELECT e.* FROM asked e JOIN done ON done.event = e.id RETURNING id`

func (s *Store) complete(ctx context.Context, batch []*completion) error {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	text := func(of func(audit.Event) string) []string {
		return column(batch, func(c *completion) string { return of(c.event) })
	}
	low, high := span(text(func(e audit.Event) string { return e.Subject }))
	rows, err := s.config.Pool.Query(ctx, completeLeases,
		text(func(e audit.Event) string { return e.ID }), column(batch, func(c *completion) time.Time { return c.event.At }),
		text(func(e audit.Event) string { return e.Tenant }), text(func(e audit.Event) string { return string(e.Type) }),
		text(func(e audit.Event) string { return e.Subject }), column(batch, func(c *completion) int32 { return int32(c.event.Count) }), //nolint:gosec // counts are small
		text(func(e audit.Event) string { return e.Body }), column(batch, func(c *completion) []byte { return c.event.Leaf[:] }),
		column(batch, func(c *completion) []byte { return c.event.MAC[:] }), text(func(e audit.Event) string { return e.KeyID }), low, high)
	if err != nil {
		return unavailable("recording revocations", err)
	}
	written, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return unavailable("recording revocations", err)
	}
	for _, c := range batch {
		c.done = slices.Contains(written, c.event.ID)
	}
	return nil
}

// Postpone records a revocation that has to be tried again, and when. reason is
// what the last try said; a stuck one waits for a person, and is tried all the
// same.
func (s *Store) Postpone(ctx context.Context, l *Lease, until time.Time, reason string, stuck bool) error {
	const postpone = `
UPDATE leases SET attempts = attempts + 1, last_error = $3, due_at = $2, stuck = $4 WHERE id = $1 AND state = 'revoking'`
	if _, err := s.config.Pool.Exec(ctx, postpone, l.ID, until, truncate(reason, 1000), stuck); err != nil {
		return unavailable("postponing revocation of "+l.ID, err)
	}
	return nil
}

// StuckNow is a lease that MarkStuck marked.
type StuckNow struct {
	ID        string
	Issuer    string
	LastError string
}

// MarkStuck marks the revocations that should have been done before a time:
// from here on they wait for a person, and are tried all the same. It returns
// those that weren't marked before, a thousand at the most.
func (s *Store) MarkStuck(ctx context.Context, before time.Time) ([]StuckNow, error) {
	const mark = `
UPDATE leases l SET stuck = true, last_error = coalesce(l.last_error, 'it was not tried: its target does not answer, or its issuer is not configured')
WHERE l.id = ANY (ARRAY(
    SELECT id FROM leases WHERE tenant = $1 AND state = 'revoking' AND NOT stuck AND coalesce(revoking_at, expires_at) < $2
      AND NOT EXISTS (SELECT FROM revocation_queue q WHERE q.lease_id = leases.id AND q.waiting)
    ORDER BY id LIMIT 1000 FOR UPDATE SKIP LOCKED))
RETURNING l.id, l.issuer, l.last_error`
	rows, err := s.config.Pool.Query(ctx, mark, s.config.Tenant, before)
	if err != nil {
		return nil, unavailable("looking for stuck leases", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[StuckNow])
	if err != nil {
		return nil, unavailable("looking for stuck leases", err)
	}
	return found, nil
}
