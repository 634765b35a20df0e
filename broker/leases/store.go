package leases

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/keys"
)

// Config of a Store.
type Config struct {
	Pool         *pgxpool.Pool   // required; with a statement timeout
	Audit        *audit.Recorder // required
	Handles      Sealer          // required: seals what it takes to take a credential back
	Claims       *keys.Hasher    // required: authenticates the claims of sessions
	Installation string          // required
	Tenant       string          // required
	Now          func() time.Time
	Logger       *slog.Logger // nil: discards

	// Writers is how many transactions commit at once; zero: 2. Concurrent
	// exchanges join the next free one.
	Writers int
}

// Sealer seals values of rows. Open returns keys.ErrOpen for what was not sealed
// for that place; whatever else goes wrong passes.
type Sealer interface {
	Seal(ctx context.Context, row keys.RowID, plaintext []byte) ([]byte, error)
	Open(ctx context.Context, row keys.RowID, sealed []byte) ([]byte, error)
}

// Store is the broker's memory. It is safe for concurrent use.
type Store struct {
	config      Config
	queue       chan *write
	rooms       rooms
	offset      atomic.Int64 // database clock minus ours, in nanoseconds
	completions completions
	stop        context.CancelFunc
	done        sync.WaitGroup
}

const (
	// MaxSkew is how far the broker's idea of the time may be from the database's.
	MaxSkew = 2 * time.Second

	// maxWait is how old a reservation may be when it comes to the database: what
	// it says about the time is no longer true then.
	maxWait = 10 * time.Second

	clockInterval  = 10 * time.Second
	commitTimeout  = 10 * time.Second
	maxBatch       = 128
	queueLength    = 1024
	defaultWriters = 2
)

// PlannerSettings are what the connections of Config.Pool should be set to. The
// statements here ask for rows by their keys. With these settings each is planned
// once for a connection, and for an index: a plan that was made while the tables
// were empty would read them whole once they are full.
func PlannerSettings() map[string]string {
	return map[string]string{"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off", "jit": "off"}
}

// Open measures the database's clock and starts the writers. Close stops them.
func Open(ctx context.Context, config Config) (*Store, error) {
	if config.Pool == nil || config.Audit == nil || config.Handles == nil || config.Claims == nil || config.Installation == "" || config.Tenant == "" || config.Now == nil {
		return nil, errors.New("opening lease store: pool, audit, handles, claims, installation, tenant and clock are all required")
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.Writers == 0 {
		config.Writers = defaultWriters
	}
	s := &Store{config: config, queue: make(chan *write, queueLength)}
	if err := s.measureClock(ctx); err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	for range config.Writers {
		s.done.Go(func() { s.writeLoop(running) })
	}
	s.done.Go(func() { s.clockLoop(running) })
	return s, nil
}

// Close lets the writers finish what they began.
func (s *Store) Close() {
	s.stop()
	s.done.Wait()
}

// Now is the time by the database's clock, as measured every ten seconds. What
// is written with it is refused by the database when it is off by more than
// MaxSkew.
func (s *Store) Now() time.Time {
	return s.config.Now().Add(time.Duration(s.offset.Load())).UTC().Truncate(time.Microsecond)
}

func (s *Store) measureClock(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	conn, err := s.config.Pool.Acquire(ctx) // before the clock is read: connecting takes its time
	if err != nil {
		return unavailable("reading the database's clock", err)
	}
	defer conn.Release()
	before := s.config.Now()
	var there time.Time
	if err := conn.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&there); err != nil {
		return unavailable("reading the database's clock", err)
	}
	here := before.Add(s.config.Now().Sub(before) / 2)
	s.offset.Store(int64(there.Sub(here)))
	return nil
}

func (s *Store) clockLoop(ctx context.Context) {
	tick := time.NewTicker(clockInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := s.measureClock(ctx); err != nil && ctx.Err() == nil {
				s.config.Logger.WarnContext(ctx, "the database's clock could not be read", "error", err)
			}
		}
	}
}

// Ping says whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.config.Pool.Ping(ctx); err != nil {
		return unavailable("reaching the database", err)
	}
	return nil
}

// unavailable tells what the caller can wait for from what is a mistake of ours:
// everything but an error of the SQL itself. A server that lets nobody in is away.
func unavailable(doing string, err error) error {
	var connecting *pgconn.ConnectError
	var pg *pgconn.PgError
	if !errors.As(err, &connecting) && errors.As(err, &pg) && !transient(pg.Code) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return fmt.Errorf("%s: %w: %w", doing, ErrUnavailable, err)
}

// transient says whether Postgres refused for a reason that passes (its
// appendix A): connections, resources, an operator at work, a conflict between
// transactions, a read-only standby.
func transient(code string) bool {
	if len(code) != 5 {
		return false
	}
	switch code[:2] {
	case "08", "40", "53", "57", "58":
		return true
	}
	return code == "25006" || code == "55P03"
}

// Unavailable tells of an error of the database what [ErrUnavailable] says, for
// what else writes in it.
func Unavailable(doing string, err error) error { return unavailable(doing, err) }
