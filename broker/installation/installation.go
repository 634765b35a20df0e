// Package installation says who this broker is: the random id in all names that
// it makes on targets, and the root of its keyed hashes and seals. Both live in
// its database, and the database knows where it was born: a copy of it (dump and
// restore, CREATE DATABASE … TEMPLATE) finds out that it is one, and nothing is
// issued or revoked from it, since the credentials on the targets are the
// original's.
package installation

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/keys"
)

// ErrCopy says that this database is a copy of the one that it was born as.
var ErrCopy = errors.New("this database is a copy")

const identify = `
SELECT i.id,
    i.system_identifier = (SELECT system_identifier::text FROM pg_control_system())
    AND i.database_oid = (SELECT oid::text FROM pg_database WHERE datname = current_database())
FROM installation i`

// Check reads the installation's id. It returns ErrCopy for a copy.
func Check(ctx context.Context, conn interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
},
) (id string, err error) {
	var original bool
	if err := conn.QueryRow(ctx, identify).Scan(&id, &original); err != nil {
		return "", fmt.Errorf("reading installation: %w", err)
	}
	if !original {
		return "", fmt.Errorf("%w of installation %s: it was dumped, restored or cloned, so the credentials on the targets belong to the original, and nothing is issued or revoked from here "+
			"(hint: point `database` at the original; to start anew, create an empty database and run `daypassd migrate`)", ErrCopy, id)
	}
	return id, nil
}

// Guard makes every new connection of a pool prove that it leads to the original
// database, so that a copy put in its place under a running broker (a changed
// DNS entry, a restored server) is noticed.
func Guard(config *pgxpool.Config) {
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := Check(ctx, conn)
		return err
	}
}

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

// OpenRoot opens the installation's root, and makes it up on first use. Of two
// brokers that start at once, both get the same one.
func OpenRoot(ctx context.Context, pool *pgxpool.Pool, sealer keys.Sealer, installation string) (*keys.Root, error) {
	const first = "root-1"
	root, err := keys.NewRoot()
	if err != nil {
		return nil, err
	}
	wrapped, err := root.Wrap(ctx, sealer, installation)
	if err != nil {
		return nil, err
	}
	const save = `INSERT INTO roots (id, sealing_key, wrapped, created_at) VALUES ($1, $2, $3, now()) ON CONFLICT (id) DO NOTHING`
	if _, err := pool.Exec(ctx, save, first, sealer.KeyID(), wrapped); err != nil {
		return nil, fmt.Errorf("saving root: %w", err)
	}
	var sealingKey string
	if err := pool.QueryRow(ctx, `SELECT sealing_key, wrapped FROM roots WHERE id = $1`, first).Scan(&sealingKey, &wrapped); err != nil {
		return nil, fmt.Errorf("reading root: %w", err)
	}
	if sealingKey != sealer.KeyID() {
		return nil, fmt.Errorf("opening root: it was wrapped by sealing key %s, the configured one is %s (hint: configure the key that this installation began with)", sealingKey, sealer.KeyID())
	}
	return keys.OpenRoot(ctx, sealer, installation, wrapped)
}
