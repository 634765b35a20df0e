package leases

import (
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
// were empty would read them whole once they are full. Nor does any start processes of
// its own: where a small table can't but be read whole, Postgres would, and take longer.
func PlannerSettings() map[string]string {
	return map[string]string{"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off", "max_parallel_workers_per_gather": "0", "jit": "off"}
}

// Prepare makes the configuration of a pool fit for Config.Pool, and for a server
// that goes away and comes back as another: statements and locks have deadlines, of
// several hosts the one that takes writes is chosen, a connection that can't be
// trusted any more isn't used again, and a commit that its synchronous standby does
// not have is none.
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
	confirmed(&c.Config)
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

const readOnly = "25006" // read_only_sql_transaction
