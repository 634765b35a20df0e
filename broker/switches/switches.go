// Package switches turns a provider, policy, grant or issuer off now, for the
// whole fleet, and on again: for the hour in which somebody finds out what
// happened.
//
// What is off stands in one row of the database. Every broker holds the set of
// what is off in memory, reads it anew when it is told of a change
// (broker/fleet), twice a second besides, and in the request itself where its
// last reading is older than two seconds. So none issues anything of what was
// turned off more than [Late] after it was, and an exchange that was decided
// before commits within [Settled] or not at all.
//
// Nothing is ever turned off by anybody but an operator, and nothing that takes
// credentials back asks here.
package switches

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/leases"
)

// Kind is what can be turned off.
type Kind string

// The kinds.
const (
	Provider Kind = "provider" // of job tokens: nothing for its jobs, old sessions included
	Policy   Kind = "policy"
	Grant    Kind = "grant" // by the name POLICY/GRANT
	Issuer   Kind = "issuer"
)

// Kinds lists them.
func Kinds() []Kind { return []Kind{Provider, Policy, Grant, Issuer} }

// Switch is one name that was turned off once.
type Switch struct {
	Kind      Kind
	Name      string
	Off       bool
	Reason    string // for people; not for jobs
	Actor     string // who changed it last
	ChangedAt time.Time
	// SweepUntil says that its leases are being taken back, those too that come to
	// be on record until then; nil where nobody asked for that, or all are.
	SweepUntil *time.Time
	Swept      int64 // leases that began to be taken back since it was turned off
}

// OffError says that something is turned off. What an operator gave as the reason
// isn't in it: it is no job's business.
type OffError struct {
	Kind Kind
	Name string
}

// Error implements error.
func (e *OffError) Error() string {
	return fmt.Sprintf("%s %s is turned off by an operator", e.Kind, e.Name)
}

// Topic is that of the notices which say that a switch changed.
const Topic = "switches"

const (
	// Every is how often the set is read without a notice.
	Every = 500 * time.Millisecond
	// stale is from when on a request reads the set itself.
	stale       = 2 * time.Second
	readTimeout = 2 * time.Second

	// Late is how long after a change a broker may act on the set before.
	Late = stale
	// Settled is when no exchange can commit any more that was decided on the set
	// before a change: the database refuses what is older (leases: maxWait, and its
	// idea of the time may be off by MaxSkew).
	Settled = Late + 10*time.Second + leases.MaxSkew

	// MaxReason is the longest reason, in bytes.
	MaxReason = 300
	// MaxOff is how many names can be off.
	MaxOff = 1000
)

// Config of a Store. Every field is required, unless it says otherwise.
type Config struct {
	Pool    *pgxpool.Pool
	Leases  *leases.Store
	Audit   *audit.Recorder
	Tenant  string
	Notify  func(issuer string) // wakes the revoker; must not block
	Now     func() time.Time    // of the machine; times on record are the database's
	Logger  *slog.Logger        // nil: discards
	Observe Observer            // nil: nobody looks
	// Announce queues what tells the other brokers of a change, in its transaction.
	Announce func(batch *pgx.Batch)
}

// Observer sees what is off; for metrics.
type Observer interface{ Off(kind Kind, names int) }

// Store knows what is off. Safe for concurrent use.
type Store struct {
	config Config
	set    atomic.Pointer[set]
	// Each has one place.
	reading chan struct{} // held by who reads
	wake    chan struct{} // the set is to be read
	sweep   chan struct{} // leases may have to be taken back
}

// set is what was off when it was read.
type set struct {
	off  map[Kind]map[string]*Switch
	read time.Time // when the reading of it began, by the machine's clock
}

// Open reads the set.
func Open(ctx context.Context, config Config) (*Store, error) {
	if config.Pool == nil || config.Leases == nil || config.Audit == nil || config.Tenant == "" || config.Notify == nil || config.Now == nil || config.Announce == nil {
		return nil, errors.New("opening switches: a required field of the configuration is missing")
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{config: config, reading: make(chan struct{}, 1), wake: make(chan struct{}, 1), sweep: make(chan struct{}, 1)}
	return s, s.Refresh(ctx)
}

// Wake has the set read anew soon, and looks for leases to be taken back. It
// never blocks.
func (s *Store) Wake() {
	for _, c := range []chan struct{}{s.wake, s.sweep} {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// Run keeps the set fresh until ctx ends.
func (s *Store) Run(ctx context.Context) {
	tick := time.NewTicker(Every)
	defer tick.Stop()
	for failed := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.wake:
		}
		err := s.Refresh(ctx)
		if err != nil && !failed && ctx.Err() == nil {
			s.config.Logger.WarnContext(ctx, "what is turned off could not be read; nothing is issued until it can", "error", err)
		}
		failed = err != nil
	}
}

const columns = `kind, name, turned_off, reason, actor, changed_at, sweep_until, swept`

// Refresh reads what is off.
func (s *Store) Refresh(ctx context.Context) error {
	asked := s.config.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, readTimeout, errors.New("reading what is turned off took too long"))
	defer cancel()
	select {
	case s.reading <- struct{}{}:
		defer func() { <-s.reading }()
	case <-ctx.Done():
		return unavailable("reading what is turned off", context.Cause(ctx))
	}
	if known := s.set.Load(); known != nil && known.read.After(asked) {
		return nil // somebody else began to after we asked
	}
	next := &set{off: map[Kind]map[string]*Switch{}, read: s.config.Now()}
	rows, err := s.config.Pool.Query(ctx, `SELECT `+columns+` FROM switches WHERE tenant = $1 AND turned_off`, s.config.Tenant)
	if err != nil {
		return unavailable("reading what is turned off", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByPos[Switch])
	if err != nil {
		return unavailable("reading what is turned off", err)
	}
	for _, w := range all {
		if next.off[w.Kind] == nil {
			next.off[w.Kind] = map[string]*Switch{}
		}
		next.off[w.Kind][w.Name] = w
	}
	s.set.Store(next)
	if s.config.Observe != nil {
		for _, kind := range Kinds() {
			s.config.Observe.Off(kind, len(next.off[kind]))
		}
	}
	return nil
}

// Of is what a credential, or the wish for one, depends on. Empty fields are not
// asked for.
type Of struct {
	Provider string
	Policy   string
	Grant    string // its own name, without the policy's
	Issuer   string
}

// Check returns an [OffError] where something is turned off, and
// leases.ErrUnavailable where that can't be known.
func (s *Store) Check(ctx context.Context, of Of) error {
	off, err := s.Find(ctx, of)
	if err != nil || off == nil {
		return err
	}
	return &OffError{Kind: off.Kind, Name: off.Name}
}

// Find returns the switch that is off; nil where none is.
func (s *Store) Find(ctx context.Context, of Of) (*Switch, error) {
	known := s.set.Load()
	if age := s.config.Now().Sub(known.read); age > stale || age < 0 {
		if err := s.Refresh(ctx); err != nil {
			return nil, err
		}
		known = s.set.Load()
	}
	if len(known.off) == 0 {
		return nil, nil
	}
	grant := ""
	if of.Policy != "" && of.Grant != "" {
		grant = of.Policy + "/" + of.Grant
	}
	for _, asked := range []struct {
		kind Kind
		name string
	}{{Provider, of.Provider}, {Policy, of.Policy}, {Grant, grant}, {Issuer, of.Issuer}} {
		if off := known.off[asked.kind][asked.name]; off != nil && asked.name != "" {
			return off, nil
		}
	}
	return nil, nil
}

// Change is what an operator asks for.
type Change struct {
	Kind   Kind
	Name   string
	Off    bool
	Revoke bool   // takes its live leases back as well; with Off alone
	Reason string // with Off it is required
	Actor  string
}

// ChangeError is a Change that can't be right.
type ChangeError struct{ Detail string }

// Error implements error.
func (e *ChangeError) Error() string { return e.Detail }

// ErrTooMany says that [MaxOff] names are off already.
var ErrTooMany = errors.New("too many names are turned off")

// Check says what of a change can't be right.
func (c *Change) Check() error {
	switch {
	case c.Kind != Provider && c.Kind != Policy && c.Kind != Grant && c.Kind != Issuer:
		return &ChangeError{"kind is one of provider, policy, grant, issuer"}
	case c.Name == "" || len(c.Name) > 128:
		return &ChangeError{"name is missing, or longer than 128 bytes"}
	case c.Revoke && !c.Off:
		return &ChangeError{"revoke goes with off: true alone"}
	case c.Off && strings.TrimSpace(c.Reason) == "":
		return &ChangeError{"reason is missing: say why it is turned off; it stands in the audit log"}
	case len(c.Reason) > MaxReason:
		return &ChangeError{fmt.Sprintf("reason is longer than %d bytes", MaxReason)}
	}
	return nil
}

// Set turns something off or on, with the event of it, and tells all brokers.
// Turning off what is off already is written down once more: with revoke, its
// leases are looked for again. This broker holds to it when Set returns.
func (s *Store) Set(ctx context.Context, c Change) (*Switch, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	changed, err := s.save(ctx, c)
	if err != nil {
		return nil, err
	}
	s.Wake()
	return changed, s.Refresh(ctx)
}

const save = `
INSERT INTO switches AS w (tenant, kind, name, turned_off, reason, actor, changed_at, sweep_until, events)
SELECT $1, $2, $3, $4, $5, $6, now(), CASE WHEN $7 THEN now() + $8::interval END, 1
WHERE NOT $4 OR (SELECT count(*) FROM switches WHERE tenant = $1 AND turned_off AND (kind, name) <> ($2, $3)) < $9
ON CONFLICT (tenant, kind, name) DO UPDATE SET
    turned_off = excluded.turned_off, reason = excluded.reason, actor = excluded.actor, changed_at = excluded.changed_at,
    -- A sweep goes on when what is off is turned off once more.
    sweep_until = CASE WHEN excluded.turned_off THEN coalesce(excluded.sweep_until, w.sweep_until) END,
    swept = CASE WHEN w.turned_off THEN w.swept ELSE 0 END, events = w.events + 1
RETURNING ` + columns + `, events`

func (s *Store) save(ctx context.Context, c Change) (*Switch, error) {
	changed := &Switch{}
	err := pgx.BeginFunc(ctx, s.config.Pool, func(tx pgx.Tx) error {
		var events int
		row := tx.QueryRow(ctx, save, s.config.Tenant, c.Kind, c.Name, c.Off, c.Reason, c.Actor, c.Revoke, Settled, MaxOff)
		if err := row.Scan(&changed.Kind, &changed.Name, &changed.Off, &changed.Reason, &changed.Actor, &changed.ChangedAt, &changed.SweepUntil, &changed.Swept, &events); err != nil {
			return err
		}
		kind, data := audit.SwitchOn, map[string]any{"kind": c.Kind, "name": c.Name, "reason": c.Reason}
		if c.Off {
			kind, data["revoke"] = audit.SwitchOff, c.Revoke
		}
		event, err := s.config.Audit.Event(audit.Entry{At: changed.ChangedAt, Type: kind, Subject: Subject(c.Kind, c.Name), Count: events, Actor: c.Actor, Data: data})
		if err != nil {
			return err
		}
		batch := &pgx.Batch{}
		audit.InsertIf(batch, []audit.Event{event}, "true")
		s.config.Announce(batch)
		return tx.SendBatch(ctx, batch).Close()
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("%w: %d (hint: turn off a policy or a provider as a whole)", ErrTooMany, MaxOff)
	}
	if err != nil {
		return nil, unavailable("changing a switch", err)
	}
	s.config.Logger.WarnContext(ctx, "an operator turned a switch", "kind", c.Kind, "name", c.Name, "off", c.Off, "revoke", c.Revoke, "actor", c.Actor)
	return changed, nil
}

// Subject is how a switch is called in the audit log.
func Subject(kind Kind, name string) string { return "switch " + string(kind) + " " + name }

// List reads what is off, and what was, the last change first; a page of limit.
func (s *Store) List(ctx context.Context, limit int) ([]*Switch, error) {
	rows, err := s.config.Pool.Query(ctx, `SELECT `+columns+` FROM switches WHERE tenant = $1 ORDER BY turned_off DESC, changed_at DESC LIMIT $2`, s.config.Tenant, limit)
	if err != nil {
		return nil, unavailable("listing switches", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByPos[Switch])
	if err != nil {
		return nil, unavailable("listing switches", err)
	}
	return all, nil
}

// Known says whether there is a switch of that name: only such a one can be
// turned on.
func (s *Store) Known(ctx context.Context, kind Kind, name string) (known bool, err error) {
	err = s.config.Pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM switches WHERE tenant = $1 AND kind = $2 AND name = $3)`, s.config.Tenant, kind, name).Scan(&known)
	if err != nil {
		return false, unavailable("reading a switch", err)
	}
	return known, nil
}

func unavailable(doing string, err error) error {
	return fmt.Errorf("%s: %w: %w", doing, leases.ErrUnavailable, err)
}
