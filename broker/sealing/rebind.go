package sealing

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/keys"
)

// Rebinding makes what one installation sealed another one's: each root, data key
// and value is bound to the id of its installation, and opens for no other. No
// broker may run meanwhile.
type Rebinding struct {
	Pool   *pgxpool.Pool // required
	Sealer keys.Sealer   // required: seals from now on, and opens what it can
	From   string        // id of the installation that sealed
	To     string        // id of the one that is to open
	Drop   bool          // give up what doesn't open, rather than refuse
}

// Rebound says what was carried over.
type Rebound struct {
	Roots  int // of before: they verify what is on record, and seal nothing
	Values int
	Lost   []LostValue // that don't open
}

// ErrLost says that something doesn't open, and may not be given up.
var ErrLost = errors.New("sealed values can't be opened")

// Plan says what Apply would do.
func (r *Rebinding) Plan(ctx context.Context) (*Rebound, error) {
	_, out, err := r.look(ctx)
	return out, err
}

func (r *Rebinding) look(ctx context.Context) (*state, *Rebound, error) {
	s := &state{lost: map[string]bool{}}
	rows, err := r.Pool.Query(ctx, selectWrapped)
	if err != nil {
		return nil, nil, fmt.Errorf("reading wrapped keys: %w", err)
	}
	if s.keys, err = pgx.CollectRows(rows, scanWrapped); err != nil {
		return nil, nil, fmt.Errorf("reading wrapped keys: %w", err)
	}
	opened := map[string]*keys.DataKey{}
	for i := range s.keys {
		k := &s.keys[i]
		key, root, err := tryBy(ctx, r.Sealer, r.From, k)
		switch {
		case errors.Is(err, keys.ErrNoKey) || errors.Is(err, keys.ErrOpen):
			s.lost[k.id] = true
		case err != nil:
			return nil, nil, fmt.Errorf("finding out what can be opened: %w", err)
		case root != nil:
			s.roots = append(s.roots, root)
		default:
			opened[k.id] = key
		}
	}
	out := &Rebound{Roots: len(s.roots)}
	columns, err := existing(ctx, r.Pool)
	if err != nil {
		return nil, nil, err
	}
	for i := range columns {
		c := &columns[i]
		if c.Table == "leases" {
			continue // what takes back the other one's credentials isn't carried over
		}
		err := c.each(ctx, r.Pool, r.From, func(values []placed) error {
			for _, v := range values {
				id, _ := keys.DataKeyOf(v.Sealed)
				plaintext, err := openAny(ctx, v.Value, opened[id], s.roots)
				f := found{placed: v, column: c, lost: err != nil, plaintext: plaintext}
				if f.lost {
					out.Lost = append(out.Lost, LostValue{Table: c.Table, Column: c.Column, Row: v.Row.Row, What: v.tell})
				} else {
					out.Values++
				}
				s.values = append(s.values, f)
			}
			return nil
		})
		if err != nil {
			return nil, nil, err
		}
	}
	return s, out, nil
}

// Apply carries over in the caller's transaction, and puts a new root in force,
// since the former one hashed the other's tokens. Values get new data keys, so that
// the two installations have nothing in common any more.
func (r *Rebinding) Apply(ctx context.Context, tx pgx.Tx, root *keys.Root) (*Rebound, error) {
	s, out, err := r.look(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, v := range s.values {
			clear(v.plaintext)
		}
	}()
	if len(out.Lost) > 0 && !r.Drop {
		return nil, fmt.Errorf("%w: %d, the first of them %s (hint: name the sealing key of the original under keys.opening, or give them up with --drop-sealed)", ErrLost, len(out.Lost), out.Lost[0].What)
	}
	if err := r.roots(ctx, tx, s, root); err != nil {
		return nil, err
	}
	made := map[string]*keys.DataKey{}
	for _, v := range s.values {
		if v.lost {
			continue
		}
		key, err := r.key(ctx, tx, made, v.Row)
		if err != nil {
			return nil, err
		}
		row := v.Row
		row.Installation = r.To
		sealed, err := key.Seal(row, v.plaintext)
		if err != nil {
			return nil, err
		}
		if stored, err := v.column.store(ctx, tx, v.Value, sealed); err != nil || !stored {
			return nil, errors.Join(fmt.Errorf("%s.%s of %s could not be sealed anew", v.column.Table, v.column.Column, v.Row.Row), err)
		}
	}
	return out, r.drop(ctx, tx, out.Lost)
}

// roots puts the new one in force, and keeps those of before that open.
func (r *Rebinding) roots(ctx context.Context, tx pgx.Tx, s *state, root *keys.Root) error {
	for i := range s.keys {
		k := &s.keys[i]
		if !k.root() || s.lost[k.id] {
			continue
		}
		var wrapped []byte
		err := keys.OpenBy(r.Sealer, k.sealingKey, func(from keys.Sealer) error {
			before, err := keys.OpenRoot(ctx, from, r.From, k.wrapped)
			if err == nil {
				wrapped, err = before.Rewrap(ctx, r.Sealer, r.To)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("wrapping %s anew: %w", k.id, err)
		}
		if _, err := tx.Exec(ctx, `UPDATE roots SET wrapped = $2, sealing_key = $3 WHERE id = $1`, k.id, wrapped, r.Sealer.KeyID()); err != nil {
			return fmt.Errorf("storing roots: %w", err)
		}
	}
	wrapped, err := root.Rewrap(ctx, r.Sealer, r.To)
	if err != nil {
		return err
	}
	lost := []string{}
	for id := range s.lost {
		lost = append(lost, id)
	}
	batch := &pgx.Batch{}
	batch.Queue(`UPDATE roots SET retired_at = now() WHERE retired_at IS NULL`)
	batch.Queue(`UPDATE roots SET lost_at = now() WHERE id = ANY ($1) AND lost_at IS NULL`, lost)
	batch.Queue(`INSERT INTO roots (id, sealing_key, wrapped, created_at) SELECT 'root-' || (count(*) + 1), $1, $2, now() FROM roots`, r.Sealer.KeyID(), wrapped)
	batch.Queue(`UPDATE data_keys SET retired_at = coalesce(retired_at, now()), wrapped = NULL, destroyed_at = now() WHERE destroyed_at IS NULL`)
	batch.Queue(`DELETE FROM sealing_keys`) // which the other one took up
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("storing roots: %w", err)
	}
	return nil
}

// key is the new data key of a value's tenant and purpose.
func (r *Rebinding) key(ctx context.Context, tx pgx.Tx, made map[string]*keys.DataKey, row keys.RowID) (*keys.DataKey, error) {
	of := row.Tenant + "/" + row.Purpose
	if key := made[of]; key != nil {
		return key, nil
	}
	place := keys.DataKeyPlace{Installation: r.To, ID: keys.NewDataKeyID(), Tenant: row.Tenant, Purpose: row.Purpose}
	key, wrapped, err := keys.MakeDataKey(ctx, r.Sealer, place)
	if err != nil {
		return nil, err
	}
	// Brokers take what it may seal in blocks; what is sealed here is within the first.
	const insert = `INSERT INTO data_keys (id, tenant, purpose, sealing_key, wrapped, seals, created_at) VALUES ($1, $2, $3, $4, $5, 1048576, now())`
	if _, err := tx.Exec(ctx, insert, place.ID, place.Tenant, place.Purpose, r.Sealer.KeyID(), wrapped); err != nil {
		return nil, fmt.Errorf("storing data key: %w", err)
	}
	made[of] = key
	return key, nil
}

// drop gives up what doesn't open.
func (r *Rebinding) drop(ctx context.Context, tx pgx.Tx, lost []LostValue) error {
	for _, v := range lost {
		if v.Table != "secret_versions" {
			return fmt.Errorf("%w: %s.%s of %s", ErrLost, v.Table, v.Column, v.Row)
		}
		const destroy = `
UPDATE secret_versions SET state = 'destroyed', value = NULL, destroyed_at = now() WHERE secret_id || '/' || version = $1 AND state <> 'destroyed'`
		if _, err := tx.Exec(ctx, destroy, v.Row); err != nil {
			return fmt.Errorf("giving up %s: %w", v.What, err)
		}
	}
	return nil
}
