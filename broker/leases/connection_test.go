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
)

// unconfirmed is a pool on a server whose synchronous standby is not there, and
// somebody who cancels each wait for it.
func unconfirmed(t *testing.T) *pgxpool.Pool {
	t.Helper()
	server, err := devkit.StartPostgres(t.Context(), devkit.PostgresConfig{Ephemeral: true, Settings: map[string]string{"synchronous_standby_names": "absent"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	config, err := pgxpool.ParseConfig(server.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	leases.Prepare(config)
	config.ConnConfig.RuntimeParams["statement_timeout"] = "0"
	config.ConnConfig.RuntimeParams["synchronous_commit"] = "on"
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	conn, err := pgx.Connect(t.Context(), server.DSN("postgres")) // which waits for nothing
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `CREATE TABLE kept (n int)`); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			const cancel = `WITH now AS MATERIALIZED (SELECT pg_sleep(0.01)) SELECT pg_cancel_backend(pid) FROM pg_stat_activity, now WHERE wait_event = 'SyncRep'`
			if _, err := conn.Exec(ctx, cancel); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	}()
	t.Cleanup(func() {
		stop()
		<-done
		_ = conn.Close(context.WithoutCancel(ctx)) // its work is done
	})
	return pool
}

// TestUnreplicatedIsNoSuccess: a commit whose wait for the synchronous standby was
// cancelled is an error for whoever commits on the pool, in whatever way, and one
// of which nobody knows the outcome. The server calls it a success.
func TestUnreplicatedIsNoSuccess(t *testing.T) {
	t.Parallel()
	pool := unconfirmed(t)
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
		err := commit()
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
	// What needs no standby needs no connection of its own either.
	if _, err := pool.Exec(ctx, `DO $$ BEGIN RAISE WARNING 'SyncRepWaitForLSN'; END $$`); err != nil {
		t.Errorf("another warning: %v", err)
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
