// Command leases measures what it costs to end leases, each beside a limit of the
// same run:
//
//	go run ./e2e/bench/leases -only sweep -out build/bench/bench-leases.json
//
// A sweep of leases that came to their end stands beside the bare UPDATE that
// claims and ends as many rows, and beside the same with an event for each. The
// lag is how long after its end each of many leases was ended that all fall due
// within one second. Database users that fall due at once are taken away by the
// broker beside the bare statements that lose nothing, on the same target and over
// as many connections.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/devkit"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/revoker"
	"github.com/daypass/daypass/e2e/bench/rows"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/migrations"
)

func main() {
	debug.SetGCPercent(400) // as daypassd does
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench-leases:", err)
		os.Exit(1)
	}
}

// bench is a store on a database of its own.
type bench struct {
	pool  *pgxpool.Pool
	store *leases.Store
}

const installation = "0123456789ab"

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("bench-leases", flag.ContinueOnError)
	file := flags.String("out", "", "file to add the rows to, as JSON; its folder is made (empty: none)")
	only := flags.String("only", "", "sweep, lag or users; empty: all")
	n := flags.Int("n", 10_000, "leases of one slice")
	turns := flags.Int("slices", 5, "slices of each side of a row")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *n < 1 || *turns < 1 || !slices.Contains([]string{"", "sweep", "lag", "users"}, *only) {
		return errors.New("-n and -slices are at least 1, -only is sweep, lag or users")
	}
	server, err := devkit.StartPostgres(ctx, devkit.PostgresConfig{Ephemeral: true, TCP: true, Settings: map[string]string{"fsync": "on", "synchronous_commit": "on"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop(context.WithoutCancel(ctx))) }()
	b, err := open(ctx, server)
	if err != nil {
		return err
	}
	defer b.pool.Close()
	defer b.store.Close()
	var measured []rows.Row
	for _, part := range []struct {
		name string
		do   func() ([]rows.Row, error)
	}{
		{"sweep", func() ([]rows.Row, error) { return b.sweep(ctx, *n, *turns) }},
		{"lag", func() ([]rows.Row, error) { return b.lag(ctx, *n) }},
		{"users", func() ([]rows.Row, error) { return b.users(ctx, server, max(1, *n/10), *turns) }},
	} {
		if *only != "" && *only != part.name {
			continue
		}
		some, err := part.do()
		if err != nil {
			return fmt.Errorf("measuring %s: %w", part.name, err)
		}
		measured = append(measured, some...)
	}
	for _, r := range measured {
		if _, err := fmt.Fprintf(out, "%-52s %12.3f %-5s %6.2f of %s\n", r.Name, r.Value, r.Unit, r.Ratio, r.Baseline); err != nil {
			return err
		}
	}
	if *file == "" {
		return nil
	}
	return rows.Add(*file, measured)
}

func open(ctx context.Context, server *devkit.Postgres) (*bench, error) {
	if err := server.CreateDatabase(ctx, "leases"); err != nil {
		return nil, err
	}
	config, err := pgxpool.ParseConfig(server.DSN("leases"))
	if err != nil {
		return nil, err
	}
	config.MaxConns = 16
	maps.Copy(config.ConnConfig.RuntimeParams, leases.PlannerSettings())
	if _, err := migrations.Up(ctx, config.ConnConfig.Copy()); err != nil {
		return nil, err
	}
	b := &bench{}
	if b.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, err
	}
	root, err := keys.NewRoot()
	if err != nil {
		return nil, err
	}
	recorder, err := audit.New(audit.Config{Installation: installation, Tenant: "main", MAC: root.Hasher(keys.AuditMACs)})
	if err != nil {
		return nil, err
	}
	b.store, err = leases.Open(ctx, leases.Config{
		Pool: b.pool, Audit: recorder, Handles: root.RowSealer(), Claims: root.Hasher(keys.SessionClaims), Installation: installation, Tenant: "main", Now: time.Now,
	})
	return b, err
}

// fill makes n leases of an issuer that fall due one after the other within a
// time, from a moment on.
func (b *bench) fill(ctx context.Context, issuer string, n int, from, within time.Duration) error {
	const fill = `
INSERT INTO leases (id, tenant, session_id, session_token, policy, grant_name, job, policy_digest, issuer, role, kind, target, revocation, provider, subject,
    state, issued_at, expires_at, max_expires_at, ttl_seconds, renewable, issue_deadline, settled_at, due_at, rules, events)
SELECT $5 || $1 || lpad(i::text, 8, '0'), 'main', 'ses_1', '\x00', 'payments', 'sign', 'release', 'd', $1, '', 'jwt', 'https://example.com', 'expiry', 'github', 'repo:acme/pay',
    'active', now() - interval '5 minutes', at, at, 300, false, now(), now(), at, '{}', 1
FROM (SELECT i, now() + $3::interval + i * ($4::interval / $2::int) AS at FROM generate_series(1, $2::int) i) of`
	if _, err := b.pool.Exec(ctx, fill, issuer, n, from, within, ids.From(ids.Lease, time.Now())[:14]); err != nil {
		return fmt.Errorf("making leases: %w", err)
	}
	_, err := b.pool.Exec(ctx, `ANALYZE leases`)
	return err
}

const (
	bareUpdate = `
WITH due AS MATERIALIZED (SELECT id FROM leases WHERE issuer = $1 AND due_at <= now() ORDER BY due_at LIMIT 1000 FOR UPDATE SKIP LOCKED)
UPDATE leases l SET state = 'expired', due_at = NULL, ended_at = now() FROM due WHERE l.id = due.id RETURNING l.id`
	withEvents = `
WITH due AS MATERIALIZED (SELECT id FROM leases WHERE issuer = $1 AND due_at <= now() ORDER BY due_at LIMIT 1000 FOR UPDATE SKIP LOCKED),
done AS (UPDATE leases l SET state = 'expired', due_at = NULL, ended_at = now(), events = 2 FROM due WHERE l.id = due.id RETURNING l.id)
INSERT INTO audit_events (id, at, tenant, type, subject, count, body, leaf, mac, key_id)
SELECT 'evt_' || id, now(), 'main', 'lease.expired', id, 2, repeat('x', 250), sha256(id::bytea), sha256(id::bytea), 'k' FROM done RETURNING id`
)

// sweep lets the two sides take turns, and takes the median of each.
func (b *bench) sweep(ctx context.Context, n, turns int) ([]rows.Row, error) {
	bare := func(sql string) func(string) (int, error) {
		return func(issuer string) (int, error) {
			tag, err := b.pool.Exec(ctx, sql, issuer)
			return int(tag.RowsAffected()), err
		}
	}
	sides := []func(string) (int, error){bare(bareUpdate), bare(withEvents), func(issuer string) (int, error) {
		swept, err := b.store.Sweep(ctx, issuer, leases.MaxSweep)
		return len(swept), err
	}}
	rates := make([][]float64, len(sides))
	for turn := range turns {
		for s, side := range sides {
			issuer := fmt.Sprintf("s%d-%d", s, turn)
			if err := b.fill(ctx, issuer, n, -time.Minute, time.Second); err != nil {
				return nil, err
			}
			began, done := time.Now(), 0
			for done < n {
				some, err := side(issuer)
				if err != nil {
					return nil, err
				}
				if some == 0 {
					return nil, fmt.Errorf("side %d ended %d leases of %d", s, done, n)
				}
				done += some
			}
			rates[s] = append(rates[s], float64(done)/time.Since(began).Seconds())
		}
	}
	limit := median(rates[0])
	const name = "bare UPDATE … RETURNING of a thousand"
	return []rows.Row{
		{Name: name, Value: limit, Unit: "1/s", Baseline: name, Ratio: 1},
		{Name: "the same with an event for each", Value: median(rates[1]), Unit: "1/s", Baseline: name, Ratio: median(rates[1]) / limit},
		{Name: "sweep", Value: median(rates[2]), Unit: "1/s", Baseline: name, Ratio: median(rates[2]) / limit},
	}, nil
}

func median(of []float64) float64 {
	slices.Sort(of)
	return of[len(of)/2]
}

// nothing is an issuer of which nothing is asked.
type nothing struct{ issuers.Issuer }

func (b *bench) lag(ctx context.Context, n int) ([]rows.Row, error) {
	r, err := revoker.New(revoker.Config{Store: b.store, Installation: installation, Issuers: map[string]issuers.Issuer{"lag": nothing{}}})
	if err != nil {
		return nil, err
	}
	if err := b.fill(ctx, "lag", n, 3*time.Second, time.Second); err != nil {
		return nil, err
	}
	ctx, stop := context.WithTimeoutCause(ctx, time.Minute, errors.New("the revoker took more than a minute"))
	defer stop()
	running, end := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() { r.Run(running) })
	for left := n; left > 0 && ctx.Err() == nil; {
		time.Sleep(20 * time.Millisecond)
		if err := b.pool.QueryRow(ctx, `SELECT count(*) FROM leases WHERE issuer = 'lag' AND ended_at IS NULL`).Scan(&left); err != nil {
			break
		}
	}
	end()
	done.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	found, err := b.pool.Query(ctx, `SELECT ended_at - expires_at FROM leases WHERE issuer = 'lag' ORDER BY 1`)
	if err != nil {
		return nil, err
	}
	all, err := pgx.CollectRows(found, pgx.RowTo[time.Duration])
	if err != nil {
		return nil, err
	}
	const name = "one second"
	row := func(what string, of time.Duration) rows.Row {
		return rows.Row{Name: "lag after expiry, " + what, Value: float64(of.Microseconds()) / 1000, Unit: "ms", Baseline: name, Ratio: of.Seconds()}
	}
	return []rows.Row{
		{Name: name, Value: 1000, Unit: "ms", Baseline: name, Ratio: 1},
		row("p50", all[len(all)/2]), row("p99", all[len(all)*99/100]),
	}, nil
}
