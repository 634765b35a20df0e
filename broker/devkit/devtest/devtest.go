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
	if err := server.CreateDatabase(tb.Context(), name); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { drop(tb, server, name) })
	return server.DSN(name)
}

func drop(tb testing.TB, server *devkit.Postgres, name string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), stopTimeout)
	defer cancel()
	if err := server.DropDatabase(ctx, name); err != nil {
		tb.Error(err)
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
			TCP: true, Ephemeral: true, Settings: map[string]string{"max_connections": "300"},
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
	err := s.server.Stop(ctx)
	s.server = nil
	return err
}
