package leases

import (
	"context"
	"errors"
	"maps"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// A server that says nothing is given up after about half a minute, however the
	// network lost it; a statement under way long before, by its own deadline.
	connectTimeout = 5 * time.Second
	hostTimeout    = 3 * time.Second // of several hosts each, so that the last one is reached within a statement's time
	keepAliveIdle  = 10 * time.Second
	keepAliveEvery = 5 * time.Second
	keepAliveTries = 4

	// Connections are made anew now and then, so that a fleet comes back to a server
	// that was away, and what a changed setting of the database says holds everywhere.
	connectionLife   = 30 * time.Minute
	connectionJitter = 5 * time.Minute
	// pingTimeout is how long a connection that was idle may take to show that it is alive.
	pingTimeout = 3 * time.Second
)

// PlannerSettings are what the connections of Config.Pool should be set to. The
// statements here ask for rows by their keys. With these settings each is planned
// once for a connection, and for an index: a plan that was made while the tables
// were empty would read them whole once they are full.
func PlannerSettings() map[string]string {
	return map[string]string{"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off", "jit": "off"}
}

// Prepare makes the configuration of a pool fit for Config.Pool, and for a server
// that goes away and comes back as another: statements and locks have deadlines, of
// several hosts the one that takes writes is chosen, and a connection that can't
// be trusted any more isn't used again.
func Prepare(config *pgxpool.Config) {
	c := config.ConnConfig
	maps.Copy(c.RuntimeParams, map[string]string{"statement_timeout": "5000", "lock_timeout": "3000", "idle_in_transaction_session_timeout": "10000"})
	maps.Copy(c.RuntimeParams, PlannerSettings())
	c.ConnectTimeout = connectTimeout
	dialer := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAliveIdle, Interval: keepAliveEvery, Count: keepAliveTries}}
	c.DialFunc = dialer.DialContext
	(&gate{}).guard(&c.Config)
	if severalHosts(c) {
		c.ConnectTimeout = hostTimeout
		if c.ValidateConnect == nil {
			c.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
		}
	}
	config.MaxConnLifetime, config.MaxConnLifetimeJitter = connectionLife, connectionJitter
	config.PingTimeout = pingTimeout

	before := c.OnPgError
	c.OnPgError = func(conn *pgconn.PgConn, err *pgconn.PgError) bool {
		// The server became a standby, or the session began while its database was
		// read-only, and stays so: another connection may do.
		return err.Code != readOnly && (before == nil || before(conn, err))
	}
	c.OnNotice = func(conn *pgconn.PgConn, notice *pgconn.Notice) {
		if notice.Routine == waitForStandby { // messages are translated; this is not
			conn.CustomData()[unreplicatedKey] = true
		}
	}
	config.AfterRelease = func(conn *pgx.Conn) bool { return replicated(conn) == nil }
}

// severalHosts tells several servers from one that is tried with TLS and without.
func severalHosts(c *pgx.ConnConfig) bool {
	for _, f := range c.Fallbacks {
		if f.Host != c.Host || f.Port != c.Port {
			return true
		}
	}
	return false
}

const (
	readOnly        = "25006"             // read_only_sql_transaction
	waitForStandby  = "SyncRepWaitForLSN" // the server's routine that waits for a synchronous standby
	unreplicatedKey = "daypass.unreplicated"
)

// errUnreplicated says that a commit is in the server's own log alone, although it
// was to wait for a standby: somebody cancelled the wait (pg_cancel_backend, or a
// client that gave up), which the server tells with a warning and calls a success.
// A failover would lose it, so it is no commit that anybody may hear of.
var errUnreplicated = errors.New("a commit did not reach the synchronous standby: somebody cancelled its wait")

// replicated says whether what was committed on this connection can be told.
func replicated(conn *pgx.Conn) error {
	if _, cancelled := conn.PgConn().CustomData()[unreplicatedKey]; cancelled {
		return errUnreplicated
	}
	return nil
}

// sendBatch sends a batch and returns nil once it is committed, on a standby too
// where there is a synchronous one.
func sendBatch(ctx context.Context, conn *pgxpool.Conn, batch *pgx.Batch) error {
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return err
	}
	return replicated(conn.Conn())
}
