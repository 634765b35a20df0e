package sealing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/keys"
)

// Wrapping is what wraps what: the installation's root and data keys, and the
// sealing keys that this program has.
type Wrapping struct {
	Pool         *pgxpool.Pool // required
	Sealer       keys.Sealer   // required: is to wrap everything; keys.AlsoOpen puts those beside it that do now
	Installation string        // required
	// Checkpoint is called before each step that is written down; nil in every
	// released program.
	Checkpoint func(step string) error
}

// Progress says how far re-wrapping is. Roots and data keys count alike.
type Progress struct {
	Total      int `json:"total"`      // that there are, and are to be wrapped by the latest sealing key
	Done       int `json:"done"`       // that it wraps
	Unreadable int `json:"unreadable"` // of the others, those whose sealing key isn't configured
}

// Adopt takes a sealing key up: from now on, everything is to be wrapped by it.
// A key that was taken up before stays where it was in that order, unless again
// is set: so a broker with an old configuration undoes nothing.
func (w *Wrapping) Adopt(ctx context.Context, again bool) error {
	const adopt = `
INSERT INTO sealing_keys (id, adopted_at) VALUES ($1, now())
ON CONFLICT (id) DO UPDATE SET adopted_at = now() WHERE $2 AND EXISTS (SELECT FROM sealing_keys later WHERE later.adopted_at > sealing_keys.adopted_at)`
	if err := w.checkpoint("adopt"); err != nil {
		return err
	}
	if _, err := w.Pool.Exec(ctx, adopt, w.Sealer.KeyID(), again); err != nil {
		return fmt.Errorf("taking sealing key %s up: %w", w.Sealer.KeyID(), err)
	}
	return nil
}

func (w *Wrapping) checkpoint(step string) error {
	if w.Checkpoint == nil {
		return nil
	}
	return w.Checkpoint(step)
}

// latest is the sealing key that was adopted last, and when; "" before the first.
func (w *Wrapping) latest(ctx context.Context) (id string, at time.Time, err error) {
	const read = `SELECT id, adopted_at FROM sealing_keys ORDER BY adopted_at DESC, id DESC LIMIT 1`
	err = w.Pool.QueryRow(ctx, read).Scan(&id, &at)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", at, nil
	}
	if err != nil {
		return "", at, fmt.Errorf("reading which sealing key was taken up last: %w", err)
	}
	return id, at, nil
}

// batch is how many keys are wrapped anew before the next are read.
const batch = 100

// RunOnce wraps one batch of keys anew, and says how many those were. Each is
// wrapped, opened again, and only then put in the place of the former one, in one
// statement: whenever this ends, every key can be opened by the sealing key that
// its row names. It does nothing when another sealing key was taken up later.
func (w *Wrapping) RunOnce(ctx context.Context) (int, Progress, error) {
	latest, _, err := w.latest(ctx)
	if err != nil {
		return 0, Progress{}, err
	}
	done := 0
	if latest == w.Sealer.KeyID() {
		if done, err = w.rewrap(ctx); err != nil {
			return done, Progress{}, err
		}
	}
	p, err := w.Progress(ctx)
	return done, p, err
}

// Progress counts.
func (w *Wrapping) Progress(ctx context.Context) (Progress, error) {
	latest, _, err := w.latest(ctx)
	if err != nil {
		return Progress{}, err
	}
	const count = `
SELECT sealing_key, count(*) FROM (
    SELECT sealing_key FROM roots WHERE lost_at IS NULL
    UNION ALL
    SELECT sealing_key FROM data_keys WHERE destroyed_at IS NULL AND lost_at IS NULL
) AS wrapped GROUP BY sealing_key`
	rows, err := w.Pool.Query(ctx, count)
	if err != nil {
		return Progress{}, fmt.Errorf("counting wrapped keys: %w", err)
	}
	var p Progress
	var id string
	var n int
	_, err = pgx.ForEachRow(rows, []any{&id, &n}, func() error {
		p.Total += n
		if id == latest {
			p.Done += n
		} else if _, err := keys.SealerOf(w.Sealer, id); err != nil {
			p.Unreadable += n
		}
		return nil
	})
	if err != nil {
		return Progress{}, fmt.Errorf("counting wrapped keys: %w", err)
	}
	return p, nil
}

// rewrap wraps roots and data keys anew, those that can be. Others are left where
// they are, and don't take their place in a batch: Progress counts them.
func (w *Wrapping) rewrap(ctx context.Context) (int, error) {
	done := 0
	unknown := map[string]bool{} // sealing keys that aren't there: one of what they wrap is tried
	var after wrappedKey
	for done < batch {
		all, err := w.wrappedByOthers(ctx, after)
		if err != nil || len(all) == 0 {
			return done, err
		}
		for _, k := range all {
			if unknown[k.sealingKey] {
				continue
			}
			ours, err := w.rewrapOne(ctx, k)
			switch {
			case errors.Is(err, keys.ErrNoKey):
				unknown[k.sealingKey] = true
			case errors.Is(err, keys.ErrOpen): // it was changed: keys replace lists it
			case err != nil:
				return done, err
			case ours:
				done++
			}
		}
		after = all[len(all)-1]
	}
	return done, nil
}

// wrappedKey is a root (without a purpose) or a data key.
type wrappedKey struct {
	stored

	createdAt time.Time
	retired   bool
}

func (k *wrappedKey) root() bool { return k.purpose == "" }

const selectWrapped = `
SELECT id, '' AS tenant, '' AS purpose, sealing_key, wrapped, lost_at IS NOT NULL AS lost, created_at, retired_at IS NOT NULL AS retired FROM roots
UNION ALL
SELECT id, tenant, purpose, sealing_key, wrapped, lost_at IS NOT NULL, created_at, retired_at IS NOT NULL FROM data_keys WHERE destroyed_at IS NULL`

func scanWrapped(row pgx.CollectableRow) (wrappedKey, error) {
	var k wrappedKey
	err := row.Scan(&k.id, &k.tenant, &k.purpose, &k.sealingKey, &k.wrapped, &k.lost, &k.createdAt, &k.retired)
	return k, err
}

func (w *Wrapping) wrappedByOthers(ctx context.Context, after wrappedKey) ([]wrappedKey, error) {
	const others = `
SELECT * FROM (` + selectWrapped + `) AS k
WHERE sealing_key <> $1 AND NOT lost AND (purpose COLLATE "C", id COLLATE "C") > ($2, $3) ORDER BY purpose COLLATE "C", id COLLATE "C" LIMIT $4`
	rows, err := w.Pool.Query(ctx, others, w.Sealer.KeyID(), after.purpose, after.id, batch)
	if err != nil {
		return nil, fmt.Errorf("reading wrapped keys: %w", err)
	}
	all, err := pgx.CollectRows(rows, scanWrapped)
	if err != nil {
		return nil, fmt.Errorf("reading wrapped keys: %w", err)
	}
	return all, nil
}

// rewrapOne returns false when somebody else was first.
func (w *Wrapping) rewrapOne(ctx context.Context, k wrappedKey) (bool, error) {
	var wrapped []byte
	save := `UPDATE data_keys SET wrapped = $2, sealing_key = $3 WHERE id = $1 AND wrapped = $4`
	if k.root() {
		save = `UPDATE roots SET wrapped = $2, sealing_key = $3 WHERE id = $1 AND wrapped = $4`
	}
	err := keys.OpenBy(w.Sealer, k.sealingKey, func(from keys.Sealer) (err error) {
		if !k.root() {
			wrapped, err = keys.RewrapDataKey(ctx, from, w.Sealer, k.place(w.Installation), k.wrapped)
			return err
		}
		root, err := keys.OpenRoot(ctx, from, w.Installation, k.wrapped)
		if err == nil {
			wrapped, err = root.Rewrap(ctx, w.Sealer, w.Installation)
		}
		return err
	})
	if err != nil {
		return false, fmt.Errorf("wrapping %s anew: %w", k.id, err)
	}
	if err := w.checkpoint("rewrap"); err != nil {
		return false, err
	}
	tag, err := w.Pool.Exec(ctx, save, k.id, wrapped, w.Sealer.KeyID(), k.wrapped)
	if err != nil {
		return false, fmt.Errorf("storing %s, wrapped anew: %w", k.id, err)
	}
	return tag.RowsAffected() == 1, nil
}
