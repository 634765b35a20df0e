package sealing_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/installation"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/sealing"
)

func replacement(pool *pgxpool.Pool, next keys.Sealer, opening ...keys.Sealer) *sealing.Replacement {
	return &sealing.Replacement{
		Pool: pool, New: next, Opening: opening, Installation: installationID, Tenant: "main", Lock: installation.ReplaceLock, Actor: "test", Now: time.Now,
	}
}

// living is an installation with leases, tokens and an audit log.
type living struct {
	pool   *pgxpool.Pool
	former *hsm
	root   *keys.Root
	sealed map[string][]byte // by lease
}

func newLiving(t *testing.T) *living {
	t.Helper()
	l := &living{pool: newPool(t), former: newHSM(t), sealed: map[string][]byte{}}
	root, sealed := older(t, l.pool, l.former, 3)
	l.root = root
	for i, s := range sealed {
		l.sealed[fmt.Sprint(i)] = s
	}
	// One from before data keys, and one that has ended.
	old, err := root.RowSealer().Seal(t.Context(), row("old"), []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	l.sealed["old"] = old
	for id, handle := range l.sealed {
		putLease(t, l.pool, id, "active", handle)
	}
	putLease(t, l.pool, "ended", "expired", []byte("no longer needed"))
	exec(t, l.pool, `INSERT INTO sessions (id, tenant, provider, issuer, token_digest, subject, claims, claims_mac, opened_at, expires_at, token_expires_at, events)
		VALUES ('ses', 'main', 'github', 'i', sha256('x'), 's', '{}', sha256('x'), now(), now() + interval '1 hour', now(), 1)`)
	exec(t, l.pool, `INSERT INTO session_tokens (hash, key_id, session_id, grants, created_at) VALUES (sha256('a'), $1, 'ses', '{}', now())`, root.Hasher(keys.SessionTokens).KeyID())
	exec(t, l.pool, `INSERT INTO admin_tokens (id, tenant, hash, key_id, role, owner, os_user, created_at, expires_at, events)
		VALUES ('adm_1', 'main', sha256('b'), $1, 'viewer', 'ana@example.com', 'root', now(), now() + interval '1 hour', 1)`, root.Hasher(keys.AdminTokens).KeyID())
	exec(t, l.pool, `INSERT INTO fingerprints (fingerprint, lease_id, field, key_id, scheme, created_at) VALUES (sha256('c'), '0', 'f', $1, 's', now())`, root.Hasher(keys.Fingerprints).KeyID())
	recorder, err := audit.New(audit.Config{Installation: installationID, Tenant: "main", MAC: root.Hasher(keys.AuditMACs)})
	if err != nil {
		t.Fatal(err)
	}
	e, err := recorder.Event(audit.Entry{At: time.Now(), Type: audit.LeaseReserved, Subject: "0", Count: 1, Actor: "test"})
	if err != nil {
		t.Fatal(err)
	}
	exec(t, l.pool, `INSERT INTO audit_events (id, at, tenant, type, subject, count, body, leaf, mac, key_id) VALUES ($1, $2, 'main', $3, '0', 1, $4, $5, $6, $7)`,
		e.ID, e.At, string(e.Type), e.Body, e.Leaf[:], e.MAC[:], e.KeyID)
	return l
}

// snapshot is all that a replacement could change.
func snapshot(t *testing.T, pool *pgxpool.Pool) string {
	t.Helper()
	var text string
	if err := pool.QueryRow(t.Context(), `
SELECT concat((SELECT json_agg(r ORDER BY id) FROM roots r), (SELECT json_agg(d ORDER BY id) FROM data_keys d), (SELECT json_agg(s ORDER BY id) FROM sealing_keys s),
    (SELECT json_agg(l.handle ORDER BY id) FROM leases l), (SELECT count(*) FROM audit_events))`).Scan(&text); err != nil {
		t.Fatal(err)
	}
	return text
}

func mustApply(t *testing.T, r *sealing.Replacement) *sealing.Report {
	t.Helper()
	report, err := r.Apply(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// TestLostForGood is the day on which the HSM burnt.
func TestLostForGood(t *testing.T) {
	t.Parallel()
	l, next := newLiving(t), newHSM(t)
	before := snapshot(t, l.pool)
	plan, err := replacement(l.pool, nil).Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if snapshot(t, l.pool) != before {
		t.Error("a plan changed something")
	}
	report := mustApply(t, replacement(l.pool, next))
	if plan.SealingKey = next.KeyID(); !reflect.DeepEqual(plan, report) {
		t.Errorf("planned %+v, done %+v", plan, report)
	}
	if len(report.LostKeys) != 4 || len(report.LostValues) != 4 || !report.NewRoot || report.Rewrapped != 0 || report.Sessions != 1 || report.Prints != 1 ||
		len(report.AdminTokens) != 1 || report.AdminTokens[0].Owner != "ana@example.com" || len(report.Lost) != 1 || report.Lost[0] != l.former.KeyID() ||
		len(report.AuditKeys) != 1 || report.AuditKeys[0] != l.root.Hasher(keys.AuditMACs).KeyID() || report.Targets["issuer db, target db.example:5432"] != 4 {
		t.Errorf("%+v", report)
	}
	told := strings.Join(report.Tell, "\n")
	for _, want := range []string{"db.example:5432: 4 leases", "ana@example.com: admin token adm_1", "1 session tokens", "verifiers of JWTs and certificates: nothing", "auditors"} {
		if !strings.Contains(told, want) {
			t.Errorf("nobody is told %q: %s", want, told)
		}
	}
	// The broker serves again: with another root, and new data keys.
	if fingerprintOf(openRoot(t, l.pool, next)) == fingerprintOf(l.root) {
		t.Error("the root that was lost is there")
	}
	s := newSealer(t, sealing.Config{Pool: l.pool, Sealer: next})
	mustOpen(t, s, "new", seal(t, s, "new", "again"), "again")
	if _, err := s.Open(t.Context(), row("0"), l.sealed["0"]); !errors.Is(err, keys.ErrOpen) {
		t.Errorf("what was lost: %v", err)
	}
	// It is on record, by the new root.
	recorder, err := audit.New(audit.Config{Installation: installationID, Tenant: "main", MAC: openRoot(t, l.pool, next).Hasher(keys.AuditMACs)})
	if err != nil {
		t.Fatal(err)
	}
	events, err := audit.List(t.Context(), l.pool, audit.Page{Tenant: "main", Limit: 10})
	if err != nil || len(events) != 2 || events[0].Type != audit.KeysReplaced || recorder.Verify(events[0]) != nil {
		t.Errorf("events %+v, %v", events, err)
	}

	// Once more, it finds the same lost, and does nothing.
	before = snapshot(t, l.pool)
	again := mustApply(t, replacement(l.pool, next))
	if snapshot(t, l.pool) != before || again.NewRoot || len(again.LostValues) != 4 {
		t.Errorf("a second time it did something: %+v", again)
	}

	// The HSM turns up in a cellar: what it wraps is taken up again.
	found := mustApply(t, replacement(l.pool, next, l.former))
	if len(found.LostKeys) != 0 || len(found.LostValues) != 0 || found.Rewrapped != 4 {
		t.Errorf("found again: %+v", found)
	}
	roots, err := installation.RetiredRoots(t.Context(), l.pool, next, installationID)
	if err != nil || len(roots) != 1 || fingerprintOf(roots[0]) != fingerprintOf(l.root) {
		t.Fatalf("%d retired roots, %v", len(roots), err)
	}
	all := newSealer(t, sealing.Config{Pool: l.pool, Sealer: next, Former: []*keys.RowSealer{roots[0].RowSealer()}})
	for id, sealed := range l.sealed {
		mustOpen(t, all, id, sealed, "secret")
	}
}

func TestPartlyLost(t *testing.T) {
	t.Parallel()
	l, next, other := newLiving(t), newHSM(t), newHSM(t)
	// The root and all but one data key had been wrapped anew when the former key was lost.
	w := adopt(t, l.pool, keys.AlsoOpen(other, l.former), false)
	steps := 4
	w.Checkpoint = func(string) error {
		steps--
		if steps == 0 {
			return errCrash
		}
		return nil
	}
	if _, _, err := w.RunOnce(t.Context()); !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
	report := mustApply(t, replacement(l.pool, next, other))
	if report.NewRoot || len(report.LostKeys) != 1 || len(report.LostValues) != 1 || report.Rewrapped != 3 || report.Sessions != 0 || len(report.AdminTokens) != 0 {
		t.Errorf("%+v", report)
	}
	if fingerprintOf(openRoot(t, l.pool, next)) != fingerprintOf(l.root) {
		t.Error("the root didn't have to change")
	}
}

// TestCompromised gives everything up that the former key wrapped, interrupted at
// each step.
func TestCompromised(t *testing.T) {
	t.Parallel()
	l, next := newLiving(t), newHSM(t)
	compromised := func(next keys.Sealer) *sealing.Replacement {
		r := replacement(l.pool, next, l.former)
		r.Compromised = true
		return r
	}
	plan, err := compromised(nil).Plan(t.Context())
	if err != nil || plan.Resealed != 4 || !plan.NewRoot || plan.Rewrapped != 4 || len(plan.LostValues) != 0 {
		t.Fatalf("%+v, %v", plan, err)
	}
	if _, err := compromised(l.former).Plan(t.Context()); err == nil || !strings.Contains(err.Error(), "hint: name a new label") {
		t.Errorf("without a new key: %v", err)
	}
	crashes := 0
	for steps := 0; ; steps++ {
		r := compromised(next)
		r.Checkpoint = crashAt(steps)
		_, err := r.Apply(t.Context())
		if err == nil {
			break
		}
		crashes++
		if !errors.Is(err, errCrash) || steps > 50 {
			t.Fatalf("at step %d: %v", steps, err)
		}
		// Nothing is lost on the way: all opens, by both keys.
		both := keys.AlsoOpen(next, l.former)
		former := []*keys.RowSealer{openRoot(t, l.pool, both).RowSealer()}
		retired, err := installation.RetiredRoots(t.Context(), l.pool, both, installationID)
		if err != nil {
			t.Fatal(err)
		}
		for _, root := range retired {
			former = append(former, root.RowSealer())
		}
		s := newSealer(t, sealing.Config{Pool: l.pool, Sealer: both, Former: former})
		for id := range l.sealed {
			var handle []byte
			if err := l.pool.QueryRow(t.Context(), `SELECT handle FROM leases WHERE id = $1`, id).Scan(&handle); err != nil {
				t.Fatal(err)
			}
			mustOpen(t, s, id, handle, "secret")
		}
	}
	if crashes < 5 {
		t.Errorf("it was interrupted %d times alone", crashes)
	}
	s := newSealer(t, sealing.Config{Pool: l.pool, Sealer: next})
	for id, was := range l.sealed {
		var handle []byte
		if err := l.pool.QueryRow(t.Context(), `SELECT handle FROM leases WHERE id = $1`, id).Scan(&handle); err != nil {
			t.Fatal(err)
		}
		if string(handle) == string(was) {
			t.Errorf("the handle of %s was not sealed anew", id)
		}
		mustOpen(t, s, id, handle, "secret")
	}
	for what, sql := range map[string]string{
		"data keys that the thief has":  `SELECT count(*) FROM data_keys d WHERE destroyed_at IS NULL AND created_at < (SELECT max(adopted_at) FROM sealing_keys)`,
		"wrapped by the former key":     `SELECT count(*) FROM data_keys WHERE destroyed_at IS NULL AND sealing_key <> (SELECT id FROM sealing_keys ORDER BY adopted_at DESC LIMIT 1)`,
		"current roots beside one":      `SELECT count(*) - 1 FROM roots WHERE retired_at IS NULL`,
		"roots more than the two":       `SELECT count(*) - 2 FROM roots`,
		"current data keys beside one":  `SELECT count(*) - 1 FROM data_keys WHERE retired_at IS NULL`,
		"events of it, more than those": `SELECT greatest(count(*) - 2, 0) FROM audit_events WHERE type = 'keys.replaced'`,
	} {
		if n := count(t, l.pool, sql); n != 0 {
			t.Errorf("%s: %d", what, n)
		}
	}
	if fingerprintOf(openRoot(t, l.pool, next)) == fingerprintOf(l.root) {
		t.Error("the root that the thief has is in force")
	}
	before := snapshot(t, l.pool)
	if again := mustApply(t, compromised(next)); snapshot(t, l.pool) != before || again.NewRoot || again.Resealed != 0 {
		t.Errorf("a second time it did something: %+v", again)
	}
}

func TestReplaceRefuses(t *testing.T) {
	t.Parallel()
	l, next := newLiving(t), newHSM(t)
	before := snapshot(t, l.pool)

	// While a broker is connected.
	config := l.pool.Config().Copy()
	config.ConnConfig.RuntimeParams["application_name"] = sealing.BrokerApplication
	broker, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	if err := broker.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := replacement(l.pool, next).Apply(t.Context()); !errors.Is(err, sealing.ErrBrokersRun) || !strings.Contains(err.Error(), "hint:") {
		t.Errorf("beside a broker: %v", err)
	}
	broker.Close()

	// While another runs; and no broker starts meanwhile.
	conn, err := l.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `SELECT pg_advisory_lock($1)`, installation.ReplaceLock); err != nil {
		t.Fatal(err)
	}
	if _, err := replacement(l.pool, next).Apply(t.Context()); !errors.Is(err, sealing.ErrBrokersRun) {
		t.Errorf("beside another: %v", err)
	}
	if _, err := installation.OpenRoot(t.Context(), l.pool, l.former, installationID); !errors.Is(err, installation.ErrReplacing) {
		t.Errorf("a broker started while keys were being replaced: %v", err)
	}
	if _, err := conn.Exec(t.Context(), `SELECT pg_advisory_unlock($1)`, installation.ReplaceLock); err != nil {
		t.Fatal(err)
	}
	conn.Release()

	// While the HSM is away, nothing is given up for lost.
	l.former.set(true)
	if _, err := replacement(l.pool, nil, l.former).Plan(t.Context()); !errors.Is(err, errAway) {
		t.Errorf("with an HSM that is away: %v", err)
	}
	if snapshot(t, l.pool) != before {
		t.Error("something was changed")
	}
	if _, err := replacement(newPool(t), next).Plan(t.Context()); err == nil {
		t.Error("an installation that was never started was replaced")
	}
}
