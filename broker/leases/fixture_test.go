package leases_test

import (
	"context"
	"crypto/rand"
	"maps"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/issuers"
)

func TestMain(m *testing.M) { os.Exit(devtest.Main(m)) }

// fixture is a store on a database of its own.
type fixture struct {
	*leases.Store
	pool     *pgxpool.Pool
	recorder *audit.Recorder
	settings leases.Config
	skew     time.Duration // added to the broker's clock
}

func newFixture(t *testing.T, change ...func(*leases.Config)) *fixture {
	t.Helper()
	config, err := pgxpool.ParseConfig(devtest.Migrated(t))
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(config.ConnConfig.RuntimeParams, leases.PlannerSettings())
	return newFixtureOn(t, config, change...)
}

// newFixtureOn is the same on a migrated database that the test has.
func newFixtureOn(t *testing.T, config *pgxpool.Config, change ...func(*leases.Config)) *fixture {
	t.Helper()
	config.MaxConns = 8
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	root, err := keys.NewRoot()
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{pool: pool}
	if f.recorder, err = audit.New(audit.Config{Installation: "0123456789ab", Tenant: "main", MAC: root.Hasher(keys.AuditMACs)}); err != nil {
		t.Fatal(err)
	}
	settings := leases.Config{
		Pool: pool, Audit: f.recorder, Handles: root.RowSealer(), Claims: root.Hasher(keys.SessionClaims), Installation: "0123456789ab", Tenant: "main",
		Now: func() time.Time { return time.Now().Add(f.skew) },
	}
	for _, c := range change {
		c(&settings)
	}
	if f.Store, err = leases.Open(t.Context(), settings); err != nil {
		t.Fatal(err)
	}
	f.settings = settings
	t.Cleanup(f.Close)
	t.Cleanup(func() { f.checkInvariants(t) })
	return f
}

// join is the store of another broker on the same database.
func (f *fixture) join(t *testing.T) *leases.Store {
	t.Helper()
	s, err := leases.Open(t.Context(), f.settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// count runs a query for one number.
func (f *fixture) count(t *testing.T, sql string, args ...any) int {
	t.Helper()
	var n int
	if err := f.pool.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// job is a job token's session, not yet opened.
func (f *fixture) job() leases.Session {
	now := f.Now()
	s := leases.Session{
		ID: ids.New(ids.Session, now), Provider: "github", Issuer: "https://issuer.example", Subject: "repo:a/b", Claims: []byte(`{"sub":"repo:a/b"}`),
		OpenedAt: now, ExpiresAt: now.Add(time.Hour), TokenExpiresAt: now.Add(5 * time.Minute),
	}
	_, _ = rand.Read(s.TokenDigest[:])
	return s
}

func (f *fixture) reservation(session leases.Session, grants ...string) *leases.Reservation {
	now := f.Now()
	session.ID = ids.New(ids.Session, now) // as the broker does: which one counts is decided by the token
	r := &leases.Reservation{Now: now, Session: session, Token: leases.Token{KeyID: "k", Grants: grants}}
	_, _ = rand.Read(r.Token.Hash[:])
	for _, g := range grants {
		r.Leases = append(r.Leases, leases.NewLease{
			ID: ids.New(ids.Lease, now), Policy: "payments", Grant: g, Job: "release", PolicyDigest: "d", Issuer: "db", Role: "deployer",
			Kind: "postgres", Target: "db/payments", Revocation: issuers.Immediate, ExpiresAt: now.Add(time.Minute), MaxExpiresAt: now.Add(10 * time.Minute),
			TTL: time.Minute, Renewable: true, IssueDeadline: now.Add(10 * time.Second), SettledAt: now.Add(15 * time.Second),
		})
	}
	return r
}

func (f *fixture) reserve(t *testing.T, grants ...string) *leases.Reservation {
	t.Helper()
	r := f.reservation(f.job(), grants...)
	if err := f.Reserve(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	return r
}

func (f *fixture) activate(t *testing.T, r *leases.Reservation) {
	t.Helper()
	if err := f.Activate(t.Context(), activation(f, r)); err != nil {
		t.Fatal(err)
	}
}

func activation(f *fixture, r *leases.Reservation) *leases.Activation {
	a := &leases.Activation{Now: f.Now(), Actor: "job"}
	for _, l := range r.Leases {
		a.Leases = append(a.Leases, leases.Minted{ID: l.ID, Handle: []byte("handle of " + l.ID)})
	}
	return a
}

func (f *fixture) state(t *testing.T, id string) leases.State {
	t.Helper()
	l, err := f.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return l.State
}

// due makes everything due now, as if time had passed.
func (f *fixture) due(t *testing.T) {
	t.Helper()
	if _, err := f.pool.Exec(t.Context(), `UPDATE leases SET due_at = now() - interval '1 second' WHERE due_at IS NOT NULL`); err != nil {
		t.Fatal(err)
	}
}

// checkInvariants is what must hold after any test, whatever it did.
func (f *fixture) checkInvariants(t *testing.T) {
	ctx := context.WithoutCancel(t.Context())
	for name, query := range map[string]string{
		"a lease without its events":          `SELECT id FROM leases l WHERE events <> (SELECT count(*) FROM audit_events e WHERE e.subject = l.id) OR events <> (SELECT max(count) FROM audit_events e WHERE e.subject = l.id)`,
		"a session without its events":        `SELECT id FROM sessions s WHERE events <> (SELECT count(*) FROM audit_events e WHERE e.subject = s.id)`,
		"an event of nothing":                 `SELECT subject FROM audit_events e WHERE type NOT LIKE 'policies.%' AND type <> 'leases.expired' AND type <> 'token.jti_reused' AND NOT EXISTS (SELECT FROM leases l WHERE l.id = e.subject) AND NOT EXISTS (SELECT FROM sessions s WHERE s.id = e.subject)`,
		"an ended lease without its one end":  `SELECT id FROM leases l WHERE state IN ('revoked', 'expired', 'forgotten') AND 1 <> (SELECT count(*) FROM audit_events e WHERE e.subject = l.id AND type = 'lease.' || l.state) + (SELECT count(*) FROM audit_events e WHERE type = 'leases.expired' AND (e.body::jsonb #> '{data,leases}') ? l.id)`,
		"a live lease with an end":            `SELECT id FROM leases l WHERE state IN ('issuing', 'active', 'revoking') AND EXISTS (SELECT FROM audit_events e WHERE e.subject = l.id AND (type IN ('lease.revoked', 'lease.expired', 'lease.forgotten'))) OR state <> 'expired' AND EXISTS (SELECT FROM audit_events e WHERE type = 'leases.expired' AND (e.body::jsonb #> '{data,leases}') ? l.id)`,
		"a lease without its session's token": `SELECT id FROM leases l WHERE NOT EXISTS (SELECT FROM session_tokens t WHERE t.hash = l.session_token AND t.session_id = l.session_id)`,
		"a lease without its session":         `SELECT id FROM leases l WHERE NOT EXISTS (SELECT FROM sessions s WHERE s.id = l.session_id)`,
		"a session of nothing":                `SELECT id FROM sessions s WHERE NOT EXISTS (SELECT FROM leases l WHERE l.session_id = s.id)`,
		"two live exchanges of one retry key": `SELECT encode(retry_key, 'hex') FROM session_tokens t WHERE retry_key IS NOT NULL AND created_at > now() - interval '2 minutes' AND EXISTS (SELECT FROM leases l WHERE l.session_token = t.hash AND l.state IN ('issuing', 'active')) GROUP BY 1 HAVING count(*) > 1`,
		"a lease that outlives its session":   `SELECT l.id FROM leases l JOIN sessions s ON s.id = l.session_id WHERE l.expires_at > s.expires_at`,
	} {
		var found []string
		rows, err := f.pool.Query(ctx, query)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for rows.Next() {
			var id string
			if err := rows.Scan(&id); err != nil {
				t.Error(err)
			}
			found = append(found, id)
		}
		if rows.Err() != nil || len(found) > 0 {
			t.Errorf("%s: %v %v", name, found, rows.Err())
		}
	}
	events, err := audit.List(ctx, f.pool, audit.Page{Tenant: "main", Limit: 100_000})
	if err != nil {
		t.Error(err)
	}
	for _, e := range events {
		if err := f.recorder.Verify(e); err != nil {
			t.Error(err)
		}
	}
}
