// Package retention keeps the tables of what happened as large as they have to be:
// it makes their partitions ahead, drops those that are older than they are kept
// for, and deletes what belonged to them.
//
// Leases and audit events are in a partition a week (migrations), so that what is
// old goes as a whole table and costs nothing row by row. What has no partitions
// (sessions, their tokens, reads of secrets) is deleted in small batches, once no
// lease is left that it belongs to; fingerprints and what else old logs are searched
// by, once those logs are no longer kept.
//
// Two rules stand above every age: a partition with a lease that has not ended
// stays, and so does one of audit events that the caller doesn't let go.
//
// Several brokers may run it at once: each step is a transaction under one lock,
// and who doesn't get it leaves the step to the other.
package retention

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2" //nolint:depguard // spreads brokers: nothing secret comes of it
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/ids"
)

// How long things are kept where the configuration doesn't say.
const (
	DefaultLeases = 90 * 24 * time.Hour
	DefaultAudit  = 400 * 24 * time.Hour
	DefaultPrints = 400 * 24 * time.Hour
)

const (
	week = 7 * 24 * time.Hour
	// ahead is how many weeks have their partitions before they begin, and least how
	// many must have: see Health.
	ahead = 8
	least = 2
	// sessionLife is how long after its beginning a session can still get a lease.
	sessionLife = 24 * time.Hour
	// leeway is how far behind a clock may be that a job token's end is told by.
	leeway = time.Hour

	interval  = time.Hour
	firstWait = 2 * time.Minute // at the most: brokers that start together don't come together
	batch     = 1000
	batches   = 200 // of one table, a run
	timeout   = time.Minute
	// lockTimeout is how long a step waits for a table's lock. Exchanges queue behind
	// it: it gives up soon, and comes again with the next run.
	lockTimeout = "300ms"
)

// Observer is told what happened. Its methods must not block.
type Observer interface {
	// PartitionsAhead says for how many weeks a table has partitions.
	PartitionsAhead(table string, weeks int)
	// Dropped counts partitions that went, by table; Deleted counts rows.
	Dropped(table string)
	Deleted(table string, rows int)
	// RetentionFailed counts steps that could not be done, and will be tried again.
	RetentionFailed()
}

type unobserved struct{}

func (unobserved) PartitionsAhead(string, int) {}
func (unobserved) Dropped(string)              {}
func (unobserved) Deleted(string, int)         {}
func (unobserved) RetentionFailed()            {}

// Config of a Keeper.
type Config struct {
	Pool *pgxpool.Pool    // required
	Now  func() time.Time // required: the database's clock
	// How long leases are kept after their week, and audit events; zero: the defaults.
	Leases, Audit time.Duration
	// Prints is how long values are known again: as long as logs are kept in which one
	// could stand. Zero: the default.
	Prints time.Duration
	// Archive detaches what is old instead of dropping it: as a table of its own it
	// can be dumped, and dropped by hand.
	Archive bool
	// Droppable says whether all audit events before an id may go. Nil: none may.
	Droppable func(ctx context.Context, upToID string) (bool, error)
	Observe   Observer     // nil: nobody
	Logger    *slog.Logger // nil: discards
}

// Keeper keeps the tables.
type Keeper struct{ config Config }

// New checks the configuration.
func New(config Config) (*Keeper, error) {
	if config.Pool == nil || config.Now == nil {
		return nil, errors.New("making the keeper of tables: pool and clock are required")
	}
	if config.Leases == 0 {
		config.Leases = DefaultLeases
	}
	if config.Audit == 0 {
		config.Audit = DefaultAudit
	}
	if config.Prints == 0 {
		config.Prints = DefaultPrints
	}
	if config.Audit < config.Leases {
		return nil, errors.New("making the keeper of tables: audit events are kept as long as leases, or longer")
	}
	if config.Observe == nil {
		config.Observe = unobserved{}
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	return &Keeper{config: config}, nil
}

// table is one with partitions.
type table struct {
	name, prefix string
	keep         time.Duration
}

func (k *Keeper) tables() []table {
	return []table{{"leases", ids.Lease, k.config.Leases}, {"audit_events", ids.Event, k.config.Audit}}
}

// Run keeps the tables until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	wait := time.NewTimer(firstWait/2 + rand.N(firstWait/2)) //nolint:gosec // spreads brokers, nothing more
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-wait.C:
			if _, err := k.RunOnce(ctx); err != nil && ctx.Err() == nil {
				k.config.Logger.WarnContext(ctx, "the tables could not all be kept; the next run tries again", "error", err)
			}
			wait.Reset(interval)
		}
	}
}

// Done is what one run did.
type Done struct{ Made, Dropped, Deleted int }

// RunOnce does what there is to do, as far as it can: a step that fails doesn't
// keep the others from being done.
func (k *Keeper) RunOnce(ctx context.Context) (done Done, err error) {
	failed := func(doing string, failure error) {
		if failure != nil {
			k.config.Observe.RetentionFailed()
			err = errors.Join(err, fmt.Errorf("%s: %w", doing, failure))
		}
	}
	now := k.config.Now()
	for _, t := range k.tables() {
		made, failure := k.makeAhead(ctx, t, now)
		done.Made += made
		failed("making partitions of "+t.name, failure)
		dropped, failure := k.dropOld(ctx, t, now)
		done.Dropped += dropped
		failed("dropping partitions of "+t.name, failure)
	}
	deleted, failure := k.deleteOrphans(ctx, now)
	done.Deleted += deleted
	failed("deleting what belonged to dropped leases", failure)
	return done, err
}

// step runs f in a transaction of its own, under the lock of all brokers; not at
// all while another one is at it.
func (k *Keeper) step(ctx context.Context, f func(context.Context, pgx.Tx) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errors.New("it took longer than a minute"))
	defer cancel()
	return pgx.BeginFunc(ctx, k.config.Pool, func(tx pgx.Tx) error {
		const prepare = `SELECT pg_try_advisory_xact_lock(hashtextextended('daypass retention', 0)), set_config('lock_timeout', $1, true), set_config('statement_timeout', '60s', true)`
		var mine bool
		var a, b string
		if err := tx.QueryRow(ctx, prepare, lockTimeout).Scan(&mine, &a, &b); err != nil || !mine {
			return err
		}
		return f(ctx, tx)
	})
}

func (k *Keeper) makeAhead(ctx context.Context, t table, now time.Time) (made int, err error) {
	for n := range ahead + 1 {
		var added bool
		if err = k.step(ctx, func(ctx context.Context, tx pgx.Tx) error {
			return tx.QueryRow(ctx, `SELECT add_partition($1, $2, $3)`, t.name, t.prefix, now.Add(time.Duration(n)*week)).Scan(&added)
		}); err != nil {
			break
		}
		if added {
			made++
		}
	}
	weeks, failure := k.weeksAhead(ctx, t, now)
	if failure == nil {
		k.config.Observe.PartitionsAhead(t.name, weeks)
	}
	return made, errors.Join(err, failure)
}

// partition is one of a table: what it holds lies before End.
type partition struct{ Name, End string }

// list reads a table's partitions, oldest first, without the one of what has no other.
func list(ctx context.Context, conn interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}, of string,
) ([]partition, error) {
	const partitions = `
SELECT relname, last FROM (
    SELECT c.relname, (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''([^'']*)''\)'))[1] AS last
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = $1::text::regclass AND NOT i.inhdetachpending) AS p
WHERE last IS NOT NULL ORDER BY last COLLATE "C"`
	rows, err := conn.Query(ctx, partitions, of)
	if err != nil {
		return nil, fmt.Errorf("listing partitions of %s: %w", of, err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[partition])
	if err != nil {
		return nil, fmt.Errorf("listing partitions of %s: %w", of, err)
	}
	return found, nil
}

// weeksAhead is for how many whole weeks from now on there are partitions.
func (k *Keeper) weeksAhead(ctx context.Context, t table, now time.Time) (int, error) {
	found, err := list(ctx, k.config.Pool, t.name)
	if err != nil || len(found) == 0 {
		return 0, err
	}
	return int(ids.Time(t.prefix, found[len(found)-1].End).Sub(now) / week), nil
}

// Health says whether the partitions of the next two weeks are there. Without
// them rows go to a partition that has to be emptied later.
func (k *Keeper) Health(ctx context.Context) error {
	for _, t := range k.tables() {
		weeks, err := k.weeksAhead(ctx, t, k.config.Now())
		if err != nil {
			return err
		}
		if weeks < least {
			return fmt.Errorf("table %s has partitions for %d weeks (hint: a broker makes them each hour; its log says why it could not)", t.name, weeks)
		}
	}
	return nil
}

// dropOld drops, or detaches, what is older than it is kept for, oldest first, and
// stops at the first that must stay.
func (k *Keeper) dropOld(ctx context.Context, t table, now time.Time) (dropped int, err error) {
	before := ids.From(t.prefix, now.Add(-t.keep))
	for {
		gone := ""
		if err := k.step(ctx, func(ctx context.Context, tx pgx.Tx) error {
			found, err := list(ctx, tx, t.name)
			if err != nil || len(found) == 0 || found[0].End > before {
				return err
			}
			oldest := found[0]
			if goes, err := k.goes(ctx, tx, t, oldest); err != nil || !goes {
				return err
			}
			if err := k.drop(ctx, tx, t, oldest); err != nil {
				return fmt.Errorf("dropping %s: %w", oldest.Name, err)
			}
			gone = oldest.Name
			return nil
		}); err != nil {
			return dropped, err
		}
		if gone == "" {
			return dropped, nil
		}
		dropped++
		k.config.Observe.Dropped(t.name)
		k.config.Logger.InfoContext(ctx, "a partition is older than it is kept for", "partition", gone, "archived", k.config.Archive)
	}
}

func (k *Keeper) goes(ctx context.Context, tx pgx.Tx, t table, p partition) (bool, error) {
	if t.prefix == ids.Event {
		if k.config.Droppable == nil {
			return false, nil
		}
		return k.config.Droppable(ctx, p.End)
	}
	// A lease that has ended never lives again: what is found ended stays so.
	var alive bool
	if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM `+name(p.Name)+` WHERE due_at IS NOT NULL)`).Scan(&alive); err != nil {
		return false, fmt.Errorf("looking for leases that have not ended in %s: %w", p.Name, err)
	}
	if alive {
		k.config.Logger.WarnContext(ctx, "a partition is older than it is kept for and has leases that have not ended: it stays", "partition", p.Name)
	}
	return !alive, nil
}

// drop takes the lock of the whole table for a moment: see lockTimeout.
func (k *Keeper) drop(ctx context.Context, tx pgx.Tx, t table, p partition) error {
	sql := `DROP TABLE ` + name(p.Name)
	if k.config.Archive {
		sql = `ALTER TABLE ` + name(t.name) + ` DETACH PARTITION ` + name(p.Name)
	}
	_, err := tx.Exec(ctx, sql)
	return err
}

func name(table string) string { return pgx.Identifier{table}.Sanitize() }

// deleteOrphans deletes what belonged to leases that are no more. A session that
// began a day before the oldest lease has none left. A job token's row stays until
// the token has run out, whatever became of its leases: it is what a replay is told
// by.
func (k *Keeper) deleteOrphans(ctx context.Context, now time.Time) (deleted int, err error) {
	var oldest string
	const first = `SELECT coalesce((SELECT id FROM leases WHERE id > $1 ORDER BY id LIMIT 1), '')`
	if err := k.config.Pool.QueryRow(ctx, first, ids.From(ids.Lease, time.UnixMilli(0))).Scan(&oldest); err != nil {
		return 0, fmt.Errorf("looking for the oldest lease: %w", err)
	}
	from := now.Add(-k.config.Leases)
	if at := ids.Time(ids.Lease, oldest); oldest != "" && at.Before(from) {
		from = at
	}
	opened := from.Add(-sessionLife - leeway)
	prints := now.Add(-k.config.Prints)
	if prints.After(from) {
		prints = from
	}
	for _, d := range []struct {
		table, sql string
		args       []any
	}{
		{"session_tokens", `ctid = ANY(ARRAY(SELECT ctid FROM session_tokens WHERE created_at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED))`, []any{opened}},
		// Longer than their leases: it is in old logs that values are looked for.
		{"fingerprints", `ctid = ANY(ARRAY(SELECT ctid FROM fingerprints WHERE created_at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED))`, []any{prints.Add(-leeway)}},
		{"leaks", `id IN (SELECT id FROM leaks WHERE id < $1 ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED)`, []any{ids.From(ids.Leak, now.Add(-k.config.Audit))}},
		{"redaction_rules", `id IN (SELECT id FROM redaction_rules WHERE until < $1 ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED)`, []any{prints.Add(-leeway)}},
		{
			"secret_reads", `lease_id IN (SELECT lease_id FROM secret_reads WHERE lease_id < $1 AND ended_at IS NOT NULL ORDER BY lease_id LIMIT $2 FOR UPDATE SKIP LOCKED)`,
			[]any{ids.From(ids.Lease, from)},
		},
		{
			"sessions", `id IN (SELECT id FROM sessions WHERE id < $1 AND token_expires_at < $3 AND expires_at < $3 ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED)`,
			[]any{ids.From(ids.Session, opened)},
		},
	} {
		args := append(d.args, batch)
		if d.table == "sessions" {
			args = append(args, now.Add(-leeway))
		}
		n, failure := k.deleteInBatches(ctx, d.table, `DELETE FROM `+d.table+` WHERE `+d.sql, args)
		deleted += n
		err = errors.Join(err, failure)
	}
	return deleted, err
}

func (k *Keeper) deleteInBatches(ctx context.Context, from, sql string, args []any) (deleted int, err error) {
	for range batches {
		n := 0
		if err := k.step(ctx, func(ctx context.Context, tx pgx.Tx) error {
			tag, err := tx.Exec(ctx, sql, args...)
			n = int(tag.RowsAffected())
			return err
		}); err != nil {
			return deleted, fmt.Errorf("deleting old rows of %s: %w", from, err)
		}
		if deleted += n; n > 0 {
			k.config.Observe.Deleted(from, n)
		}
		if n < batch {
			break
		}
	}
	return deleted, nil
}
