// Package installation says who this broker is: the random id in all names that
// it makes on targets, and the root of its keyed hashes and seals. Both live in
// its database, and the database knows where it was born: a copy of it (dump and
// restore, CREATE DATABASE … TEMPLATE) finds out that it is one, and nothing is
// issued or revoked from it, since the credentials on the targets are the
// original's. A copy of a server's files can't find out by itself: there the
// targets tell, by the installation's epoch. Package restore makes a copy one
// that may work.
package installation

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/keys"
)

// IsNew says that the installation has no root yet: it has never been started.
func IsNew(ctx context.Context, conn interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
},
) (bool, error) {
	var first bool
	if err := conn.QueryRow(ctx, `SELECT NOT EXISTS (SELECT FROM roots)`).Scan(&first); err != nil {
		return false, fmt.Errorf("reading installation: %w", err)
	}
	return first, nil
}

// ReplaceLock is the advisory lock that `daypassd keys replace` and `daypassd
// restore` hold, and that nobody may hold who reads which root there is.
const ReplaceLock int64 = 0x64617970617373 // "daypass"

// ErrReplacing says that the installation's keys are being replaced.
var ErrReplacing = errors.New("the keys of this installation are being replaced")

// OpenRoot opens the installation's root, and makes it up on first use. Of two
// brokers that start at once, both get the same one.
func OpenRoot(ctx context.Context, pool *pgxpool.Pool, sealer keys.Sealer, installation string) (*keys.Root, error) {
	sealingKey, wrapped, err := currentRoot(ctx, pool)
	if errors.Is(err, pgx.ErrNoRows) {
		if err := makeRoot(ctx, pool, sealer, installation); err != nil {
			return nil, err
		}
		sealingKey, wrapped, err = currentRoot(ctx, pool)
	}
	if err != nil {
		return nil, fmt.Errorf("reading root: %w", err)
	}
	return openRoot(ctx, sealer, installation, storedRoot{sealingKey, wrapped})
}

// CurrentRoot opens the installation's root for one who holds [ReplaceLock], in
// whose hands it may be a copy's. It makes none: pgx.ErrNoRows says that there is
// none.
func CurrentRoot(ctx context.Context, pool *pgxpool.Pool, sealer keys.Sealer, installation string) (*keys.Root, error) {
	var stored storedRoot
	if err := pool.QueryRow(ctx, readCurrentRoot).Scan(&stored.SealingKey, &stored.Wrapped); err != nil {
		return nil, fmt.Errorf("reading root: %w", err)
	}
	return openRoot(ctx, sealer, installation, stored)
}

const readCurrentRoot = `SELECT sealing_key, wrapped FROM roots WHERE retired_at IS NULL`

type storedRoot struct {
	SealingKey string
	Wrapped    []byte
}

func openRoot(ctx context.Context, sealer keys.Sealer, installation string, stored storedRoot) (root *keys.Root, err error) {
	err = keys.OpenBy(sealer, stored.SealingKey, func(s keys.Sealer) (err error) {
		root, err = keys.OpenRoot(ctx, s, installation, stored.Wrapped)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("opening root: %w", err)
	}
	return root, nil
}

// currentRoot reads the root while it isn't being replaced. It stays the current
// one for as long as its caller is connected: whoever replaces it first takes the
// lock, and then refuses while there are brokers.
func currentRoot(ctx context.Context, pool *pgxpool.Pool) (sealingKey string, wrapped []byte, err error) {
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		var free bool
		if err := tx.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock_shared($1)`, ReplaceLock).Scan(&free); err != nil {
			return err
		}
		if !free {
			return fmt.Errorf("%w (hint: wait until `daypassd keys replace` or `daypassd restore` has ended, then start again)", ErrReplacing)
		}
		return tx.QueryRow(ctx, readCurrentRoot).Scan(&sealingKey, &wrapped)
	})
	return sealingKey, wrapped, err
}

func makeRoot(ctx context.Context, pool *pgxpool.Pool, sealer keys.Sealer, installation string) error {
	root, err := keys.NewRoot()
	if err != nil {
		return err
	}
	wrapped, err := root.Wrap(ctx, sealer, installation)
	if err != nil {
		return err
	}
	const save = `INSERT INTO roots (id, sealing_key, wrapped, created_at) VALUES ('root-1', $1, $2, now()) ON CONFLICT DO NOTHING`
	if _, err := pool.Exec(ctx, save, sealer.KeyID(), wrapped); err != nil {
		return fmt.Errorf("saving root: %w", err)
	}
	return nil
}

// RetiredRoots opens the roots from before the current one, as far as they can
// be opened: for what was sealed and hashed with them.
func RetiredRoots(ctx context.Context, pool *pgxpool.Pool, sealer keys.Sealer, installation string) ([]*keys.Root, error) {
	rows, err := pool.Query(ctx, `SELECT sealing_key, wrapped FROM roots WHERE retired_at IS NOT NULL ORDER BY created_at DESC`)
	if err != nil {
		return nil, fmt.Errorf("reading retired roots: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[storedRoot])
	if err != nil {
		return nil, fmt.Errorf("reading retired roots: %w", err)
	}
	var opened []*keys.Root
	for _, r := range all {
		root, err := openRoot(ctx, sealer, installation, r)
		if errors.Is(err, keys.ErrOpen) || errors.Is(err, keys.ErrNoKey) {
			continue // it was lost, and replaced
		}
		if err != nil {
			return nil, err
		}
		opened = append(opened, root)
	}
	return opened, nil
}
