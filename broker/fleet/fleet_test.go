package fleet_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/broker/fleet"
)

func TestMain(m *testing.M) { os.Exit(devtest.Main(m)) }

// database is a migrated one, reached over TCP so that the network can fail.
func database(t *testing.T) *pgx.ConnConfig {
	t.Helper()
	config, err := pgx.ParseConfig(devtest.Migrated(t))
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := pgx.ParseConfig(devtest.Postgres(t).TCPDSN(config.Database))
	if err != nil {
		t.Fatal(err)
	}
	return tcp
}

func poll(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("waited for nothing: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// network is what lies between a member and the database.
type network struct {
	mu     sync.Mutex
	conns  []net.Conn
	silent atomic.Bool // swallows whatever is written, and delivers nothing
	refuse atomic.Bool // lets nobody connect
}

func (n *network) dial(ctx context.Context, kind, address string) (net.Conn, error) {
	if n.refuse.Load() {
		return nil, &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}
	}
	conn, err := new(net.Dialer).DialContext(ctx, kind, address)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns = append(n.conns, conn)
	return &link{Conn: conn, network: n, closed: make(chan struct{})}, nil
}

// cut closes all connections, as the end of a process does.
func (n *network) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, conn := range n.conns {
		conn.Close() //nolint:errcheck // it is to fail
	}
	n.conns = nil
}

// link is a connection of which the network decides what comes through. When it
// is silent, even its end doesn't reach the server.
type link struct {
	net.Conn

	network *network
	closed  chan struct{}
	once    sync.Once
}

func (l *link) Write(b []byte) (int, error) {
	if l.network.silent.Load() {
		return len(b), nil
	}
	return l.Conn.Write(b)
}

func (l *link) Close() error {
	l.once.Do(func() { close(l.closed) })
	if l.network.silent.Load() {
		return nil
	}
	return l.Conn.Close()
}

// member is one broker's place in the fleet.
type member struct {
	*fleet.Fleet

	id      string
	network *network
	stop    func()
	log     *bytes.Buffer
	leads   atomic.Int32 // how many tasks it runs
	terms   atomic.Int32 // how often it began
}

const (
	quick = 200 * time.Millisecond // where a takeover is waited for
	calm  = 10 * time.Second       // where no beat may be missed, however slow the machine is
)

func join(t *testing.T, config *pgx.ConnConfig, id string, tasks ...string) *member {
	t.Helper()
	return joinWith(t, quick, config, id, tasks...)
}

func joinWith(t *testing.T, heartbeat time.Duration, config *pgx.ConnConfig, id string, tasks ...string) *member {
	t.Helper()
	m := &member{id: id, network: &network{}, log: &bytes.Buffer{}}
	config = config.Copy()
	config.DialFunc = m.network.dial
	var err error
	m.Fleet, err = fleet.New(fleet.Config{
		Database: config, Member: fleet.Member{ID: id, Host: "host of " + id, Version: "test"}, Heartbeat: heartbeat,
		Logger: slog.New(slog.NewTextHandler(m.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	for _, name := range tasks {
		running.Go(func() {
			if err := m.Once(ctx, name, func(ctx context.Context) {
				m.leads.Add(1)
				m.terms.Add(1)
				<-ctx.Done()
				m.leads.Add(-1)
			}); err != nil {
				t.Error(err)
			}
		})
	}
	m.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	t.Cleanup(func() {
		m.network.silent.Store(false)
		m.network.cut()
		m.stop()
	})
	return m
}

// run starts what Subscribe had to come before.
func (m *member) run(t *testing.T) *member {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() { m.Run(ctx) })
	stop := m.stop
	m.stop = sync.OnceFunc(func() {
		cancel()
		stop()
		running.Wait()
	})
	t.Cleanup(func() { m.stop() })
	poll(t, m.id+" is connected", m.Connected)
	return m
}

// TestTakeover: one does what is done once, and when it is gone, in whichever
// way, another does, while the first one has stopped.
func TestTakeover(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(m *member){
		"stopped":  func(m *member) { m.stop() },
		"killed":   func(m *member) { m.network.refuse.Store(true); m.network.cut() },
		"vanished": func(m *member) { m.network.refuse.Store(true); m.network.silent.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := database(t)
			first := join(t, config, "first", "care", "schedule").run(t)
			poll(t, "the first one leads", func() bool { return first.leads.Load() == 2 })
			second := join(t, config, "second", "care", "schedule").run(t)
			third := join(t, config, "third", "care", "schedule").run(t)
			end(first)
			poll(t, "others lead", func() bool { return second.leads.Load()+third.leads.Load() == 2 })
			poll(t, "the first one has stopped", func() bool { return first.leads.Load() == 0 })
		})
	}
}

// TestComesBack: who lost its connection is elected again when it is back, and
// nobody else is there.
func TestComesBack(t *testing.T) {
	t.Parallel()
	m := join(t, database(t), "alone", "care").run(t)
	poll(t, "it leads", func() bool { return m.leads.Load() == 1 })
	m.network.cut()
	poll(t, "it leads again", func() bool { return m.terms.Load() == 2 && m.leads.Load() == 1 })
}

// TestSecondOfAName is a mistake of the program's.
func TestSecondOfAName(t *testing.T) {
	t.Parallel()
	m := join(t, database(t), "one", "care").run(t)
	poll(t, "it leads", func() bool { return m.leads.Load() == 1 })
	if err := m.Once(t.Context(), "care", func(context.Context) { t.Error("it ran") }); err == nil || !strings.Contains(err.Error(), "care") {
		t.Errorf("%v", err)
	}
}

// TestReturnsEarly: a task that ends by itself runs again, here or elsewhere, and
// its lock isn't kept from the others.
func TestReturnsEarly(t *testing.T) {
	t.Parallel()
	config := database(t)
	m, other := join(t, config, "one").run(t), join(t, config, "two").run(t)
	var runs [2]atomic.Int32
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for i, f := range []*member{m, other} {
		running.Go(func() {
			if err := f.Once(ctx, "short", func(context.Context) { runs[i].Add(1) }); err != nil {
				t.Error(err)
			}
		})
	}
	poll(t, "both have run it", func() bool { return runs[0].Load() > 0 && runs[1].Load() > 0 })
	cancel()
	running.Wait()
}

// heard collects what a subscriber was told.
type heard struct {
	mu       sync.Mutex
	payloads []string
}

func (h *heard) add(payload string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.payloads = append(h.payloads, payload)
}

func (h *heard) count(payload string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, p := range h.payloads {
		if p == payload {
			n++
		}
	}
	return n
}

// TestNotices reach the others and not the sender, many of one kind as few, and
// who may have missed some is told so.
func TestNotices(t *testing.T) {
	t.Parallel()
	config := database(t)
	sender, hearer := joinWith(t, calm, config, "sender"), joinWith(t, calm, config, "hearer")
	var own, got heard
	sender.Subscribe("due", own.add)
	hearer.Subscribe("due", got.add)
	sender.run(t)
	hearer.run(t)
	poll(t, "the hearer is told to look for itself", func() bool { return got.count("") == 1 })
	for range 1000 {
		sender.Notify("due", "db")
	}
	sender.Notify("due", "jwt")
	poll(t, "both were heard", func() bool { return got.count("db") > 0 && got.count("jwt") > 0 })
	if n := got.count("db"); n > 20 {
		t.Errorf("a thousand notices of one kind came as %d", n)
	}
	if own.count("") != 1 || got.count("") != 1 {
		t.Errorf("without a reason, the sender was told to look for itself %d times, the hearer %d times", own.count(""), got.count(""))
	}
	hearer.network.cut()
	poll(t, "the hearer is told once more", func() bool { return got.count("") == 2 })
	sender.Notify("due", "db2")
	poll(t, "it hears again", func() bool { return got.count("db2") == 1 })
	if own.count("db")+own.count("jwt")+own.count("db2") > 0 {
		t.Error("the sender heard itself")
	}
	// What is said while the connection is away is said when it is back.
	sender.network.refuse.Store(true)
	sender.network.cut()
	poll(t, "the sender is away", func() bool { return !sender.Connected() })
	sender.Notify("due", "late")
	sender.network.refuse.Store(false)
	poll(t, "it was heard", func() bool { return got.count("late") == 1 })
	// Too much to say, or too long: look for yourselves.
	before := got.count("")
	sender.Notify("due", strings.Repeat("x", fleet.MaxPayload+1))
	poll(t, "it was heard as nothing in particular", func() bool { return got.count("") > before })
}

// TestNoticeOfATransaction reaches those who listen when it commits.
func TestNoticeOfATransaction(t *testing.T) {
	t.Parallel()
	config := database(t)
	m := joinWith(t, calm, config, "hearer")
	var got heard
	m.Subscribe("switches", got.add)
	m.run(t)
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context())) //nolint:errcheck // the test is over
	if err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
		batch := &pgx.Batch{}
		fleet.NotifyIn(batch, "switches", "now")
		return tx.SendBatch(t.Context(), batch).Close()
	}); err != nil {
		t.Fatal(err)
	}
	poll(t, "it was heard", func() bool { return got.count("now") == 1 })
}

// TestMembers: operators see who is there, and what each does for all.
func TestMembers(t *testing.T) {
	t.Parallel()
	config := database(t)
	first := joinWith(t, calm, config, "first", "care").run(t)
	poll(t, "the first one leads", func() bool { return first.leads.Load() == 1 })
	second := joinWith(t, calm, config, "second", "care").run(t)
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context())) //nolint:errcheck // the test is over
	find := func(id string) *fleet.Member {
		members, err := fleet.Members(t.Context(), conn)
		if err != nil {
			t.Fatal(err)
		}
		if i := slices.IndexFunc(members, func(m fleet.Member) bool { return m.ID == id }); i >= 0 {
			return &members[i]
		}
		return nil
	}
	poll(t, "both are there, and one does it", func() bool {
		one, two := find("first"), find("second")
		return one != nil && two != nil && slices.Equal(one.Tasks, []string{"care"}) && len(two.Tasks) == 0
	})
	if first.leads.Load() != 1 || first.terms.Load() != 1 || second.terms.Load() != 0 {
		t.Errorf("the first one leads %d, and began %d times; the second one began %d times", first.leads.Load(), first.terms.Load(), second.terms.Load())
	}
	if m := find("first"); m.Host != "host of first" || m.Version != "test" || m.StartedAt.After(m.SeenAt) {
		t.Errorf("%+v", m)
	}
	second.stop()
	poll(t, "who left is gone", func() bool { return find("second") == nil })
}

// TestTakeoverWithinTenSeconds by the times that are waited for: what is tested
// above with short ones holds for those of a real broker.
func TestTakeoverWithinTenSeconds(t *testing.T) {
	t.Parallel()
	config := database(t)
	f, err := fleet.New(fleet.Config{Database: config, Member: fleet.Member{ID: "id", Host: "host"}})
	if err != nil {
		t.Fatal(err)
	}
	if least, most := f.Takeover(); most > 10*time.Second || least <= 0 {
		t.Errorf("the holder of a lock stops %s before another can have it, and another has it after %s at the most", least, most)
	}
}

// TestDirect connections are told from those that lead through a pooler: see also
// cmd/daypassd.
func TestDirect(t *testing.T) {
	t.Parallel()
	if err := fleet.CheckDirect(t.Context(), database(t)); err != nil {
		t.Error(err)
	}
}
