package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/audit/log"
	"github.com/daypass/daypass/broker/audit/sequencer"
)

// chain verifies the whole audit log, an export after the other, with the public
// keys that are on record: what is in the database doesn't contradict itself.
// Whether it is the log that once was signed, a checkpoint tells that was kept
// elsewhere (`daypass audit verify --against`).
func chain(ctx context.Context, pool *pgxpool.Pool, id string) error {
	seq := sequencer.ForReading(pool, id)
	keys, err := auditKeys(ctx, pool)
	if err != nil {
		return err
	}
	var before log.Hash
	for from := int64(0); ; {
		size, err := seq.Size(ctx)
		if err != nil || from == size {
			return err
		}
		report, header, err := verifyRange(ctx, seq, [2]int64{from, size}, keys)
		if err != nil {
			return err
		}
		tree, err := header.Tree()
		if err != nil {
			return err
		}
		if from > 0 && tree.Root() != before {
			return fmt.Errorf("the inner hashes over the first %d events are not those of their leaves", from)
		}
		if report.Size == from {
			return fmt.Errorf("it has %d events, and none can be read from number %d on", size, from)
		}
		from, before = report.Size, report.Root
	}
}

// verifyRange verifies one export as it is written.
func verifyRange(ctx context.Context, seq *sequencer.Sequencer, of [2]int64, keys []*log.Key) (*log.Report, *log.Header, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	export, to := io.Pipe()
	var header *log.Header
	done := make(chan error, 1)
	go func() {
		w := bufio.NewWriter(to)
		err := seq.Export(ctx, of[0], of[1], func(l *log.Line) error {
			if l.Header != nil {
				header = l.Header
			}
			text, err := l.Encode()
			if err == nil {
				_, err = w.Write(text)
			}
			return err
		})
		err = errors.Join(err, w.Flush())
		done <- errors.Join(err, to.CloseWithError(err))
	}()
	report, err := log.Verify(export, log.Proof{Keys: keys})
	cancel()
	_ = export.Close() // whoever still writes stops
	if failed := <-done; err == nil && failed != nil {
		err = failed
	}
	return report, header, err
}

// auditKeys are the public keys that ever signed checkpoints.
func auditKeys(ctx context.Context, pool *pgxpool.Pool) ([]*log.Key, error) {
	rows, err := pool.Query(ctx, `SELECT verifier_key FROM audit_keys ORDER BY adopted_at`)
	if err != nil {
		return nil, fmt.Errorf("reading the audit log's keys: %w", err)
	}
	texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("reading the audit log's keys: %w", err)
	}
	keys := make([]*log.Key, len(texts))
	for i, text := range texts {
		if keys[i], err = log.ParseKey(text); err != nil {
			return nil, fmt.Errorf("reading the audit log's keys: %w", err)
		}
	}
	return keys, nil
}
