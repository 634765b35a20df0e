// Package keyring is the life of the keys that sign JWTs: which one signs now,
// which one is next, and which ones still have to verify.
//
//	making ──► published ──► signing ──► retiring ──► retired
//	                │            │           │
//	                └────────────┴───────────┴──────► revoked
//
// Private keys are in the HSM ([keys.Store]); the table signing_keys says how far
// each one is. Any number of brokers share both, and Postgres decides who takes a
// step: each is one transaction that names the state it expects to find, under a
// lock, so that of two brokers one wins and the other sees it. What a step does in
// the HSM comes before the record of it (a key is made, then published) or after
// it (a key is retired, then destroyed), and is done again by whoever finds it
// undone: a crash between the two loses nothing.
//
// A verifier may keep the JWKS for [keys.JWKSMaxAge]. So a key stands in it for
// [keys.RotationLead] before it signs, and stays until the last token that it
// signed has run out.
//
// Each broker holds what it read last ([Ring.Signer], [Ring.JWKS]): no query
// stands on the path of a request. It reads again every [RefreshInterval]; one
// that could not for [MaxStale] signs nothing and publishes nothing, which is what
// retiring and revoking rely on. The JWKS is made of what the HSM holds, never of
// what the table says alone: whoever can write to the database can't have a key of
// their own trusted.
//
// All times are the database's. Before a step that depends on them, the broker's
// own clock must agree ([MaxApart]): one clock gone wrong holds rotation up, and
// doesn't hurry it.
package keyring

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/issuers"
)

const (
	// RefreshInterval is how often a broker reads what the others did.
	RefreshInterval = 5 * time.Second
	// MaxStale is how old what a broker read may be, for it to sign and to publish.
	MaxStale = 10 * time.Minute
	// MaxApart is how far the clocks of broker and database may be apart for a key
	// to begin to sign, or to leave, by its time.
	MaxApart = 5 * time.Minute

	// settles is when nothing more is put on record that a key signed, after it
	// stopped: no broker signs with it any more, and what was signed is committed.
	settles = MaxStale + time.Minute
	// leeway is how long after its last token's end a key stays: for verifiers whose
	// clocks run behind, and for a database's clock that was set forward.
	leeway = 5*time.Minute + keys.ClockStep
	// remembered is how long a revoked key is looked after: no lease lives longer.
	remembered = 25 * time.Hour

	readTimeout = 10 * time.Second
	endTimeout  = 2 * time.Second // of a lock or a transaction: the connection is closed then, which ends it too
	makeTimeout = 2 * time.Minute // RSA keys take their time in some tokens
	maxBackoff  = 5 * time.Minute
)

// Config of a Ring. Every field is required, unless it says otherwise.
type Config struct {
	Pool   *pgxpool.Pool
	Locks  *pgxpool.Pool   // whose connections keep a lock of their session; nil: Pool's do
	Leases *leases.Store   // tells what a key signed, and ends it
	Audit  *audit.Recorder // each step is an event
	Tenant string
	Store  keys.Store // where the private keys are
	// Pair names the first key, which is taken over as it is. Later ones are of its
	// algorithm and size, and have its label with a number behind it.
	Pair keys.Pair
	// Create makes the first key where the store has none. False: that is an error.
	Create bool
	// Repair opens the ring even where the key that signs doesn't open: for commands
	// that let another one sign.
	Repair bool
	// RotateEvery is how long a key signs. Zero: until somebody rotates it by hand.
	RotateEvery time.Duration
	Notify      func(issuer string) // there is something to take back; nil: nobody is told
	Observe     Observer            // nil: nobody
	Logger      *slog.Logger        // nil: discards
	Now         func() time.Time
	Checkpoint  func(step string) // nil in every released program
}

// Observer is told how the ring is.
type Observer interface {
	// Ring is called after each look at the keys, a failed one included.
	Ring(Health)
}

// Health is what operators should know.
type Health struct {
	Read         time.Time         // when the keys were last read, by the broker's clock
	SigningSince time.Time         // zero: no key signs
	NextRotation time.Time         // when the next key begins to sign; zero: no schedule
	Keys         map[State]int     // how many there are in each state, those that have ended left out
	Unopened     map[string]string // key id → why this broker can't open it
	Failing      error             // what the last try of a step said; nil: it worked, or there was nothing to do
}

// Ring holds the keys of one broker. It is safe for concurrent use. See [Open].
type Ring struct {
	config  Config
	current atomic.Pointer[snapshot]

	mu     sync.Mutex // one reads at a time, so that nobody puts an older picture in a newer one's place
	opened map[string]keys.Signer
	turn   sync.Mutex // one takes steps at a time
}

// snapshot is what a broker read, and what it made of it. It doesn't change.
type snapshot struct {
	readAt   time.Time // by the broker's clock, before it read
	now      time.Time // by the database's
	keys     []Key
	signer   keys.Signer // nil: none, or none that opens here
	shape    keys.Signer // the last one that wasn't nil
	jwks     []byte      // nil where it would lack the key that signs
	unopened map[string]string
}

// ErrNoSigner says that no key signs now, or none that this broker can open.
var ErrNoSigner = errors.New("no key to sign with")

// Open reads the keys, and takes the first one on record where there is none. It
// returns an error when the key that signs can't be opened.
func Open(ctx context.Context, config Config) (*Ring, error) {
	if config.Pool == nil || config.Leases == nil || config.Audit == nil || config.Tenant == "" || config.Store == nil || config.Pair.Label == "" || config.Now == nil {
		return nil, errors.New("opening signing keys: pool, leases, audit, tenant, store, label and clock are all required")
	}
	if config.Locks == nil {
		config.Locks = config.Pool
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.Checkpoint == nil {
		config.Checkpoint = func(string) {}
	}
	if config.Notify == nil {
		config.Notify = func(string) {}
	}
	if config.Pair.Algorithm == "" {
		config.Pair.Algorithm = keys.ES256
	}
	r := &Ring{config: config, opened: map[string]keys.Signer{}}
	if err := r.found(ctx); err != nil {
		return nil, err
	}
	if err := r.Refresh(ctx); err != nil {
		return nil, err
	}
	s := r.current.Load()
	if key := s.signing(); key != nil && s.signer == nil && !config.Repair {
		return nil, fmt.Errorf("opening signing key %s (%s): %s (hint: where it is lost for good, `daypassd keys rotate --now` lets another one sign)", key.Label, key.KeyID, s.unopened[key.KeyID])
	}
	return r, nil
}

// Signer is the key to sign with now. One that must not be used, because what
// this broker knows is too old, says so when it is asked to sign.
func (r *Ring) Signer() issuers.Signer {
	s := r.current.Load()
	if err := r.usable(s); err != nil {
		return refusing{shape: s.shape, err: err}
	}
	if s.signer == nil {
		return refusing{shape: s.shape, err: fmt.Errorf("%w: %w", leases.ErrUnavailable, ErrNoSigner)}
	}
	return s.signer
}

// Check says whether this broker can sign.
func (r *Ring) Check() error {
	s := r.current.Load()
	if err := r.usable(s); err != nil {
		return err
	}
	if s.signer == nil {
		return ErrNoSigner
	}
	return keys.SelfTest(s.signer)
}

// JWKS is what verifies what was signed (RFC 7517). The error wraps
// [leases.ErrUnavailable].
func (r *Ring) JWKS() ([]byte, error) {
	s := r.current.Load()
	if err := r.usable(s); err != nil {
		return nil, err
	}
	if s.jwks == nil {
		return nil, fmt.Errorf("%w: the signing key doesn't open here, and without it the key set would be wrong", leases.ErrUnavailable)
	}
	return s.jwks, nil
}

// Algorithms are those of the keys in the JWKS, each once.
func (r *Ring) Algorithms() []string {
	var all []string
	seen := map[string]bool{}
	for _, k := range r.current.Load().keys {
		if k.State.verifies() && !seen[k.Algorithm] {
			seen[k.Algorithm] = true
			all = append(all, k.Algorithm)
		}
	}
	return all
}

// usable says whether what this broker knows is fresh enough to act on.
func (r *Ring) usable(s *snapshot) error {
	// With the machine's clock this is time that went by, whatever the clock was set to.
	if age := r.config.Now().Sub(s.readAt); age > MaxStale {
		return fmt.Errorf("%w: the signing keys were last read %s ago: one may have been revoked since", leases.ErrUnavailable, age.Round(time.Second))
	}
	return nil
}

// refusing is a signer that doesn't sign. It looks like the last one that did:
// callers look at a key's kind before they sign.
type refusing struct {
	shape keys.Signer // nil: there was none
	err   error
}

// Public implements crypto.Signer.
func (r refusing) Public() crypto.PublicKey {
	if r.shape == nil {
		return nil
	}
	return r.shape.Public()
}

// KeyID implements keys.Signer.
func (r refusing) KeyID() string {
	if r.shape == nil {
		return "none"
	}
	return r.shape.KeyID()
}

// Algorithm implements keys.Signer.
func (r refusing) Algorithm() string {
	if r.shape == nil {
		return keys.ES256
	}
	return r.shape.Algorithm()
}

// SignContext implements keys.Signer.
func (r refusing) SignContext(context.Context, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, r.err
}

// Sign implements crypto.Signer.
func (r refusing) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return nil, r.err }

// Refresh reads the keys, opens those that are new, and puts what it found in
// force on this broker. On an error what was known before stays in force, until
// it is too old.
func (r *Ring) Refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readTimeout, errors.New("reading the signing keys took too long"))
	defer cancel()
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &snapshot{readAt: r.config.Now(), unopened: map[string]string{}}
	var err error
	if s.keys, s.now, err = r.read(ctx); err != nil {
		return err
	}
	known, before := r.opened, r.current.Load()
	r.opened = map[string]keys.Signer{}
	var verifying []keys.Signer
	for _, k := range s.keys {
		if !k.State.verifies() {
			continue
		}
		signer := known[k.KeyID]
		if signer == nil {
			if signer, err = r.open(ctx, k); err != nil {
				s.unopened[k.KeyID] = err.Error()
				if before != nil && before.unopened[k.KeyID] != "" {
					continue // it was said
				}
				r.config.Logger.ErrorContext(ctx, "a signing key doesn't open: it is missing from this broker's JWKS", "key", k.KeyID, "label", k.Label, "state", k.State, "error", err)
				continue
			}
		}
		r.opened[k.KeyID] = signer
		verifying = append(verifying, signer)
		if k.State == Signing {
			s.signer = signer
		}
	}
	if s.signer != nil || s.signing() == nil {
		if s.jwks, err = keys.JWKS(verifying...); err != nil {
			return err
		}
	}
	if s.shape = s.signer; s.shape == nil && before != nil {
		s.shape = before.shape
	}
	r.current.Store(s)
	return nil
}

// open opens a key that is on record, and tries it.
func (r *Ring) open(ctx context.Context, k Key) (keys.Signer, error) {
	signer, err := r.config.Store.OpenSigner(ctx, keys.Pair{Label: k.Label, Algorithm: k.Algorithm, Bits: k.Bits})
	if err != nil {
		return nil, err
	}
	if signer.KeyID() != k.KeyID {
		return nil, fmt.Errorf("what is called %s is another key, %s", k.Label, signer.KeyID())
	}
	return signer, keys.SelfTest(signer)
}

// signing is the key that signs; nil: none.
func (s *snapshot) signing() *Key { return s.in(Signing) }

// in is the first key in that state; nil: none.
func (s *snapshot) in(state State) *Key {
	for i := range s.keys {
		if s.keys[i].State == state {
			return &s.keys[i]
		}
	}
	return nil
}

// Run keeps what this broker knows fresh and takes every step that is due, until
// ctx ends.
func (r *Ring) Run(ctx context.Context) {
	tick := time.NewTicker(RefreshInterval)
	defer tick.Stop()
	var backoff time.Duration
	var pause time.Time
	var failing error
	for {
		if r.config.Now().Before(pause) {
			if err := r.Refresh(ctx); err != nil && ctx.Err() == nil {
				r.config.Logger.WarnContext(ctx, "the signing keys could not be read", "error", err)
			}
		} else if _, failing = r.RunOnce(ctx); failing != nil && ctx.Err() == nil {
			r.config.Logger.ErrorContext(ctx, "the life of the signing keys doesn't go on (hint: `daypassd keys ls` tells what is due)", "error", failing)
			backoff = min(max(2*backoff, RefreshInterval), maxBackoff)
			pause = r.config.Now().Add(backoff)
		} else {
			backoff = 0
		}
		r.observe(failing)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (r *Ring) observe(failing error) {
	if r.config.Observe == nil {
		return
	}
	s := r.current.Load()
	h := Health{Read: s.readAt, Keys: map[State]int{}, Unopened: s.unopened, Failing: failing}
	for _, k := range s.keys {
		if k.EndedAt == nil {
			h.Keys[k.State]++
		}
	}
	if key := s.signing(); key != nil {
		h.SigningSince = *key.SigningSince
		if r.config.RotateEvery > 0 {
			h.NextRotation = key.SigningSince.Add(r.config.RotateEvery)
		}
	}
	if next := s.in(Published); next != nil {
		h.NextRotation = *next.SignsFrom
	}
	r.config.Observe.Ring(h)
}
