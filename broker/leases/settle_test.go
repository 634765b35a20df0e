package leases_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/leases"
)

// How a connection is lost.
const (
	whole    = iota
	answer   // the server gets all and commits; its answer is lost
	question // the server gets nothing
)

// line is a connection that loses what a test wants lost, once.
type line struct {
	net.Conn
	fault *atomic.Int32
	lost  atomic.Bool
}

func (l *line) Write(p []byte) (int, error) {
	switch {
	case len(p) < 1000: // none of the transactions that are meant
	case l.fault.CompareAndSwap(question, whole):
		l.Close() //nolint:errcheck // that is the point
		return len(p), nil
	case l.fault.CompareAndSwap(answer, whole):
		l.lost.Store(true)
	}
	return l.Conn.Write(p)
}

func (l *line) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if l.lost.Load() && n >= 6 && p[n-6] == 'Z' { // ReadyForQuery ends an answer
		l.Close() //nolint:errcheck // that is the point
		return 0, io.ErrUnexpectedEOF
	}
	if l.lost.Load() && err == nil {
		return l.Read(p)
	}
	return n, err
}

// by opens a store with connections of its own.
func (f *fixture) by(t *testing.T, config *pgxpool.Config) *leases.Store {
	t.Helper()
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	settings := f.settings
	settings.Pool = pool
	s, err := leases.Open(t.Context(), settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// over opens a store whose connections can be lost.
func (f *fixture) over(t *testing.T, fault *atomic.Int32) *leases.Store {
	t.Helper()
	config := f.pool.Config().Copy()
	var dialer net.Dialer
	config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &line{Conn: conn, fault: fault}, nil
	}
	config.MaxConns = 1 // on which all statements are prepared
	return f.by(t, config)
}

// warm has the statements prepared, so that the next transaction is one message.
func warm(t *testing.T, f *fixture, s *leases.Store) {
	t.Helper()
	r := f.reservation(f.job(), "deploy-db")
	if err := s.Reserve(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if err := s.Activate(t.Context(), activation(f, r)); err != nil {
		t.Fatal(err)
	}
}

// TestUnknownOutcome: who waits for a transaction whose answer was lost is told
// what became of it.
func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var fault atomic.Int32
	s := f.over(t, &fault)
	warm(t, f, s)

	r := f.reservation(f.job(), "deploy-db", "other")
	fault.Store(answer)
	if err := s.Reserve(t.Context(), r); err != nil {
		t.Errorf("it was committed, and the answer is %v", err)
	}
	if fault.Load() != whole || r.SessionID != r.Session.ID || !r.SessionExpiresAt.Equal(r.Session.ExpiresAt) {
		t.Errorf("session %s until %s, want %s until %s", r.SessionID, r.SessionExpiresAt, r.Session.ID, r.Session.ExpiresAt)
	}
	warm(t, f, s)
	fault.Store(answer)
	if err := s.Activate(t.Context(), activation(f, r)); err != nil || f.state(t, r.Leases[0].ID) != leases.Active {
		t.Errorf("the activation was committed, and the answer is %v", err)
	}

	warm(t, f, s)
	lost := f.reservation(f.job(), "deploy-db")
	fault.Store(question)
	if err := s.Reserve(t.Context(), lost); !errors.Is(err, leases.ErrUnavailable) {
		t.Errorf("it was not written, and the answer is %v", err)
	}
	if n := f.count(t, `SELECT count(*) FROM leases WHERE id = $1`, lost.Leases[0].ID); n != 0 {
		t.Error("it was written after all")
	}
	if err := s.Reserve(t.Context(), lost); err != nil {
		t.Errorf("and once more: %v", err)
	}
}

// TestFatalErrors: a server that ends a session is one that is away, and tells
// nothing of what became of a transaction, whatever its language and reason.
func TestFatalErrors(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err           pgconn.PgError
		unknown, away bool
	}{
		"an operator ended it":              {pgconn.PgError{Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: "57P01"}, true, true},
		"the same in Polish":                {pgconn.PgError{Severity: "KATASTROFALNY", SeverityUnlocalized: "FATAL", Code: "57P01"}, true, true},
		"a crash, as told by an old server": {pgconn.PgError{Severity: "PANIC", Code: "XX000"}, true, true},
		"a broker stood still in it":        {pgconn.PgError{Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: "25P03"}, true, true},
		"it waited for another one":         {pgconn.PgError{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: "55P03"}, false, true},
		"a mistake of ours":                 {pgconn.PgError{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: "42601"}, false, false},
	} {
		if leases.Unknown(&test.err) != test.unknown {
			t.Errorf("%s: unknown is %v", name, !test.unknown)
		}
		if err := leases.Unavailable("testing", &test.err); errors.Is(err, leases.ErrUnavailable) != test.away {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// mute is a connection on which the end of a transaction is lost, and everything
// after it, and which nobody closes.
type mute struct {
	net.Conn
	silent atomic.Bool
	late   chan struct{}
	once   sync.Once
}

func (m *mute) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("rollback")) {
		m.silent.Store(true)
	}
	if m.silent.Load() {
		return len(p), nil
	}
	return m.Conn.Write(p)
}

func (m *mute) Read(p []byte) (int, error) {
	if m.silent.Load() {
		<-m.late
		return 0, os.ErrDeadlineExceeded
	}
	return m.Conn.Read(p)
}

func (m *mute) SetDeadline(at time.Time) error {
	if m.silent.Load() && !at.IsZero() {
		m.once.Do(func() { close(m.late) })
	}
	return m.Conn.SetDeadline(at)
}

// TestSilentRollback: a server that falls silent when a transaction is to end holds
// nobody up for long.
func TestSilentRollback(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	config := f.pool.Config().Copy()
	var dialer net.Dialer
	config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, address)
		return &mute{Conn: conn, late: make(chan struct{})}, err
	}
	s := f.by(t, config)
	answered := make(chan error, 1)
	go func() {
		_, err := s.RevokeJob(t.Context(), ids.New(ids.Lease, time.Now()), leases.Why{Actor: "somebody", Reason: "a test"})
		answered <- err
	}()
	select {
	case err := <-answered:
		if !errors.Is(err, leases.ErrNotFound) {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("it waits for ever")
	}
}
