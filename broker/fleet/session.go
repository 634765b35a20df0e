package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// session is one connection, used by one goroutine.
type session struct {
	fleet *Fleet
	conn  *pgx.Conn
	alive context.Context //nolint:containedctx // it stands for the connection: what runs under a lock of it ends with it
	locks map[int64]*task // that it holds
	beats int
}

// begin finds out where the connection leads, and listens.
func (s *session) begin(ctx context.Context) error {
	if check := s.fleet.config.Check; check != nil {
		if err := check(ctx, s.conn); err != nil {
			return err
		}
	}
	var standby bool
	if err := s.conn.QueryRow(ctx, `SELECT pg_is_in_recovery()`).Scan(&standby); err != nil {
		return fmt.Errorf("asking for the server's role: %w", err)
	}
	if standby {
		return errors.New("the server is a standby: its locks are not those of the primary")
	}
	f := s.fleet
	f.mu.Lock()
	topics := make([]string, 0, len(f.handlers))
	for topic := range f.handlers {
		topics = append(topics, topic)
	}
	f.mu.Unlock()
	for _, topic := range topics {
		if _, err := s.conn.Exec(ctx, "LISTEN "+pgx.Identifier{Channel(topic)}.Sanitize()); err != nil {
			return fmt.Errorf("listening: %w", err)
		}
	}
	// What was said before we listened, nobody repeats.
	for _, topic := range topics {
		f.config.Observe.Noticed(topic, true)
		f.hand(topic, "")
	}
	return nil
}

// serve beats, sends what waits, and hears, until something fails or ctx ends.
func (s *session) serve(ctx context.Context) error {
	for {
		if err := s.beat(ctx); err != nil {
			return err
		}
		until, cancel := context.WithTimeout(ctx, s.fleet.config.Heartbeat)
		err := s.listen(until)
		cancel()
		if err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// beat lets locks go, asks for those that are wanted, and shows that we live.
func (s *session) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.fleet.config.Heartbeat, errors.New("the server did not answer within one heartbeat"))
	defer cancel()
	wanted, unneeded := s.fleet.claims(s)
	if len(unneeded) > 0 {
		if _, err := s.conn.Exec(ctx, `SELECT pg_advisory_unlock(k) FROM unnest($1::bigint[]) AS k`, unneeded); err != nil {
			return fmt.Errorf("letting locks go: %w", err)
		}
		for _, key := range unneeded {
			delete(s.locks, key)
		}
	}
	keys := make([]int64, 0, len(wanted))
	for key := range wanted {
		if s.locks[key] == nil {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	rows, err := s.conn.Query(ctx, `SELECT k FROM unnest($1::bigint[]) AS k WHERE pg_try_advisory_lock(k)`, keys)
	if err != nil {
		return fmt.Errorf("asking for locks: %w", err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return fmt.Errorf("asking for locks: %w", err)
	}
	for _, key := range got {
		s.locks[key] = wanted[key]
		s.fleet.grant(wanted[key], s)
	}
	if s.beats%memberBeats == 0 || len(got)+len(unneeded) > 0 {
		// A database that takes nothing down still keeps locks, and passes notices on.
		if err := s.enter(ctx); err != nil {
			if s.conn.IsClosed() {
				return err
			}
			s.fleet.config.Logger.DebugContext(ctx, "the table of brokers is not up to date", "error", err)
		}
	}
	s.beats++
	return nil
}

// listen hears and sends until ctx ends, or something else is to be done.
func (s *session) listen(ctx context.Context) error {
	f := s.fleet
	for {
		f.mu.Lock()
		if f.over(ctx) {
			f.wake = nil
			f.mu.Unlock()
			return nil
		}
		topics, payloads := f.collect()
		waiting, cancel := context.WithCancel(ctx)
		f.wake = cancel
		f.mu.Unlock()
		if len(topics) > 0 {
			cancel()
			if err := s.send(ctx, topics, payloads); err != nil {
				return err
			}
			continue
		}
		err := s.conn.PgConn().WaitForNotification(waiting)
		woken := waiting.Err() != nil
		cancel()
		ended := pgconn.Timeout(err) || errors.Is(err, context.Canceled)
		if err != nil && (!woken || !ended || s.conn.IsClosed()) {
			return fmt.Errorf("listening: %w", err)
		}
	}
}

// over says that the next beat is due, or wanted. The caller holds mu.
func (f *Fleet) over(ctx context.Context) bool { return f.changed || ctx.Err() != nil }

func (s *session) send(ctx context.Context, channels, payloads []string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.fleet.config.Heartbeat)
	defer cancel()
	if _, err := s.conn.Exec(ctx, `SELECT pg_notify(c, p) FROM unnest($1::text[], $2::text[]) AS n(c, p)`, channels, payloads); err != nil {
		return fmt.Errorf("sending notices: %w", err)
	}
	f := s.fleet
	f.mu.Lock()
	f.held = true
	f.mu.Unlock()
	time.AfterFunc(noticePause, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.held = false
		if len(f.pending) > 0 {
			f.interrupt()
		}
	})
	return nil
}

// notified hands a notice on. Our own are left out: who sent one did before what
// it asks the others for.
func (s *session) notified(conn *pgconn.PgConn, n *pgconn.Notification) {
	topic, ours := topicOf(n.Channel)
	if !ours || n.PID == conn.PID() {
		return
	}
	s.fleet.config.Observe.Noticed(topic, false)
	s.fleet.hand(topic, n.Payload)
}

// part waits until nothing runs any more under the locks, and leaves the table.
func (s *session) part(ctx context.Context) {
	for waited := time.Duration(0); waited < parting && len(s.fleet.leading(s)) > 0; waited += partingLook {
		<-time.After(partingLook)
	}
	if ctx.Err() == nil || s.conn.IsClosed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.fleet.config.Heartbeat)
	defer cancel()
	if _, err := s.conn.Exec(ctx, `DELETE FROM brokers WHERE id = $1`, s.fleet.config.Member.ID); err != nil {
		s.fleet.config.Logger.DebugContext(ctx, "this broker's row stays for a day", "error", err)
	}
}

func (s *session) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.fleet.config.Heartbeat)
	defer cancel()
	if err := s.conn.Close(ctx); err != nil {
		s.fleet.config.Logger.DebugContext(ctx, "closing the connection to the fleet failed", "error", err)
	}
}
