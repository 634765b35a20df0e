package sequencer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/audit"
	auditlog "github.com/daypass/daypass/broker/audit/log"
	"github.com/daypass/daypass/broker/ids"
)

const (
	// lock is held to the end of each transaction that numbers events. Nobody else
	// takes it, and who doesn't get it doesn't wait.
	lock = `SELECT pg_try_advisory_xact_lock(hashtextextended('daypass audit log', 0))`

	// start reads what a pass begins with. A transaction of another role shows no
	// start, and only brokers write events, which are of one. One that has written
	// nothing for a minute only reads: a dump must not hold the sweep back.
	start = `
SELECT now, least(
           (SELECT min(xact_start) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
               AND backend_type = 'client backend' AND (backend_xid IS NOT NULL OR xact_start > now - interval '1 minute')),
           (SELECT min(prepared) FROM pg_prepared_xacts WHERE database = current_database()), now),
       settled, founded, coalesce((SELECT max(seq) + 1 FROM audit_log), 0)
FROM audit_sequencer, clock_timestamp() AS now`

	// chunk says how far a chunk of events goes.
	chunk = `SELECT coalesce(max(id), ''), count(*) FROM (SELECT id FROM audit_events WHERE id > $1 AND id < $2 ORDER BY id LIMIT $3) AS events`

	// unplaced are the events of a chunk without a number: the difference of two
	// ranges of two indexes, whatever the planner thinks of their sizes.
	unplaced = `
SELECT id FROM audit_events WHERE id > $1 AND id <= $2
EXCEPT
SELECT event_id FROM audit_log WHERE event_id > $1 AND event_id <= $2
ORDER BY id`

	// read takes them in the order of their times: within a millisecond, what a broker
	// wrote about one subject in that of its counts.
	read = `
SELECT id, body, leaf, mac, key_id FROM audit_events WHERE id BETWEEN $1 AND $2 AND id = ANY($3)
ORDER BY substr(id, 1, 14), count, id`

	place     = `INSERT INTO audit_log (seq, event_id, leaf) SELECT * FROM unnest($1::bigint[], $2::text[], $3::bytea[])`
	keepNodes = `INSERT INTO audit_nodes (level, number, hash) SELECT * FROM unnest($1::int[], $2::bigint[], $3::bytea[])`
	settle    = `UPDATE audit_sequencer SET settled = greatest(settled, $1), founded = founded OR $2 WHERE settled < $1 OR founded < $2`
)

// eventsEnd is behind every event's id.
const eventsEnd = "evt_~"

// state is what a pass begins with.
type state struct {
	now, oldest time.Time // the database's clock, and the start of its oldest transaction
	settled     string
	founded     bool
	size        int64
}

// bound is before every event that may still turn up, but for the margin.
func (s *state) bound(margin time.Duration) string { return ids.From(ids.Event, s.oldest.Add(-margin)) }

// passes runs the near pass to its end, and the sweep for some chunks.
func (s *Sequencer) passes(ctx context.Context, counts *Counts) error {
	var first state
	busy, err := s.locked(ctx, func(tx pgx.Tx) error { return readState(ctx, tx, &first) })
	if err != nil || busy {
		counts.Elsewhere = busy
		return err
	}
	counts.Size = first.size
	if first.founded {
		if err := s.nearPass(ctx, &first, counts); err != nil || counts.Elsewhere {
			return err
		}
	}
	return s.sweep(ctx, &first, counts)
}

// nearPass begins where the one before said that nothing older was on its way, or
// where the sweep is. Each eighth, and each where that is cheap, looks further back: for the events
// of a broker whose clock is behind, or whose requests wait for long.
func (s *Sequencer) nearPass(ctx context.Context, first *state, counts *Counts) error {
	most := ids.From(ids.Event, first.now.Add(-nearMost))
	near, far := max(first.bound(nearMargin), most), max(first.bound(farMargin), most)
	from := max(s.near, first.settled)
	further := s.passed%farEvery == 0 || s.looked < farCheap
	s.looked = 0
	if further {
		from = max(s.far, first.settled)
	}
	for {
		last, n, err := s.chunk(ctx, from, eventsEnd, counts)
		if err != nil || counts.Elsewhere {
			return err
		}
		s.looked += n
		if n < s.config.Batch {
			break
		}
		from = last
		s.near = max(s.near, min(last, near)) // a pass that is interrupted goes on from here
		if further {
			s.far = max(s.far, min(last, far))
		}
	}
	s.near = near
	if further {
		s.far = far
	}
	s.passed++
	return nil
}

// sweep goes on from where the last one ended. The first one of all takes the events
// that were there before there was a log.
func (s *Sequencer) sweep(ctx context.Context, first *state, counts *Counts) error {
	if first.settled < s.settled {
		s.swept = "" // it is sent back: see Sequenced
	}
	s.settled = first.settled
	end, from := first.bound(sweepMargin), max(s.swept, first.settled)
	seen := false
	for range sweepChunks {
		if from >= end {
			break
		}
		last, n, err := s.chunk(ctx, from, end, counts)
		if err != nil || counts.Elsewhere {
			return err
		}
		seen = seen || n > 0
		if n < s.config.Batch {
			last = end
		}
		from = last
		s.swept = from
	}
	founded := first.founded || from >= end
	counts.more = from < end || founded != first.founded // the near pass has not run yet
	// What is settled is written down now and then: whoever takes over begins there,
	// and looks at a little again.
	written := ids.Time(ids.Event, first.settled)
	every := settleIdle
	if seen {
		every = settleEvery
	}
	if first.founded && from < ids.From(ids.Event, written.Add(every)) {
		return nil
	}
	_, err := s.config.Pool.Exec(ctx, settle, from, founded)
	return err
}

const (
	settleEvery = 30 * time.Second
	settleIdle  = time.Hour // where there was nothing
)

// locked runs do in a transaction under the lock; busy says that another broker has it.
func (s *Sequencer) locked(ctx context.Context, do func(pgx.Tx) error) (busy bool, err error) {
	err = pgx.BeginFunc(ctx, s.config.Pool, func(tx pgx.Tx) error {
		var got bool
		if err := tx.QueryRow(ctx, lock).Scan(&got); err != nil {
			return err
		}
		if busy = !got; busy {
			return nil
		}
		return do(tx)
	})
	return busy, err
}

func readState(ctx context.Context, tx pgx.Tx, st *state) error {
	err := tx.QueryRow(ctx, start).Scan(&st.now, &st.oldest, &st.settled, &st.founded, &st.size)
	if errors.Is(err, pgx.ErrNoRows) {
		return errors.New("the table audit_sequencer has no row")
	}
	return err
}

// chunk gives numbers to the events of one chunk behind from and before end that
// have none. It returns the last id of the chunk, and how many events it has.
func (s *Sequencer) chunk(ctx context.Context, from, end string, counts *Counts) (last string, events int, err error) {
	var tree *auditlog.Tree
	var placed batch
	busy, err := s.locked(ctx, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, chunk, from, end, s.config.Batch).Scan(&last, &events); err != nil || events == 0 {
			return err
		}
		rows, err := tx.Query(ctx, unplaced, from, last)
		if err != nil {
			return err
		}
		missing, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || len(missing) == 0 {
			return err
		}
		if tree, err = s.currentTree(ctx, tx); err != nil {
			return err
		}
		if placed, err = s.readBatch(ctx, tx, missing); err != nil {
			return err
		}
		return placed.write(ctx, tx, tree)
	})
	if err != nil || busy {
		counts.Elsewhere = busy
		return "", 0, err
	}
	if tree == nil {
		return last, events, nil
	}
	s.tree = tree
	counts.Size = tree.Size()
	counts.Events += len(placed.ids)
	counts.Forged += len(placed.forged)
	if age := s.config.Now().Sub(ids.Time(ids.Event, placed.ids[0])); age > counts.Lag {
		counts.Lag = age
	}
	s.config.Observe.Sequenced(len(placed.ids))
	s.report(ctx, tree.Size()-int64(len(placed.ids)), &placed)
	return last, events, nil
}

// report says loudly which events are not what a broker wrote. They have their
// numbers: what was changed, and when it was found, is for good in the log.
func (s *Sequencer) report(ctx context.Context, first int64, placed *batch) {
	if len(placed.forged) == 0 {
		return
	}
	s.config.Observe.Forged(len(placed.forged))
	const most = 20 // lines of one batch
	for i, f := range placed.forged {
		if i == most {
			s.config.Logger.ErrorContext(ctx, "more audit events were not written by this installation", "events", len(placed.forged)-most)
			return
		}
		s.config.Logger.ErrorContext(ctx, "an audit event was not written by this installation: somebody writes to its database", "event", placed.ids[f.index], "number", first+int64(f.index), "error", f.why)
	}
}

// batch is events that get their numbers together.
type batch struct {
	ids    []string
	leaves [][]byte
	forged []forgery
}

type forgery struct {
	index int
	why   error
}

func (s *Sequencer) readBatch(ctx context.Context, tx pgx.Tx, missing []string) (batch, error) {
	var b batch
	rows, err := tx.Query(ctx, read, missing[0], missing[len(missing)-1], missing)
	if err != nil {
		return b, err
	}
	var e audit.Event
	var leaf, mac []byte
	_, err = pgx.ForEachRow(rows, []any{&e.ID, &e.Body, &leaf, &mac, &e.KeyID}, func() error {
		e.Leaf, e.MAC = [32]byte(leaf), [32]byte(mac) // as long as they are by a constraint
		if why := s.config.Audit.VerifyLeaf(e); why != nil {
			b.forged = append(b.forged, forgery{len(b.ids), why})
		}
		b.ids = append(b.ids, e.ID)
		b.leaves = append(b.leaves, bytes.Clone(leaf))
		return nil
	})
	if err == nil && len(b.ids) == 0 {
		err = errors.New("events disappeared while they were numbered")
	}
	return b, err
}

// write numbers the events of the batch behind those of the tree.
func (b *batch) write(ctx context.Context, tx pgx.Tx, tree *auditlog.Tree) error {
	numbers := make([]int64, len(b.ids))
	var levels []int32
	var nodeNumbers []int64
	var hashes [][]byte
	for i, leaf := range b.leaves {
		numbers[i] = tree.Size()
		tree.Append(auditlog.Hash(leaf), func(n auditlog.Node) {
			if n.Level >= nodeLevel {
				levels, nodeNumbers, hashes = append(levels, int32(n.Level)), append(nodeNumbers, n.Number), append(hashes, n.Hash[:]) //nolint:gosec // 48 at the most
			}
		})
	}
	if _, err := tx.Exec(ctx, place, numbers, b.ids, b.leaves); err != nil {
		return fmt.Errorf("numbering events: %w", err)
	}
	if len(levels) > 0 {
		if _, err := tx.Exec(ctx, keepNodes, levels, nodeNumbers, hashes); err != nil {
			return fmt.Errorf("keeping the tree's nodes: %w", err)
		}
	}
	return nil
}
