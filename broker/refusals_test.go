package broker

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/policies"
)

// observed counts what a broker says.
type observed struct{ denied, dropped, conflicts int }

func (o *observed) Denied(bool)    { o.denied++ }
func (o *observed) DenialDropped() { o.dropped++ }
func (o *observed) Conflict()      { o.conflicts++ }

// TestConflictsBecomeEvents of the request in which they were found, each once.
func TestConflictsBecomeEvents(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	var seen observed
	b := &Broker{config: Config{Observe: &seen, Logger: slog.New(slog.NewTextHandler(&log, nil))}, refusals: newRefusals()}
	now := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	caller := &asking{identity: policies.Identity{Provider: "github", Subject: "repo:a/b"}, session: leases.Session{Issuer: "https://issuer.example"}, request: "req_1"}
	denial := &policies.Denial{Grant: "p/g", Conflicts: []policies.Conflict{{Job: "one", Claim: "repository", NameFits: true}, {Job: "two", Claim: "repository"}}}
	entries := b.conflicts(t.Context(), caller, denial, now)
	if len(entries) != 2 {
		t.Fatalf("%+v", entries)
	}
	for i, e := range entries {
		if e.Subject != "req_1" || e.Count != i+1 || e.Actor != "job github repo:a/b" || e.Data["fits"] != []string{"name", "id"}[i] || e.Data["job"] != []string{"one", "two"}[i] ||
			e.Data["claim"] != "repository" || e.Data["grant"] != "p/g" || e.Data["provider"] != "github" || e.Data["iss"] != "https://issuer.example" || e.Data["subject"] != "repo:a/b" {
			t.Errorf("%+v", e)
		}
	}
	if again := b.conflicts(t.Context(), caller, denial, now.Add(time.Minute)); len(again) != 0 || seen.conflicts != 4 {
		t.Errorf("once more %d are raised, %d were counted", len(again), seen.conflicts)
	}
	if n := strings.Count(log.String(), "level=WARN"); n != 2 {
		t.Errorf("%d lines of the log", n)
	}
	many := &policies.Denial{Grant: "p/h"}
	for i := range 3 * conflictsAtOnce {
		many.Conflicts = append(many.Conflicts, policies.Conflict{Job: fmt.Sprint(i), Claim: "repository"})
	}
	if got := len(b.conflicts(t.Context(), caller, many, now)); got != conflictsAtOnce {
		t.Errorf("one request raised %d", got)
	}
}

func TestFewOfManyAreKept(t *testing.T) {
	t.Parallel()
	r, now := newRefusals(), time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	count := func(ours bool, now time.Time) (kept int) {
		for range 10 * ownPerMinute {
			if r.keeps(ours, now) {
				kept++
			}
		}
		return kept
	}
	if own, sampled := count(true, now), count(false, now.Add(59*time.Second)); own != ownPerMinute || sampled != sampledPerMin {
		t.Errorf("%d own, %d of strangers", own, sampled)
	}
	if own := count(true, now.Add(time.Minute)); own != ownPerMinute {
		t.Errorf("in the next minute %d", own)
	}
}

func TestConflictsAreRaisedOnce(t *testing.T) {
	t.Parallel()
	r, now := newRefusals(), time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {time.Minute, false}, {59 * time.Minute, false}, {time.Hour, true}, {time.Hour + time.Minute, false}} {
		if got := r.raises("a", now.Add(c.after)); got != c.want {
			t.Errorf("after %s: %t", c.after, got)
		}
	}
	raised := 0
	for i := range 2 * maxConflicts {
		if r.raises(fmt.Sprint(i), now.Add(time.Hour)) {
			raised++
		}
	}
	if raised != maxConflicts-1 || len(r.conflicts) != maxConflicts {
		t.Errorf("%d were raised, %d are remembered", raised, len(r.conflicts))
	}
	if !r.raises("new", now.Add(3*time.Hour)) || len(r.conflicts) != 1 {
		t.Errorf("two hours later %d are remembered", len(r.conflicts))
	}
}
