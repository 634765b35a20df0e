package leases

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
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
	// Elapsed is a clock that nobody sets, from any beginning; nil: the monotonic one
	// of Now.
	Elapsed func() time.Duration
	Logger  *slog.Logger // nil: discards

	// Writers is how many transactions commit at once, at the most; zero: 4. Concurrent
	// exchanges join the next one: a second begins beside the first where many wait,
	// or have waited for a while.
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
	turns       *turns
	rooms       rooms
	clock       *clock
	writing     writing
	completions completions
	stop        context.CancelFunc
	done        sync.WaitGroup
}

const (
	// maxWait is how old a reservation may be when it comes to the database: what
	// it says about the time is no longer true then.
	maxWait = 10 * time.Second

	commitTimeout  = 10 * time.Second
	maxBatch       = 128
	queueLength    = 1024
	defaultWriters = 4
)

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
	s := &Store{config: config, queue: make(chan *write, queueLength), turns: newTurns()}
	s.clock = newClock(&s.config)
	if err := s.MeasureClock(ctx); err != nil {
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
	if !errors.As(err, &connecting) && errors.As(err, &pg) && !transient(pg.Code) && !fatal(pg) {
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
	return code == readOnly || code == "55P03"
}

// fatal says that the server ended the session: it stops, an operator ended it, or
// it waited too long for a broker that stood still in a transaction. Severity is
// in the server's language.
func fatal(pg *pgconn.PgError) bool {
	severity := cmp.Or(pg.SeverityUnlocalized, pg.Severity)
	return severity == "FATAL" || severity == "PANIC"
}

// Unavailable tells of an error of the database what [ErrUnavailable] says, for
// what else writes in it.
func Unavailable(doing string, err error) error { return unavailable(doing, err) }
