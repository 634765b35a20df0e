package sealing

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/keys"
)

// Replacement is what is done when a sealing key is lost for good, or believed
// stolen: another takes its place, what can still be opened is carried over to
// it, and what can't is listed. It can be run again at any time, and goes on from
// where it was interrupted.
//
// No broker may run meanwhile: each has the root in memory, and would go on
// hashing by one that is no longer in force.
type Replacement struct {
	Pool         *pgxpool.Pool // required
	Opening      []keys.Sealer // all that there are, whatever they still open
	New          keys.Sealer   // takes over; Plan goes without
	Installation string        // required
	Tenant       string        // required; in whose audit log it is written
	// Compromised gives up everything that the former key wrapped: values get new
	// data keys, and the keyed hashes a new root, so that all tokens end.
	Compromised bool
	Lock        int64  // required: the advisory lock that those who read the root take
	Actor       string // required: who does it
	Now         func() time.Time
	Logger      *slog.Logger
	// Checkpoint is called before each step that is written down; nil in every
	// released program.
	Checkpoint func(step string) error
}

// Report says what a replacement does, or did.
type Report struct {
	Compromised bool           `json:"compromised"`
	Cutoff      *time.Time     `json:"given_up_before,omitempty"` // what is older is given up; nil: nothing is, or everything
	SealingKey  string         `json:"sealing_key"`               // that takes over; "" before it is made
	Lost        []string       `json:"lost_sealing_keys"`         // that something is wrapped by, and that aren't there
	Rewrapped   int            `json:"rewrapped"`                 // roots and data keys that were carried over, or are to be
	LostKeys    []LostKey      `json:"lost_keys,omitempty"`       // roots and data keys that nothing opens
	NewRoot     bool           `json:"new_root"`                  // a new root is made
	Resealed    int            `json:"resealed"`                  // values that got a new data key, or are to
	Destroyed   int            `json:"destroyed"`                 // data keys that were given up
	LostValues  []LostValue    `json:"lost_values,omitempty"`
	Sessions    int            `json:"session_tokens_ended"`
	AdminTokens []AdminToken   `json:"admin_tokens_ended,omitempty"`
	Prints      int            `json:"fingerprints_void"`
	AuditKeys   []string       `json:"audit_mac_keys_void,omitempty"` // ids of keys whose MACs prove nothing from now on
	Targets     map[string]int `json:"targets,omitempty"`             // where leases are revoked by their id alone, and how many
	Tell        []string       `json:"tell,omitempty"`                // who has to be told what
}

// LostKey is a root or data key that nothing opens.
type LostKey struct {
	ID         string `json:"id"`
	Purpose    string `json:"purpose"` // "root": all keyed hashes
	SealingKey string `json:"sealing_key"`
}

// LostValue is a sealed value that nothing opens.
type LostValue struct {
	Table  string `json:"table"`
	Column string `json:"column"`
	Row    string `json:"row"`
	What   string `json:"what"`
}

// AdminToken is one that ends.
type AdminToken struct {
	ID    string `json:"id"`
	Owner string `json:"owner"`
}

// ErrBrokersRun says that a replacement would pull the root away under brokers.
var ErrBrokersRun = errors.New("brokers are connected to this database")

// BrokerApplication is the application_name of a broker's connections.
const BrokerApplication = "daypassd"

// state is what a replacement finds.
type state struct {
	keys    []wrappedKey
	lost    map[string]bool // ids of keys that nothing opens
	roots   []*keys.Root    // that open
	current *keys.Root      // of those; nil: it is lost, or there is none
	cutoff  time.Time       // what is older is given up; zero: nothing is
	values  []found
}

// found is a sealed value, and what becomes of it.
type found struct {
	placed

	column *Column
	lost   bool
	given  bool // up: it needs a new data key

	plaintext []byte // kept by a Rebinding alone
}

// Plan says what Apply would do. It writes nothing.
func (r *Replacement) Plan(ctx context.Context) (*Report, error) {
	s, err := r.look(ctx)
	if err != nil {
		return nil, err
	}
	return r.report(ctx, s)
}

// Apply replaces.
func (r *Replacement) Apply(ctx context.Context) (*Report, error) {
	conn, err := r.Pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("reaching the broker's database: %w", err)
	}
	defer conn.Release()
	if err := Alone(ctx, conn, r.Lock); err != nil {
		return nil, err
	}
	defer func() {
		// The lock ends with the connection in any case.
		_, _ = conn.Exec(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock($1)`, r.Lock)
	}()
	w := &Wrapping{Pool: r.Pool, Sealer: keys.AlsoOpen(r.New, r.others()...), Installation: r.Installation, Checkpoint: r.Checkpoint}
	if err := w.Adopt(ctx, true); err != nil {
		return nil, err
	}
	s, err := r.look(ctx)
	if err != nil {
		return nil, err
	}
	report, err := r.report(ctx, s)
	if err != nil {
		return nil, err
	}
	if err := r.recover(ctx, s); err != nil {
		return nil, err
	}
	for {
		n, _, err := w.RunOnce(ctx)
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
	}
	if err := r.giveUp(ctx, s, report); err != nil {
		return nil, err
	}
	if err := r.reseal(ctx, s, report); err != nil {
		return nil, err
	}
	return report, nil
}

func (r *Replacement) others() []keys.Sealer {
	var others []keys.Sealer
	for _, s := range r.Opening {
		if s.KeyID() != r.New.KeyID() {
			others = append(others, s)
		}
	}
	return others
}

// Alone takes the lock, and refuses while there are brokers. Those that come
// later find it taken before they have read the root.
func Alone(ctx context.Context, conn *pgxpool.Conn, lock int64) error {
	var taken bool
	if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, lock).Scan(&taken); err != nil {
		return fmt.Errorf("locking the installation's keys: %w", err)
	}
	if !taken {
		return fmt.Errorf("%w: one is starting, or another `daypassd keys replace` or `daypassd restore` runs", ErrBrokersRun)
	}
	// Whoever isn't a broker goes by another name.
	const others = `
SELECT count(*), coalesce(min(host(client_addr)), 'this host') FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1`
	var n int
	var from string
	if err := conn.QueryRow(ctx, others, BrokerApplication).Scan(&n, &from); err != nil {
		return fmt.Errorf("looking for brokers: %w", err)
	}
	if n > 0 {
		_, err := conn.Exec(ctx, `SELECT pg_advisory_unlock($1)`, lock)
		return errors.Join(fmt.Errorf("%w: %d connections, one of them from %s (hint: stop every broker, and daypassd command, of this installation first)", ErrBrokersRun, n, from), err)
	}
	return nil
}

// look finds out what opens.
func (r *Replacement) look(ctx context.Context) (*state, error) {
	s := &state{lost: map[string]bool{}}
	rows, err := r.Pool.Query(ctx, selectWrapped)
	if err != nil {
		return nil, fmt.Errorf("reading wrapped keys: %w", err)
	}
	if s.keys, err = pgx.CollectRows(rows, scanWrapped); err != nil {
		return nil, fmt.Errorf("reading wrapped keys: %w", err)
	}
	if s.cutoff, err = r.cutoff(ctx); err != nil {
		return nil, err
	}
	opened := map[string]*keys.DataKey{}
	for i := range s.keys {
		k := &s.keys[i]
		key, root, err := r.try(ctx, k)
		switch {
		case errors.Is(err, keys.ErrNoKey) || errors.Is(err, keys.ErrOpen):
			s.lost[k.id] = true
		case err != nil:
			// Not lost: the HSM is away, or busy.
			return nil, fmt.Errorf("finding out what can still be opened: %w (hint: nothing was changed; a sealing key is lost only when its HSM answers and doesn't have it)", err)
		case root != nil:
			s.roots = append(s.roots, root)
			if !k.retired {
				s.current = root
			}
		default:
			opened[k.id] = key
		}
	}
	return s, r.lookAtValues(ctx, s, opened)
}

// try opens a root or a data key.
func (r *Replacement) try(ctx context.Context, k *wrappedKey) (key *keys.DataKey, root *keys.Root, err error) {
	all := r.all()
	if len(all) == 0 {
		return nil, nil, keys.ErrNoKey
	}
	return tryBy(ctx, keys.AlsoOpen(all[0], all[1:]...), r.Installation, k)
}

// tryBy opens a root or a data key of an installation.
func tryBy(ctx context.Context, sealer keys.Sealer, installation string, k *wrappedKey) (key *keys.DataKey, root *keys.Root, err error) {
	err = keys.OpenBy(sealer, k.sealingKey, func(s keys.Sealer) (err error) {
		if k.root() {
			root, err = keys.OpenRoot(ctx, s, installation, k.wrapped)
		} else {
			key, err = keys.OpenDataKey(ctx, s, k.place(installation), k.wrapped)
		}
		return err
	})
	return key, root, err
}

func (r *Replacement) all() []keys.Sealer {
	if r.New == nil {
		return r.Opening
	}
	return append([]keys.Sealer{r.New}, r.Opening...)
}

// cutoff is when the new sealing key was taken up: where the former one is
// believed stolen, whatever is older is. So a replacement that was interrupted
// knows what is left to do, and one that was finished that nothing is.
func (r *Replacement) cutoff(ctx context.Context) (at time.Time, err error) {
	if !r.Compromised {
		return at, nil
	}
	at = r.Now().Add(24 * time.Hour) // in a plan, before there is a new one: everything
	if r.New == nil {
		return at, nil
	}
	const read = `SELECT k.adopted_at, EXISTS (SELECT FROM sealing_keys before WHERE before.adopted_at < k.adopted_at) FROM sealing_keys k WHERE k.id = $1`
	var second bool
	err = r.Pool.QueryRow(ctx, read, r.New.KeyID()).Scan(&at, &second)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return at, nil
	case err != nil:
		return at, fmt.Errorf("reading when sealing key %s was taken up: %w", r.New.KeyID(), err)
	case !second:
		return at, fmt.Errorf("sealing key %s is the only one that this installation has had (hint: name a new label at keys.sealing, and the one that is believed stolen under keys.opening)", r.New.KeyID())
	}
	return at, nil
}

// givenUp says whether a key is older than the new sealing key, where that counts.
func (s *state) givenUp(k *wrappedKey) bool { return k.createdAt.Before(s.cutoff) }

// lookAtValues opens every value that is still needed.
func (r *Replacement) lookAtValues(ctx context.Context, s *state, opened map[string]*keys.DataKey) error {
	given := map[string]bool{}
	for i := range s.keys {
		given[s.keys[i].id] = s.givenUp(&s.keys[i])
	}
	columns, err := existing(ctx, r.Pool)
	if err != nil {
		return err
	}
	for i := range columns {
		c := &columns[i]
		err := c.each(ctx, r.Pool, r.Installation, func(values []placed) error {
			for _, v := range values {
				f := found{placed: v, column: c}
				id, ok := keys.DataKeyOf(v.Sealed)
				f.given = r.Compromised && (!ok || given[id])
				plaintext, err := openAny(ctx, v.Value, opened[id], s.roots)
				f.lost = err != nil
				clear(plaintext)
				if f.lost || f.given {
					s.values = append(s.values, f)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// openAny opens a value by its data key, or by the roots where it is older.
func openAny(ctx context.Context, v Value, key *keys.DataKey, roots []*keys.Root) ([]byte, error) {
	if _, ok := keys.DataKeyOf(v.Sealed); ok {
		if key == nil {
			return nil, keys.ErrOpen
		}
		return key.Open(v.Row, v.Sealed)
	}
	for _, root := range roots {
		if plaintext, err := root.RowSealer().Open(ctx, v.Row, v.Sealed); err == nil {
			return plaintext, nil
		}
	}
	return nil, keys.ErrOpen
}
