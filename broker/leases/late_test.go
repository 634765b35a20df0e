package leases_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/leases"
)

// wire is the network between a store and its server: a test loses connections on
// it, or holds up what is sent.
type wire struct {
	mu   sync.Mutex
	open []*lane
	hold func(l *lane, message []byte) (kept bool) // the next large message; nil: it passes
}

type lane struct {
	net.Conn
	of   *wire
	lost chan struct{} // closed when the client hears nothing more
	once sync.Once
}

// cancelRequest is how a client that lost its connection asks the server to stop.
// What lost the connection loses that too.
var cancelRequest = []byte{0, 0, 0, 16, 4, 210, 22, 46}

func (l *lane) Write(p []byte) (int, error) {
	if bytes.HasPrefix(p, cancelRequest) {
		return 0, io.ErrClosedPipe
	}
	if l.isLost() {
		return len(p), nil
	}
	l.of.mu.Lock()
	hold := l.of.hold
	if len(p) < 1000 { // none of the transactions that are meant
		hold = nil
	}
	if hold != nil {
		l.of.hold = nil
	}
	l.of.mu.Unlock()
	if hold != nil && hold(l, bytes.Clone(p)) {
		return len(p), nil
	}
	return l.Conn.Write(p)
}

func (l *lane) Close() error {
	if l.isLost() {
		return nil // the server learns nothing of it
	}
	return l.Conn.Close()
}

func (l *lane) isLost() bool {
	select {
	case <-l.lost:
		return true
	default:
		return false
	}
}

// lose takes the connection from the client, and leaves the server's end open.
func (l *lane) lose() {
	l.once.Do(func() { close(l.lost) })
	_ = l.SetReadDeadline(time.Unix(1, 0)) // who reads hears of it
}

func (l *lane) Read(p []byte) (int, error) {
	if l.isLost() {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := l.Conn.Read(p)
	if l.isLost() {
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

func (w *wire) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	l := &lane{Conn: conn, of: w, lost: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open = append(w.open, l)
	return l, nil
}

func (w *wire) holdNext(hold func(*lane, []byte) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hold = hold
}

// cut loses all connections that are open now.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.open {
		l.lose()
	}
	w.open = nil
}

// across opens a store behind a wire, with its statements prepared on its one
// connection.
func (f *fixture) across(t *testing.T, name string) (*leases.Store, *wire) {
	t.Helper()
	w := &wire{}
	config := f.pool.Config().Copy()
	config.ConnConfig.DialFunc = w.dial
	config.ConnConfig.RuntimeParams["application_name"] = name
	config.MaxConns = 1
	s := f.by(t, config)
	warm(t, f, s)
	return s, w
}

func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

// notIssued is the time after which a transaction that can't be found counts as one
// that was never written.
const notIssued = leases.MaxSkew + time.Second

// TestLateLanding: the connection of a transaction is lost while the server works
// on it, held up by another one's lock. Nobody is told that it was not written
// before that is so, however long it takes.
func TestLateLanding(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for name, prepare := range map[string]func(*leases.Reservation) (lock string, arg any){
		"a grant that is counted": func(r *leases.Reservation) (string, any) {
			r.Leases[0].Policy, r.Leases[0].MaxActive = "counted", 10
			return `SELECT pg_advisory_xact_lock(hashtextextended('daypass max_active ' || $1, 0))`, "main/counted/deploy-db"
		},
		"a job that is counted": func(r *leases.Reservation) (string, any) {
			r.JobKey, r.Whose, r.MaxPerJob = key("job"), key("whose"), 10
			return `SELECT pg_advisory_xact_lock($1)`, leases.LockOf("job", r.Whose, r.JobKey)
		},
		"its session": func(r *leases.Reservation) (string, any) {
			return `SELECT FROM sessions WHERE id = $1 FOR UPDATE`, r.Session.ID
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, w := f.across(t, name)
			earlier := f.reservation(f.job(), "deploy-db")
			if err := s.Reserve(t.Context(), earlier); err != nil {
				t.Fatal(err)
			}
			r := f.reservation(earlier.Session, "deploy-db")
			r.Session.ID, r.Joined = earlier.SessionID, true
			lock, arg := prepare(r)
			f.landLate(t, name, func() error { return s.Reserve(t.Context(), r) }, w, r.Leases[0].ID, lock, arg)
		})
	}
}

// landLate has a reservation wait for a lock of the test's, cuts its connection,
// and lets the lock go when a store that only waited for a while would have said
// that nothing was written.
func (f *fixture) landLate(t *testing.T, name string, reserve func() error, w *wire, lease, lock string, arg any) {
	t.Helper()
	holder, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // it is committed by then
	if _, err := holder.Exec(t.Context(), lock, arg); err != nil {
		t.Fatal(err)
	}
	told := make(chan error, 1)
	go func() { told <- reserve() }()
	const waiting = `SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock' LIMIT 1`
	var backend int
	until(t, "it waits for the lock", func() bool {
		return f.pool.QueryRow(t.Context(), waiting, name).Scan(&backend) == nil
	})
	w.cut()
	lost := time.Now()
	until(t, "it is told too early, or waits", func() bool { return len(told) > 0 || time.Since(lost) > notIssued })
	if err := holder.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, "the server is done with it", func() bool {
		return f.count(t, `SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND state = 'active'`, backend) == 0
	})
	err = <-told
	if err != nil && !errors.Is(err, leases.ErrUnavailable) {
		t.Error(err)
	}
	written := f.count(t, `SELECT count(*) FROM leases WHERE id = $1`, lease)
	if written != 1 || err != nil {
		t.Errorf("%d leases were written behind the lost connection, and the answer is %v", written, err)
	}
}

// TestTooLateToBegin: what was on its way when its connection was lost, and comes to
// the server when its sender has been told that nothing was written, writes nothing.
func TestTooLateToBegin(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s, w := f.across(t, "too late")
	release, answered := make(chan struct{}), make(chan error, 1)
	w.holdNext(func(l *lane, message []byte) bool {
		l.lose()
		go func() { answered <- l.deliver(release, message) }()
		return true
	})
	r := f.reservation(f.job(), "deploy-db")
	if err := s.Reserve(t.Context(), r); !errors.Is(err, leases.ErrUnavailable) {
		t.Fatalf("nothing came to the server, and the answer is %v", err)
	}
	close(release)
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
	if n := f.count(t, `SELECT (SELECT count(*) FROM leases WHERE id = $1) + (SELECT count(*) FROM sessions WHERE id = $2)`, r.Leases[0].ID, r.Session.ID); n != 0 {
		t.Errorf("%d rows were written after it was told that none would be", n)
	}
}

// deliver sends a message when it is released, and returns once the server has
// answered it.
func (l *lane) deliver(release <-chan struct{}, message []byte) error {
	<-release
	if _, err := l.Conn.Write(message); err != nil {
		return err
	}
	if err := l.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	var answer []byte
	for buffer := make([]byte, 32<<10); !bytes.HasSuffix(answer, []byte{'Z', 0, 0, 0, 5, 'I'}); {
		n, err := l.Conn.Read(buffer)
		if err != nil {
			return err
		}
		answer = append(answer, buffer[:n]...)
	}
	return l.Conn.Close()
}

// TestCameLate: a transaction that comes to the server so late that it could be one
// with a wrong clock is sent once more, since the clocks are right; one that comes
// late again is not, and nothing of it was written.
func TestCameLate(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for name, c := range map[string]struct {
		late  int
		wrong bool
	}{"once": {1, false}, "twice": {2, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, w := f.across(t, name)
			var sent int
			var slow func(*lane, []byte) bool
			slow = func(*lane, []byte) bool {
				if sent++; sent < c.late {
					w.holdNext(slow)
				}
				<-time.After(leases.MaxSkew + 500*time.Millisecond) // on its way
				return false
			}
			w.holdNext(slow)
			r := f.reservation(f.job(), "deploy-db")
			err := s.Reserve(t.Context(), r)
			if sent != c.late {
				t.Errorf("%d came late, want %d", sent, c.late)
			}
			if !c.wrong && err != nil {
				t.Errorf("the clocks are right, and it is refused: %v", err)
			}
			if c.wrong {
				wantClock(t, err, "more than")
			}
			want := 1
			if c.wrong {
				want = 0
			}
			if n := f.count(t, `SELECT count(*) FROM leases WHERE id = $1`, r.Leases[0].ID); n != want {
				t.Errorf("%d leases, want %d", n, want)
			}
		})
	}
}

// TestActivationCutOff: an activation whose connection is lost while the server
// works on it is refused, and whoever is refused ends the lease: it never comes to
// life behind that.
func TestActivationCutOff(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s, w := f.across(t, "activation")
	r := f.reservation(f.job(), "deploy-db")
	if err := s.Reserve(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	id := r.Leases[0].ID
	holder, err := f.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // it is committed by then
	if _, err := holder.Exec(t.Context(), `SELECT FROM leases WHERE id = $1 FOR UPDATE`, id); err != nil {
		t.Fatal(err)
	}
	told := make(chan error, 1)
	go func() { told <- s.Activate(t.Context(), activation(f, r)) }()
	const waits = `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'activation' AND wait_event_type = 'Lock'`
	until(t, "it waits for the lease", func() bool { return f.count(t, waits) == 1 })
	w.cut()
	if err := <-told; !errors.Is(err, leases.ErrUnavailable) {
		t.Errorf("nobody knows what became of it, and the answer is %v", err)
	}
	undone := make(chan error, 1)
	go func() { undone <- f.Undo(t.Context(), r, leases.Why{Actor: "job", Reason: "it failed"}) }()
	until(t, "who ends it waits behind it", func() bool {
		return f.count(t, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`) == 2
	})
	if err := holder.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-undone; err != nil {
		t.Fatal(err)
	}
	until(t, "the server is done with it", func() bool { return f.count(t, waits) == 0 })
	if state := f.state(t, id); state != leases.Revoking {
		t.Errorf("the lease is %s", state)
	}
}
