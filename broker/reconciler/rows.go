package reconciler

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/installation"
	"github.com/daypass/daypass/broker/leases"
)

// Run is one comparison.
type Run struct {
	ID        string
	Issuer    string
	Actor     string // daypassd, or who asked for it
	StartedAt time.Time
	EndedAt   *time.Time // nil: under way, or its broker died
	Epoch     int64
	DryRun    bool
	Forced    bool
	Listed    int // credentials of this installation on the target
	Young     int // without a live lease, but not for long enough to be sure
	Alien     int // told by the issuer, and not this installation's
	Orphans   int
	Revoked   int // of the orphans
	Missing   int // live leases whose credential is gone
	Error     string
}

const runColumns = `id, issuer, actor, started_at, ended_at, epoch, dry_run, forced, listed, young, alien, orphans, revoked, missing, coalesce(error, '')`

// The states of an Orphan.
const (
	stateYoung   = "young"
	stateFound   = "found"
	stateRevoked = "revoked"
	stateGone    = "gone" // by itself, or it wasn't one
)

const (
	maxName    = 256
	maxText    = 2000
	keepRuns   = 100
	keepOrphan = 90 * 24 * time.Hour
)

// clean makes a target's text fit for a column and a log line.
func clean(text string) string { return cut(text, maxName) }

func cut(text string, most int) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(text, ""))
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

func unavailable(doing string, err error) error {
	return fmt.Errorf("%s: %w: %w", doing, leases.ErrUnavailable, err)
}

// original refuses to go on in a database that is a copy: the credentials on the
// targets are the original's.
func (r *Reconciler) original(ctx context.Context) error {
	id, err := installation.Check(ctx, r.config.Pool)
	if err == nil && id != r.config.Installation {
		err = fmt.Errorf("the database is that of installation %s, and this broker is %s (hint: restart it)", id, r.config.Installation)
	}
	return err
}

// begin claims a target and puts the run on record.
func (r *Reconciler) begin(ctx context.Context, issuer string, options Options) (*comparison, error) {
	lister, err := r.lister(issuer)
	if err != nil {
		return nil, err
	}
	now := r.config.Store.Now()
	run := &Run{
		ID: ids.New(ids.Reconcile, now), Issuer: issuer, Actor: options.Actor, StartedAt: now, Epoch: r.config.Epoch(),
		DryRun: options.DryRun, Forced: options.Force && !options.DryRun,
	}
	if run.Actor == "" {
		run.Actor = schedule
	}
	batch := &pgx.Batch{}
	batch.Queue(`
INSERT INTO reconciliations (id, tenant, issuer, actor, started_at, epoch, dry_run, forced) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		run.ID, r.config.Tenant, issuer, run.Actor, run.StartedAt, run.Epoch, run.DryRun, run.Forced)
	if options.Actor != "" {
		event, err := r.config.Audit.Event(audit.Entry{
			At: now, Type: audit.TargetReconciling, Subject: run.ID, Count: 1, Actor: options.Actor, Data: map[string]any{"issuer": issuer, "dry_run": run.DryRun, "force": run.Forced},
		})
		if err != nil {
			return nil, err
		}
		audit.InsertIf(batch, []audit.Event{event}, "true")
	}
	err = pgx.BeginFunc(ctx, r.config.Pool, func(tx pgx.Tx) error {
		const claim = `
INSERT INTO reconciliation_claims (tenant, issuer, run, until) VALUES ($1, $2, $3, clock_timestamp() + $4::interval)
ON CONFLICT (tenant, issuer) DO UPDATE SET run = excluded.run, until = excluded.until WHERE reconciliation_claims.until < clock_timestamp()`
		tag, err := tx.Exec(ctx, claim, r.config.Tenant, issuer, run.ID, claimTime)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return ErrBusy
		}
		return tx.SendBatch(ctx, batch).Close()
	})
	if errors.Is(err, ErrBusy) {
		return nil, ErrBusy
	}
	if err != nil {
		return nil, unavailable("beginning to reconcile", err)
	}
	return &comparison{Reconciler: r, run: run, lister: lister, force: run.Forced}, nil
}

// keepClaim makes the claim last; a run that lost it ends.
func (c *comparison) keepClaim(ctx context.Context) error {
	const keep = `UPDATE reconciliation_claims SET until = clock_timestamp() + $2::interval WHERE tenant = $1 AND issuer = $3 AND run = $4`
	tag, err := c.config.Pool.Exec(ctx, keep, c.config.Tenant, claimTime, c.run.Issuer, c.run.ID)
	if err != nil {
		return unavailable("keeping the claim on a target", err)
	}
	if tag.RowsAffected() == 0 {
		return errLost
	}
	return nil
}

// finish writes the run's end, lets the target go, and drops what is old.
func (c *comparison) finish(ctx context.Context, failure error) error {
	now := c.config.Store.Now()
	c.run.EndedAt = &now
	if failure != nil {
		c.run.Error = cut(strings.ReplaceAll(failure.Error(), "\n", "; "), maxText)
	}
	batch := &pgx.Batch{}
	batch.Queue(`
UPDATE reconciliations SET ended_at = $2, listed = $3, young = $4, alien = $5, orphans = $6, revoked = $7, missing = $8, error = nullif($9, '') WHERE id = $1`,
		c.run.ID, now, c.run.Listed, c.run.Young, c.run.Alien, c.run.Orphans, c.run.Revoked, c.run.Missing, c.run.Error)
	batch.Queue(`DELETE FROM reconciliation_claims WHERE tenant = $1 AND issuer = $2 AND run = $3`, c.config.Tenant, c.run.Issuer, c.run.ID)
	// The last that took effect, and the last that an operator asked for, are known for good.
	batch.Queue(`
DELETE FROM reconciliations r WHERE tenant = $1 AND issuer = $2
  AND id NOT IN (SELECT id FROM reconciliations WHERE tenant = $1 AND issuer = $2 ORDER BY started_at DESC LIMIT $3)
  AND id NOT IN (SELECT id FROM reconciliations WHERE tenant = $1 AND issuer = $2 AND NOT dry_run AND ended_at IS NOT NULL AND error IS NULL ORDER BY started_at DESC LIMIT 1)
  AND id NOT IN (SELECT id FROM reconciliations WHERE tenant = $1 AND issuer = $2 AND NOT dry_run AND actor <> $4 ORDER BY started_at DESC LIMIT 1)`,
		c.config.Tenant, c.run.Issuer, keepRuns, schedule)
	batch.Queue(`DELETE FROM orphans WHERE id IN (SELECT id FROM orphans WHERE ended_at < $1 ORDER BY ended_at LIMIT 1000)`, now.Add(-keepOrphan))
	if err := c.config.Pool.SendBatch(ctx, batch).Close(); err != nil {
		return unavailable("recording a reconciliation", err)
	}
	return nil
}

// due says how long it is until a target is to be compared by schedule, and
// whether that may take nothing back. What operators try dry doesn't count, nor
// what was compared before the database was restored.
func (r *Reconciler) due(ctx context.Context, issuer string) (wait time.Duration, dry bool, err error) {
	const last = `
SELECT started_at, ended_at, error IS NOT NULL, young > 0 FROM reconciliations
WHERE tenant = $1 AND issuer = $2 AND (actor = $3 OR NOT dry_run) AND epoch >= $4 ORDER BY started_at DESC LIMIT 1`
	var started time.Time
	var ended *time.Time
	var failed, young bool
	switch err := r.config.Pool.QueryRow(ctx, last, r.config.Tenant, issuer, schedule, r.config.Epoch()).Scan(&started, &ended, &failed, &young); {
	case errors.Is(err, pgx.ErrNoRows):
	case err != nil:
		return 0, false, unavailable("looking when a target was compared", err)
	default:
		from, pause := started, r.config.Every
		if ended != nil {
			from = *ended
		}
		if failed || ended == nil {
			pause = min(pause, retryAfter)
		}
		if young {
			pause = min(pause, r.config.Grace)
		}
		wait = max(0, from.Add(pause).Sub(r.config.Store.Now()))
	}
	if !r.config.DryRunFirst {
		return wait, false, nil
	}
	const allowed = `SELECT EXISTS (SELECT FROM reconciliations WHERE tenant = $1 AND issuer = $2 AND NOT dry_run AND actor <> $3)`
	var acts bool
	if err := r.config.Pool.QueryRow(ctx, allowed, r.config.Tenant, issuer, schedule).Scan(&acts); err != nil {
		return 0, false, unavailable("looking when a target was compared", err)
	}
	return wait, !acts, nil
}
