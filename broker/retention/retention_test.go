package retention_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/retention"
)

func TestMain(m *testing.M) { os.Exit(devtest.Main(m)) }

const day = 24 * time.Hour

type world struct {
	t    *testing.T
	pool *pgxpool.Pool
	now  time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	config, err := pgxpool.ParseConfig(devtest.Migrated(t))
	if err != nil {
		t.Fatal(err)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	w := &world{t: t, pool: pool}
	if err := pool.QueryRow(t.Context(), `SELECT now()`).Scan(&w.now); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) keeper(change func(*retention.Config)) *retention.Keeper {
	w.t.Helper()
	config := retention.Config{Pool: w.pool, Now: func() time.Time { return w.now }}
	if change != nil {
		change(&config)
	}
	k, err := retention.New(config)
	if err != nil {
		w.t.Fatal(err)
	}
	return k
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.pool.Exec(w.t.Context(), sql, args...); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

func (w *world) count(sql string, args ...any) (n int) {
	w.t.Helper()
	if err := w.pool.QueryRow(w.t.Context(), sql, args...).Scan(&n); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// lease puts a lease of a time on record, ended or not, with all that belongs to it.
func (w *world) lease(at time.Time, ended bool) string {
	w.t.Helper()
	id, session := ids.New(ids.Lease, at), ids.New(ids.Session, at)
	w.exec(`
INSERT INTO leases (id, tenant, session_id, session_token, policy, grant_name, job, policy_digest, issuer, role, kind, target, revocation, provider, subject, state,
    issued_at, expires_at, max_expires_at, ttl_seconds, renewable, issue_deadline, settled_at, due_at, ended_at, rules, events)
SELECT $1, 'main', $2, sha256($1::text::bytea), 'p', 'g', 'j', 'd', 'i', '', 'k', 't', 'immediate', 'p', 's', CASE WHEN $4 THEN 'revoked' ELSE 'revoking' END,
    $3, $3::timestamptz + interval '1 minute', $3::timestamptz + interval '1 minute', 60, false, $3, $3, CASE WHEN $4 THEN NULL ELSE $3::timestamptz END, CASE WHEN $4 THEN $3::timestamptz END, '{}', 2`,
		id, session, at, ended)
	w.exec(`
INSERT INTO sessions (id, tenant, provider, issuer, token_digest, subject, claims, claims_mac, opened_at, expires_at, token_expires_at, events)
VALUES ($1, 'main', 'p', 'i', sha256($1::text::bytea), 's', '{}', sha256('m'), $2, $2::timestamptz + interval '1 hour', $2::timestamptz + interval '5 minutes', 1)`, session, at)
	w.exec(`INSERT INTO session_tokens (hash, key_id, session_id, grants, created_at) VALUES (sha256($1::text::bytea), 'k', $1, '{}', $2)`, session, at)
	w.exec(`INSERT INTO fingerprints (fingerprint, lease_id, field, key_id, scheme, created_at) VALUES (sha256('f'), $1, 'f', 'k', 's', $2)`, id, at)
	w.exec(`INSERT INTO audit_events (id, at, tenant, type, subject, count, body, leaf, mac, key_id) VALUES ($1, $2, 'main', 'x', $3, 1, '', sha256('l'), sha256('m'), 'k')`,
		ids.New(ids.Event, at), at, id)
	return id
}

// old makes the partitions of weeks gone by, as they were made ahead once: the one
// of all that is older begins where the first of them does.
func (w *world) old(weeks int) {
	w.t.Helper()
	monday := w.now.UTC().Truncate(day)
	for monday.Weekday() != time.Monday {
		monday = monday.Add(-day)
	}
	first := monday.Add(time.Duration(-weeks) * 7 * day)
	for table, prefix := range map[string]string{"leases": ids.Lease, "audit_events": ids.Event} {
		before := table + "_before_" + monday.Format("20060102")
		w.exec(`ALTER TABLE ` + table + ` DETACH PARTITION ` + before)
		w.exec(`ALTER TABLE ` + table + ` ATTACH PARTITION ` + before + ` FOR VALUES FROM (MINVALUE) TO ('` + ids.From(prefix, first) + `')`)
		for n := range weeks {
			w.exec(`SELECT add_partition($1, $2, $3)`, table, prefix, first.Add(time.Duration(n)*7*day))
		}
	}
}

func TestAhead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := w.keeper(nil)
	if err := k.Health(t.Context()); err != nil {
		t.Errorf("after the migration: %v", err)
	}
	done, err := k.RunOnce(t.Context())
	if err != nil || done.Made < 6 || done.Dropped != 0 {
		t.Errorf("the first run did %+v: %v", done, err)
	}
	if done, err := k.RunOnce(t.Context()); err != nil || done != (retention.Done{}) {
		t.Errorf("the second run did %+v: %v", done, err)
	}
	w.now = w.now.Add(7 * 7 * day)
	if err := k.Health(t.Context()); err == nil {
		t.Error("with one week ahead it says that all is well")
	}
	// What came meanwhile of a time without a partition is moved to its own.
	stray := w.lease(w.now.Add(5*7*day), false)
	if n := w.count(`SELECT count(*) FROM leases_default`); n != 1 {
		t.Fatalf("%d rows in the partition of what has no other", n)
	}
	if done, err := k.RunOnce(t.Context()); err != nil || done.Made != 14 {
		t.Errorf("seven weeks later it did %+v: %v", done, err)
	}
	if n := w.count(`SELECT count(*) FROM leases_default`); n != 0 || w.count(`SELECT count(*) FROM leases WHERE id = $1`, stray) != 1 {
		t.Errorf("%d rows are left in the partition of what has no other", n)
	}
	if err := k.Health(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestDrop(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.old(20)
	ancient, stuck, kept := w.lease(w.now.Add(-130*day), true), w.lease(w.now.Add(-115*day), false), w.lease(w.now.Add(-day), true)
	k := w.keeper(func(c *retention.Config) { c.Audit = 100 * day })
	if _, err := k.RunOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	leases := func(id string) int { return w.count(`SELECT count(*) FROM leases WHERE id = $1`, id) }
	if leases(ancient) != 0 || leases(stuck) != 1 || leases(kept) != 1 {
		t.Error("not the leases are left that should be")
	}
	if n := w.count(`SELECT count(*) FROM audit_events`); n != 3 {
		t.Errorf("%d events are left of three that nobody let go", n)
	}
	// Values are known again for longer than their leases: a log may be searched for them.
	for table, want := range map[string]int{"sessions": 2, "session_tokens": 2, "fingerprints": 3} {
		if n := w.count(`SELECT count(*) FROM ` + table); n != want {
			t.Errorf("%d rows are left in %s, want those of %d leases", n, table, want)
		}
	}
	w.exec(`INSERT INTO leaks (id, tenant, value, source, subject, live, actor, seen_at, events) VALUES ($1, 'main', sha256('v'), 'old', '', true, 'a', now(), 1), ($2, 'main', sha256('v'), 'new', '', true, 'a', now(), 1)`,
		ids.New(ids.Leak, w.now.Add(-101*day)), ids.New(ids.Leak, w.now.Add(-99*day)))
	w.exec(`INSERT INTO redaction_rules (id, tenant, policy, grant_name, pattern, created_at, until) VALUES ('old', 'main', 'p', 'g', 'x', $1, $1), ('new', 'main', 'p', 'g', 'y', $1, NULL)`, w.now.Add(-200*day))
	// Once it has ended, it goes, and the events when they may.
	w.exec(`UPDATE leases SET state = 'revoked', due_at = NULL, ended_at = now() WHERE id = $1`, stuck)
	var asked []string
	k = w.keeper(func(c *retention.Config) {
		c.Audit, c.Archive, c.Prints = 100*day, true, 120*day
		c.Droppable = func(_ context.Context, upTo string) (bool, error) {
			asked = append(asked, upTo)
			return len(asked) <= 2, nil
		}
	})
	if _, err := k.RunOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if leases(stuck) != 0 || leases(kept) != 1 {
		t.Error("not the leases are left that should be")
	}
	for _, table := range []string{"leaks", "redaction_rules"} {
		if n := w.count(`SELECT count(*) FROM ` + table); n != 1 {
			t.Errorf("%d rows are left in %s, want the one that is not too old", n, table)
		}
	}
	if n := w.count(`SELECT count(*) FROM fingerprints`); n != 2 {
		t.Errorf("%d fingerprints are left, want those that are not older than logs are kept", n)
	}
	if len(asked) != 3 || !ids.Valid(ids.Event, asked[0]) || asked[0] >= asked[1] {
		t.Errorf("asked for %v, want the oldest three", asked)
	}
	// What is archived is a table of its own, with its rows.
	archived := w.count(`SELECT count(*) FROM pg_class c WHERE relname LIKE 'leases\_2%' AND relkind = 'r' AND NOT relispartition`)
	if archived == 0 {
		t.Error("nothing was archived")
	}
	if n := w.count(`SELECT count(*) FROM sessions`); n != 1 {
		t.Errorf("%d sessions are left, want that of the last lease", n)
	}
}

// TestBusy: a table that is in use is left for the next run, soon, and what waits
// behind goes on.
func TestBusy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.old(20)
	ancient := w.lease(w.now.Add(-130*day), true)
	tx, err := w.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // it is over
	if _, err := tx.Exec(t.Context(), `SELECT FROM leases LIMIT 1`); err != nil {
		t.Fatal(err)
	}
	k := w.keeper(nil)
	if _, err := k.RunOnce(t.Context()); err == nil {
		t.Error("a table was dropped that is being read")
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := k.RunOnce(t.Context()); err != nil || w.count(`SELECT count(*) FROM leases WHERE id = $1`, ancient) != 0 {
		t.Errorf("once nobody reads it: %v", err)
	}
}

// TestFloor: the database's way to the first id of a time is the program's.
func TestFloor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, at := range []time.Time{w.now, time.UnixMilli(0), time.UnixMilli(1), w.now.Add(9000 * day), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)} {
		at = at.Truncate(time.Millisecond)
		var floor string
		if err := w.pool.QueryRow(t.Context(), `SELECT id_floor('lse_', $1)`, at).Scan(&floor); err != nil || floor != ids.From(ids.Lease, at) {
			t.Errorf("%s: %s, want %s: %v", at, floor, ids.From(ids.Lease, at), err)
		}
	}
}
