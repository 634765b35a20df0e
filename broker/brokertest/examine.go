package brokertest

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/issuers"
)

// Log is what a broker wrote: JSON lines.
type Log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// String is all of it.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *Log) tail() string {
	s := l.String()
	return s[max(0, len(s)-3000):]
}

// Lines are those with a message.
func (l *Log) Lines(message string) []map[string]any {
	var lines []map[string]any
	for text := range strings.Lines(l.String()) {
		var line map[string]any
		if json.Unmarshal([]byte(text), &line) == nil && line["msg"] == message {
			lines = append(lines, line)
		}
	}
	return lines
}

// secrets are the values that may stand nowhere.
type secrets struct {
	mu     sync.Mutex
	values map[string]bool
}

// add remembers a value; of a JWT its signature, which makes it one.
func (s *secrets) add(value string) {
	if parts := strings.Split(value, "."); len(parts) == 3 {
		value = parts[2]
	}
	if len(value) < 12 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.values == nil {
		s.values = map[string]bool{}
	}
	s.values[value] = true
}

// find remembers whatever looks like a secret in an answer that may hold one.
func (s *secrets) find(text string) {
	for _, found := range regexp.MustCompile(issuers.GeneratedPattern+`|eyJ[\w-]+\.[\w-]+\.[\w-]+`).FindAllString(text, -1) {
		s.add(found)
	}
}

// in returns the first secret that stands in a text, as it is or in hex.
func (s *secrets) in(text string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for value := range s.values {
		if strings.Contains(text, value) || strings.Contains(text, hex.EncodeToString([]byte(value))) {
			return value
		}
	}
	return ""
}

// answers are the bodies of errors.
type answers struct {
	mu     sync.Mutex
	bodies [][]byte
}

func (a *answers) add(body []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bodies = append(a.bodies, body)
}

// Poll waits until a condition holds, and fails the test when it never does.
func Poll(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second) //nolint:forbidigo // for tests alone: the machine's clock is right
	for pause := time.Millisecond; !holds(); pause = min(2*pause, 50*time.Millisecond) {
		if time.Now().After(deadline) { //nolint:forbidigo // for tests alone: the machine's clock is right
			t.Fatalf("waited for nothing: %s", what)
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("the test ended while it waited: %s", what)
		case <-time.After(pause):
		}
	}
}

// Exec changes the database behind the broker's back.
func (b *Broker) Exec(sql string, args ...any) {
	b.t.Helper()
	if _, err := b.Base.Pool.Exec(context.WithoutCancel(b.t.Context()), sql, args...); err != nil {
		b.t.Fatalf("%s: %v", sql, err)
	}
}

// Count runs a query for one number.
func (b *Broker) Count(sql string, args ...any) int {
	b.t.Helper()
	var n int
	if err := b.Base.Pool.QueryRow(context.WithoutCancel(b.t.Context()), sql, args...).Scan(&n); err != nil {
		b.t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// CloseDatabase makes the database away: nobody can connect, and who was
// connected no longer is. OpenDatabase brings it back.
func (b *Broker) CloseDatabase() {
	b.t.Helper()
	b.allow(false)
}

// OpenDatabase is the end of CloseDatabase.
func (b *Broker) OpenDatabase() {
	b.t.Helper()
	b.allow(true)
	b.Base.Pool.Reset()
}

func (b *Broker) allow(connections bool) {
	b.t.Helper()
	ctx := context.WithoutCancel(b.t.Context())
	conn, err := pgx.Connect(ctx, devtest.Postgres(b.t).DSN("postgres"))
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close(ctx) //nolint:errcheck // it has done its work
	name := b.Base.Pool.Config().ConnConfig.Database
	if _, err := conn.Exec(ctx, fmt.Sprintf("ALTER DATABASE %s ALLOW_CONNECTIONS %t", pgx.Identifier{name}.Sanitize(), connections)); err != nil {
		b.t.Fatal(err)
	}
	if _, err := conn.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND NOT $2`, name, connections); err != nil {
		b.t.Fatal(err)
	}
}

// examine is what must hold at the end of every test.
func (b *Broker) examine() {
	ctx := context.WithoutCancel(b.t.Context())
	if found := b.secrets.in(b.Log.String()); found != "" {
		b.t.Errorf("a secret stands in the log: %s", found)
	}
	for _, body := range b.answers.bodies {
		if found := b.secrets.in(string(body)); found != "" {
			b.t.Errorf("an error answer holds a secret: %s\n%s", found, body)
		}
	}
	b.examineRows(ctx)
	b.examineEvents(ctx)
	if b.options.Join != nil {
		return // the one that was first is examined last, when nobody works any more
	}
	for name, target := range map[string]*Target{IssuerDB: b.DB, IssuerOther: b.Other} {
		for _, id := range target.Live() {
			if b.Count(`SELECT count(*) FROM leases WHERE id = $1 AND issuer = $2 AND state IN ('issuing', 'active', 'revoking')`, id, name) != 1 {
				b.t.Errorf("the credential of lease %s lives on %s, and nobody will take it back", id, name)
			}
		}
	}
}

// examineRows looks for secrets in every column of every table: text, JSON and
// arrays as they are, bytes in hex.
func (b *Broker) examineRows(ctx context.Context) {
	rows, err := b.Base.Pool.Query(ctx, `SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public'`)
	if err != nil {
		b.t.Error(err)
		return
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(tables) < 8 {
		b.t.Errorf("%d tables, %v", len(tables), err)
	}
	for _, table := range tables {
		rows, err := b.Base.Pool.Query(ctx, `SELECT row_to_json(t)::text FROM `+pgx.Identifier{table}.Sanitize()+` t`)
		if err != nil {
			b.t.Error(err)
			continue
		}
		all, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			b.t.Error(err)
		}
		if found := b.secrets.in(strings.Join(all, "\n")); found != "" {
			b.t.Errorf("a secret stands in table %s: %s", table, found)
		}
	}
}

func (b *Broker) examineEvents(ctx context.Context) {
	for name, query := range map[string]string{ //nolint:gosec // G101: the tables are called so; no secret stands here
		"an ended lease without its one end": `SELECT count(*) FROM leases l WHERE state IN ('revoked', 'expired', 'forgotten') AND 1 <> (SELECT count(*) FROM audit_events e WHERE e.subject = l.id AND e.type = 'lease.' || l.state) + (SELECT count(*) FROM audit_events e WHERE e.type = 'leases.expired' AND (e.body::jsonb #> '{data,leases}') ? l.id)`,
		"a live lease with an end":           `SELECT count(*) FROM leases l WHERE state IN ('issuing', 'active', 'revoking') AND EXISTS (SELECT FROM audit_events e WHERE e.subject = l.id AND e.type IN ('lease.revoked', 'lease.expired', 'lease.forgotten')) OR state <> 'expired' AND EXISTS (SELECT FROM audit_events e WHERE e.type = 'leases.expired' AND (e.body::jsonb #> '{data,leases}') ? l.id)`,
		"a lease that misses events":         `SELECT count(*) FROM leases l WHERE events <> (SELECT count(*) FROM audit_events e WHERE e.subject = l.id)`,
		"a lease without its session":        `SELECT count(*) FROM leases l WHERE NOT EXISTS (SELECT FROM sessions s JOIN session_tokens t ON t.session_id = s.id WHERE s.id = l.session_id AND t.hash = l.session_token)`,
		"a static secret that misses events": `SELECT count(*) FROM secrets s WHERE events <> (SELECT count(*) FROM audit_events e WHERE e.subject = s.id)`,
		"a read without its event":           `SELECT count(*) FROM secret_reads r WHERE id IS NOT NULL AND 1 <> (SELECT count(*) FROM audit_events e WHERE e.subject = r.id AND e.type = 'secret.read')`,
		"a session that misses events":       `SELECT count(*) FROM sessions s WHERE events <> (SELECT count(*) FROM audit_events e WHERE e.subject = s.id)`,
	} {
		if n := b.Count(query); n != 0 {
			b.t.Errorf("%s: %d", name, n)
		}
	}
	events, err := audit.List(ctx, b.Base.Pool, audit.Page{Tenant: "main", Limit: 100_000})
	if err != nil {
		b.t.Error(err)
	}
	for _, e := range events {
		if err := b.Base.Recorder.Verify(e); err != nil {
			b.t.Error(err)
		}
	}
}
