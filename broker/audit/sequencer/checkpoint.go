package sequencer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/audit"
	auditlog "github.com/daypass/daypass/broker/audit/log"
)

const (
	latest = `SELECT note FROM audit_checkpoints ORDER BY size DESC LIMIT 1`

	keep = `INSERT INTO audit_checkpoints (size, root, note, kid, at) VALUES ($1, $2, $3, $4, clock_timestamp()) ON CONFLICT DO NOTHING`

	adopt = `INSERT INTO audit_keys (kid, verifier_key, algorithm, adopted_at) VALUES ($1, $2, $3, clock_timestamp()) ON CONFLICT DO NOTHING`
)

// checkpoint signs what the log says, when there is something new and the last
// checkpoint is a second old. The key is asked outside of any transaction.
func (s *Sequencer) checkpoint(ctx context.Context, counts *Counts) error {
	now := s.config.Now()
	if s.config.Key == nil || counts.Size == 0 || now.Before(s.signAt) || s.signed != nil && s.signed.Size == counts.Size {
		return nil
	}
	if err := s.adoptKey(ctx); err != nil {
		return err
	}
	next, err := s.grown(ctx)
	if errors.Is(err, auditlog.ErrForked) || errors.Is(err, ErrBroken) {
		s.config.Observe.Failing(FailingLog, true)
		s.tell(ctx, "the audit log is not signed any more: it is not the one that was signed before (hint: docs/audit.md, \"When the log was forked\")", err)
		s.tree, s.signAt = nil, now.Add(checkpointEvery) // what the database holds may be mended
		return nil
	}
	if err != nil || next == nil {
		return err
	}
	s.config.Observe.Failing(FailingLog, false)
	signing, cancel := context.WithTimeoutCause(ctx, signTime, errors.New("the audit key took longer than 10 s"))
	defer cancel()
	note, err := next.Sign(signing, s.config.Key)
	s.config.Observe.Failing(FailingSignature, err != nil)
	if err != nil {
		s.signAt = now.Add(checkpointEvery)
		return err
	}
	// The file comes first: what others can see in the database stands there too.
	s.writeFile(ctx, note)
	if _, err := s.config.Pool.Exec(ctx, keep, next.Size, next.Root[:], note, s.config.Key.KeyID()); err != nil {
		return err
	}
	s.signed, s.signAt, counts.Checkpoint = next, now.Add(checkpointEvery), true
	s.config.Observe.Signed(next.Size)
	s.config.Logger.LogAttrs(ctx, slog.LevelInfo, "audit checkpoint", slog.Int64("size", next.Size), slog.String("root", next.Root.String()), slog.String("note", note))
	return nil
}

func (s *Sequencer) writeFile(ctx context.Context, note string) {
	if s.file == nil {
		return
	}
	err := s.file.append(note)
	s.config.Observe.Failing(FailingFile, err != nil)
	if err != nil {
		s.tell(ctx, "a checkpoint of the audit log could not be written to its file", err)
	}
}

// grown is the checkpoint to sign, proved to be of a log that begins with what was
// signed before: what this broker remembers or has in its file, and what the
// database has. Whoever changes the database must not get a signature for it. It is nil
// when another broker has signed as much.
func (s *Sequencer) grown(ctx context.Context) (*auditlog.Checkpoint, error) {
	var next *auditlog.Checkpoint
	err := pgx.BeginTxFunc(ctx, s.config.Pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		tree, err := s.currentTree(ctx, tx)
		if err != nil {
			return err
		}
		next = &auditlog.Checkpoint{Origin: s.origin, Size: tree.Size(), Root: tree.Root()}
		last, err := latestOf(ctx, tx)
		if err != nil {
			return err
		}
		for _, older := range []*auditlog.Checkpoint{s.signed, last} {
			if older == nil {
				continue
			}
			if err := auditlog.CheckGrown(older, next, reader(ctx, tx)); err != nil {
				return err
			}
		}
		if last != nil && last.Size == next.Size {
			s.signed, next = last, nil
			return nil
		}
		s.tree = tree
		return nil
	})
	return next, err
}

func latestOf(ctx context.Context, q querier) (*auditlog.Checkpoint, error) {
	var note string
	err := q.QueryRow(ctx, latest).Scan(&note)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil // there is none yet
	}
	if err != nil {
		return nil, err
	}
	c, err := auditlog.ParseCheckpoint(note)
	if err != nil {
		return nil, fmt.Errorf("%w: the last checkpoint: %w", ErrBroken, err)
	}
	return c, nil
}

// adoptKey puts the key's public half on record, for ever.
func (s *Sequencer) adoptKey(ctx context.Context) error {
	if s.adopted {
		return nil
	}
	signer := s.config.Key
	public, err := auditlog.NewKey(s.origin, signer.Public())
	if err != nil {
		return err
	}
	err = pgx.BeginFunc(ctx, s.config.Pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, adopt, signer.KeyID(), public.String(), signer.Algorithm())
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		event, err := s.config.Audit.Event(audit.Entry{
			At: s.config.Now(), Type: audit.AuditKeyAdopted, Subject: signer.KeyID(), Count: 1, Actor: "daypassd",
			Data: map[string]any{"verifier_key": public.String(), "algorithm": signer.Algorithm()},
		})
		if err != nil {
			return err
		}
		var batch pgx.Batch
		audit.InsertIf(&batch, []audit.Event{event}, "true")
		return tx.SendBatch(ctx, &batch).Close()
	})
	s.adopted = err == nil
	return err
}
