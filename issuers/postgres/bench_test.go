package postgres_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// The limit beside which the issuer is measured: the statements that do the same by hand, one connection, same server.

const benchVerifier = "SCRAM-SHA-256$1:" + "AAAAAAAAAAAAAAAAAAAAAA==" + "$" + "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:" + "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

func bareCreate(b *testing.B, conn *pgx.Conn, tg *target, prefix string) []string {
	b.Helper()
	names := make([]string, b.N)
	until := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	for i := range names {
		names[i] = fmt.Sprintf("%s_%s_%d", prefix, strings.Repeat("x", 30), i)
		if _, err := conn.Exec(b.Context(), fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s' VALID UNTIL '%s' IN ROLE %s", names[i], benchVerifier, until, tg.group)); err != nil {
			b.Fatal(err)
		}
	}
	return names
}

// bareDrop is the five statements of a revocation that loses nothing, each committed, for a user that made nothing.
func bareDrop(b *testing.B, conn *pgx.Conn, tg *target, names []string) {
	b.Helper()
	for _, name := range names {
		for _, sql := range []string{
			"ALTER ROLE " + name + " NOLOGIN",
			"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '" + name + "'",
			"REASSIGN OWNED BY " + name + " TO " + tg.heir,
			"DROP OWNED BY " + name,
			"DROP ROLE " + name,
		} {
			if _, err := conn.Exec(b.Context(), sql); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkBareCreate(b *testing.B) {
	tg := newTarget(b, options{})
	conn := tg.adminConn(b, tg.databases[0])
	b.ResetTimer()
	names := bareCreate(b, conn, tg, "bare")
	b.StopTimer()
	bareDrop(b, conn, tg, names)
}

func BenchmarkBareRevoke(b *testing.B) {
	tg := newTarget(b, options{})
	conn := tg.adminConn(b, tg.databases[0])
	names := bareCreate(b, conn, tg, "bare")
	b.ResetTimer()
	bareDrop(b, conn, tg, names)
}

func BenchmarkIssue(b *testing.B) {
	for _, role := range []string{"deployer", "strong"} {
		b.Run(role, func(b *testing.B) {
			tg := newTarget(b, options{})
			issuer := tg.issuer(b)
			lease := newLease(tg)
			lease.Role = role
			revoke(b, issuer, newLease(tg)) // a connection
			users := make([]user, 0, b.N)
			b.ResetTimer()
			for range b.N {
				lease.ID = newLease(tg).ID
				users = append(users, issue(b, issuer, lease))
			}
			b.StopTimer()
			for _, u := range users {
				revoke(b, issuer, u.lease)
			}
		})
	}
}

func BenchmarkRevoke(b *testing.B) {
	tg := newTarget(b, options{})
	issuer := tg.issuer(b)
	users := make([]user, 0, b.N)
	for range b.N {
		users = append(users, issue(b, issuer, newLease(tg)))
	}
	b.ResetTimer()
	for _, u := range users {
		revoke(b, issuer, u.lease)
	}
}
