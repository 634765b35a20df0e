package leases_test

import (
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/leases"
)

var updatePlans = flag.Bool("update", false, "write testdata/plans anew")

// recorder takes down which statements are sent, with what.
type recorder struct {
	mu   sync.Mutex
	sent []statement
}

type statement struct {
	sql  string
	args []any
}

func (r *recorder) add(sql string, args []any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent = append(r.sent, statement{sql, args})
}

func (r *recorder) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	r.add(d.SQL, d.Args)
	return ctx
}
func (*recorder) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (r *recorder) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

func (r *recorder) TraceBatchQuery(_ context.Context, _ *pgx.Conn, d pgx.TraceBatchQueryData) {
	r.add(d.SQL, d.Args)
}
func (*recorder) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

// touched are the lines of a plan that say what is read by which index, and what is
// written.
var touched = regexp.MustCompile(`((?:Index Only |Index |Seq |Bitmap Heap |Bitmap Index )Scan.*|(?:Insert|Update|Delete) on .*)`)

// plan is what a statement touches, each once; partitions have the names of their
// tables, and their indexes those of the tables' indexes.
func plan(t *testing.T, f *fixture, s statement) string {
	t.Helper()
	rows, err := f.pool.Query(t.Context(), `EXPLAIN (COSTS OFF) `+s.sql, s.args...)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%s: %v", s.sql, err)
	}
	var names []string
	var from, to string
	const partitions = `SELECT c.relname, p.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent ORDER BY length(c.relname) DESC`
	if rows, err = f.pool.Query(t.Context(), partitions); err != nil {
		t.Fatal(err)
	}
	if _, err := pgx.ForEachRow(rows, []any{&from, &to}, func() error {
		names = append(names, from, to)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	same := strings.NewReplacer(names...)
	alias := regexp.MustCompile(`\b([a-z]+)_\d+\b`)
	var found []string
	for _, line := range lines {
		if m := touched.FindString(line); m != "" {
			if m = alias.ReplaceAllString(same.Replace(m), "$1"); !slices.Contains(found, m) {
				found = append(found, m)
			}
		}
	}
	slices.Sort(found)
	return strings.Join(found, "\n") + "\n"
}

// TestPlans: each statement of the hot path finds what it looks for by the index
// that is meant for it, and touches nothing else.
func TestPlans(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s, record := f.traced(t)
	limited := func() *leases.Reservation {
		r := f.reservation(f.job(), "deploy-db")
		r.JobKey, r.Whose, r.MaxPerJob, r.MaxPerTenant = key("job"), key("whose"), 10, 10
		r.Leases[0].MaxActive, r.Leases[0].MaxActivePerJob = 10, 10
		r.Retry = &leases.Retry{Key: key("retry"), Request: key("request"), Asked: r.Now}
		return r
	}
	r := f.reserve(t, "deploy-db")
	f.activate(t, r)
	steps := []struct {
		name, holds string
		do          func() error
	}{
		{"reserve", "INSERT INTO leases", func() error { return s.Reserve(t.Context(), f.reservation(f.job(), "deploy-db")) }},
		{"reserve_limited", "INSERT INTO leases", func() error { return s.Reserve(t.Context(), limited()) }},
		{"open_session", "INSERT INTO sessions", func() error { return s.Reserve(t.Context(), f.reservation(f.job(), "deploy-db")) }},
		{"activate", "SET state = 'active'", func() error {
			r := f.reserve(t, "deploy-db")
			return s.Activate(t.Context(), activation(f, r))
		}},
		{"next_due", "min(due_at)", func() error { _, err := s.NextDue(t.Context(), "db"); return err }},
		{"claim", "SKIP LOCKED", func() error { _, _, err := s.Claim(t.Context(), "db", 10, time.Minute); return err }},
		{"live_page", "page AS", func() error { _, _, _, err := s.Live(t.Context(), leases.LivePage{Limit: 10}); return err }},
		{"live_count", "SELECT count(*)", func() error { _, err := s.CountLive(t.Context()); return err }},
		{"printed", "FROM fingerprints", func() error {
			_, err := s.FindPrinted(t.Context(), [32]byte{1}, "token", []string{"apitoken"})
			if errors.Is(err, leases.ErrNotFound) {
				return nil
			}
			return err
		}},
		{"get", "l.id = $2", func() error { _, err := s.Get(t.Context(), r.Leases[0].ID); return err }},
	}
	for _, step := range steps {
		record.sent = nil
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		at := slices.IndexFunc(record.sent, func(s statement) bool { return strings.Contains(s.sql, step.holds) })
		if at < 0 {
			t.Errorf("%s: nothing was sent that holds %q", step.name, step.holds)
			continue
		}
		got := plan(t, f, record.sent[at])
		golden := filepath.Join("testdata", "plans", step.name+".txt")
		if *updatePlans {
			if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if want, err := os.ReadFile(golden); err != nil || got != string(want) {
			t.Errorf("%s touches\n%swant\n%s(go test -update writes it anew): %v", step.name, got, want, err)
		}
	}
}
