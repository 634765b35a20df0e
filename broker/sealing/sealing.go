// Package sealing seals what is secret in the broker's rows: what it takes to
// take a credential back, the values of the vault.
//
// It is envelope encryption. Values are sealed by data keys (AES-256-GCM), one
// current of each tenant and purpose; data keys stand in Postgres, each wrapped
// by the sealing key, which never leaves its HSM. A sealed value names its data
// key and authenticates installation, tenant, table, column, row, row version,
// data key and purpose: one that was moved, swapped or rolled back doesn't open.
//
// A data key that was opened is kept for a while ([Config].CacheLife), so that
// the HSM is asked once an hour and not once a request. It is opened anew from
// half of that life on, behind the requests: an HSM that is away for less than
// the other half is noticed by nobody, and a data key that was destroyed is
// forgotten by every broker in that time.
//
// Postgres decides about everything that brokers share: which data key is the
// current one (a unique index), how many values each may still seal (brokers take
// them in blocks), and which sealing key wraps what (the one that was adopted
// last).
package sealing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/singleflight"

	"github.com/daypass/daypass/broker/keys"
)

// ErrUnavailable says that a data key could not be opened now: the HSM or the
// database is away, or the sealing key that wraps it isn't configured.
var ErrUnavailable = errors.New("the key that seals is not available")

// Config of a Sealer.
type Config struct {
	Pool         *pgxpool.Pool     // required
	Sealer       keys.Sealer       // required: wraps data keys; see keys.AlsoOpen
	Installation string            // required
	Former       []*keys.RowSealer // open what was sealed before there were data keys
	Now          func() time.Time  // required
	Logger       *slog.Logger      // nil: discards
	Observe      Observer          // nil: nobody looks

	CacheLife   time.Duration // how long an opened data key is kept; zero: 1 h
	CacheSize   int           // how many are kept; zero: 256
	KeyAge      time.Duration // how long a data key seals; zero: 24 h
	SealsPerKey int64         // how many values a data key seals, over all brokers; zero: 2³², which is also the most
	Wait        time.Duration // how long a caller waits for HSM and database; zero: 5 s
}

// Observer sees what is done behind the requests; for metrics.
type Observer interface {
	// Opened is called when the HSM was asked for a data key.
	Opened(err error)
	// Progress is called when it was counted what the latest sealing key wraps.
	Progress(Progress)
}

const (
	defaultCacheLife = time.Hour
	defaultCacheSize = 256
	defaultKeyAge    = 24 * time.Hour
	defaultWait      = 5 * time.Second
	mostSeals        = int64(1) << 32
	mostBlock        = int64(1) << 20
	// destroyAfter is how long a data key stays after it was retired, whether
	// something refers to it or not: brokers may hold it opened, and seal by it.
	destroyAfter = 24 * time.Hour
	// quiet is how long one failure speaks for all that follow, so that an HSM that
	// is away isn't waited for by each request anew.
	quiet = time.Second
)

// Sealer seals values of rows. Safe for concurrent use. See [New].
type Sealer struct {
	config  Config
	block   int64 // how many seals are taken from the database at once
	flights singleflight.Group

	mu       sync.Mutex
	opened   cache
	currents map[scope]*current
	failed   map[string]failure // by flight
	closed   bool
	running  sync.WaitGroup
}

// scope is what has a current data key of its own.
type scope struct{ tenant, purpose string }

type failure struct {
	err   error
	until time.Time
}

// New checks the configuration. It asks neither database nor HSM.
func New(config Config) (*Sealer, error) {
	if config.Pool == nil || config.Sealer == nil || config.Installation == "" || config.Now == nil {
		return nil, errors.New("making sealer: pool, sealing key, installation and clock are all required")
	}
	config.CacheLife = orDefault(config.CacheLife, defaultCacheLife)
	config.CacheSize = orDefault(config.CacheSize, defaultCacheSize)
	config.KeyAge = orDefault(config.KeyAge, defaultKeyAge)
	config.SealsPerKey = orDefault(config.SealsPerKey, mostSeals)
	config.Wait = orDefault(config.Wait, defaultWait)
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case config.CacheLife < 0 || config.CacheLife > destroyAfter/2:
		return nil, fmt.Errorf("making sealer: data keys are kept opened for at most %s", destroyAfter/2)
	case config.CacheSize < 1 || config.KeyAge < 0 || config.Wait < 0:
		return nil, errors.New("making sealer: sizes and times are positive")
	case config.SealsPerKey < 1 || config.SealsPerKey > mostSeals:
		return nil, errors.New("making sealer: a data key seals 2³² values at most")
	}
	return &Sealer{
		config: config, block: max(1, min(mostBlock, config.SealsPerKey/16)),
		opened: newCache(config.CacheSize), currents: map[scope]*current{}, failed: map[string]failure{},
	}, nil
}

func orDefault[T comparable](v, fallback T) T {
	var zero T
	if v == zero {
		return fallback
	}
	return v
}

// Close waits for what runs behind the requests, and forgets all data keys.
func (s *Sealer) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.running.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened, s.currents = newCache(s.config.CacheSize), map[scope]*current{}
}

// Seal encrypts a value for its place, by the current data key of the row's
// tenant and purpose. The error is ErrUnavailable when there is none to be had.
func (s *Sealer) Seal(ctx context.Context, row keys.RowID, plaintext []byte) ([]byte, error) {
	if err := row.Check(); err != nil {
		return nil, err
	}
	key, err := s.current(ctx, scope{row.Tenant, row.Purpose})
	if err != nil {
		return nil, err
	}
	return key.Seal(row, plaintext)
}

// Open decrypts a value. The error is keys.ErrOpen for one that was not sealed
// for this place, or was changed, and ErrUnavailable when that can't be told now.
func (s *Sealer) Open(ctx context.Context, row keys.RowID, sealed []byte) ([]byte, error) {
	if err := row.Check(); err != nil {
		return nil, err
	}
	id, ok := keys.DataKeyOf(sealed)
	if !ok {
		return s.openFormer(ctx, row, sealed)
	}
	key, err := s.open(ctx, id)
	if err != nil {
		return nil, err
	}
	return key.Open(row, sealed)
}

// openFormer opens what was sealed before there were data keys.
func (s *Sealer) openFormer(ctx context.Context, row keys.RowID, sealed []byte) ([]byte, error) {
	for _, former := range s.config.Former {
		if plaintext, err := former.Open(ctx, row, sealed); err == nil {
			return plaintext, nil
		}
	}
	return nil, keys.ErrOpen
}

// Value is a sealed value and its place.
type Value struct {
	Row    keys.RowID
	Sealed []byte
}

// Reseal seals values anew under the current data keys. What is under them
// already comes back as it is, the same slice. It is for rows that outlive their
// data keys: store each where it stood, if what stood there is still the same.
func (s *Sealer) Reseal(ctx context.Context, values []Value) ([][]byte, error) {
	out := make([][]byte, len(values))
	for i, v := range values {
		if err := v.Row.Check(); err != nil {
			return nil, err
		}
		key, err := s.current(ctx, scope{v.Row.Tenant, v.Row.Purpose})
		if err != nil {
			return nil, err
		}
		if id, ok := keys.DataKeyOf(v.Sealed); ok && id == key.ID() {
			out[i] = v.Sealed
			continue
		}
		plaintext, err := s.Open(ctx, v.Row, v.Sealed)
		if err != nil {
			return nil, fmt.Errorf("sealing %s.%s of %s anew: %w", v.Row.Table, v.Row.Column, v.Row.Row, err)
		}
		out[i], err = key.Seal(v.Row, plaintext)
		clear(plaintext)
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}
