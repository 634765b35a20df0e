package fsck_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/broker/fsck"
	"github.com/daypass/daypass/broker/ids"
)

func TestMain(m *testing.M) { os.Exit(devtest.Main(m)) }

// house is a broker that has done some of everything, and rests.
func house(t *testing.T) *brokertest.Broker {
	t.Helper()
	b := brokertest.New(t, brokertest.Options{})
	b.Admin(admin.Operator)
	for range 3 {
		b.Exchange(b.Job(), "payments/deploy-db", "payments/sign")
	}
	for range 2 {
		given := b.Exchange(b.Job(), "payments/deploy-db", "payments/sign")
		if answer := b.Do("POST", api.PathSessionRevoke, given.Session.Token, nil); answer.Status != 200 {
			t.Fatalf("giving a session back: %d", answer.Status)
		}
	}
	b.StopWork()
	return b
}

// live lists what stands on the target.
func live(b *brokertest.Broker) fsck.Lister {
	return func(_ context.Context, yield func(fsck.Existing) error) error {
		for _, id := range b.DB.Live() {
			if err := yield(fsck.Existing{LeaseID: id, Name: "dp_" + id}); err != nil {
				return err
			}
		}
		return nil
	}
}

func settings(b *brokertest.Broker, pool fsck.Pool) fsck.Config {
	return fsck.Config{
		Pool: pool, Tenant: "main", Verify: b.Base.Recorder.Verify, Targets: map[string]fsck.Lister{brokertest.IssuerDB: live(b)},
		Unlisted: map[string]string{brokertest.IssuerJWT: "nothing stands anywhere"}, Pause: time.Millisecond, Batch: 3, // more than one page of everything
	}
}

func look(t *testing.T, config fsck.Config) *fsck.Report {
	t.Helper()
	report, err := fsck.Run(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// broken are the rules that a report says are broken, with how many rows break each.
func broken(report *fsck.Report) map[string]int {
	found := map[string]int{}
	for _, f := range report.Findings {
		found[f.Check]++
	}
	return found
}

// TestEachRuleIsLookedAt: a database is changed behind the broker's back in one
// way after the other, and exactly that is found.
func TestEachRuleIsLookedAt(t *testing.T) {
	t.Parallel()
	b := house(t)
	active, revoked := `(SELECT min(id) FROM leases WHERE state = 'active' AND kind = 'postgres')`, `(SELECT min(id) FROM leases WHERE state = 'revoked')`
	expired := `(SELECT min(id) FROM leases WHERE state = 'expired')`
	drop := `DO $$ DECLARE c record; BEGIN
    FOR c IN SELECT conname FROM pg_constraint WHERE conrelid = 'leases'::regclass AND contype = 'c' LOOP EXECUTE 'ALTER TABLE leases DROP CONSTRAINT ' || quote_ident(c.conname); END LOOP;
END $$; `
	for name, c := range map[string]struct {
		sql  string
		want map[string]int
	}{
		"nothing": {`SELECT`, nil},
		"an active lease that is past its end": {
			`UPDATE leases SET issued_at = now() - interval '1 hour', expires_at = now() - interval '2 minutes', due_at = now() - interval '2 minutes' WHERE id = ` + active,
			map[string]int{fsck.CheckOverdue: 1},
		},
		"one that has just come to its end": {
			`UPDATE leases SET issued_at = now() - interval '1 hour', expires_at = now() - interval '5 seconds', due_at = now() - interval '5 seconds' WHERE id = ` + active, nil,
		},
		"an issuing lease past what it may take": {
			`UPDATE leases SET state = 'issuing', settled_at = now() - interval '2 minutes', due_at = now() - interval '2 minutes' WHERE id = ` + active,
			map[string]int{fsck.CheckOverdue: 1},
		},
		"a revocation that nobody tries": {
			`UPDATE leases SET state = 'revoking', due_at = now() - interval '2 minutes' WHERE id = ` + active, map[string]int{fsck.CheckOverdue: 1},
		},
		"a revocation that is stuck": {
			`UPDATE leases SET state = 'revoking', due_at = now() + interval '2 minutes', stuck = true, last_error = 'no' WHERE id = ` + active, map[string]int{fsck.CheckStuck: 1},
		},
		"a lease that is never due": {drop + `UPDATE leases SET due_at = NULL WHERE id = ` + active, map[string]int{fsck.CheckState: 1}},
		"an ended lease that is due": {
			drop + `UPDATE leases SET due_at = now() WHERE id = ` + revoked, map[string]int{fsck.CheckState: 1},
		},
		"an ended lease without its end": {drop + `UPDATE leases SET ended_at = NULL WHERE id = ` + expired, map[string]int{fsck.CheckState: 1}},
		"a live lease with an end":       {drop + `UPDATE leases SET ended_at = now() WHERE id = ` + active, map[string]int{fsck.CheckState: 1}},
		"an ended lease that is stuck": {
			drop + `UPDATE leases SET stuck = true WHERE id = ` + revoked, map[string]int{fsck.CheckState: 1, fsck.CheckStuck: 1},
		},
		"a lease that is due long after its end": {
			`UPDATE leases SET due_at = expires_at + interval '2 minutes' WHERE id = ` + active, map[string]int{fsck.CheckState: 1},
		},
		"a deadline that nobody looks at": {
			`UPDATE leases SET state = 'issuing', settled_at = now(), due_at = now() + interval '2 minutes' WHERE id = ` + active, map[string]int{fsck.CheckState: 1},
		},
		"a session that is gone": {
			`DELETE FROM sessions WHERE id = (SELECT session_id FROM leases WHERE id = ` + active + `)`,
			map[string]int{fsck.CheckSession: 2, fsck.CheckReference: 1, fsck.CheckSubject: 1},
		},
		"a lease that is gone": {
			`DELETE FROM leases WHERE id = ` + revoked, map[string]int{fsck.CheckSubject: 4, fsck.CheckReference: 2},
		},
		"a live lease that is gone": {
			`DELETE FROM leases WHERE id = ` + active, map[string]int{fsck.CheckSubject: 2, fsck.CheckReference: 2, fsck.CheckOrphan: 1},
		},
		"an event that is gone":       {`DELETE FROM audit_events WHERE count = 1 AND subject = ` + active, map[string]int{fsck.CheckEvents: 1}},
		"the event of an end gone":    {`DELETE FROM audit_events WHERE type = 'lease.revoked' AND subject = ` + revoked, map[string]int{fsck.CheckEvents: 1, fsck.CheckEnd: 1}},
		"a count that was raised":     {`UPDATE leases SET events = events + 1 WHERE id = ` + active, map[string]int{fsck.CheckEvents: 1}},
		"a count that was lowered":    {`UPDATE leases SET events = events - 1 WHERE id = ` + active, map[string]int{fsck.CheckEvents: 1}},
		"a place that was changed":    {`UPDATE audit_events SET count = 7 WHERE count = 1 AND subject = ` + active, map[string]int{fsck.CheckEvents: 1, fsck.CheckEvent: 1}},
		"another end than its events": {`UPDATE leases SET state = 'expired' WHERE id = ` + revoked, map[string]int{fsck.CheckEnd: 1}},
		"an ended lease brought back": {
			`UPDATE leases SET state = 'active', ended_at = NULL, due_at = expires_at WHERE id = ` + revoked, map[string]int{fsck.CheckEnd: 1, fsck.CheckGone: 1},
		},
		"a live lease called ended": {
			`UPDATE leases SET state = 'revoked', ended_at = now(), due_at = NULL WHERE id = ` + active, map[string]int{fsck.CheckEnd: 1, fsck.CheckOrphan: 1},
		},
		"a session given back without an event": {
			`UPDATE sessions SET revoked_at = now() WHERE id = (SELECT session_id FROM leases WHERE id = ` + active + `)`, map[string]int{fsck.CheckEnd: 1},
		},
		"a session that was brought back": {
			`UPDATE sessions SET revoked_at = NULL WHERE id = (SELECT session_id FROM leases WHERE id = ` + revoked + `)`, map[string]int{fsck.CheckEnd: 1},
		},
		"an admin token without its event": {`DELETE FROM audit_events WHERE type = 'admin_token.created'`, map[string]int{fsck.CheckEvents: 1}},
		"a leak without its event": {
			`INSERT INTO leaks (id, tenant, value, source, subject, live, actor, seen_at, events)
SELECT 'lek_01J00000000000000000000000', tenant, sha256('x'), 's', id, true, 'a', now(), 1 FROM leases LIMIT 1`,
			map[string]int{fsck.CheckEvents: 1},
		},
		"an event that says something else": {
			`UPDATE audit_events SET body = replace(body, 'daypassd', 'somebody') WHERE type = 'lease.revoked' AND subject = ` + revoked, map[string]int{fsck.CheckEvent: 1},
		},
		"an event that was made up": {
			`INSERT INTO audit_events SELECT id || 'x', at, tenant, 'lease.renewed', subject, count + 1, body, leaf, mac, key_id FROM audit_events WHERE type = 'lease.issued' AND subject = ` + active,
			map[string]int{fsck.CheckEvent: 1, fsck.CheckEvents: 1},
		},
		"a MAC that was changed": {
			`UPDATE audit_events SET mac = set_byte(mac, 0, 255 - get_byte(mac, 0)) WHERE type = 'lease.issued' AND subject = ` + active, map[string]int{fsck.CheckEvent: 1},
		},
		"a fingerprint of nothing": {
			`INSERT INTO fingerprints SELECT sha256('x'), 'lse_01J00000000000000000000000', field, key_id, scheme, created_at FROM fingerprints LIMIT 1`, map[string]int{fsck.CheckReference: 1},
		},
		"a session token of nothing": {
			`INSERT INTO session_tokens (hash, key_id, session_id, grants, created_at) VALUES (sha256('x'), 'k', 'ses_01J00000000000000000000000', '{}', now())`,
			map[string]int{fsck.CheckReference: 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			tx, err := b.Base.Pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // what was changed is taken back
			if _, err := tx.Conn().PgConn().Exec(t.Context(), c.sql).ReadAll(); err != nil {
				t.Fatal(err)
			}
			report := look(t, settings(b, tx))
			if found := broken(report); !maps.Equal(found, c.want) {
				t.Errorf("found %v, want %v\n%+v", found, c.want, report.Findings)
			}
			for _, f := range report.Findings {
				if f.Where == "" || f.What == "" || f.Hint == "" {
					t.Errorf("a finding that is no help: %+v", f)
				}
			}
		})
	}
}

func TestTargets(t *testing.T) {
	t.Parallel()
	b := house(t)
	var standing []fsck.Existing
	if err := live(b)(t.Context(), func(e fsck.Existing) error { standing = append(standing, e); return nil }); err != nil || len(standing) != 3 {
		t.Fatalf("%v %v", standing, err)
	}
	unknown := fsck.Existing{LeaseID: ids.New(ids.Lease, time.Now()), Name: "dp_unknown"}
	for name, c := range map[string]struct {
		first, second []fsck.Existing
		want          map[string]int
	}{
		"all is there":                        {standing, standing, nil},
		"one that no lease knows":             {append(slices.Clone(standing), unknown), append(slices.Clone(standing), unknown), map[string]int{fsck.CheckOrphan: 1}},
		"one whose name says nothing":         {append(slices.Clone(standing), fsck.Existing{Name: "dp_x"}), append(slices.Clone(standing), fsck.Existing{Name: "dp_x"}), map[string]int{fsck.CheckOrphan: 1}},
		"one that was on its way out":         {append(slices.Clone(standing), unknown), standing, nil},
		"one is gone":                         {standing[:2], standing[:2], map[string]int{fsck.CheckGone: 1}},
		"one came while it was listed":        {standing[:2], standing, nil},
		"one came late and another went away": {standing[:2], standing[1:], nil},
	} {
		t.Run(name, func(t *testing.T) {
			config, lists := settings(b, b.Base.Pool), [][]fsck.Existing{c.first, c.second}
			config.Targets = map[string]fsck.Lister{brokertest.IssuerDB: func(_ context.Context, yield func(fsck.Existing) error) error {
				for _, e := range lists[0] {
					if err := yield(e); err != nil {
						return err
					}
				}
				lists = lists[1:]
				return nil
			}}
			if found := broken(look(t, config)); !maps.Equal(found, c.want) {
				t.Errorf("found %v, want %v", found, c.want)
			}
		})
	}
	config := settings(b, b.Base.Pool)
	config.Targets[brokertest.IssuerOther] = config.Targets[brokertest.IssuerDB]
	config.Targets[brokertest.IssuerDB] = func(context.Context, func(fsck.Existing) error) error { return errors.New("nobody is at home") }
	// The others are looked at all the same. What one issuer's lease knows is no orphan where another one lists it.
	report, err := fsck.Run(t.Context(), config)
	if err == nil || !strings.Contains(err.Error(), "target of db: nobody is at home") || broken(report)[fsck.CheckOrphan] != 0 ||
		!slices.ContainsFunc(report.Walks, func(w fsck.Walk) bool { return strings.Contains(w.Name, brokertest.IssuerOther) && w.Rows == 3 }) {
		t.Errorf("a target that doesn't answer: %v, %+v", err, report)
	}
}

// TestSuspectsAreLookedAtAgain: what is wrong for a moment only is not reported.
func TestSuspectsAreLookedAtAgain(t *testing.T) {
	t.Parallel()
	b := house(t)
	config := settings(b, b.Base.Pool)
	seen := map[string]bool{}
	config.Verify = func(e audit.Event) error {
		if !seen[e.ID] {
			seen[e.ID] = true
			return errors.New("at first sight")
		}
		return nil
	}
	if report := look(t, config); !report.Clean() || len(seen) < 10 {
		t.Errorf("%d events, %+v", len(seen), report.Findings)
	}
	config.Verify = func(audit.Event) error { return errors.New("for good") }
	config.Most = 4
	report := look(t, config)
	events := report.Walks[slices.IndexFunc(report.Walks, func(w fsck.Walk) bool { return w.Name == "audit events" })]
	if found := broken(report); found[fsck.CheckEvent] != 4 || !events.Cut {
		t.Errorf("%v, %+v", found, events)
	}
}

// TestWhatIsOldIsNotMissed: what retention may have dropped is no finding; what is
// younger is.
func TestWhatIsOldIsNotMissed(t *testing.T) {
	t.Parallel()
	b := house(t)
	for kept, want := range map[time.Duration]map[string]int{
		time.Minute:    {fsck.CheckOrphan: 1}, // the target forgets nothing
		24 * time.Hour: {fsck.CheckSubject: 8, fsck.CheckReference: 5, fsck.CheckOrphan: 1, fsck.CheckEvents: 1},
	} {
		tx, err := b.Base.Pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Conn().PgConn().Exec(t.Context(), `
DELETE FROM audit_events WHERE type = 'admin_token.created';
DELETE FROM leases WHERE id IN ((SELECT min(id) FROM leases WHERE state = 'active' AND kind = 'postgres'), (SELECT min(id) FROM leases WHERE state = 'revoked'));
DELETE FROM sessions WHERE id = (SELECT max(id) FROM sessions s WHERE NOT EXISTS (SELECT FROM leases l WHERE l.session_id = s.id AND l.kind = 'postgres'))`).ReadAll(); err != nil {
			t.Fatal(err)
		}
		config := settings(b, tx)
		config.KeptRows, config.KeptEvents = kept, kept
		found := broken(look(t, config))
		delete(found, fsck.CheckSession) // of the other lease of the session
		if !maps.Equal(found, want) {
			t.Errorf("kept for %s: %v, want %v", kept, found, want)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBesideARunningBroker: what comes and goes meanwhile is no finding.
func TestBesideARunningBroker(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			given := b.Exchange(b.Job(), "payments/deploy-db", "payments/sign")
			b.Do("POST", api.PathSessionRevoke, given.Session.Token, nil)
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	config := settings(b, b.Base.Pool)
	config.Batch, config.Pause = 50, 300*time.Millisecond
	for looks, deadline := 0, time.Now().Add(time.Minute); looks < 20 || b.Count(`SELECT count(*) FROM leases`) < 60; looks++ {
		if report := look(t, config); !report.Clean() {
			t.Errorf("%+v", report.Findings)
		}
		if time.Now().After(deadline) {
			t.Error("nothing was going on")
			break
		}
	}
	close(stop)
	<-stopped
}

func TestReport(t *testing.T) {
	t.Parallel()
	b := house(t)
	config := settings(b, b.Base.Pool)
	report := look(t, config)
	rows := map[string]fsck.Walk{}
	for _, w := range report.Walks {
		rows[w.Name] = w
	}
	for name, want := range map[string]int{"leases": 10, "sessions": 5, "session tokens": 5, "admin tokens": 1, "target of db": 3, "fingerprints": 10} {
		if got := rows[name].Rows; got < want {
			t.Errorf("%s: %d rows, want %d", name, got, want)
		}
	}
	for _, name := range []string{"audit log", "target of " + brokertest.IssuerJWT} {
		if rows[name].Skipped == "" {
			t.Errorf("nothing says that %s was left out", name)
		}
	}
	config.Chain = func(context.Context) error { return errors.New("leaf 7 is missing") }
	report = look(t, config)
	if len(report.Findings) != 1 || report.Findings[0].Check != fsck.CheckChain || report.Findings[0].What != "leaf 7 is missing" {
		t.Errorf("a broken chain: %+v", report.Findings)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := fsck.Run(ctx, config); !errors.Is(err, context.Canceled) {
		t.Errorf("told to stop: %v", err)
	}
	for name, broken := range map[string]fsck.Config{
		"no pool": {Tenant: "main", Verify: config.Verify}, "no tenant": {Pool: b.Base.Pool, Verify: config.Verify}, "nothing that verifies": {Pool: b.Base.Pool, Tenant: "main"},
	} {
		if _, err := fsck.Run(t.Context(), broken); err == nil {
			t.Errorf("%s: it ran", name)
		}
	}
	var _ fsck.Pool = pgx.Tx(nil)
}
