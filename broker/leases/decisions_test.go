package leases_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/leases"
)

func (f *fixture) denial(at time.Time, sampled bool) leases.Decision {
	return leases.Decision{
		ID: ids.New(ids.Denial, at), At: at, RequestID: ids.New(ids.Request, at), Provider: "github", Issuer: "https://issuer.example", Subject: "repo:a/b",
		Claims: []byte(`{"sub":"repo:a/b","n":1}`), TokenExpiresAt: at.Add(time.Minute), Grant: "payments/a", AskedTTL: time.Minute, IP: "203.0.113.7",
		Digest: "d", Detail: "job release: " + strings.Repeat("x", 5000), Sampled: sampled,
	}
}

func TestDenialsAreKeptAndDeleted(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	now := f.Now()
	day := 24 * time.Hour
	own, stranger := f.denial(now, false), f.denial(now, true)
	old, oldStranger, middle := f.denial(now.Add(-36*day), false), f.denial(now.Add(-8*day), true), f.denial(now.Add(-8*day), false)
	if err := f.SaveDenials(t.Context(), []leases.Decision{own, stranger, old, oldStranger, middle}, nil); err != nil {
		t.Fatal(err)
	}
	if err := f.SaveDenials(t.Context(), []leases.Decision{own}, nil); err != nil {
		t.Errorf("once more: %v", err)
	}
	got, err := f.DecisionsOf(t.Context(), own.RequestID)
	if err != nil || len(got) != 1 || string(got[0].Claims) != string(own.Claims) || got[0].Grant != own.Grant || got[0].AskedTTL != time.Minute || got[0].IP != own.IP ||
		got[0].Allowed || got[0].Sampled || len(got[0].Detail) > 2100 || !got[0].At.Equal(own.At) || !got[0].TokenExpiresAt.Equal(own.TokenExpiresAt) {
		t.Errorf("%+v, %v", got, err)
	}
	if n, err := f.DeleteDenials(t.Context(), now.Add(-35*day), now.Add(-7*day), 1000); err != nil || n != 2 {
		t.Errorf("deleted %d, %v", n, err)
	}
	page, next, err := f.Decisions(t.Context(), time.Time{}, "", 10)
	if err != nil || next != "" || len(page) != 3 || page[0].ID != middle.ID {
		t.Errorf("left: %+v, %q, %v", page, next, err)
	}
	if _, err := f.DecisionsOf(t.Context(), old.RequestID); !errors.Is(err, leases.ErrNotFound) {
		t.Errorf("a deleted one: %v", err)
	}
	for range 3 { // in small steps
		if err := f.SaveDenials(t.Context(), []leases.Decision{f.denial(now.Add(-36*day), false)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := f.DeleteDenials(t.Context(), now.Add(-35*day), now.Add(-35*day), 2); err != nil || n != 2 {
		t.Errorf("of three a step of two deleted %d, %v", n, err)
	}
}

// TestDecisionsCannotBeForged: claims that were changed in the database are
// neither listed nor explained.
func TestDecisionsCannotBeForged(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	d := f.denial(f.Now(), false)
	if err := f.SaveDenials(t.Context(), []leases.Decision{d}, nil); err != nil {
		t.Fatal(err)
	}
	r := f.reservation(f.job(), "a")
	r.RequestID, r.IP, r.Leases[0].AskedTTL = ids.New(ids.Request, f.Now()), "203.0.113.7", 90*time.Second
	if err := f.Reserve(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	got, err := f.DecisionsOf(t.Context(), r.RequestID)
	if err != nil || len(got) != 1 || !got[0].Allowed || got[0].ID != r.Leases[0].ID || got[0].AskedTTL != 90*time.Second || got[0].IP != "203.0.113.7" || got[0].Job != "release" || got[0].Grant != "payments/a" {
		t.Fatalf("%+v, %v", got, err)
	}
	if l, err := f.Get(t.Context(), r.Leases[0].ID); err != nil || l.RequestID != r.RequestID || l.AskedTTL != 90*time.Second || l.IP != "203.0.113.7" {
		t.Errorf("%+v, %v", l, err)
	}
	if s, err := f.Session(t.Context(), r.SessionID); err != nil || s.Subject != "repo:a/b" {
		t.Errorf("%+v, %v", s, err)
	}
	for _, sql := range []string{`UPDATE sessions SET claims = '{"sub":"repo:x/y"}'`, `UPDATE denials SET subject = 'repo:x/y'`} {
		if _, err := f.pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	for _, request := range []string{d.RequestID, r.RequestID} {
		if _, err := f.DecisionsOf(t.Context(), request); !errors.Is(err, leases.ErrForged) {
			t.Errorf("%s: %v", request, err)
		}
	}
	if page, _, err := f.Decisions(t.Context(), time.Time{}, "", 10); err != nil || len(page) != 0 {
		t.Errorf("%+v, %v", page, err)
	}
	if _, err := f.Session(t.Context(), r.SessionID); !errors.Is(err, leases.ErrForged) {
		t.Errorf("the session: %v", err)
	}
	live, _, _, err := f.Live(t.Context(), leases.LivePage{Limit: 10})
	if err != nil || len(live) != 1 || !live[0].Forged {
		t.Errorf("%+v, %v", live, err)
	}
}

// TestLivePages: page by page all live leases are seen once, by policy or all.
func TestLivePages(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var all, second []string
	for i := range 7 {
		r := f.reservation(f.job(), "b", "a", "c")
		for n := range r.Leases {
			if i%2 == 1 {
				r.Leases[n].Policy = "second"
				second = append(second, r.Leases[n].ID)
			}
			if i == 6 {
				r.Leases[n].PolicyDigest = "new"
			} else {
				all = append(all, r.Leases[n].ID)
			}
		}
		if err := f.Reserve(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			f.activate(t, r)
		}
	}
	ended := f.reserve(t, "a")
	if _, err := f.BeginRevoke(t.Context(), []string{ended.Leases[0].ID}, leases.Why{Actor: "test", Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	for policy, want := range map[string][]string{"": all, "second": second, "none": nil} {
		for _, limit := range []int{1, 4, 100} {
			var got []string
			page := leases.LivePage{Policy: policy, Digest: "new", Limit: limit}
			for {
				live, end, last, err := f.Live(t.Context(), page)
				if err != nil {
					t.Fatal(err)
				}
				for _, l := range live {
					got = append(got, l.ID)
					if l.Forged || l.Session.Subject != "repo:a/b" || string(l.Session.Claims) == "" || l.Session.TokenExpiresAt.IsZero() {
						t.Errorf("%+v", l)
					}
				}
				if last {
					break
				}
				page.After = end
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("of policy %q, %d at once: %d leases, want %d", policy, limit, len(got), len(want))
			}
		}
	}
	if n, err := f.CountLive(t.Context()); err != nil || n != 21 {
		t.Errorf("%d live leases, %v", n, err)
	}
}

func TestConfirmations(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	now := f.Now()
	for range 2 {
		entry := audit.Entry{At: now, Type: audit.PoliciesConfirmed, Subject: ids.New(ids.PolicyLoad, now), Count: 1, Actor: "admin adm_1 ana"}
		if err := f.ConfirmPolicies(t.Context(), "digest", entry); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		digest string
		since  time.Time
		want   string
	}{{"digest", now, "admin adm_1 ana"}, {"digest", now.Add(time.Second), ""}, {"other", now, ""}} {
		if who, err := f.PoliciesConfirmed(t.Context(), c.digest, c.since); err != nil || who != c.want {
			t.Errorf("%+v: %q, %v", c, who, err)
		}
	}
	var events int
	if err := f.pool.QueryRow(t.Context(), `SELECT count(*) FROM audit_events WHERE type = 'policies.confirmed'`).Scan(&events); err != nil || events != 2 {
		t.Errorf("%d events, %v", events, err)
	}
}
