//go:build unix

// Package devtest gives tests databases of their own in a private PostgreSQL server, one for each test binary.
//
// A package with several such tests has its TestMain call Main, so that they share the server:
//
//	func TestMain(m *testing.M) { os.Exit(devtest.Main(m)) }
//
// Without it the server lasts as long as the tests that use it at the same time, and the next one starts another, which takes about a second.
// Either way it ends with the test binary, even with one that is killed.
package devtest

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/devkit"
)

// stopTimeout bounds the end of the server, which is an immediate shutdown.
const stopTimeout = 20 * time.Second

// shared is the binary's server and how many use it.
type shared struct {
	mu        sync.Mutex
	users     int
	databases int
	server    *devkit.Postgres

	templating sync.Mutex
	templated  *devkit.Postgres // the server that has the template

	maintaining sync.Mutex
	maintenance *pgx.Conn        // makes and drops databases: a connection for each costs more than the work
	maintains   *devkit.Postgres // the server that it leads to
}

var binary shared //nolint:gochecknoglobals // one server for a test binary is the point of this package

// Main runs the package's tests, keeps the server for all of them once one has asked for it, and stops it at their end. It returns
// the exit code.
func Main(m *testing.M) int {
	binary.mu.Lock()
	binary.users++
	binary.mu.Unlock()
	code := m.Run()
	if err := binary.leave(); err != nil {
		fmt.Fprintln(os.Stderr, "devtest:", err)
		return max(code, 1)
	}
	return code
}

// Postgres returns the binary's server, and starts it for the first that asks. It listens on the socket and on loopback, keeps nothing, and
// takes up to 300 connections. Roles belong to the whole server: a test that makes some gives them names of its own.
func Postgres(tb testing.TB) *devkit.Postgres {
	tb.Helper()
	server, err := binary.join(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := binary.leave(); err != nil {
			tb.Error(err)
		}
	})
	return server
}

// Database makes an empty database and returns its URL, over the socket, for the superuser. It is dropped at the end of the test, whoever
// is still connected.
func Database(tb testing.TB) string {
	tb.Helper()
	server := Postgres(tb)
	name := binary.nextName()
	if err := binary.maintain(tb.Context(), server, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { drop(tb, server, name) })
	return server.DSN(name)
}

func drop(tb testing.TB, server *devkit.Postgres, name string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), stopTimeout)
	defer cancel()
	if err := binary.maintain(ctx, server, "DROP DATABASE IF EXISTS "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)"); err != nil {
		tb.Error(err)
	}
}

// maintain runs a statement on a connection that is kept for those to come.
func (s *shared) maintain(ctx context.Context, server *devkit.Postgres, sql string) error {
	s.maintaining.Lock()
	defer s.maintaining.Unlock()
	if s.maintenance == nil || s.maintains != server || s.maintenance.Ping(ctx) != nil {
		s.forget(ctx)
		conn, err := pgx.Connect(ctx, server.DSN("postgres"))
		if err != nil {
			return fmt.Errorf("connecting to make or drop a database: %w", err)
		}
		s.maintenance, s.maintains = conn, server
	}
	if _, err := s.maintenance.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

// forget closes the connection; the caller holds maintaining.
func (s *shared) forget(ctx context.Context) {
	if s.maintenance != nil {
		_ = s.maintenance.Close(ctx) // its server may have gone before it
		s.maintenance = nil
	}
}

// settings spare the server work that no test looks at: of files that are thrown
// away, nothing has to be filled with zeros, written out or vacuumed.
func settings() map[string]string {
	return map[string]string{
		"max_connections": "300",
		"autovacuum":      "off", "bgwriter_lru_maxpages": "0", "checkpoint_timeout": "1h", "jit": "off",
		"max_logical_replication_workers": "0", "max_wal_size": "4GB", "wal_init_zero": "off",
	}
}

func (s *shared) nextName() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.databases++
	return fmt.Sprintf("test_%d", s.databases)
}

func (s *shared) join(ctx context.Context) (*devkit.Postgres, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server == nil {
		server, err := devkit.StartPostgres(ctx, devkit.PostgresConfig{
			TCP: true, Ephemeral: true, Settings: settings(),
		})
		if err != nil {
			return nil, err
		}
		s.server = server
	}
	s.users++
	return s.server, nil
}

// leave stops the server when its last user goes.
func (s *shared) leave() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users--
	if s.users > 0 || s.server == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	s.maintaining.Lock()
	s.forget(ctx)
	s.maintaining.Unlock()
	err := s.server.Stop(ctx)
	s.server = nil
	return err
}
