// Package secrets keeps those secrets that can't be short-lived: their versions,
// sealed, which lease read which of them, and how they are rotated. All of their
// SQL is here.
//
//	pending ──► current ──► retired ──► destroyed
//	   │ verified   ▲          │
//	   │            └──────────┘ rolled back
//	   └──► destroyed
//
// A secret has one current version at most, which leases get, and one pending. A
// pending version becomes current once somebody, or its hook, has said that it
// works. No version is forgotten; what was destroyed has no value any more and
// never gets one again, which the database holds by itself.
//
// Every change of state writes its audit event in the same transaction, under the
// lock of the secret's row, and names the version and the state that it expects:
// of two that promote at once, one wins and the other learns that it lost.
package secrets

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/sealed"
)

// State of a version.
type State string

// The states.
const (
	Pending   State = "pending"   // put, and not given to those who want the current one
	Current   State = "current"   // what leases get
	Retired   State = "retired"   // was current; may be again
	Destroyed State = "destroyed" // has no value any more, for good
)

// HookGenerate makes the broker make up a new value when one is due. Whoever puts
// it into the target verifies and promotes it.
const HookGenerate = "generate"

// Where a version came from.
const (
	originPut      = "put"
	originRotation = "rotation"
)

const (
	// MaxValue is how many bytes all fields of a version have together at most.
	MaxValue = 64 << 10
	// MinRotateEvery is how often a secret can be due at most.
	MinRotateEvery = time.Hour
	// MaxRotateEvery is how seldom, if it ever is.
	MaxRotateEvery = 10 * 365 * 24 * time.Hour

	maxText = 1000 // of a description or an owner, in bytes

	transactionTimeout = 10 * time.Second
	rollbackTimeout    = 2 * time.Second // its connection is closed then, which ends it too
)

// Secret is what is known of a secret, but for its values.
type Secret struct {
	ID           string
	Name         string
	Description  string
	Owner        string
	RotateEvery  time.Duration // 0: it is never due
	RotateFields []string      // made up anew by a rotation; empty: all
	Hook         string        // "": rotated by hand; HookGenerate; or the name of one that is configured
	DueAt        *time.Time    // when its current version should have been replaced
	RotateAt     *time.Time    // when the rotator looks at it next; nil: it has nothing to do
	Attempts     int           // that failed, of the stage that its rotation is at
	LastError    string        // of the last of them
	CreatedAt    time.Time
	Current      int // number of its current version; 0: none
	Pending      int // and of its pending one

	versions, events int
}

// Version is what is known of a version, but for its value.
type Version struct {
	Number      int
	State       State
	Origin      string
	Fields      []string
	CreatedAt   time.Time
	CreatedBy   string
	SetAt       *time.Time // its hook put it into the target
	VerifiedAt  *time.Time
	PromotedAt  *time.Time
	RetiredAt   *time.Time
	DestroyedAt *time.Time
}

// Read is one lease that read a version.
type Read struct {
	ID       string
	Version  int
	LeaseID  string
	At       time.Time
	Policy   string // of the lease, as the rest
	Grant    string
	Provider string
	Subject  string
	Session  string
	State    string
}

var (
	// ErrNotFound says that there is no such secret, or no such version of it.
	ErrNotFound = errors.New("no such secret, or no such version of it")
	// ErrNoHook says that a secret is rotated by hand.
	ErrNoHook = errors.New("this secret has no hook that rotates it: put a new version, verify and promote it")
)

// StateError says why a version can't take a step.
type StateError struct{ Detail string }

// Error implements error.
func (e *StateError) Error() string { return e.Detail }

// InvalidError is a request that can't be right.
type InvalidError struct{ Detail string }

// Error implements error.
func (e *InvalidError) Error() string { return e.Detail }

func invalid(format string, args ...any) error {
	return &InvalidError{Detail: fmt.Sprintf(format, args...)}
}

// InUseError says that live leases hold a version that is to be destroyed.
type InUseError struct {
	Leases []string // some of them
	Count  int
}

// Error implements error.
func (e *InUseError) Error() string {
	return fmt.Sprintf("%d live leases hold this version: revoke them, or wait until they end, or force it", e.Count)
}

// Sealer seals values of rows.
type Sealer interface {
	Seal(ctx context.Context, row keys.RowID, plaintext []byte) ([]byte, error)
	// Open returns keys.ErrOpen for what was not sealed for this place, or was changed.
	Open(ctx context.Context, row keys.RowID, sealed []byte) ([]byte, error)
}

// Config of a Store. Every field is required, unless it says otherwise.
type Config struct {
	Pool         *pgxpool.Pool // with a statement timeout
	Audit        *audit.Recorder
	Sealer       Sealer
	Installation string
	Tenant       string
	Now          func() time.Time // by the database's clock: leases.Store.Now
	Hooks        map[string]Hook  // that are configured; nil: none
	Logger       *slog.Logger     // nil: discards
}

// Store keeps secrets. It is safe for concurrent use, and is the vault of
// [sealed.Issuer].
type Store struct{ config Config }

var _ sealed.Vault = (*Store)(nil)

// New checks that nothing is missing.
func New(config Config) (*Store, error) {
	if config.Pool == nil || config.Audit == nil || config.Sealer == nil || config.Installation == "" || config.Tenant == "" || config.Now == nil {
		return nil, errors.New("opening secrets: pool, audit, sealer, installation, tenant and clock are all required")
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	for name := range config.Hooks {
		if name == "" || name == HookGenerate {
			return nil, fmt.Errorf("opening secrets: a hook can't be called %q", name)
		}
	}
	return &Store{config: config}, nil
}

// inTx runs f in a transaction that f commits; what f leaves open is rolled back.
func (s *Store) inTx(ctx context.Context, doing string, f func(context.Context, pgx.Tx) error) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, transactionTimeout, errors.New("the database took longer than 10 s"))
	defer cancel()
	tx, err := s.config.Pool.Begin(ctx)
	if err != nil {
		return unavailable(doing, err)
	}
	defer func() {
		// After a commit this does nothing. It must not hang on the caller's context, nor
		// on a server that says nothing.
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
		defer cancel()
		if rollback := tx.Rollback(ending); rollback != nil && err == nil && !errors.Is(rollback, pgx.ErrTxClosed) {
			err = unavailable(doing, rollback)
		}
	}()
	return f(ctx, tx)
}

// unavailable tells what passes from a mistake of ours: an error of the statement
// itself (classes 22, 23 and 42 of PostgreSQL's appendix A).
func unavailable(doing string, err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && len(pg.Code) == 5 {
		switch pg.Code[:2] {
		case "22", "23", "42":
			return fmt.Errorf("%s: %w", doing, err)
		}
	}
	return fmt.Errorf("%s: %w: %w", doing, leases.ErrUnavailable, err)
}

// asIssuer says a database's error in the words of issuers.
func asIssuer(doing string, err error) error {
	return fmt.Errorf("%w: %s: %w", issuers.ErrUnavailable, doing, err)
}
