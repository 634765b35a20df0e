package leases_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/leases"
)

// traced is a store that takes down what it sends.
func (f *fixture) traced(t *testing.T) (*leases.Store, *recorder) {
	t.Helper()
	record := &recorder{}
	config := f.pool.Config().Copy()
	config.ConnConfig.Tracer = record
	s := f.by(t, config)
	return s, record
}

// pages is how many of the database's pages a statement looks at.
func (f *fixture) pages(t *testing.T, record *recorder, holds string) int {
	t.Helper()
	at := slices.IndexFunc(record.sent, func(s statement) bool { return strings.Contains(s.sql, holds) })
	if at < 0 {
		t.Fatalf("nothing was sent that holds %q", holds)
	}
	var text []byte
	if err := f.pool.QueryRow(t.Context(), `EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) `+record.sent[at].sql, record.sent[at].args...).Scan(&text); err != nil {
		t.Fatal(err)
	}
	var plans []struct {
		Plan struct {
			Hit  int `json:"Shared Hit Blocks"`
			Read int `json:"Shared Read Blocks"`
		}
	}
	if err := json.Unmarshal(text, &plans); err != nil || len(plans) != 1 {
		t.Fatalf("%s: %v", text, err)
	}
	return plans[0].Plan.Hit + plans[0].Plan.Read
}

// TestOverdue: each issuer's are counted, and looking costs the same with thousands
// alive that aren't due.
func TestOverdue(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	now := f.Now()
	lease := func(issuer, change string) {
		t.Helper()
		r := f.reservation(f.job(), "deploy-db")
		r.Leases[0].Issuer = issuer
		if err := f.Reserve(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if _, err := f.pool.Exec(t.Context(), `UPDATE leases SET issued_at = issued_at - interval '2 hours', `+change+` WHERE id = $1`, r.Leases[0].ID); err != nil {
			t.Fatal(err)
		}
	}
	lease("alpha", `due_at = due_at`) // in time
	lease("beta", `due_at = now() - interval '1 hour', expires_at = now() - interval '1 hour'`)
	lease("beta", `due_at = now() - interval '1 hour'`) // was never finished, and is not past its end
	lease("delta", `due_at = now() + interval '1 hour', expires_at = now() - interval '1 hour', state = 'revoking', stuck = true`)
	lease("delta", `due_at = now() + interval '1 hour', state = 'revoking', revoking_at = now() - interval '30 minutes'`)
	lease("epsilon", `state = 'revoking', revoking_at = now() + interval '1 second'`) // is being taken back, in time
	s, record := f.traced(t)
	look := func() map[string]leases.Overdue {
		t.Helper()
		found, err := s.OverdueBefore(t.Context(), now)
		if err != nil {
			t.Fatal(err)
		}
		of := map[string]leases.Overdue{}
		for _, o := range found {
			if o.Overdue+o.Stuck > 0 {
				of[o.Issuer] = o
			}
		}
		return of
	}
	check := func() {
		t.Helper()
		of := look()
		if len(of) != 2 || of["beta"].Overdue != 1 || of["beta"].Stuck != 0 || of["delta"].Overdue != 2 || of["delta"].Stuck != 1 {
			t.Errorf("%+v", of)
		}
		for name, o := range of {
			if o.Since == nil || now.Sub(*o.Since) < 59*time.Minute || now.Sub(*o.Since) > 61*time.Minute {
				t.Errorf("the oldest of %s is of %v", name, o.Since)
			}
		}
	}
	check()
	before := f.pages(t, record, "FILTER (WHERE stuck)")
	const copies = `
INSERT INTO leases SELECT (jsonb_populate_record(l, jsonb_build_object('id', left(l.id, 24) || lpad(n::text, 6, '0'), 'due_at', l.due_at + n * interval '1 second'))).*
FROM leases l, generate_series(1, 6000) n WHERE l.issuer = 'alpha'`
	if _, err := f.pool.Exec(t.Context(), copies); err != nil {
		t.Fatal(err)
	}
	// The index takes a page for some two hundred of them.
	if after := f.pages(t, record, "FILTER (WHERE stuck)"); after > before+12 {
		t.Errorf("with thousands alive it looks at %d pages, and at %d without", after, before)
	}
	check()
	if _, err := f.pool.Exec(t.Context(), `DELETE FROM leases WHERE id ~ '[0-9]{6}$' AND NOT EXISTS (SELECT FROM audit_events WHERE subject = leases.id)`); err != nil {
		t.Fatal(err)
	}
}
