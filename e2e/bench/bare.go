package main

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/ids"
)

const (
	// barePrefix begins the names of users that the limit makes.
	barePrefix = "bare_"
	// readyVerifiers are made before a measurement and used in turn: what the
	// server does with one is the same for all.
	readyVerifiers = 16
	userLife       = time.Hour
)

// bare makes clients that create users by the statement alone, each over a
// connection of a superuser: what nothing that makes users can outrun. It goes
// over TCP, as the broker does.
func (s *stage) bare(iterations int) func(context.Context, int) ([]worker, func(), error) {
	return func(ctx context.Context, clients int) ([]worker, func(), error) {
		verifiers, err := verifiersOf(iterations)
		if err != nil {
			return nil, nil, err
		}
		until := time.Now().Add(userLife).UTC().Format(time.RFC3339)
		unique := rand.Text()[:8]
		var made atomic.Int64
		return connected(ctx, clients, s.postgres.TCPDSN(targetDatabase), func(ctx context.Context, conn *pgx.Conn, n int) error {
			statement := fmt.Sprintf("CREATE ROLE \"%s%s_%d\" LOGIN PASSWORD '%s' VALID UNTIL '%s' IN ROLE %s",
				barePrefix, unique, made.Add(1), verifiers[n%readyVerifiers], until, targetGroup)
			_, err := conn.PgConn().Exec(ctx, statement).ReadAll()
			return err
		})
	}
}

// function makes clients that create users by the function of the set-up, each
// over a connection of the account that may call it.
func (s *stage) function(iterations int) func(context.Context, int) ([]worker, func(), error) {
	return func(ctx context.Context, clients int) ([]worker, func(), error) {
		verifiers, err := verifiersOf(iterations)
		if err != nil {
			return nil, nil, err
		}
		password, err := os.ReadFile(s.path("target.password"))
		if err != nil {
			return nil, nil, err
		}
		dsn, err := url.Parse(s.postgres.TCPDSN(targetDatabase))
		if err != nil {
			return nil, nil, err
		}
		dsn.User = url.UserPassword(brokerAccount, string(password))
		role := map[int]string{4096: "careful", 1: "fast"}[iterations]
		return connected(ctx, clients, dsn.String(), func(ctx context.Context, conn *pgx.Conn, n int) error {
			now := time.Now()
			_, err := conn.Exec(ctx, "SELECT daypass.create_user($1, $2, $3, $4, $5, $6)",
				ids.New(ids.Lease, now), s.installation, role, verifiers[n%readyVerifiers], now.Add(userLife), now.Add(time.Minute))
			return err
		})
	}
}

// connected makes one worker for each client, with a connection of its own.
func connected(ctx context.Context, clients int, dsn string, work func(context.Context, *pgx.Conn, int) error) (workers []worker, closeAll func(), err error) {
	var open []*pgx.Conn
	closeAll = func() {
		for _, conn := range open {
			_ = conn.Close(ctx) // what was written is committed
		}
	}
	for range clients {
		conn, err := pgx.Connect(ctx, dsn)
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		open = append(open, conn)
		workers = append(workers, func(ctx context.Context, n int) error { return work(ctx, conn, n) })
	}
	return workers, closeAll, nil
}

func verifiersOf(iterations int) ([]string, error) {
	verifiers := make([]string, readyVerifiers)
	for i := range verifiers {
		var err error
		if verifiers[i], err = verifier(iterations); err != nil {
			return nil, err
		}
	}
	return verifiers, nil
}

// verifier is what a server keeps of a random password (RFC 5803).
func verifier(iterations int) (string, error) {
	salt := make([]byte, 16)
	if _, err := rand.Read(salt); err != nil {
		return "", err
	}
	salted, err := pbkdf2.Key(sha256.New, rand.Text(), salt, iterations, sha256.Size)
	if err != nil {
		return "", err
	}
	sum := func(text string) []byte {
		mac := hmac.New(sha256.New, salted)
		mac.Write([]byte(text))
		return mac.Sum(nil)
	}
	stored := sha256.Sum256(sum("Client Key"))
	encode := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, encode(salt), encode(stored[:]), encode(sum("Server Key"))), nil
}

// dropBatch keeps the locks of one transaction within max_locks_per_transaction.
const dropBatch = 500

// dropBare removes the users of the limit, so that the next measurement finds
// the target as this one did. Those that the broker made stay until the server
// goes: taking them away is its own work, and isn't measured here.
func (s *stage) dropBare(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.postgres.DSN(targetDatabase))
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // what was written is committed
	for {
		rows, err := conn.Query(ctx, `SELECT rolname FROM pg_roles WHERE starts_with(rolname, $1) LIMIT $2`, barePrefix, dropBatch)
		if err != nil {
			return fmt.Errorf("listing the limit's users: %w", err)
		}
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("listing the limit's users: %w", err)
		}
		if len(names) == 0 {
			break
		}
		for i, name := range names {
			names[i] = pgx.Identifier{name}.Sanitize()
		}
		if _, err := conn.Exec(ctx, "DROP ROLE "+strings.Join(names, ", ")); err != nil {
			return fmt.Errorf("dropping the limit's users: %w", err)
		}
	}
	_, err = conn.Exec(ctx, "VACUUM pg_authid, pg_auth_members, pg_shdepend")
	return errors.Join(err, ctx.Err())
}
