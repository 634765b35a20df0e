package migrations_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/migrations"
)

func TestMain(m *testing.M) { os.Exit(devtest.Main(m)) }

func config(t *testing.T) *pgx.ConnConfig {
	t.Helper()
	c, err := pgx.ParseConfig(devtest.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func connect(t *testing.T, c *pgx.ConnConfig) *pgx.Conn {
	t.Helper()
	conn, err := pgx.ConnectConfig(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.WithoutCancel(t.Context())) }) //nolint:errcheck // the test is over
	return conn
}

func all() []int64 {
	var versions []int64
	for v := int64(1); v <= migrations.Latest; v++ {
		if v < 8 || v > 10 { // taken by others
			versions = append(versions, v)
		}
	}
	return versions
}

func TestUpTwice(t *testing.T) {
	t.Parallel()
	c := config(t)
	conn := connect(t, c)
	if err := migrations.Check(t.Context(), conn); !errors.Is(err, migrations.ErrTooOld) || !strings.Contains(err.Error(), "daypassd migrate") {
		t.Errorf("an empty database: %v", err)
	}
	applied, err := migrations.Up(t.Context(), c)
	if err != nil || !slices.Equal(applied, all()) {
		t.Fatalf("applied %v, want %v: %v", applied, all(), err)
	}
	if err := migrations.Check(t.Context(), conn); err != nil {
		t.Error(err)
	}
	var id string
	if err := conn.QueryRow(t.Context(), `SELECT id FROM installation`).Scan(&id); err != nil {
		t.Fatal(err)
	}
	if applied, err = migrations.Up(t.Context(), c); err != nil || len(applied) != 0 {
		t.Errorf("once more applied %v: %v", applied, err)
	}
	var after string
	if err := conn.QueryRow(t.Context(), `SELECT id FROM installation`).Scan(&after); err != nil || after != id {
		t.Errorf("the installation was %s and is %s: %v", id, after, err)
	}
}

func TestUpAtOnce(t *testing.T) {
	t.Parallel()
	c := config(t)
	const programs = 4
	var applied [programs][]int64
	var running sync.WaitGroup
	for i := range programs {
		running.Go(func() {
			var err error
			if applied[i], err = migrations.Up(t.Context(), c.Copy()); err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()
	if got := slices.Concat(applied[:]...); !slices.Equal(slices.Sorted(slices.Values(got)), all()) {
		t.Errorf("applied %v, want each version once", applied)
	}
	if err := migrations.Check(t.Context(), connect(t, c)); err != nil {
		t.Error(err)
	}
}

func TestCheckVersions(t *testing.T) {
	t.Parallel()
	c := config(t)
	if _, err := migrations.Up(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, c)
	if _, err := conn.Exec(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES ($1, true)`, migrations.Latest+1); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Check(t.Context(), conn); err != nil {
		t.Errorf("a newer schema: %v", err)
	}
	if applied, err := migrations.Up(t.Context(), c); err != nil || len(applied) != 0 {
		t.Errorf("on a newer schema applied %v: %v", applied, err)
	}
	if _, err := conn.Exec(t.Context(), `DELETE FROM goose_db_version WHERE version_id >= $1`, migrations.Latest); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Check(t.Context(), conn); !errors.Is(err, migrations.ErrTooOld) {
		t.Errorf("a schema without the newest migration: %v", err)
	}
	// One that died before it was put on record runs again.
	if applied, err := migrations.Up(t.Context(), c); err != nil || !slices.Equal(applied, []int64{migrations.Latest}) {
		t.Errorf("once more applied %v: %v", applied, err)
	}
}

// TestSchemaHoldsTheLine: what no program may write, the database refuses.
func TestSchemaHoldsTheLine(t *testing.T) {
	t.Parallel()
	c := config(t)
	if _, err := migrations.Up(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, c)
	if _, err := conn.Exec(t.Context(), `
INSERT INTO sessions (id, tenant, provider, issuer, token_digest, subject, claims, claims_mac, opened_at, expires_at, token_expires_at, events)
VALUES ('ses_1', 'main', 'p', 'i', sha256('a'), 's', '{}', sha256('m'), now(), now() + interval '1 hour', now(), 1);
INSERT INTO leases (id, tenant, session_id, session_token, policy, grant_name, job, policy_digest, issuer, role, kind, target, revocation, provider, subject, state,
    issued_at, expires_at, max_expires_at, ttl_seconds, renewable, issue_deadline, settled_at, due_at, rules, events)
VALUES ('lse_1', 'main', 'ses_1', '', 'p', 'g', 'j', 'd', 'i', '', 'k', 't', 'immediate', 'p', 's', 'active',
    now(), now() + interval '1 minute', now() + interval '2 minutes', 60, true, now(), now(), now(), '{}', 1);
INSERT INTO signing_keys (tenant, number, label, kid, algorithm, bits, public_key, state, created_at, published_at, signs_from, signing_since, events) VALUES
    ('main', 1, 'one', 'k1', 'ES256', 0, '', 'signing', now(), now(), now(), now(), 1), ('main', 2, 'two', 'k2', 'ES256', 0, '', 'published', now(), now(), now(), NULL, 1)`); err != nil {
		t.Fatal(err)
	}
	for name, sql := range map[string]string{
		"an unknown state":               `UPDATE leases SET state = 'lost'`,
		"an ended lease that is due":     `UPDATE leases SET state = 'revoked', ended_at = now()`,
		"an ended lease without its end": `UPDATE leases SET state = 'revoked', due_at = NULL`,
		"a live lease that is never due": `UPDATE leases SET due_at = NULL`,
		"a live lease with an end":       `UPDATE leases SET ended_at = now()`,
		"an active one that is stuck":    `UPDATE leases SET stuck = true`,
		"an end before the beginning":    `UPDATE leases SET expires_at = issued_at`,
		"an end after the latest":        `UPDATE leases SET expires_at = max_expires_at + interval '1 second'`,
		"a lease without events":         `UPDATE leases SET events = 0`,
		"an unknown way to revoke":       `UPDATE leases SET revocation = 'hope'`,
		"the same job token twice": `INSERT INTO sessions (id, tenant, provider, issuer, token_digest, subject, claims, claims_mac, opened_at, expires_at, token_expires_at, events)
SELECT 'ses_2', tenant, provider, issuer, token_digest, subject, claims, claims_mac, opened_at, expires_at, token_expires_at, 1 FROM sessions`,
		"a session without a length": `UPDATE sessions SET expires_at = opened_at`,
		"a short digest":             `UPDATE sessions SET token_digest = 'x'`,
		"a second installation":      `INSERT INTO installation SELECT false, id, system_identifier, database_oid, created_at FROM installation`,
		"a root that is an admin":    `INSERT INTO admin_tokens VALUES ('adm_1', 'main', sha256('a'), 'k', 'root', 'o', 'u', now(), now() + interval '1 hour', NULL, 1)`,
		"an admin without an end":    `INSERT INTO admin_tokens VALUES ('adm_1', 'main', sha256('a'), 'k', 'viewer', 'o', 'u', now(), now(), NULL, 1)`,
		"a jti twice": `INSERT INTO sessions (id, tenant, provider, issuer, token_digest, subject, claims, claims_mac, opened_at, expires_at, token_expires_at, events, jti)
SELECT 'ses_' || n, tenant, provider, issuer, sha256(n::text::bytea), subject, claims, claims_mac, opened_at, expires_at, token_expires_at, 1, sha256('j') FROM sessions, generate_series(2, 3) AS n`,
		"two keys that sign":              `UPDATE signing_keys SET state = 'signing', signing_since = now() WHERE number = 2`,
		"two keys on their way":           `INSERT INTO signing_keys (tenant, number, label, algorithm, bits, state, created_at, events) VALUES ('main', 3, 'three', 'ES256', 0, 'making', now(), 1)`,
		"a label used again":              `UPDATE signing_keys SET label = 'one'`,
		"a key that ended without a word": `UPDATE signing_keys SET state = 'retired', ended_at = now()`,
		"a key that retires from nothing": `UPDATE signing_keys SET state = 'retiring', retiring_since = now() WHERE number = 2`,
		"a published key without an id":   `UPDATE signing_keys SET kid = NULL`,
		"a key destroyed before its end":  `UPDATE signing_keys SET destroyed_at = now()`,
		"a jti in the clear":              `UPDATE sessions SET jti = 'x'`,
		"a job key in the clear":          `UPDATE leases SET job_key = 'x'`,
		"a tenant in the clear":           `UPDATE leases SET whose = 'x'`,
		"a token in the clear":            `INSERT INTO session_tokens VALUES ('dps_x', 'k', 'ses_1', '{}', now(), NULL)`,
	} {
		if _, err := conn.Exec(t.Context(), sql); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}
