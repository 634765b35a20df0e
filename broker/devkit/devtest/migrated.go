//go:build unix

package devtest

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/devkit"
	"github.com/daypass/daypass/migrations"
)

// template is a database with the broker's schema, from which others are copied: making the schema takes ten times as long.
const template = "test_template"

// A copy knows that it is one, and would be refused: it is made an installation of its own.
const stamp = `
UPDATE installation SET id = substr(replace(gen_random_uuid()::text, '-', ''), 1, 12),
    database_oid = (SELECT oid::text FROM pg_database WHERE datname = current_database())`

// Each new connection plans its statements over all partitions. Tests open many
// connections, and none of them needs two months of weeks to come. A program that
// runs for longer than a minute or two makes those that are missing, as it should.
const fewerWeeks = `
DO $$
DECLARE
    week regclass;
BEGIN
    FOR week IN SELECT inhrelid FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid
        WHERE inhparent IN ('leases'::regclass, 'audit_events'::regclass) AND c.relname ~ '^(leases|audit_events)_[0-9]{8}$'
          AND right(c.relname, 8) > to_char(now() + interval '21 days', 'YYYYMMDD') LOOP
        EXECUTE 'DROP TABLE ' || week;
    END LOOP;
END $$`

// Migrated is [Database] with the broker's schema, as a new installation.
func Migrated(tb testing.TB) string {
	tb.Helper()
	server := Postgres(tb)
	name := binary.nextName()
	if err := binary.copyTemplate(tb.Context(), server, name); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { drop(tb, server, name) })
	return server.DSN(name)
}

// MigratedAs is Migrated under a name. Whoever asks drops it.
func MigratedAs(tb testing.TB, name string) {
	tb.Helper()
	if err := binary.copyTemplate(tb.Context(), Postgres(tb), name); err != nil {
		tb.Fatal(err)
	}
}

// copyTemplate makes the template on the server unless it is there, and a copy of it.
func (s *shared) copyTemplate(ctx context.Context, server *devkit.Postgres, name string) error {
	s.templating.Lock()
	defer s.templating.Unlock()
	if s.templated != server {
		if err := s.maintain(ctx, server, "CREATE DATABASE "+template); err != nil {
			return err
		}
		config, err := pgx.ParseConfig(server.DSN(template))
		if err != nil {
			return err
		}
		if _, err := migrations.Up(ctx, config); err != nil {
			return err
		}
		if err := run(ctx, server.DSN(template), fewerWeeks); err != nil {
			return fmt.Errorf("preparing %s: %w", template, err)
		}
		s.templated = server
	}
	if err := s.maintain(ctx, server, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()+" TEMPLATE "+template); err != nil {
		return err
	}
	return run(ctx, server.DSN(name), stamp)
}

func run(ctx context.Context, dsn, sql string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // its work is done
	_, err = conn.Exec(ctx, sql)
	return err
}
