package leases_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/daypass/daypass/broker/devkit"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/migrations"
)

// lonely is a server that takes a synchronous standby which isn't there, and an
// observer on it who waits for nothing.
type lonely struct {
	*devkit.Postgres
	observer *pgx.Conn
}

func newLonely(t *testing.T) *lonely {
	t.Helper()
	server, err := devkit.StartPostgres(t.Context(), devkit.PostgresConfig{Ephemeral: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	l := &lonely{Postgres: server}
	if err := l.CreateDatabase(t.Context(), "daypass"); err != nil {
		t.Fatal(err)
	}
	if l.observer, err = pgx.Connect(t.Context(), l.DSN("daypass")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.observer.Close(context.WithoutCancel(t.Context())) }) // the server may have ended it
	return l
}

// config is how a broker's pool connects there. Tests' servers confirm before
// anything is safe; here they must not.
func (l *lonely) config(t *testing.T) *pgxpool.Config {
	t.Helper()
	config, err := pgxpool.ParseConfig(l.DSN("daypass"))
	if err != nil {
		t.Fatal(err)
	}
	leases.Prepare(config)
	config.ConnConfig.RuntimeParams["synchronous_commit"] = "on"
	return config
}

func (l *lonely) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := l.observer.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// standby says which one confirms.
func (l *lonely) standby(t *testing.T, name string) {
	t.Helper()
	l.exec(t, `ALTER SYSTEM SET synchronous_standby_names = '`+name+`'`)
	l.exec(t, `SELECT pg_reload_conf()`)
}

// demand returns once commits wait for a standby that isn't there.
func (l *lonely) demand(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	l.standby(t, "absent")
	until(t, "commits wait", func() bool {
		return l.cancelled(t, func() error { _, err := pool.Exec(t.Context(), `INSERT INTO kept VALUES (0)`); return err }) != nil
	})
}

// waits returns the backend that waits for the standby; 0: none.
func (l *lonely) waits(t *testing.T) (backend int) {
	t.Helper()
	if err := l.observer.QueryRow(t.Context(), `SELECT coalesce(max(pid), 0) FROM pg_stat_activity WHERE wait_event = 'SyncRep'`).Scan(&backend); err != nil {
		t.Fatal(err)
	}
	return backend
}

// cancelled calls f while every wait for the standby is cancelled.
func (l *lonely) cancelled(t *testing.T, f func() error) error {
	t.Helper()
	told := make(chan error, 1)
	go func() { told <- f() }()
	until(t, "somebody is told of a commit", func() bool {
		l.exec(t, `SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'`)
		return len(told) > 0
	})
	return <-told
}

// TestUnreplicatedIsNoSuccess: a commit whose wait for the synchronous standby was
// cancelled is an error for whoever commits on the pool, in whatever way, and one
// of which nobody knows the outcome. The server calls it a success.
func TestUnreplicatedIsNoSuccess(t *testing.T) {
	t.Parallel()
	l := newLonely(t)
	l.exec(t, `CREATE TABLE kept (n int)`)
	pool, err := pgxpool.NewWithConfig(t.Context(), l.config(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	l.demand(t, pool)
	ctx := t.Context()
	const insert = `INSERT INTO kept VALUES ($1)`
	inTx := func(f func(pgx.Tx) error) error { return pgx.BeginFunc(ctx, pool, f) }
	for name, commit := range map[string]func() error{
		"a statement": func() error { _, err := pool.Exec(ctx, insert, 1); return err },
		"a simple statement": func() error {
			_, err := pool.Exec(ctx, insert, pgx.QueryExecModeSimpleProtocol, 1)
			return err
		},
		"several at once": func() error {
			_, err := pool.Exec(ctx, `INSERT INTO kept VALUES (1); INSERT INTO kept VALUES (2)`)
			return err
		},
		"a row": func() error {
			return pool.QueryRow(ctx, insert+` RETURNING n`, 1).Scan(new(int))
		},
		"rows": func() error {
			rows, err := pool.Query(ctx, insert+` RETURNING n`, 1)
			if err != nil {
				return err
			}
			_, err = pgx.CollectRows(rows, pgx.RowTo[int])
			return err
		},
		"a batch": func() error {
			batch := &pgx.Batch{}
			batch.Queue(insert, 1)
			batch.Queue(insert, 2)
			return pool.SendBatch(ctx, batch).Close()
		},
		"a transaction": func() error {
			return inTx(func(tx pgx.Tx) error { _, err := tx.Exec(ctx, insert, 1); return err })
		},
		"a batch in a transaction": func() error {
			return inTx(func(tx pgx.Tx) error {
				batch := &pgx.Batch{}
				batch.Queue(insert, 1)
				return tx.SendBatch(ctx, batch).Close()
			})
		},
		"a copy": func() error {
			_, err := pool.CopyFrom(ctx, pgx.Identifier{"kept"}, []string{"n"}, pgx.CopyFromRows([][]any{{1}}))
			return err
		},
	} {
		err := l.cancelled(t, commit)
		var pg *pgconn.PgError
		switch {
		case err == nil:
			t.Errorf("%s: the standby confirmed nothing, and it is a success", name)
		case !errors.As(err, &pg) || pg.Code != "08007" || !strings.Contains(err.Error(), "did not reach the synchronous standby"):
			t.Errorf("%s: %v", name, err)
		case !errors.Is(leases.Unavailable("committing", err), leases.ErrUnavailable):
			t.Errorf("%s: a caller would be told that it is a mistake: %v", name, err)
		case !leases.Unknown(err):
			t.Errorf("%s: it is on record here, and counts as rolled back", name)
		case !strings.Contains(leases.Outage(err), "synchronous standby"):
			t.Errorf("%s: an operator is told %q", name, leases.Outage(err))
		}
	}
	if _, err := pool.Exec(ctx, `DO $$ BEGIN RAISE WARNING 'SyncRepWaitForLSN'; END $$`); err != nil {
		t.Errorf("another warning: %v", err)
	}
	l.standby(t, "")
	pool.Close()
	l.readBack(t)
}

// readBack: a reservation whose wait was cancelled stands on this server, which
// would be lost with it. Whoever waits for it is told once the standby has it.
func (l *lonely) readBack(t *testing.T) {
	t.Helper()
	config := l.config(t)
	if _, err := migrations.Up(t.Context(), config.ConnConfig.Copy()); err != nil {
		t.Fatal(err)
	}
	f := newFixtureOn(t, config)
	f.reserve(t, "deploy-db") // its statements are prepared
	l.demand(t, f.pool)
	r := f.reservation(f.job(), "deploy-db")
	told := make(chan error, 1)
	go func() { told <- f.Reserve(t.Context(), r) }()
	var first int
	until(t, "its commit waits", func() bool { first = l.waits(t); return first != 0 })
	l.exec(t, `SELECT pg_cancel_backend($1)`, first)
	until(t, "what is read back waits", func() bool { second := l.waits(t); return second != 0 && second != first || len(told) > 0 })
	select {
	case err := <-told:
		t.Fatalf("no standby has it, and the answer is %v", err)
	default:
	}
	l.standby(t, "")
	if err := <-told; err != nil {
		t.Errorf("it is safe, and the answer is %v", err)
	}
	if n := f.count(t, `SELECT count(*) FROM leases WHERE id = $1`, r.Leases[0].ID); n != 1 {
		t.Errorf("%d leases, want the one", n)
	}
}

// TestWarningsAreRead however the network cuts what the server says.
func TestWarningsAreRead(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var wire []byte
		var want []byte
		for range rapid.IntRange(0, 8).Draw(t, "messages") {
			var m pgproto3.BackendMessage
			kind := rapid.SampledFrom([]byte("NEDZ")).Draw(t, "kind")
			shown := kind
			switch kind {
			case 'N':
				notice := &pgproto3.NoticeResponse{Severity: "WARNING", Message: rapid.StringN(0, 300, 300).Filter(clean).Draw(t, "message"), Routine: rapid.SampledFrom([]string{"", "ExecCommit", "SyncRepWaitForLSN"}).Draw(t, "routine")}
				if m = notice; notice.Routine == "SyncRepWaitForLSN" {
					shown = 'E'
				}
			case 'E':
				m = &pgproto3.ErrorResponse{Severity: "ERROR", Message: "no", Routine: rapid.SampledFrom([]string{"", "SyncRepWaitForLSN"}).Draw(t, "routine")}
			case 'D':
				m = &pgproto3.DataRow{Values: [][]byte{bytes.Repeat([]byte("NRSyncRepWaitForLSN\x00"), rapid.IntRange(0, 600).Draw(t, "long"))}}
			case 'Z':
				m = &pgproto3.ReadyForQuery{TxStatus: 'I'}
			}
			var err error
			start := len(wire)
			if wire, err = m.Encode(wire); err != nil {
				t.Fatal(err)
			}
			want = append(append(want, shown), wire[start+1:]...)
		}
		var from io.Reader = bytes.NewReader(wire)
		if rapid.Bool().Draw(t, "byte by byte") {
			from = iotest.OneByteReader(from)
		}
		if rapid.Bool().Draw(t, "the end with the last bytes") {
			from = iotest.DataErrReader(from)
		}
		got, err := io.ReadAll(leases.Commits(from))
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%q became %q, want %q: %v", wire, got, want, err)
		}
	})
}

func clean(s string) bool { return !strings.Contains(s, "\x00") }
