package main

import (
	"reflect"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/daypass/daypass/broker/config"
	"github.com/daypass/daypass/issuers"
)

// TestDatabaseConfig: of several hosts the one that takes writes is wanted, unless
// the URL says another; statements have a deadline, and the pool has its size.
func TestDatabaseConfig(t *testing.T) {
	t.Parallel()
	readWrite := reflect.ValueOf(pgconn.ValidateConnectTargetSessionAttrsReadWrite).Pointer()
	primary := reflect.ValueOf(pgconn.ValidateConnectTargetSessionAttrsPrimary).Pointer()
	for url, want := range map[string]struct {
		validate uintptr // 0: none
		hosts    int
	}{
		"postgres://u:p@one/d?sslmode=verify-full":                                  {0, 1},
		"postgres://u:p@one/d?sslmode=prefer":                                       {0, 2}, // with TLS and without
		"postgres://u:p@one,two:5433,three/d?sslmode=verify-full":                   {readWrite, 3},
		"postgres://u:p@one,one:5433/d?sslmode=verify-full":                         {readWrite, 2},
		"postgres://u:p@one,two/d?sslmode=verify-full&target_session_attrs=primary": {primary, 2},
	} {
		c, err := databaseConfig(&config.Config{Database: config.Database{URL: issuers.NewSecret(url), MaxConnections: 31}})
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		got := uintptr(0)
		if c.ConnConfig.ValidateConnect != nil {
			got = reflect.ValueOf(c.ConnConfig.ValidateConnect).Pointer()
		}
		if got != want.validate || len(c.ConnConfig.Fallbacks)+1 != want.hosts {
			t.Errorf("%s: %d ways to connect, want %d; another choice of hosts: %v", url, len(c.ConnConfig.Fallbacks)+1, want.hosts, got != want.validate)
		}
		if c.MaxConns != 31 || c.ConnConfig.RuntimeParams["statement_timeout"] != "5000" || c.ConnConfig.ConnectTimeout > 5*time.Second || c.ConnConfig.ConnectTimeout == 0 || c.AfterConnect == nil {
			t.Errorf("%s: %d connections, settings %v", url, c.MaxConns, c.ConnConfig.RuntimeParams)
		}
	}
	c, err := databaseConfig(&config.Config{Database: config.Database{URL: issuers.NewSecret("postgres://u:p@one/d?pool_max_conns=50")}})
	if err != nil || c.MaxConns != 50 {
		t.Errorf("without max_connections the URL's count holds: %v", err)
	}
}
