package audit_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/keys"
)

func TestMain(m *testing.M) { os.Exit(devtest.Main(m)) }

func newRecorder(t *testing.T) *audit.Recorder {
	t.Helper()
	root, err := keys.NewRoot()
	if err != nil {
		t.Fatal(err)
	}
	r, err := audit.New(audit.Config{Installation: "0123456789ab", Tenant: "main", MAC: root.Hasher(keys.AuditMACs)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func entry(subject string, count int) audit.Entry {
	return audit.Entry{
		At: time.Date(2026, 3, 1, 12, 0, 0, 123_456_789, time.FixedZone("east", 3600)), Type: audit.LeaseIssued, Subject: subject, Count: count,
		Actor: "job github repo:a/b", Data: map[string]any{"grant": "payments/deploy-db", "text": "<&>\u2028"},
	}
}

func event(t *testing.T, r *audit.Recorder, e audit.Entry) audit.Event {
	t.Helper()
	made, err := r.Event(e)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// open is a connection to a database with the broker's schema.
func open(t *testing.T) *pgx.Conn {
	t.Helper()
	config, err := pgx.ParseConfig(devtest.Migrated(t))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.WithoutCancel(t.Context())) }) //nolint:errcheck // the test is over
	return conn
}

func insert(t *testing.T, conn *pgx.Conn, condition string, events ...audit.Event) {
	t.Helper()
	batch := &pgx.Batch{}
	audit.InsertIf(batch, events, condition)
	if err := conn.SendBatch(t.Context(), batch).Close(); err != nil {
		t.Fatal(err)
	}
}

// TestTampering: whoever can write to the database can't change an event unseen.
func TestTampering(t *testing.T) {
	t.Parallel()
	conn := open(t)
	r := newRecorder(t)
	subject := ids.New(ids.Lease, time.Now())
	insert(t, conn, "true", event(t, r, entry(subject, 1)))
	other := event(t, r, entry(ids.New(ids.Lease, time.Now()), 1))
	forged := event(t, newRecorder(t), entry(subject, 1))
	for name, c := range map[string]struct {
		sql  string
		args []any
	}{
		"nothing":                             {`UPDATE audit_events SET at = at`, nil},
		"actor in the body":                   {`UPDATE audit_events SET body = replace(body, 'repo:a/b', 'repo:c/d')`, nil},
		"blank in the body":                   {`UPDATE audit_events SET body = body || ' '`, nil},
		"no JSON":                             {`UPDATE audit_events SET body = left(body, 40)`, nil},
		"leaf":                                {`UPDATE audit_events SET leaf = set_byte(leaf, 31, 255 - get_byte(leaf, 31))`, nil},
		"mac":                                 {`UPDATE audit_events SET mac = set_byte(mac, 0, 255 - get_byte(mac, 0))`, nil},
		"key id":                              {`UPDATE audit_events SET key_id = 'other'`, nil},
		"id":                                  {`UPDATE audit_events SET id = $1`, []any{other.ID}},
		"subject":                             {`UPDATE audit_events SET subject = $1`, []any{other.Subject}},
		"count":                               {`UPDATE audit_events SET count = 2`, nil},
		"type":                                {`UPDATE audit_events SET type = 'lease.revoked'`, nil},
		"tenant":                              {`UPDATE audit_events SET tenant = 'other'`, nil},
		"time":                                {`UPDATE audit_events SET at = at + interval '1 microsecond'`, nil},
		"body, leaf and mac of another event": {`UPDATE audit_events SET body = $1, leaf = $2, mac = $3`, []any{other.Body, other.Leaf[:], other.MAC[:]}},
		"body with its right leaf":            {`UPDATE audit_events SET body = body || ' ', leaf = sha256('\x00'::bytea || convert_to(body || ' ', 'UTF8'))`, nil},
		"all of it, by another key": {
			`UPDATE audit_events SET id = $1, body = $2, leaf = $3, mac = $4, key_id = $5`,
			[]any{forged.ID, forged.Body, forged.Leaf[:], forged.MAC[:], forged.KeyID},
		},
	} {
		t.Run(name, func(t *testing.T) {
			tx, err := conn.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback(context.WithoutCancel(t.Context())) //nolint:errcheck // the connection is closed soon
			if _, err := tx.Exec(t.Context(), c.sql, c.args...); err != nil {
				t.Fatal(err)
			}
			tenant := map[bool]string{true: "other", false: "main"}[name == "tenant"]
			events, err := audit.List(t.Context(), tx, audit.Page{Tenant: tenant, Limit: 10})
			if err != nil || len(events) != 1 {
				t.Fatalf("%d events: %v", len(events), err)
			}
			if err := r.Verify(events[0]); (err == nil) != (name == "nothing") || (err != nil && !errors.Is(err, audit.ErrForged)) {
				t.Errorf("Verify: %v", err)
			}
		})
	}
}

func TestEventsComeBackAsTheyWent(t *testing.T) {
	t.Parallel()
	conn := open(t)
	r := newRecorder(t)
	subject := ids.New(ids.Lease, time.Now())
	var all []audit.Event
	for count := range 5 {
		all = append(all, event(t, r, entry(subject, count+1)))
	}
	all = append(all, event(t, r, entry("lse_other", 1)))
	insert(t, conn, "true", all...)
	insert(t, conn, "e.count > 100", event(t, r, entry(subject, 7))) // declined
	before, seen := "", map[string]audit.Event{}
	for {
		page, err := audit.List(t.Context(), conn, audit.Page{Tenant: "main", Subject: subject, Before: before, Limit: 2})
		if err != nil || len(page) > 2 {
			t.Fatalf("%d %v", len(page), err)
		}
		if len(page) == 0 {
			break
		}
		for _, e := range page {
			seen[e.ID] = e
		}
		before = page[len(page)-1].ID
	}
	if len(seen) != 5 {
		t.Fatalf("%d events on all pages, want 5", len(seen))
	}
	for _, want := range all[:5] {
		got := seen[want.ID]
		if err := r.Verify(got); err != nil {
			t.Error(err)
		}
		actor, data := got.Details()
		if got.Body != want.Body || got.LeafHex() != want.LeafHex() || got.MACHex() != want.MACHex() || actor != "job github repo:a/b" || data["text"] != "<&>\u2028" || !got.At.Equal(want.At) {
			t.Errorf("%+v came back as %+v", want, got)
		}
	}
	// A count is used once: two brokers can't both write the third event.
	batch := &pgx.Batch{}
	audit.InsertIf(batch, []audit.Event{event(t, r, entry(subject, 3))}, "true")
	if err := conn.SendBatch(t.Context(), batch).Close(); err == nil || !strings.Contains(err.Error(), "23505") {
		t.Errorf("the same count twice: %v", err)
	}
}

func TestNothingWithoutALog(t *testing.T) {
	t.Parallel()
	if _, err := audit.New(audit.Config{Installation: "0123456789ab", Tenant: "main"}); err == nil {
		t.Error("a recorder without a key was made")
	}
	if _, err := newRecorder(t).Event(audit.Entry{At: time.Now(), Data: map[string]any{"x": func() {}}}); err == nil {
		t.Error("what can't be written was taken")
	}
}
