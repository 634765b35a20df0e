package sequencer_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/audit"
	auditlog "github.com/daypass/daypass/broker/audit/log"
	"github.com/daypass/daypass/broker/audit/sequencer"
	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/keys"
)

func TestMain(m *testing.M) { os.Exit(devtest.Main(m)) }

const installation = "0123456789ab"

// world is a database with events, and what numbers them.
type world struct {
	t        testing.TB
	pool     *pgxpool.Pool
	recorder *audit.Recorder
	signer   keys.Signer
	key      *auditlog.Key
	log      *safeBuffer
	seen     *observer
	age      atomic.Int64 // how old the next events are
	mu       sync.Mutex
	counts   map[string]int
}

// safeBuffer is written to by several goroutines.
type safeBuffer struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.String()
}

type observer struct {
	mu        sync.Mutex
	sequenced int
	forged    int
	failing   map[string]bool
}

func (o *observer) Sequenced(n int) { o.mu.Lock(); o.sequenced += n; o.mu.Unlock() }
func (o *observer) Forged(n int)    { o.mu.Lock(); o.forged += n; o.mu.Unlock() }
func (*observer) Lag(time.Duration) {}
func (*observer) Signed(int64)      {}
func (o *observer) Failing(what string, failing bool) {
	o.mu.Lock()
	o.failing[what] = failing
	o.mu.Unlock()
}

func (o *observer) fails(what string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.failing[what]
}

func newSigner(t testing.TB) keys.Signer {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := keys.NewSigner(private, keys.ES256)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func newWorld(t testing.TB) *world {
	t.Helper()
	config, err := pgxpool.ParseConfig(devtest.Migrated(t))
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 16
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	root, err := keys.NewRoot()
	if err != nil {
		t.Fatal(err)
	}
	recorder, err := audit.New(audit.Config{Installation: installation, Tenant: "main", MAC: root.Hasher(keys.AuditMACs)})
	if err != nil {
		t.Fatal(err)
	}
	signer := newSigner(t)
	key, err := auditlog.NewKey(auditlog.Origin(installation), signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	return &world{
		t: t, pool: pool, recorder: recorder, signer: signer, key: key, log: &safeBuffer{}, seen: &observer{failing: map[string]bool{}}, counts: map[string]int{},
	}
}

// sequencer makes one more of a fleet.
func (w *world) sequencer(change func(*sequencer.Config)) *sequencer.Sequencer {
	w.t.Helper()
	c := sequencer.Config{
		Pool: w.pool, Audit: w.recorder, Installation: installation, Key: w.signer, Logger: slog.New(slog.NewJSONHandler(w.log, nil)), Observe: w.seen, Now: time.Now,
	}
	if change != nil {
		change(&c)
	}
	s, err := sequencer.New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := s.Close(); err != nil {
			w.t.Error(err)
		}
	})
	return s
}

// events makes some of one subject, with its next counts.
func (w *world) events(subject string, n int) []audit.Event {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []audit.Event
	for range n {
		w.counts[subject]++
		e, err := w.recorder.Event(audit.Entry{
			At: time.Now().Add(-time.Duration(w.age.Load())), Type: audit.LeaseIssued, Subject: subject, Count: w.counts[subject], Actor: "job github repo:a/b",
			Data: map[string]any{"grant": "payments/deploy-db"},
		})
		if err != nil {
			w.t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

type batcher interface {
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

func (w *world) insert(q batcher, events []audit.Event) {
	w.t.Helper()
	var batch pgx.Batch
	audit.InsertIf(&batch, events, "true")
	if err := q.SendBatch(context.WithoutCancel(w.t.Context()), &batch).Close(); err != nil {
		w.t.Error(err)
	}
}

// write commits n events of a new subject.
func (w *world) write(n int) []audit.Event {
	w.t.Helper()
	events := w.events(ids.New(ids.Lease, time.Now()), n)
	w.insert(w.pool, events)
	return events
}

func (w *world) run(s *sequencer.Sequencer) sequencer.Counts {
	w.t.Helper()
	counts, err := s.RunOnce(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return counts
}

// settle runs until what is there has its place.
func (w *world) settle(s *sequencer.Sequencer) {
	w.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; {
		w.run(s)
		var left int
		if err := w.pool.QueryRow(w.t.Context(), `SELECT count(*) FROM audit_events WHERE id NOT IN (SELECT event_id FROM audit_log)`).Scan(&left); err != nil {
			w.t.Fatal(err)
		}
		if left == 0 {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%d events have no number", left)
		}
	}
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.pool.Exec(w.t.Context(), sql, args...); err != nil {
		w.t.Fatal(err)
	}
}

// tamper does what an owner of the tables can.
func (w *world) tamper(sql string, args ...any) {
	w.t.Helper()
	for _, table := range []string{"audit_log", "audit_nodes"} {
		w.exec(`ALTER TABLE ` + table + ` DISABLE TRIGGER USER`)
		defer w.exec(`ALTER TABLE ` + table + ` ENABLE TRIGGER USER`)
	}
	w.exec(sql, args...)
}

func (w *world) export(s *sequencer.Sequencer, from int64) []byte {
	w.t.Helper()
	var out bytes.Buffer
	if err := s.Export(w.t.Context(), from, -1, func(l *auditlog.Line) error {
		line, err := l.Encode()
		out.Write(line)
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
	return out.Bytes()
}

// verified is an export that must verify with the world's key.
func (w *world) verified(s *sequencer.Sequencer) *auditlog.Report {
	w.t.Helper()
	report, err := auditlog.VerifyBytes(w.export(s, 0), auditlog.Proof{Keys: []*auditlog.Key{w.key}})
	if err != nil {
		w.t.Fatal(err)
	}
	return report
}

// sign has a checkpoint signed over all that is there.
func (w *world) sign(s *sequencer.Sequencer) string {
	w.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		w.settle(s)
		note, err := s.Latest(w.t.Context())
		if err != nil {
			continue
		}
		c, err := auditlog.ParseCheckpoint(note)
		if err != nil {
			w.t.Fatal(err)
		}
		var size int64
		if err := w.pool.QueryRow(w.t.Context(), `SELECT max(seq) + 1 FROM audit_log`).Scan(&size); err != nil {
			w.t.Fatal(err)
		}
		if c.Size == size {
			return note
		}
	}
	w.t.Fatal("nothing was signed")
	return ""
}

func testLogger() *slog.Logger { return slog.New(slog.DiscardHandler) }

// killer ends a run when a connection begins its nth statement.
type killer struct {
	after int64
	seen  atomic.Int64
	kill  func()
}

// TraceQueryStart implements pgx.QueryTracer.
func (k *killer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	if k.seen.Add(1) == k.after {
		k.kill()
	}
	return ctx
}

// TraceQueryEnd implements pgx.QueryTracer.
func (*killer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func poolOf(t testing.TB, config *pgxpool.Config) (*pgxpool.Pool, error) {
	t.Helper()
	return pgxpool.NewWithConfig(t.Context(), config)
}

// failingSigner signs nothing.
type failingSigner struct{ keys.Signer }

func (*failingSigner) SignContext(context.Context, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("the token is away")
}
