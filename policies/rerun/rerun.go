// Package rerun decides recorded decisions again, with another set of policies,
// and says what would come out otherwise: who would be locked out, and who let in.
package rerun

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/daypass/daypass/policies"
)

// Decision is one on record: who asked for what and when, and what was said.
type Decision struct {
	ID        string // of the record
	RequestID string
	At        time.Time
	Identity  policies.Identity
	Request   policies.Request
	Allowed   bool
	Job       string // the job entry that let it through
	Detail    string // why it was refused
}

// Change is the direction in which decisions differ.
type Change string

// The changes.
const (
	Denied  Change = "denied"  // allowed then, denied now
	Allowed Change = "allowed" // denied then, allowed now
)

// Group is all changed decisions of one grant, one job entry and one direction.
type Group struct {
	Change Change
	Grant  string // POLICY/GRANT
	Job    string // the job entry that let them through, then or now
	Count  int
	First  time.Time // of them all
	Last   time.Time
	// Example is the newest of them, Why what the set says of it: why it denies, or
	// what was said when it was denied. Claims names those that don't match.
	Example Decision
	Why     string
	Claims  []string
}

// Report is what came of it.
type Report struct {
	Decisions int // that were looked at
	Same      int
	Denied    int
	Allowed   int
	Groups    []Group // those that would be denied first, the most frequent first
}

// Run decides again, one decision after the other. It keeps one example of each
// group, however many decisions there are.
type Run struct {
	set    *policies.Set
	report Report
	groups map[groupKey]*Group
}

type groupKey struct {
	change     Change
	grant, job string
}

// New begins a run with the set that is to be tried.
func New(set *policies.Set) *Run { return &Run{set: set, groups: map[groupKey]*Group{}} }

// Add decides one again, at the time of then.
func (r *Run) Add(d Decision) {
	r.report.Decisions++
	got, err := r.set.Decide(d.Identity, d.Request, d.At)
	if (err == nil) == d.Allowed {
		r.report.Same++
		return
	}
	g := Group{Change: Denied, Grant: d.Request.Grant, Job: d.Job, Why: d.Detail, Example: d}
	if err == nil {
		r.report.Allowed++
		g.Change, g.Job = Allowed, got.Job
	} else {
		r.report.Denied++
		g.Why = err.Error()
		if denial, ok := errors.AsType[*policies.Denial](err); ok {
			g.Why, g.Claims = denial.Detail, denial.Claims
		}
	}
	key := groupKey{g.Change, g.Grant, g.Job}
	known, ok := r.groups[key]
	if !ok {
		g.Count, g.First, g.Last = 1, d.At, d.At
		r.groups[key] = &g
		return
	}
	known.Count++
	if d.At.Before(known.First) {
		known.First = d.At
	}
	if d.At.After(known.Last) {
		known.Last, known.Example, known.Why, known.Claims = d.At, d, g.Why, g.Claims
	}
}

// Report is what came of all that was added.
func (r *Run) Report() Report {
	report := r.report
	for _, g := range r.groups {
		report.Groups = append(report.Groups, *g)
	}
	slices.SortFunc(report.Groups, func(a, b Group) int {
		return cmp.Or(-strings.Compare(string(a.Change), string(b.Change)), -cmp.Compare(a.Count, b.Count), strings.Compare(a.Grant, b.Grant), strings.Compare(a.Job, b.Job))
	})
	return report
}
