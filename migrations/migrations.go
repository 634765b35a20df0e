// Package migrations holds the broker's schema: numbered SQL files, embedded,
// applied upwards only, by one process at a time (a Postgres advisory lock).
//
// A migration must work with the program that came before it, so that a fleet
// can be upgraded one broker after the other: expand first, contract one
// version later.
package migrations

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed sql/*.sql
var files embed.FS

// Latest is the version of the newest migration in this program.
const Latest int64 = 17

// ErrTooOld says that the database lacks migrations that this program needs.
var ErrTooOld = errors.New("database schema is too old")

// Up applies what is missing and returns the versions that it applied.
func Up(ctx context.Context, config *pgx.ConnConfig) (applied []int64, err error) {
	db := stdlib.OpenDB(*config)
	defer func() { err = errors.Join(err, db.Close()) }()
	sub, err := fs.Sub(files, "sql")
	if err != nil {
		return nil, fmt.Errorf("opening migrations: %w", err)
	}
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return nil, fmt.Errorf("making migration lock: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, sub, goose.WithSessionLocker(locker))
	if err != nil {
		return nil, fmt.Errorf("reading migrations: %w", err)
	}
	results, err := provider.Up(ctx)
	for _, r := range results {
		applied = append(applied, r.Source.Version)
	}
	if err != nil {
		return applied, fmt.Errorf("applying migrations: %w", err)
	}
	return applied, nil
}

// Check returns ErrTooOld when the database lacks a migration of this program.
// A newer schema is accepted: it was made to work with this program.
func Check(ctx context.Context, conn interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
},
) error {
	const exists = `SELECT to_regclass('goose_db_version') IS NOT NULL`
	var migrated bool
	if err := conn.QueryRow(ctx, exists).Scan(&migrated); err != nil {
		return fmt.Errorf("reading schema version: %w", err)
	}
	version := int64(0)
	if migrated {
		const newest = `SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied`
		if err := conn.QueryRow(ctx, newest).Scan(&version); err != nil {
			return fmt.Errorf("reading schema version: %w", err)
		}
	}
	if version < Latest {
		return fmt.Errorf("%w: it is at version %d, this program needs %d (hint: run `daypassd migrate` with the same configuration)", ErrTooOld, version, Latest)
	}
	return nil
}
