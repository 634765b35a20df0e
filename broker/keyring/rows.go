package keyring

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/leases"
)

// State of a signing key.
type State string

// The states.
const (
	Making    State = "making"    // planned; in the HSM soon, or already
	Published State = "published" // in the JWKS; signs from SignsFrom on
	Signing   State = "signing"
	Retiring  State = "retiring" // in the JWKS until the last token that it signed has run out
	Retired   State = "retired"  // out of the JWKS
	Revoked   State = "revoked"  // out of the JWKS before its time
)

// verifies says whether keys in this state stand in the JWKS.
func (s State) verifies() bool { return s == Published || s == Signing || s == Retiring }

// Key is one signing key as it is on record.
type Key struct {
	Number                                                                    int // from 1, in the order in which they were made
	Label                                                                     string
	KeyID                                                                     string // RFC 7638 thumbprint; "" until it is made
	Algorithm                                                                 string
	Bits                                                                      int
	State                                                                     State
	CreatedAt                                                                 time.Time
	PublishedAt, SignsFrom, SigningSince, RetiringSince, EndedAt, DestroyedAt *time.Time
	Reason                                                                    string // why it ended
	events                                                                    int
}

// name is how people are told of a key.
func (k *Key) name() string {
	if k.KeyID == "" {
		return k.Label
	}
	return k.KeyID
}

const (
	selectKeys = `
SELECT number, label, coalesce(kid, ''), algorithm, bits, state, created_at, published_at, signs_from, signing_since, retiring_since, ended_at, destroyed_at,
    coalesce(ended_reason, ''), events
FROM signing_keys WHERE tenant = $1`

	// What there is something left to do with.
	current = ` AND (state NOT IN ('retired', 'revoked') OR destroyed_at IS NULL OR state = 'revoked' AND ended_at > clock_timestamp() - $2::interval) ORDER BY number`

	readClock = `SELECT clock_timestamp()`

	// Steps of one tenant's keys follow each other. The first transaction to
	// commit wins; the next one finds another state than the one it named.
	lockSteps = `SELECT pg_advisory_xact_lock(hashtextextended('daypass signing keys ' || $1, 0))`
)

func scanKey(row pgx.CollectableRow) (Key, error) {
	var k Key
	err := row.Scan(&k.Number, &k.Label, &k.KeyID, &k.Algorithm, &k.Bits, &k.State, &k.CreatedAt, &k.PublishedAt, &k.SignsFrom, &k.SigningSince, &k.RetiringSince,
		&k.EndedAt, &k.DestroyedAt, &k.Reason, &k.events)
	k.CreatedAt = k.CreatedAt.UTC()
	for _, at := range []*time.Time{k.PublishedAt, k.SignsFrom, k.SigningSince, k.RetiringSince, k.EndedAt, k.DestroyedAt} {
		if at != nil {
			*at = at.UTC()
		}
	}
	return k, err
}

// read reads what there is something left to do with, and the database's clock.
func (r *Ring) read(ctx context.Context) (found []Key, now time.Time, err error) {
	batch := &pgx.Batch{}
	batch.Queue(selectKeys+current, r.config.Tenant, remembered).Query(func(rows pgx.Rows) (err error) {
		found, err = pgx.CollectRows(rows, scanKey)
		return err
	})
	batch.Queue(readClock).QueryRow(func(row pgx.Row) error { return row.Scan(&now) })
	if err := r.config.Pool.SendBatch(ctx, batch).Close(); err != nil {
		return nil, time.Time{}, unavailable("reading signing keys", err)
	}
	return found, now.UTC(), nil
}

// step is a transaction under the lock, at a moment of the database's clock.
type step struct {
	pgx.Tx
	now    time.Time
	actor  string
	tenant string
	ring   *Ring
}

// errLost says that somebody else took the step, or another one.
var errLost = errors.New("the keys are no longer as this step expects them")

// inStep runs f in a step and commits. done is false when f found that somebody
// else was first: nothing was written then.
func (r *Ring) inStep(ctx context.Context, actor string, f func(context.Context, *step) error) (done bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, readTimeout, errors.New("a step of the signing keys took too long"))
	defer cancel()
	tx, err := r.config.Pool.Begin(ctx)
	if err != nil {
		return false, unavailable("a step of the signing keys", err)
	}
	defer func() {
		// After the commit there is nothing to roll back, and before it the connection's end does it.
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
		defer cancel()
		_ = tx.Rollback(ending)
	}()
	if _, err := tx.Exec(ctx, lockSteps, r.config.Tenant); err != nil {
		return false, unavailable("a step of the signing keys", err)
	}
	s := &step{Tx: tx, actor: actor, tenant: r.config.Tenant, ring: r}
	if err := tx.QueryRow(ctx, readClock).Scan(&s.now); err != nil {
		return false, unavailable("a step of the signing keys", err)
	}
	s.now = s.now.UTC()
	err = f(ctx, s)
	var pg *pgconn.PgError
	switch {
	case errors.Is(err, errLost), errors.As(err, &pg) && pg.Code == "23505": // unique_violation
		return false, nil
	case errors.As(err, new(*RefusedError)):
		return false, err
	case err != nil:
		return false, unavailable("a step of the signing keys", err)
	}
	if err := tx.Commit(ctx); err != nil {
		return false, unavailable("a step of the signing keys", err)
	}
	return true, nil
}

// keys reads keys of the transaction; where is SQL behind WHERE tenant = $1.
func (s *step) keys(ctx context.Context, where string, args ...any) ([]Key, error) {
	rows, err := s.Query(ctx, selectKeys+where, append([]any{s.tenant}, args...)...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, scanKey)
}

// expect finds a key in the state that the step expects.
func (s *step) expect(ctx context.Context, number int, state State) (*Key, error) {
	found, err := s.keys(ctx, ` AND number = $2 AND state = $3`, number, string(state))
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, errLost
	}
	return &found[0], nil
}

// change is one key's way to its next state.
type change struct {
	event  audit.Type
	set    string // SQL: what changes; $3 is the time, $5 and on are more
	more   []any
	reason string
	data   map[string]any
}

// apply changes a key, with the event that records it.
func (s *step) apply(ctx context.Context, k *Key, c change) error {
	data := map[string]any{"label": k.Label, "algorithm": k.Algorithm}
	maps.Copy(data, c.data)
	if c.reason != "" {
		data["reason"] = c.reason
	}
	k.events++
	args := append([]any{s.tenant, k.Number, s.now, k.events}, c.more...)
	tag, err := s.Exec(ctx, `UPDATE signing_keys SET events = $4, `+c.set+` WHERE tenant = $1 AND number = $2`, args...)
	if err != nil {
		return err
	}
	if tag.RowsAffected() != 1 {
		return errLost
	}
	return s.record(ctx, c.event, k.name(), k.events, data)
}

// record writes an event.
func (s *step) record(ctx context.Context, kind audit.Type, subject string, count int, data map[string]any) error {
	event, err := s.ring.config.Audit.Event(audit.Entry{At: s.now, Type: kind, Subject: subject, Count: count, Actor: s.actor, Data: data})
	if err != nil {
		return err
	}
	batch := &pgx.Batch{}
	audit.InsertIf(batch, []audit.Event{event}, "true")
	return s.SendBatch(ctx, batch).Close()
}

const insertKey = `
INSERT INTO signing_keys (tenant, number, label, algorithm, bits, state, created_at, kid, public_key, published_at, signs_from, signing_since, events)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10, $10, $11)`

// found takes the first key on record: the one that the configuration names.
func (r *Ring) found(ctx context.Context) error {
	var labels []string
	if err := r.config.Pool.QueryRow(ctx, `SELECT coalesce(array_agg(label), '{}') FROM signing_keys WHERE tenant = $1`, r.config.Tenant).Scan(&labels); err != nil {
		return unavailable("reading signing keys", err)
	}
	if len(labels) > 0 {
		if !slices.Contains(labels, r.config.Pair.Label) {
			r.config.Logger.WarnContext(ctx, "the configured label is that of no signing key on record: it names later ones alone (hint: `daypassd keys rotate` makes the next one)", "label", r.config.Pair.Label)
		}
		return nil
	}
	signer, err := r.openOrMake(ctx, r.config.Pair, r.config.Create)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return fmt.Errorf("encoding public key %s: %w", signer.KeyID(), err)
	}
	r.config.Checkpoint("keys_founded")
	_, err = r.inStep(ctx, "daypassd", func(ctx context.Context, s *step) error {
		p := r.config.Pair
		if _, err := s.Exec(ctx, insertKey, s.tenant, 1, p.Label, p.Algorithm, p.Bits, string(Signing), s.now, signer.KeyID(), public, s.now, 1); err != nil {
			return err // of two brokers that start at once the second one finds number 1 taken
		}
		return s.record(ctx, audit.KeyAdopted, signer.KeyID(), 1, map[string]any{"label": p.Label, "algorithm": p.Algorithm})
	})
	return err
}

// openOrMake opens a key pair, or makes it, and tries it.
func (r *Ring) openOrMake(ctx context.Context, pair keys.Pair, create bool) (keys.Signer, error) {
	signer, err := r.config.Store.OpenSigner(ctx, pair)
	if create && errors.Is(err, keys.ErrNoKey) {
		signer, err = r.config.Store.MakeSigner(ctx, pair)
		if errors.Is(err, keys.ErrKeyExists) {
			signer, err = r.config.Store.OpenSigner(ctx, pair)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("opening signing key %s: %w", pair.Label, err)
	}
	return signer, keys.SelfTest(signer)
}

// unavailable tells an error of ours from a database that is away.
func unavailable(doing string, err error) error {
	if errors.Is(err, leases.ErrUnavailable) {
		return err
	}
	if _, said := errors.AsType[*pgconn.PgError](err); said {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return fmt.Errorf("%s: %w: %w", doing, leases.ErrUnavailable, err)
}
