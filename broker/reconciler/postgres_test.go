package reconciler_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/devkit"
	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/broker/reconciler"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/postgres"
)

// realServer is a broker whose issuer "real" makes users on a real server.
type realServer struct {
	*fixture

	issuer *postgres.Issuer
	admin  *pgx.Conn // superuser of the target's database
	setup  postgres.SetupConfig
	server *devkit.Postgres
}

const realPolicy = `
policy: payments
owner: payments@example.com
environment: production
jobs:
  - {name: release, provider: github, claims: {repository_id: "74", repository_owner_id: "65", ref: refs/heads/main, event_name: push}}
grants:
  - {name: real, jobs: [release], issuer: real, role: deployer, ttl: 10m}
`

func newReal(tb testing.TB, server *devkit.Postgres, name string) *realServer {
	tb.Helper()
	r := &realServer{server: server}
	ctx := tb.Context()
	if err := server.CreateDatabase(ctx, name); err != nil {
		tb.Fatal(err)
	}
	var err error
	if r.admin, err = pgx.Connect(ctx, server.TCPDSN(name)); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = r.admin.Close(context.WithoutCancel(ctx)) })
	r.exec(tb, fmt.Sprintf("CREATE ROLE group_%s NOLOGIN", name))
	options := brokertest.Options{Idle: true, Policies: map[string]string{"payments.yaml": realPolicy}}
	options.Issuers = func(ctx context.Context, _ string) (map[string]broker.Issuer, error) {
		return map[string]broker.Issuer{"real": {Issuer: r, Target: name, Roles: []string{"deployer"}}}, nil
	}
	b := brokertest.New(tb, options)
	roles := map[string]postgres.Role{"deployer": {MemberOf: []string{"group_" + name}, SCRAMIterations: 1}}
	r.setup = postgres.SetupConfig{
		Installation: b.Installation, BrokerUser: "broker_" + name, Databases: []string{name}, Roles: roles, OwnerRole: "owner_" + name,
	}
	r.install(tb)
	password := issuers.Generate(issuers.Password)
	r.exec(tb, fmt.Sprintf("ALTER ROLE broker_%s PASSWORD '%s'", name, password.Reveal()))
	r.issuer, err = postgres.New(ctx, postgres.Config{
		Installation: b.Installation, Target: postgres.Target{Host: "127.0.0.1", Port: server.Port(), Database: name, SSLMode: "disable"},
		Admin: postgres.Admin{User: "broker_" + name, Password: password}, Roles: roles,
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = r.issuer.Close() })
	r.fixture = &fixture{Broker: b, t: tb}
	r.Exec(`INSERT INTO probes (tenant, issuer, started_at, ended_at) VALUES ('main', 'real', now(), now())`)
	b.Start()
	r.Reconciler = r.another(func(c *reconciler.Config) {
		c.PageSize = 500
		c.Targets = map[string]reconciler.Target{"real": {Issuer: r.issuer}}
	})
	return r
}

// The issuer is opened behind the broker, whose installation it has to know.

// Issue implements issuers.Issuer.
func (r *realServer) Issue(ctx context.Context, req *issuers.IssueRequest) (*issuers.IssueResponse, error) {
	return r.issuer.Issue(ctx, req)
}

// Revoke implements issuers.Issuer.
func (r *realServer) Revoke(ctx context.Context, req *issuers.RevokeRequest) (*issuers.RevokeResponse, error) {
	return r.issuer.Revoke(ctx, req)
}

// Describe implements issuers.Issuer.
func (r *realServer) Describe(string) issuers.Description {
	return issuers.Description{
		Kind: "postgres", Revocation: issuers.Immediate, DefaultTTL: time.Hour, IssueTimeout: 15 * time.Second,
		Values: map[string]bool{"username": false, "password": true, "host": false, "port": false, "database": false, "url": true},
	}
}

func (r *realServer) install(tb testing.TB) {
	tb.Helper()
	scripts, err := postgres.SetupSQL(r.setup)
	if err != nil {
		tb.Fatal(err)
	}
	for _, s := range scripts {
		r.exec(tb, s.SQL)
	}
}

func (r *realServer) exec(tb testing.TB, sql string) {
	tb.Helper()
	if _, err := r.admin.Exec(tb.Context(), sql); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
}

func (r *realServer) users(tb testing.TB, pattern string) int {
	tb.Helper()
	var n int
	if err := r.admin.QueryRow(tb.Context(), `SELECT count(*) FROM pg_roles WHERE rolname LIKE $1`, pattern).Scan(&n); err != nil {
		tb.Fatal(err)
	}
	return n
}

// TestRealServer: users without a lease, leases without a user, another
// installation's users and one that nobody has on record, on one server.
func TestRealServer(t *testing.T) {
	t.Parallel()
	r := newReal(t, devtest.Postgres(t), "reconciled")
	exchange := func() string { return r.Exchange(r.Job(), "payments/real").Credentials[0].LeaseID }
	kept, orphan, dropped := exchange(), exchange(), exchange()
	name := func(id string) string { return "dp_" + r.Installation + "_" + strings.ToLower(id[4:]) }
	r.Exec(`DELETE FROM leases WHERE id = $1`, orphan)
	r.Exec(`DELETE FROM audit_events WHERE subject = $1`, orphan)
	r.exec(t, `UPDATE daypass.users SET created_at = created_at - interval '1 hour'`)
	r.exec(t, `DO $$ BEGIN EXECUTE (SELECT format('DROP ROLE %I', user_name) FROM daypass.users WHERE lease_id = '`+dropped+`'); END $$`)
	foreign := "dp_otherotherot_01j8z3aaaaaaaaaaaaaaaaaaaa_k3m9x0q2"
	r.exec(t, "CREATE ROLE "+foreign)

	run, err := r.RunOnce(t.Context(), "real", reconciler.Options{DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	r.want(run, 2, 1, 0, 1)
	if run, err = r.RunOnce(t.Context(), "real", reconciler.Options{}); err != nil {
		t.Fatal(err)
	}
	r.want(run, 2, 1, 1, 1)
	if r.users(t, name(orphan)+"%") != 0 || r.users(t, name(kept)+"%") != 1 || r.users(t, foreign) != 1 {
		t.Error("the orphan stands, or what isn't one was taken")
	}
	// A user with our name that the target has no record of: told, for an admin to remove.
	stranger := "dp_" + r.Installation + "_01j8z3aaaaaaaaaaaaaaaaaaaa_k3m9x0q2"
	r.exec(t, "CREATE ROLE "+stranger)
	if run, err = r.RunOnce(t.Context(), "real", reconciler.Options{}); err != nil || run.Orphans+run.Young != 1 {
		t.Fatalf("%+v, %v", run, err)
	}
	r.Exec(`UPDATE orphans SET found_at = found_at - interval '1 hour'`)
	if run, err = r.RunOnce(t.Context(), "real", reconciler.Options{}); err == nil || !strings.Contains(err.Error(), stranger) || !strings.Contains(err.Error(), "an admin of the target") {
		t.Errorf("%+v, %v", run, err)
	}
	r.exec(t, "DROP ROLE "+stranger)
	// A target that was set up by an earlier version says what to do.
	r.exec(t, "DROP FUNCTION daypass.list_page(text, text, integer)")
	if _, err = r.RunOnce(t.Context(), "real", reconciler.Options{}); !errors.Is(err, issuers.ErrUnsupported) || !strings.Contains(err.Error(), "daypassd target setup postgres") {
		t.Errorf("%v, want ErrUnsupported and what to do", err)
	}
	r.install(t)
	if run, err = r.RunOnce(t.Context(), "real", reconciler.Options{}); err != nil || run.Orphans != 0 {
		t.Errorf("%+v, %v", run, err)
	}
}

// BenchmarkDryRun compares 10,000 users, of whom as many leases know.
func BenchmarkDryRun(b *testing.B) {
	const users = 10_000
	r := newReal(b, devtest.Postgres(b), "benched")
	r.exec(b, fmt.Sprintf(`
DO $do$
DECLARE n int; v_name text; v_lease text;
BEGIN
    FOR n IN 1..%d LOOP
        v_lease := 'lse_' || lpad(n::text, 26, '0');
        v_name := 'dp_%s_' || lpad(n::text, 26, '0') || '_00000000';
        EXECUTE format('CREATE ROLE %%I LOGIN', v_name);
        INSERT INTO daypass.users (installation, lease_id, role_oid, user_name, role, created_at)
        VALUES ('%[2]s', v_lease, to_regrole(v_name)::oid, v_name, 'deployer', now());
    END LOOP;
END $do$; ANALYZE daypass.users`, users, r.Installation))
	r.Exec(fmt.Sprintf(`
INSERT INTO leases (id, tenant, session_id, session_token, policy, grant_name, job, policy_digest, issuer, role, kind, target, revocation, provider, subject, state,
    issued_at, expires_at, max_expires_at, ttl_seconds, renewable, issue_deadline, settled_at, due_at, rules, events)
SELECT 'lse_' || lpad(n::text, 26, '0'), 'main', 'ses_1', '', 'p', 'g', 'j', 'd', 'real', '', 'k', 't', 'immediate', 'p', 's', 'active',
    now(), now() + interval '1 day', now() + interval '2 days', 60, true, now(), now(), now() + interval '1 day', '{}', 1 FROM generate_series(1, %d) AS n`, users))
	b.Cleanup(func() { r.Exec(`DELETE FROM leases WHERE session_id = 'ses_1'`) })
	for b.Loop() {
		if run, err := r.RunOnce(b.Context(), "real", reconciler.Options{DryRun: true}); err != nil || run.Listed != users || run.Missing != 0 || run.Orphans != 0 {
			b.Fatalf("%+v, %v", run, err)
		}
	}
}
