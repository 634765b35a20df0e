package sealing_test

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/sealing"
	"github.com/daypass/daypass/issuers"
)

func TestMain(m *testing.M) { os.Exit(devtest.Main(m)) }

const (
	installationID = "0123456789ab"
	purpose        = "revocation handle"
)

var errAway = errors.New("the HSM is away")

// hsm is a sealing key that counts what it is asked, and fails when it is told to.
type hsm struct {
	keys.Sealer

	mu    sync.Mutex
	opens int
	seals int
	away  bool
	block chan struct{} // not nil: calls wait until it is closed
}

func newHSM(t testing.TB) *hsm {
	t.Helper()
	software, err := keys.OpenSoftware(keys.SoftwareConfig{Dir: t.TempDir(), PIN: issuers.NewSecret("a pin for tests"), Create: true})
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := software.MakeSealer(t.Context(), "seal")
	if err != nil {
		t.Fatal(err)
	}
	return &hsm{Sealer: sealer}
}

func (h *hsm) enter(count *int) error {
	h.mu.Lock()
	*count++
	away, block := h.away, h.block
	h.mu.Unlock()
	if block != nil {
		<-block
	}
	if away {
		return errAway
	}
	return nil
}

func (h *hsm) Seal(ctx context.Context, plaintext, place []byte) ([]byte, error) {
	if err := h.enter(&h.seals); err != nil {
		return nil, err
	}
	return h.Sealer.Seal(ctx, plaintext, place)
}

func (h *hsm) Open(ctx context.Context, sealed, place []byte) ([]byte, error) {
	if err := h.enter(&h.opens); err != nil {
		return nil, err
	}
	return h.Sealer.Open(ctx, sealed, place)
}

func (h *hsm) set(away bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.away = away
}

func (h *hsm) asked() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.opens
}

// clock is a time that only the test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newPool(t testing.TB) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(devtest.Migrated(t))
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 8
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func newSealer(t testing.TB, config sealing.Config) *sealing.Sealer {
	t.Helper()
	if config.Installation == "" {
		config.Installation = installationID
	}
	if config.Now == nil {
		config.Now = newClock().Now
	}
	s, err := sealing.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func row(id string) keys.RowID {
	return keys.RowID{Installation: installationID, Tenant: "main", Table: "leases", Column: "handle", Row: id, Version: "1", Purpose: purpose}
}

func seal(t testing.TB, s *sealing.Sealer, id, plaintext string) []byte {
	t.Helper()
	sealed, err := s.Seal(t.Context(), row(id), []byte(plaintext))
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func mustOpen(t testing.TB, s *sealing.Sealer, id string, sealed []byte, want string) {
	t.Helper()
	if got, err := s.Open(t.Context(), row(id), sealed); err != nil || string(got) != want {
		t.Fatalf("opened %q, %v; want %q", got, err, want)
	}
}

func count(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) int {
	t.Helper()
	var n int
	if err := pool.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

func exec(t testing.TB, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// eventually waits for what happens behind the caller's back.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: it never came to be", what)
		}
		time.Sleep(time.Millisecond)
	}
}
