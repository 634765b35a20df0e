package restore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/audit/sequencer"
	"github.com/daypass/daypass/broker/installation"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/sealing"
)

// take makes the database the one that it is, in its last statement.
const take = `
UPDATE installation SET id = $1, epoch = $2, epoch_at = $3, epoch_why = $4,
    system_identifier = (SELECT system_identifier::text FROM pg_control_system()),
    database_oid = (SELECT oid::text FROM pg_database WHERE datname = current_database()),
    timeline = (SELECT timeline_id FROM pg_control_checkpoint())`

// promote goes on as the same installation.
func (r *Restore) promote(ctx context.Context) (*Report, error) {
	who, report, err := r.look(ctx)
	if err != nil {
		return nil, err
	}
	root, err := installation.CurrentRoot(ctx, r.config.Pool, r.config.Sealer, who.ID)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, errors.New("this installation was never started, and has nothing to promote")
	}
	if err != nil {
		return nil, err
	}
	o, err := r.open(ctx, who.ID, root)
	if err != nil {
		return nil, err
	}
	defer o.store.Close()
	_, highest, err := r.tell(ctx, who.ID, who.Epoch)
	if err != nil {
		return nil, err
	}
	report.Leases = 0
	for {
		n, err := o.store.EndLive(ctx, leases.Why{Actor: r.config.Actor, Reason: reason})
		if err != nil {
			return nil, err
		}
		if report.Leases += n; n == 0 {
			break
		}
	}
	if err := pgx.BeginFunc(ctx, r.config.Pool, func(tx pgx.Tx) error { return r.finish(ctx, tx, o, report, highest) }); err != nil {
		return nil, fmt.Errorf("promoting: %w", err)
	}
	if report.Targets, _, err = r.tell(ctx, who.ID, report.Epoch); err != nil {
		r.config.Logger.WarnContext(ctx, "the targets could not be told the new epoch; the brokers tell them", "error", err)
	}
	return report, nil
}

// renew goes on as another installation.
func (r *Restore) renew(ctx context.Context) (*Report, error) {
	who, report, err := r.look(ctx)
	if err != nil {
		return nil, err
	}
	report.Was, report.Installation = who.ID, installation.NewID()
	root, err := keys.NewRoot()
	if err != nil {
		return nil, err
	}
	o, err := r.open(ctx, report.Installation, root)
	if err != nil {
		return nil, err
	}
	defer o.store.Close()
	err = pgx.BeginFunc(ctx, r.config.Pool, func(tx pgx.Tx) error {
		// What is written from here on is this installation's, and begins its log.
		var began time.Time
		if err := tx.QueryRow(ctx, `SELECT transaction_timestamp() - interval '1 second'`).Scan(&began); err != nil {
			return err
		}
		if err := sequencer.BeginAnew(ctx, tx, began); err != nil {
			return err
		}
		n, err := o.store.ForgetAll(ctx, tx, leases.Why{Actor: r.config.Actor, Reason: forgotten})
		if err != nil {
			return err
		}
		report.Leases = n - report.Revoking
		rebinding := &sealing.Rebinding{Pool: r.config.Pool, Sealer: r.config.Sealer, From: who.ID, To: report.Installation, Drop: r.config.DropSealed}
		rebound, err := rebinding.Apply(ctx, tx, root)
		if err != nil {
			return err
		}
		report.carried(rebound)
		// The keys that signed are the original's: this one neither signs with them
		// nor, above all, destroys them. Their events stay on record.
		if _, err := tx.Exec(ctx, `DELETE FROM signing_keys`); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE secret_reads SET ended_at = now() WHERE ended_at IS NULL`); err != nil {
			return err
		}
		return r.finish(ctx, tx, o, report, who.Epoch)
	})
	if err != nil {
		return nil, fmt.Errorf("making a new installation: %w", err)
	}
	return report, nil
}

// finish voids what was given out before, raises the epoch and writes it down.
func (r *Restore) finish(ctx context.Context, tx pgx.Tx, o opened, report *Report, highest int64) error {
	why, kind := installation.Promoted, audit.InstallationPromoted
	if report.Was != "" {
		why, kind = installation.Anew, audit.InstallationRenewed
	}
	// No earlier than what is on record: this server's clock may be late. An epoch
	// is a time in seconds, so that two copies of one backup that are promoted apart,
	// of which neither can know of the other, don't get the same one.
	const now = `
SELECT greatest(clock_timestamp(),
    (SELECT opened_at FROM sessions ORDER BY id DESC LIMIT 1) + interval '1 microsecond',
    (SELECT created_at FROM admin_tokens ORDER BY id DESC LIMIT 1) + interval '1 microsecond')`
	var at time.Time
	if err := tx.QueryRow(ctx, now).Scan(&at); err != nil {
		return fmt.Errorf("reading the time: %w", err)
	}
	report.At = at.UTC()
	report.Epoch = max(highest+1, at.Unix())
	tokens, err := o.tokens.RevokeAll(ctx, tx, r.config.Actor, reason)
	if err != nil {
		return err
	}
	report.AdminTokens = nil
	for _, t := range tokens {
		report.AdminTokens = append(report.AdminTokens, AdminToken{ID: t.ID, Owner: t.Owner})
	}
	event, err := o.recorder.Event(audit.Entry{
		At: report.At, Type: kind, Subject: "installation_" + report.At.Format("20060102T150405.000000000"), Count: 1, Actor: r.config.Actor,
		Data: map[string]any{
			"installation": report.Installation, "was": report.Was, "epoch": report.Epoch, "former_epoch": report.FormerEpoch, "copy": report.Copy,
			"leases": report.Leases, "admin_tokens": len(report.AdminTokens), "secret_versions": report.Secrets, "lost": report.Lost,
		},
	})
	if err != nil {
		return err
	}
	batch := &pgx.Batch{}
	audit.InsertIf(batch, []audit.Event{event}, "true")
	batch.Queue(`DELETE FROM probes`) // every target is tried again
	batch.Queue(take, report.Installation, report.Epoch, report.At, why)
	return tx.SendBatch(ctx, batch).Close()
}
