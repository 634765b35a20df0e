package broker_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
)

// wantAway is an answer of 503 that says when to come again.
func wantAway(t *testing.T, what string, a *brokertest.Answer) {
	t.Helper()
	if a.Status != http.StatusServiceUnavailable || a.Problem.Code != api.CodeUnavailable || a.Header.Get("Retry-After") == "" {
		t.Errorf("%s: %d, Retry-After %q\n%s", what, a.Status, a.Header.Get("Retry-After"), a.Body)
	}
}

// readiness polls /readyz until a check of it says so, with that status.
func readiness(t *testing.T, b *brokertest.Broker, status int, check, says string) {
	t.Helper()
	patiently(t, fmt.Sprintf("/readyz answers %d, %s: %s", status, check, says), func() bool {
		a := b.Do(http.MethodGet, api.PathReady, "", nil)
		var r struct{ Checks map[string]string }
		// It has more members.
		return a.Status == status && json.Unmarshal(a.Body, &r) == nil && strings.Contains(r.Checks[check], says)
	})
	if a := b.Do(http.MethodGet, api.PathLive, "", nil); a.Status != http.StatusOK {
		t.Errorf("/livez: %d", a.Status)
	}
}

// TestReadOnlyDatabase as after a disk ran full at a provider's, or on a standby:
// what writes answers 503, what reads goes on, and it heals by itself.
func TestReadOnlyDatabase(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	operator := b.Admin(admin.Operator)
	out := b.Exchange(b.Job(), "payments/deploy-db", "payments/sign")
	name := ""
	if err := b.Base.Pool.QueryRow(t.Context(), `SELECT quote_ident(current_database())`).Scan(&name); err != nil {
		t.Fatal(err)
	}
	b.Exec(`ALTER DATABASE ` + name + ` SET default_transaction_read_only = on`)
	b.Exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
	readiness(t, b, http.StatusServiceUnavailable, "database", "read-only")
	lease := api.PathLeases + "/" + out.Credentials[0].LeaseID
	wantAway(t, "an exchange for a user", b.TryExchange(b.Job(), "payments/deploy-db"))
	wantAway(t, "an exchange for a JWT", b.TryExchange(b.Job(), "payments/sign"))
	wantAway(t, "an exchange with a session token", b.TryExchange(out.Session.Token, "payments/sign"))
	wantAway(t, "renew", b.Do(http.MethodPost, lease+"/renew", out.Session.Token, map[string]string{"ttl": "30m"}))
	wantAway(t, "revoke", b.Do(http.MethodPost, lease+"/revoke", out.Session.Token, nil))
	wantAway(t, "an operator's revoke", b.Do(http.MethodPost, lease+"/revoke", operator, map[string]string{"reason": "a test"}))
	wantAway(t, "giving a session back", b.Do(http.MethodPost, api.PathSessionRevoke, out.Session.Token, nil))
	wantAway(t, "a new static secret", b.Do(http.MethodPut, api.PathSecrets+"/payments/new", operator, map[string]any{"owner": "x@example.com", "values": map[string]string{"value": b.Hide("a-value-that-nobody-keeps")}}))
	if a := b.Do(http.MethodGet, lease, operator, nil); a.Status != http.StatusOK {
		t.Errorf("reading: %d\n%s", a.Status, a.Body)
	}
	if _, err := b.Base.Pool.Exec(t.Context(), `SET default_transaction_read_only = off; ALTER DATABASE `+name+` RESET default_transaction_read_only`); err != nil {
		t.Fatal(err)
	}
	readiness(t, b, http.StatusOK, "database", "ok")
	patiently(t, "exchanges work again", func() bool { return b.TryExchange(b.Job(), "payments/sign").Status == http.StatusOK })
	patiently(t, "revoking works again", func() bool {
		return b.Do(http.MethodPost, api.PathSessionRevoke, out.Session.Token, nil).Status < http.StatusBadRequest
	})
}

// TestDatabaseRefuses with the errors of a server that is full, busy, or on its way down.
func TestDatabaseRefuses(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{Connection: func(config *pgxpool.Config) { config.MaxConns = 6 }})
	b.Exec(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = TG_ARGV[0]; END $$`)
	for code, says := range map[string]string{"53100": "disk is full", "53200": "memory", "53300": "no connection left", "57P01": "stopping", "57P03": "starting", "40001": "ok"} {
		b.Exec(`CREATE TRIGGER refuse BEFORE INSERT ON leases EXECUTE FUNCTION refuse('` + code + `')`)
		wantAway(t, code, b.TryExchange(b.Job(), "payments/deploy-db"))
		if code != "40001" {
			readiness(t, b, http.StatusServiceUnavailable, "database", says)
		}
		b.Exec(`DROP TRIGGER refuse ON leases`)
		if code == "53100" {
			readiness(t, b, http.StatusOK, "database", "ok") // nobody has to exchange for that
		}
		b.Exchange(b.Job(), "payments/deploy-db")
		readiness(t, b, http.StatusOK, "database", "ok")
	}
}

// TestLateStandby stands for a failover to one: its clock is behind the highest
// time that the former primary's showed.
func TestLateStandby(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	out := b.Exchange(b.Job(), "payments/deploy-db")
	b.Exec(`UPDATE clock SET highest = clock_timestamp() + interval '1 hour'`)
	readiness(t, b, http.StatusServiceUnavailable, "clock", "behind the latest time")
	for _, token := range []string{b.Job(), out.Session.Token} {
		a := b.TryExchange(token, "payments/sign")
		wantAway(t, "an exchange", a)
		if !strings.Contains(a.Problem.Detail, "behind the latest time") {
			t.Errorf("it says %q", a.Problem.Detail)
		}
	}
	wantAway(t, "renew", b.Do(http.MethodPost, api.PathLeases+"/"+out.Credentials[0].LeaseID+"/renew", out.Session.Token, nil))
	// By the later clock its ten minutes are over.
	patiently(t, "the revoker goes by the later clock", func() bool { return len(b.DB.Live()) == 0 })
	b.Exec(`UPDATE clock SET highest = clock_timestamp()`)
	readiness(t, b, http.StatusOK, "clock", "ok")
	b.Exchange(b.Job(), "payments/sign")
}

// TestDatabaseMetrics: the pool's size, its use and the clocks are seen.
func TestDatabaseMetrics(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{Connection: func(config *pgxpool.Config) { config.MaxConns = 11 }})
	b.Exchange(b.Job(), "payments/sign")
	text := string(b.Do(http.MethodGet, api.PathMetrics, "", nil).Body)
	for _, want := range []string{`daypass_database_connections{state="max"} 11`, `daypass_database_connections{state="idle"}`, "daypass_database_waits_total", "daypass_clock_offset_seconds", "daypass_clock_wrong 0"} {
		if !strings.Contains(text, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
}
