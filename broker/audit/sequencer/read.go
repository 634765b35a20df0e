package sequencer

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	auditlog "github.com/daypass/daypass/broker/audit/log"
	"github.com/daypass/daypass/broker/ids"
)

// Lag is the age of the oldest event without a number, as far as a quick look
// tells: of the first one behind all that have one. It is 0 where there is none, and
// while the events from before there was a log get their numbers.
func (s *Sequencer) Lag(ctx context.Context) (time.Duration, error) {
	const oldest = `
SELECT founded, clock_timestamp(), (
    SELECT id FROM audit_events
    WHERE id > greatest((SELECT max(event_id) FROM audit_log WHERE event_id < $1), begins) AND id < $1 ORDER BY id LIMIT 1)
FROM audit_sequencer`
	var founded bool
	var now time.Time
	var id *string
	// A clock that ran ahead once must not hide what comes after.
	if err := s.config.Pool.QueryRow(ctx, oldest, ids.From(ids.Event, s.config.Now().Add(farMargin))).Scan(&founded, &now, &id); err != nil {
		return 0, fmt.Errorf("reading the audit log's lag: %w", err)
	}
	if !founded || id == nil {
		return 0, nil
	}
	return max(now.Sub(ids.Time(ids.Event, *id)), 0), nil
}

// Health is an error while events wait for their numbers for more than [MaxLag].
func (s *Sequencer) Health(ctx context.Context) error {
	lag, err := s.Lag(ctx)
	if err == nil && lag > MaxLag {
		return fmt.Errorf("the audit log is %s behind", lag.Round(time.Second))
	}
	return err
}

// Sequenced says whether all events with ids up to upToID have their numbers. It
// compares every one of them, in steps: who asks it is about to drop them. What it finds without a
// number gets one from the sweep, which goes back for it.
func (s *Sequencer) Sequenced(ctx context.Context, upToID string) (bool, error) {
	const missing = `SELECT EXISTS (
SELECT id FROM audit_events WHERE id > $1 AND id <= $2
EXCEPT
SELECT event_id FROM audit_log WHERE event_id > $1 AND event_id <= $2)`
	const back = `UPDATE audit_sequencer SET settled = $1 WHERE settled > $1`
	var from string
	if err := s.config.Pool.QueryRow(ctx, `SELECT begins FROM audit_sequencer`).Scan(&from); err != nil {
		return false, fmt.Errorf("comparing events with the audit log: %w", err)
	}
	for {
		var last string
		var n int
		if err := s.config.Pool.QueryRow(ctx, chunk, from, upToID+"\x01", maxBatch).Scan(&last, &n); err != nil {
			return false, fmt.Errorf("comparing events with the audit log: %w", err)
		}
		if n == 0 {
			return true, nil
		}
		var some bool
		if err := s.config.Pool.QueryRow(ctx, missing, from, last).Scan(&some); err != nil {
			return false, fmt.Errorf("comparing events with the audit log: %w", err)
		}
		if some {
			if _, err := s.config.Pool.Exec(ctx, back, from); err != nil {
				return false, fmt.Errorf("sending the sweep back: %w", err)
			}
			return false, nil
		}
		from = last
	}
}

var (
	// ErrNoCheckpoint says that none was signed yet.
	ErrNoCheckpoint = errors.New("there is no checkpoint of the audit log yet")
	// ErrRange says that an export is asked for that the log doesn't have.
	ErrRange = errors.New("the audit log has no such numbers")
)

// ForReading is one that gives no numbers and signs nothing, for [Sequencer.Size],
// [Sequencer.Latest] and [Sequencer.Export].
func ForReading(pool *pgxpool.Pool, installation string) *Sequencer {
	return &Sequencer{config: Config{Pool: pool, Installation: installation}, origin: auditlog.Origin(installation)}
}

// Size is how many events have a number.
func (s *Sequencer) Size(ctx context.Context) (size int64, err error) {
	if err := s.config.Pool.QueryRow(ctx, `SELECT coalesce(max(seq) + 1, 0) FROM audit_log`).Scan(&size); err != nil {
		return 0, fmt.Errorf("reading the audit log's size: %w", err)
	}
	return size, nil
}

// Latest is the note of the last checkpoint.
func (s *Sequencer) Latest(ctx context.Context) (string, error) {
	var note string
	err := s.config.Pool.QueryRow(ctx, latest).Scan(&note)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", ErrNoCheckpoint
	}
	if err != nil {
		return "", fmt.Errorf("reading the last checkpoint: %w", err)
	}
	return note, nil
}

const (
	// MaxExport bounds the events of one export. Who wants more goes on from its end.
	MaxExport   = 100_000
	exportChunk = 1000
)

// Export writes the events from number from up to, without, to, with the checkpoints over
// them, line by line. A negative to is the size of the last checkpoint, or of the log where
// none is signed. More than MaxExport is cut off: the last line says where.
func (s *Sequencer) Export(ctx context.Context, from, to int64, emit func(*auditlog.Line) error) error {
	from, to, err := s.exportRange(ctx, from, to)
	if err != nil {
		return err
	}
	before, err := treeOf(ctx, s.config.Pool, from)
	if err != nil {
		return fmt.Errorf("exporting the audit log: %w", err)
	}
	if err := emit(&auditlog.Line{Header: auditlog.NewHeader(s.origin, before)}); err != nil {
		return err
	}
	for at := from; at < to; at += exportChunk {
		if err := s.exportChunk(ctx, at, min(at+exportChunk, to), emit); err != nil {
			return fmt.Errorf("exporting the audit log from number %d: %w", at, err)
		}
	}
	return emit(&auditlog.Line{End: &auditlog.End{Size: to}})
}

func (s *Sequencer) exportRange(ctx context.Context, from, to int64) (int64, int64, error) {
	const sizes = `SELECT coalesce((SELECT max(seq) + 1 FROM audit_log), 0), coalesce((SELECT max(size) FROM audit_checkpoints), 0)`
	var size, signed int64
	if err := s.config.Pool.QueryRow(ctx, sizes).Scan(&size, &signed); err != nil {
		return 0, 0, fmt.Errorf("exporting the audit log: %w", err)
	}
	if to < 0 {
		if to = max(signed, from); signed == 0 {
			to = size
		}
		to = max(min(to, size), from) // where rows were taken away, what is there is evidence too
	}
	switch {
	case to > size && signed > size:
		return 0, 0, fmt.Errorf("%w: it has %d, and its last checkpoint covers %d: some were taken away", ErrRange, size, signed)
	case from < 0 || from > to || to > size:
		return 0, 0, fmt.Errorf("%w: it has %d", ErrRange, size)
	}
	return from, min(to, from+MaxExport), nil
}

// exportChunk reads the log, the bodies that are there, and the checkpoints.
func (s *Sequencer) exportChunk(ctx context.Context, from, to int64, emit func(*auditlog.Line) error) error {
	records, err := s.readRecords(ctx, from, to)
	if err != nil {
		return err
	}
	const notes = `SELECT size, note FROM audit_checkpoints WHERE size > $1 AND size <= $2 ORDER BY size`
	rows, err := s.config.Pool.Query(ctx, notes, from, to)
	if err != nil {
		return err
	}
	checkpoints := map[int64]string{}
	var size int64
	var note string
	if _, err := pgx.ForEachRow(rows, []any{&size, &note}, func() error { checkpoints[size] = note; return nil }); err != nil {
		return err
	}
	for _, r := range records {
		if err := emit(&auditlog.Line{Record: r}); err != nil {
			return err
		}
		if note := checkpoints[r.Seq+1]; note != "" {
			if err := emit(&auditlog.Line{Checkpoint: note}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Sequencer) readRecords(ctx context.Context, from, to int64) ([]*auditlog.Record, error) {
	const places = `SELECT seq, event_id, leaf FROM audit_log WHERE seq >= $1 AND seq < $2 ORDER BY seq`
	const bodies = `SELECT id, body, mac, key_id FROM audit_events WHERE id BETWEEN $1 AND $2 AND id = ANY($3)`
	rows, err := s.config.Pool.Query(ctx, places, from, to)
	if err != nil {
		return nil, err
	}
	var leaf, mac []byte
	var records []*auditlog.Record
	var r auditlog.Record
	byID := map[string]*auditlog.Record{}
	if _, err := pgx.ForEachRow(rows, []any{&r.Seq, &r.ID, &leaf}, func() error {
		kept := r
		kept.Leaf = hex.EncodeToString(leaf)
		records = append(records, &kept)
		byID[r.ID] = &kept
		return nil
	}); err != nil || len(records) == 0 {
		return nil, err
	}
	wanted := make([]string, 0, len(byID))
	low, high := records[0].ID, records[0].ID
	for id := range byID {
		wanted = append(wanted, id)
		low, high = min(low, id), max(high, id)
	}
	if rows, err = s.config.Pool.Query(ctx, bodies, low, high, wanted); err != nil {
		return nil, err
	}
	var id, body, keyID string
	_, err = pgx.ForEachRow(rows, []any{&id, &body, &mac, &keyID}, func() error {
		found, text := byID[id], body
		found.Body, found.MAC, found.KeyID = &text, hex.EncodeToString(mac), keyID
		return nil
	})
	return records, err
}
