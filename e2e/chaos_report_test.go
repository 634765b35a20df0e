package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/fsck"
	"github.com/daypass/daypass/e2e/chaos"
)

// report counts what clients were answered, so that one can see what a run has
// tried.
type report struct {
	began time.Time

	mu      sync.Mutex
	answers map[string]int // path, status and code
	reasons map[string]int // of what was refused
	times   []moment
	took    map[string][]time.Duration // by what was given
}

// moment is a few seconds of a run.
type moment struct{ given, refused, silent int }

const momentLength = 5 * time.Second

func newReport(began time.Time) *report {
	return &report{began: began, answers: map[string]int{}, reasons: map[string]int{}, took: map[string][]time.Duration{}}
}

// numbers are what differs between two problems of one kind.
var numbers = regexp.MustCompile(`[0-9][0-9.]*`)

func (r *report) count(path string, status int, problem *api.Problem) {
	r.mu.Lock()
	defer r.mu.Unlock()
	code := string(problem.Code)
	if status == 0 {
		code = problem.Detail
	}
	r.answers[strings.TrimSpace(fmt.Sprintf("%s %d %s", path[strings.LastIndexByte(path, '/')+1:], status, code))]++
	if status >= 500 {
		r.reasons[fmt.Sprintf("%d %s", status, numbers.ReplaceAllString(problem.Detail, "N"))]++
	}
	if path != api.PathExchange {
		return
	}
	i := int(time.Since(r.began) / momentLength)
	for len(r.times) <= i {
		r.times = append(r.times, moment{})
	}
	switch {
	case status == 0:
		r.times[i].silent++
	case status < 300:
		r.times[i].given++
	default:
		r.times[i].refused++
	}
}

// given takes down how long an exchange took that brought something.
func (r *report) given(what string, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.took[what] = append(r.took[what], took)
}

// String implements fmt.Stringer.
func (r *report) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var text strings.Builder
	list := func(title string, counts map[string]int) {
		fmt.Fprintf(&text, "%s:\n", title)
		for _, name := range slices.Sorted(maps.Keys(counts)) {
			fmt.Fprintf(&text, "%8d  %s\n", counts[name], name)
		}
	}
	list("answers", r.answers)
	list("why not", r.reasons)
	for _, what := range slices.Sorted(maps.Keys(r.took)) {
		took := slices.Sorted(slices.Values(r.took[what]))
		fmt.Fprintf(&text, "%8d  %s given; half of them within %s, 99 of 100 within %s\n", len(took), what,
			took[len(took)/2].Round(time.Millisecond), took[len(took)*99/100].Round(time.Millisecond))
	}
	fmt.Fprintf(&text, "exchanges given/refused/unanswered in each %s:\n ", momentLength)
	for _, m := range r.times {
		fmt.Fprintf(&text, " %d/%d/%d", m.given, m.refused, m.silent)
	}
	return text.String()
}

// ruins says what went wrong how often.
func (r *ruin) ruins() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var text strings.Builder
	total := 0
	for _, k := range chaos.Kinds() {
		if n := r.done[k]; n > 0 {
			fmt.Fprintf(&text, "%8d  %s\n", n, k)
			total += n
		}
	}
	return fmt.Sprintf("ruins: %d\n%s", total, text.String())
}

// complaints counts what the brokers logged as errors, and finds what none may say.
func (r *ruin) complaints() string {
	r.t.Helper()
	counts := map[string]int{}
	for _, b := range r.all {
		lines := b.lines()
		for i, line := range lines {
			var entry struct{ Level, Msg string }
			if json.Unmarshal([]byte(line), &entry) == nil {
				if entry.Level == "ERROR" {
					counts[entry.Msg]++
				}
				continue
			}
			for _, bad := range []string{"WARNING: DATA RACE", "panic: ", "fatal error: "} {
				if strings.HasPrefix(line, bad) {
					r.t.Errorf("a broker said:\n%s", strings.Join(lines[i:min(len(lines), i+60)], "\n"))
				}
			}
		}
	}
	var text strings.Builder
	fmt.Fprintf(&text, "brokers: %d processes, %d starts that came to nothing; what they logged as errors:\n", len(r.all), r.futile)
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&text, "%8d  %s\n", counts[name], name)
	}
	return text.String()
}

// judge looks whether anything was lost, once everything is well again.
func (l *load) judge() {
	l.t.Helper()
	l.t.Logf("%s%s%s", l.ruins(), l.complaints(), l.report)
	if len(l.given) == 0 {
		l.t.Error("nothing was given out: this proves nothing")
	}
	l.remind()
	l.nothingLeft()
	l.t.Logf("every lease is over after %s; %s", time.Since(l.end).Round(time.Second), l.clean())
	var usernames, leaseIDs, urls []string
	for id, g := range l.given {
		leaseIDs = append(leaseIDs, id)
		if g.username != "" {
			usernames, urls = append(usernames, g.username), append(urls, g.url)
		}
	}
	if n := l.roles(usernames); n != 0 {
		l.t.Errorf("%d of %d database users that were given out are there", n, len(usernames))
	}
	for _, url := range urls[:min(5, len(urls))] {
		if conn, err := pgx.Connect(l.t.Context(), url); err == nil {
			_ = conn.Close(l.t.Context())
			l.t.Error("a database user that was given out can still log in")
		}
	}
	if n := l.count(l.name, `SELECT count(*) FROM leases WHERE id = ANY($1)`, leaseIDs); n != len(leaseIDs) {
		l.t.Errorf("%d credentials were given out, and %d of them have a lease", len(leaseIDs), n)
	}
	over := l.count(l.name, `SELECT count(*) FROM leases WHERE id = ANY($1) AND state IN ('revoked', 'expired')`, slices.Collect(maps.Keys(l.revoked)))
	if over != len(l.revoked) {
		l.t.Errorf("%d leases were said to be revoked, or about to be, and %d of them are over", len(l.revoked), over)
	}
	if n := l.count(l.name, `
SELECT count(*) FROM audit_events a JOIN audit_events b ON b.subject = a.subject AND b.count > a.count
WHERE a.type IN ('lease.revoking', 'lease.revoked', 'lease.expired', 'lease.forgotten') AND b.type IN ('lease.issued', 'lease.renewed')`); n != 0 {
		l.t.Errorf("%d leases were brought back after they had begun to end", n)
	}
	l.t.Log(l.account(len(usernames), len(leaseIDs)))
}

// forgotten are the files that say which leases an issuer forgot to revoke; of one
// lease, or of all.
func (r *ruin) forgotten(lease string) []string {
	files, err := filepath.Glob(filepath.Join(r.dir, "faults", "*", "forgot-"+lease))
	r.try(err)
	return files
}

// remind waits until the reconciler has found what issuers said they took back.
func (l *load) remind() {
	l.t.Helper()
	forgotten := len(l.forgotten("*"))
	if forgotten == 0 {
		return
	}
	eventually(l.t, "all leases are over", func() bool {
		return l.count(l.name, `SELECT count(*) FROM leases WHERE due_at IS NOT NULL`) == 0
	})
	left := l.users()
	eventually(l.t, "the reconciler takes back what was forgotten", func() bool {
		_, _, err := l.places[0].now().call(http.MethodPost, api.PathTargets+"/app-db/reconcile", l.admin, api.ReconcileRequest{Force: true})
		l.try(err)
		return l.users() == 0
	})
	l.t.Logf("%d times an issuer said that it took back what stood: %d users were left when their leases were over, none is now", forgotten, left)
}

// account is the sum of a run.
func (l *load) account(users, credentials int) string {
	count := func(what string) int { return l.count(l.name, `SELECT count(*) FROM `+what) }
	return fmt.Sprintf(`credentials given out: %d, of them %d database users and %d JWTs; each has its lease
revocations that were answered: %d; none was lost
leases on record: %d, of them issued %d, revoked %d, run out %d; users left on the target: 0
audit events: %d, in the log %d`, credentials, users, credentials-users, len(l.revoked),
		count("leases"), count("audit_events WHERE type = 'lease.issued'"), count("leases WHERE state = 'revoked'"), count("leases WHERE state = 'expired'"),
		count("audit_events"), count("audit_log"))
}

// clean runs fsck, as an operator would, and says how much it looked at.
func (r *ruin) clean() string {
	r.t.Helper()
	cmd := command(r.t.Context(), filepath.Join(programs, "daypassd"), "fsck", "--config", r.config, "--output", "json", "--grace", "30s")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	report := &fsck.Report{}
	if wrong := json.Unmarshal(out, report); wrong != nil || err != nil || !report.Clean() || report.Walks[0].Rows == 0 {
		r.t.Errorf("fsck: %v %v\n%s%s", err, wrong, out, stderr.String())
	}
	text := fmt.Sprintf("fsck: %d findings;", len(report.Findings))
	for _, walk := range report.Walks {
		text += fmt.Sprintf(" %s %d", walk.Name, walk.Rows)
	}
	return text
}
