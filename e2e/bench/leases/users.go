package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/devkit"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/revoker"
	"github.com/daypass/daypass/e2e/bench/rows"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/postgres"
)

const (
	targetDatabase = "target"
	targetGroup    = "bench_deploy"
	targetOwner    = "bench_owner"
	targetRole     = "fast"
	brokerAccount  = "daypass"
	// hands are the connections that take users away: as many as an issuer has
	// where its configuration says nothing.
	hands = 8
)

// target is a database that users are made on and taken from.
type target struct {
	*bench
	server   *devkit.Postgres
	issuer   *postgres.Issuer
	password string
}

// openTarget prepares a target as `daypassd target setup postgres` says.
func (b *bench) openTarget(ctx context.Context, server *devkit.Postgres) (*target, error) {
	if err := server.CreateDatabase(ctx, targetDatabase); err != nil {
		return nil, err
	}
	t := &target{bench: b, server: server, password: rand.Text()}
	roles := map[string]postgres.Role{targetRole: {MemberOf: []string{targetGroup}, Owner: targetOwner, SCRAMIterations: 1}}
	scripts, err := postgres.SetupSQL(postgres.SetupConfig{
		Installation: installation, BrokerUser: brokerAccount, Databases: []string{targetDatabase}, KeepConnect: true, Roles: roles,
	})
	if err != nil {
		return nil, err
	}
	steps := []string{"CREATE ROLE " + targetOwner + " NOLOGIN; CREATE ROLE " + targetGroup + " NOLOGIN; GRANT " + targetOwner + " TO " + targetGroup}
	for _, script := range scripts {
		steps = append(steps, script.SQL)
	}
	steps = append(steps, fmt.Sprintf("ALTER ROLE %s PASSWORD '%s'", brokerAccount, t.password))
	for _, sql := range steps {
		if err := t.admin(ctx, sql); err != nil {
			return nil, fmt.Errorf("preparing the target: %w", err)
		}
	}
	t.issuer, err = postgres.New(ctx, postgres.Config{
		Installation: installation, Roles: roles, MaxConnections: hands,
		Target: postgres.Target{Host: "127.0.0.1", Port: server.Port(), Database: targetDatabase, SSLMode: "disable"},
		Admin:  postgres.Admin{User: brokerAccount, Password: issuers.NewSecret(t.password)},
	})
	return t, err
}

// admin runs statements as the target's superuser.
func (t *target) admin(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, t.server.TCPDSN(targetDatabase))
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // what was written is committed
	_, err = conn.PgConn().Exec(ctx, sql).ReadAll()
	return err
}

// together calls do with the numbers below n, from as many goroutines as there are
// hands, each with a connection of the superuser, and says how long it took.
func (t *target) together(ctx context.Context, n int, do func(conn *pgx.Conn, i int) error) (time.Duration, error) {
	conns := make([]*pgx.Conn, hands)
	for h := range conns {
		conn, err := pgx.Connect(ctx, t.server.TCPDSN(targetDatabase))
		if err != nil {
			return 0, err
		}
		defer conn.Close(ctx) //nolint:errcheck // what was written is committed
		conns[h] = conn
	}
	var next atomic.Int64
	errs := make([]error, hands)
	var working sync.WaitGroup
	began := time.Now()
	for h, conn := range conns {
		working.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && errs[h] == nil; i = int(next.Add(1)) - 1 {
				errs[h] = do(conn, i)
			}
		})
	}
	working.Wait()
	return time.Since(began), errors.Join(errs...)
}

// bare makes n users by the statement alone, and takes them away by the three
// steps that lose nothing, each committed.
func (t *target) bare(ctx context.Context, n, turn int) (made, ended float64, err error) {
	name := func(i int) string { return fmt.Sprintf("bare_%s_%d_%d", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", turn, i) }
	const verifier = "SCRAM-SHA-256$1:AAAAAAAAAAAAAAAAAAAAAA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	until := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	run := func(conn *pgx.Conn, sql string) error {
		_, err := conn.PgConn().Exec(ctx, sql).ReadAll()
		return err
	}
	took, err := t.together(ctx, n, func(conn *pgx.Conn, i int) error {
		return run(conn, fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s' VALID UNTIL '%s' IN ROLE %s", name(i), verifier, until, targetGroup))
	})
	if err != nil {
		return 0, 0, err
	}
	made = float64(n) / took.Seconds()
	took, err = t.together(ctx, n, func(conn *pgx.Conn, i int) error {
		return errors.Join(
			run(conn, "ALTER ROLE "+name(i)+" NOLOGIN"),
			run(conn, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '"+name(i)+"'"),
			run(conn, "REASSIGN OWNED BY "+name(i)+" TO "+targetOwner+"; DROP OWNED BY "+name(i)+"; DROP ROLE "+name(i)))
	})
	return made, float64(n) / took.Seconds(), err
}

// ours makes n users by the product's functions, with leases that are due, and
// lets the revoker take them away.
func (t *target) ours(ctx context.Context, n int) (made, ended float64, err error) {
	now := time.Now()
	leaseIDs := make([]string, n)
	for i := range leaseIDs {
		leaseIDs[i] = ids.New(ids.Lease, now)
	}
	took, err := t.together(ctx, n, func(_ *pgx.Conn, i int) error { return t.issue(ctx, leaseIDs[i], now) })
	if err != nil {
		return 0, 0, err
	}
	made = float64(n) / took.Seconds()
	const fill = `
INSERT INTO leases (id, tenant, session_id, session_token, policy, grant_name, job, policy_digest, issuer, role, kind, target, revocation, provider, subject,
    state, issued_at, expires_at, max_expires_at, ttl_seconds, renewable, issue_deadline, settled_at, due_at, rules, events)
SELECT id, 'main', 'ses_1', '\x00', 'payments', 'deploy', 'release', 'd', 'users', $2, 'postgres', 'target', 'immediate', 'github', 'repo:acme/pay',
    'active', now() - interval '5 minutes', now(), now(), 300, false, now(), now(), now(), '{}', 2 FROM unnest($1::text[]) id`
	if _, err := t.pool.Exec(ctx, fill, leaseIDs, targetRole); err != nil {
		return 0, 0, fmt.Errorf("making leases: %w", err)
	}
	if _, err := t.pool.Exec(ctx, `ANALYZE leases`); err != nil {
		return 0, 0, err
	}
	took, err = t.revoke(ctx, n)
	return made, float64(n) / took.Seconds(), err
}

func (t *target) issue(ctx context.Context, leaseID string, now time.Time) error {
	_, err := t.issuer.Issue(ctx, &issuers.IssueRequest{Lease: issuers.Lease{
		Installation: installation, Tenant: "main", ID: leaseID, Policy: "payments", Grant: "deploy", Role: targetRole,
		IssuedAt: now, ExpiresAt: now.Add(time.Hour), IssueDeadline: now.Add(time.Minute),
	}})
	return err
}

// counted tells when the last of many leases came to its end.
type counted struct {
	left atomic.Int64
	done chan struct{}
	bad  atomic.Int64
}

func (c *counted) Revoked(string, time.Duration) {
	if c.left.Add(-1) == 0 {
		close(c.done)
	}
}

func (c *counted) Failed(string, bool) { c.bad.Add(1) }

// revoke runs the revoker until n leases have ended.
func (t *target) revoke(ctx context.Context, n int) (time.Duration, error) {
	seen := &counted{done: make(chan struct{})}
	seen.left.Store(int64(n))
	r, err := revoker.New(revoker.Config{
		Store: t.store, Installation: installation, Issuers: map[string]issuers.Issuer{"users": t.issuer}, Workers: hands, Observe: seen,
	})
	if err != nil {
		return 0, err
	}
	ctx, stop := context.WithTimeoutCause(ctx, 5*time.Minute, errors.New("the revoker took more than five minutes"))
	defer stop()
	running, end := context.WithCancel(ctx)
	var working sync.WaitGroup
	began := time.Now()
	working.Go(func() { r.Run(running) })
	select {
	case <-seen.done:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	took := time.Since(began)
	end()
	working.Wait()
	if bad := seen.bad.Load(); bad > 0 {
		err = errors.Join(err, fmt.Errorf("%d tries failed", bad))
	}
	return took, err
}

// makeAlive makes users that live beside those that are measured.
func (t *target) makeAlive(ctx context.Context, n int) error {
	now := time.Now()
	_, err := t.together(ctx, n, func(_ *pgx.Conn, _ int) error { return t.issue(ctx, ids.New(ids.Lease, now), now) })
	return err
}

// measure lets the bare statements and the broker take turns at making users and
// taking them away, with few users alive beside them and then with many.
func (t *target) measure(ctx context.Context, n, turns, alive int) ([]rows.Row, error) {
	suffix := ""
	if alive > 0 {
		suffix = fmt.Sprintf(", %d alive", alive)
	}
	if err := t.makeAlive(ctx, alive); err != nil {
		return nil, err
	}
	var made, ended [2][]float64
	for turn := range turns {
		sides := []func() (float64, float64, error){
			func() (float64, float64, error) { return t.bare(ctx, n, turn) },
			func() (float64, float64, error) { return t.ours(ctx, n) },
		}
		for i := range sides {
			side := (i + turn) % len(sides) // neither always finds the warmer machine
			m, e, err := sides[side]()
			if err != nil {
				return nil, err
			}
			made[side], ended[side] = append(made[side], m), append(ended[side], e)
			if err := t.admin(ctx, "VACUUM pg_authid, pg_auth_members, pg_shdepend, pg_shdescription"); err != nil {
				return nil, err
			}
		}
	}
	pair := func(limit, ours string, of [2][]float64) []rows.Row {
		limit, ours = limit+suffix, ours+suffix
		bare, broker := median(of[0]), median(of[1])
		return []rows.Row{
			{Name: limit, Value: bare, Unit: "1/s", Baseline: limit, Ratio: 1},
			{Name: ours, Value: broker, Unit: "1/s", Baseline: limit, Ratio: broker / bare},
		}
	}
	return append(
		pair("bare CREATE ROLE, 8 connections", "create_user by the issuer, 8 at once", made),
		pair("bare bar, cut, hand over and drop", "revoking database users", ended)...), nil
}

// users measures the broker's users beside the bare statements: with few alive,
// and with as many as the design promises nothing changes with.
func (b *bench) users(ctx context.Context, server *devkit.Postgres, n, turns int) ([]rows.Row, error) {
	t, err := b.openTarget(ctx, server)
	if err != nil {
		return nil, err
	}
	defer t.issuer.Close() //nolint:errcheck // nothing is under way any more
	few, err := t.measure(ctx, n, turns, 0)
	if err != nil {
		return nil, err
	}
	many, err := t.measure(ctx, n, turns, 10*n)
	return append(few, many...), err
}
