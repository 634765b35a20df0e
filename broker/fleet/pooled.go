package fleet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ErrPooled says that a connection leads through a pooler that gives each
// transaction another session of the server: locks of a session and LISTEN are
// lost there.
var ErrPooled = errors.New("it leads through a pooler that gives each transaction another session of the server (PgBouncer's pool_mode = transaction)")

// checkTimeout bounds CheckDirect, which waits for a pooler's free connection.
const checkTimeout = 10 * time.Second

// CheckDirect returns [ErrPooled] where a session of the client isn't one of the
// server. A pooler that keeps a session's connection is no obstacle.
//
// The process that a connection is told of when it begins is the one that it
// speaks to; where it isn't, something stands in between, and it is tried whether
// a transaction of one connection moves another to a session that it didn't have.
func CheckDirect(ctx context.Context, config *pgx.ConnConfig) error {
	ctx, cancel := context.WithTimeoutCause(ctx, checkTimeout, errors.New("looking for a pooler in front of the database took too long"))
	defer cancel()
	config = config.Copy()
	// A pooler refuses parameters that it doesn't know, and its sessions come to know
	// no prepared statements of ours.
	config.RuntimeParams = map[string]string{"application_name": Application}
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	first, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer first.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it was asked, and is of no more use
	process, err := processOf(ctx, first)
	if err != nil || process == first.PgConn().PID() {
		return err
	}
	second, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer second.Close(context.WithoutCancel(ctx)) //nolint:errcheck // as above
	const tries = 3                                // others may take what the first one had before the second does
	for range tries {
		if err := shared(ctx, first, second); err != nil {
			return err
		}
	}
	return nil
}

// shared returns ErrPooled when a transaction of one connection gets the session
// of the other, or drives the other from its session.
func shared(ctx context.Context, first, second *pgx.Conn) error {
	before, err := processOf(ctx, first)
	if err != nil {
		return err
	}
	if _, err := second.Exec(ctx, `BEGIN`); err != nil {
		if _, refused := errors.AsType[*pgconn.PgError](err); refused { // pool_mode = statement knows no transactions
			return fmt.Errorf("%w: %w", ErrPooled, err)
		}
		return err
	}
	during, err := processOf(ctx, second)
	if err != nil {
		return err
	}
	if during == before {
		return ErrPooled
	}
	after, err := processOf(ctx, first)
	if err != nil {
		return err
	}
	if after != before {
		return ErrPooled
	}
	_, err = second.Exec(ctx, `ROLLBACK`)
	return err
}

func processOf(ctx context.Context, conn *pgx.Conn) (process uint32, err error) {
	err = conn.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&process)
	return process, err
}
