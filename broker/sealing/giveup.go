package sealing

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/keys"
)

// report says what becomes of what was found.
func (r *Replacement) report(ctx context.Context, s *state) (*Report, error) {
	report := &Report{Compromised: r.Compromised, NewRoot: r.needsRoot(s), Targets: map[string]int{}}
	if len(s.keys) == 0 {
		return nil, errors.New("this installation has no root: it was never started, and has nothing to replace")
	}
	if r.New != nil {
		report.SealingKey = r.New.KeyID()
	}
	if !s.cutoff.IsZero() && s.cutoff.Before(r.Now()) {
		report.Cutoff = &s.cutoff
	}
	missing := map[string]bool{}
	for i := range s.keys {
		k := &s.keys[i]
		switch {
		case s.lost[k.id]:
			missing[k.sealingKey] = true
			what := k.purpose
			if k.root() {
				what = "root"
			}
			report.LostKeys = append(report.LostKeys, LostKey{ID: k.id, Purpose: what, SealingKey: k.sealingKey})
		case k.sealingKey != report.SealingKey:
			report.Rewrapped++
		}
	}
	report.Lost = slices.Sorted(maps.Keys(missing))
	for _, v := range s.values {
		switch {
		case v.lost:
			report.LostValues = append(report.LostValues, LostValue{Table: v.column.Table, Column: v.column.Column, Row: v.Row.Row, What: v.tell})
			report.Targets[v.tell]++
		case v.given:
			report.Resealed++
		}
	}
	if err := r.reportHashes(ctx, s, report); err != nil {
		return nil, err
	}
	report.Tell = r.tell(report)
	return report, nil
}

func (r *Replacement) needsRoot(s *state) bool {
	if s.current == nil {
		return true
	}
	return slices.ContainsFunc(s.keys, func(k wrappedKey) bool { return k.root() && !k.retired && s.givenUp(&k) })
}

// reportHashes counts what keyed hashes of another root are worth nothing.
func (r *Replacement) reportHashes(ctx context.Context, s *state, report *Report) error {
	var sessions, admins, prints, macs string // ids of keys that stay; "": none does
	if !report.NewRoot {
		sessions, admins = s.current.Hasher(keys.SessionTokens).KeyID(), s.current.Hasher(keys.AdminTokens).KeyID()
		prints = s.current.Hasher(keys.Fingerprints).KeyID()
	}
	const countSessions = `
SELECT count(*) FROM session_tokens t JOIN sessions s ON s.id = t.session_id
WHERE t.revoked_at IS NULL AND s.revoked_at IS NULL AND s.expires_at > now() AND t.key_id <> $1`
	if err := r.Pool.QueryRow(ctx, countSessions, sessions).Scan(&report.Sessions); err != nil {
		return fmt.Errorf("counting session tokens: %w", err)
	}
	const countPrints = `SELECT count(*) FROM (SELECT FROM fingerprints WHERE key_id <> $1 LIMIT 1000000) AS f`
	if err := r.Pool.QueryRow(ctx, countPrints, prints).Scan(&report.Prints); err != nil {
		return fmt.Errorf("counting fingerprints: %w", err)
	}
	const listAdmins = `SELECT id, owner FROM admin_tokens WHERE revoked_at IS NULL AND expires_at > now() AND key_id <> $1 ORDER BY id`
	rows, err := r.Pool.Query(ctx, listAdmins, admins)
	if err == nil {
		report.AdminTokens, err = pgx.CollectRows(rows, pgx.RowToStructByPos[AdminToken])
	}
	if err != nil {
		return fmt.Errorf("listing admin tokens: %w", err)
	}
	// MACs of a root that opens can be verified. Where it was stolen, they prove
	// nothing of events that are dated after the theft.
	var proved []string
	for _, root := range s.roots {
		proved = append(proved, root.Hasher(keys.AuditMACs).KeyID())
	}
	if r.Compromised && s.current != nil && report.NewRoot {
		macs = s.current.Hasher(keys.AuditMACs).KeyID()
	}
	const listMACs = `
SELECT DISTINCT key_id FROM (SELECT key_id FROM audit_events ORDER BY id DESC LIMIT 10000) AS latest
WHERE key_id <> ALL ($1) OR key_id = $2 ORDER BY key_id`
	if rows, err = r.Pool.Query(ctx, listMACs, append([]string{}, proved...), macs); err == nil {
		report.AuditKeys, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err != nil {
		return fmt.Errorf("listing keys of audit events: %w", err)
	}
	return nil
}

// tell says who has to be told what.
func (r *Replacement) tell(report *Report) []string {
	var tell []string
	for _, target := range slices.Sorted(maps.Keys(report.Targets)) {
		tell = append(tell, fmt.Sprintf("%s: %d leases are revoked by their id alone; look there afterwards for what outlived its end", target, report.Targets[target]))
	}
	if report.NewRoot {
		tell = append(tell,
			fmt.Sprintf("running jobs: %d session tokens end; a job that wants more exchanges its job token again. What it holds lives to its end and is revoked as ever; its claims can't be verified any more, so on_policy_change: revoke takes it back at the next change of policies", report.Sessions),
			"resource servers with introspection: API tokens that are keyed hashes of the former root are no longer active",
			"whoever redacts or searches for leaks: values issued before now are not recognised any more")
	}
	for _, admin := range report.AdminTokens {
		tell = append(tell, fmt.Sprintf("%s: admin token %s ends; make a new one with `daypassd admin token create`", admin.Owner, admin.ID))
	}
	if len(report.AuditKeys) > 0 {
		what := "can't be verified by MAC from now on"
		if r.Compromised {
			what = "prove nothing by MAC if they are dated after the theft"
		}
		tell = append(tell, fmt.Sprintf("auditors: events with MACs by key %v %s; their hashes stay", report.AuditKeys, what))
	}
	if r.Compromised {
		tell = append(tell, "owners of secrets in the vault: whoever had the sealing key and a copy of the database has their values; rotate them at their source")
	}
	if len(tell) > 0 {
		tell = append(tell, "verifiers of JWTs and certificates: nothing; what signs is another key")
	}
	return tell
}

// recover takes keys up again that were given up for lost and open after all.
func (r *Replacement) recover(ctx context.Context, s *state) error {
	var back []string
	for i := range s.keys {
		if k := &s.keys[i]; k.lost && !s.lost[k.id] {
			back = append(back, k.id)
		}
	}
	if len(back) == 0 {
		return nil
	}
	for _, sql := range []string{`UPDATE roots SET lost_at = NULL WHERE id = ANY ($1)`, `UPDATE data_keys SET lost_at = NULL WHERE id = ANY ($1)`} {
		if _, err := r.Pool.Exec(ctx, sql, back); err != nil {
			return fmt.Errorf("taking keys up again that were given up for lost: %w", err)
		}
	}
	return nil
}

// giveUp marks what is lost, retires what is older than the new sealing key where
// that is wanted, and puts a new root in the place of one that isn't to be used any
// more; all at once, and on record.
func (r *Replacement) giveUp(ctx context.Context, s *state, report *Report) error {
	root := s.current
	var wrapped []byte
	if report.NewRoot {
		var err error
		if root, err = keys.NewRoot(); err != nil {
			return err
		}
		if wrapped, err = root.Rewrap(ctx, r.New, r.Installation); err != nil {
			return err
		}
	}
	event, err := r.event(root, report)
	if err != nil {
		return err
	}
	if err := r.checkpoint("give up"); err != nil {
		return err
	}
	err = pgx.BeginFunc(ctx, r.Pool, func(tx pgx.Tx) error {
		changed, err := r.write(ctx, tx, s, wrapped)
		if err != nil || changed == 0 && report.Rewrapped == 0 {
			return err
		}
		batch := &pgx.Batch{}
		audit.InsertIf(batch, []audit.Event{event}, "true")
		return tx.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return fmt.Errorf("giving up what is lost: %w", err)
	}
	return nil
}

// write does what giveUp says, with a new root where there is one, and counts what
// it changed.
func (r *Replacement) write(ctx context.Context, tx pgx.Tx, s *state, root []byte) (changed int64, err error) {
	lost := slices.Sorted(maps.Keys(s.lost))
	type statement struct {
		sql  string
		args []any
	}
	all := []statement{
		{`UPDATE roots SET lost_at = now(), retired_at = coalesce(retired_at, now()) WHERE id = ANY ($1) AND lost_at IS NULL`, []any{lost}},
		{`UPDATE data_keys SET lost_at = now(), retired_at = coalesce(retired_at, now()) WHERE id = ANY ($1) AND lost_at IS NULL`, []any{lost}},
	}
	if r.Compromised {
		all = append(all, statement{`UPDATE data_keys SET retired_at = now() WHERE retired_at IS NULL AND created_at < $1`, []any{s.cutoff}})
	}
	if root != nil {
		const insert = `INSERT INTO roots (id, sealing_key, wrapped, created_at) SELECT 'root-' || (count(*) + 1), $1, $2, now() FROM roots`
		all = append(all, statement{`UPDATE roots SET retired_at = now() WHERE retired_at IS NULL`, nil}, statement{insert, []any{r.New.KeyID(), root}})
	}
	for _, do := range all {
		tag, err := tx.Exec(ctx, do.sql, do.args...)
		if err != nil {
			return changed, err
		}
		changed += tag.RowsAffected()
	}
	return changed, nil
}

func (r *Replacement) event(root *keys.Root, report *Report) (audit.Event, error) {
	recorder, err := audit.New(audit.Config{Installation: r.Installation, Tenant: r.Tenant, MAC: root.Hasher(keys.AuditMACs)})
	if err != nil {
		return audit.Event{}, err
	}
	now := r.Now()
	return recorder.Event(audit.Entry{
		At: now, Type: audit.KeysReplaced, Subject: "keys_" + now.UTC().Format("20060102T150405.000000000"), Count: 1, Actor: r.Actor,
		Data: map[string]any{
			"sealing_key": report.SealingKey, "lost_sealing_keys": report.Lost, "compromised": r.Compromised, "new_root": report.NewRoot,
			"rewrapped": report.Rewrapped, "lost_keys": len(report.LostKeys), "lost_values": len(report.LostValues),
		},
	})
}

func (r *Replacement) checkpoint(step string) error {
	if r.Checkpoint == nil {
		return nil
	}
	return r.Checkpoint(step)
}

// reseal seals what is given up under new data keys, and destroys the former.
func (r *Replacement) reseal(ctx context.Context, s *state, report *Report) error {
	report.Resealed = 0
	if !r.Compromised {
		return nil
	}
	config := Config{Pool: r.Pool, Sealer: keys.AlsoOpen(r.New, r.others()...), Installation: r.Installation, Now: r.Now, Logger: r.Logger}
	for _, root := range s.roots {
		config.Former = append(config.Former, root.RowSealer())
	}
	sealer, err := New(config)
	if err != nil {
		return err
	}
	defer sealer.Close()
	for _, v := range s.values {
		if v.lost || !v.given {
			continue
		}
		sealed, err := sealer.Reseal(ctx, []Value{v.Value})
		if err != nil {
			return err
		}
		if err := r.checkpoint("reseal"); err != nil {
			return err
		}
		stored, err := v.column.store(ctx, r.Pool, v.Value, sealed[0])
		if err != nil {
			return err
		}
		if stored {
			report.Resealed++
		}
	}
	if err := r.checkpoint("destroy"); err != nil {
		return err
	}
	report.Destroyed, err = destroy(ctx, r.Pool, time.Duration(0))
	return err
}
