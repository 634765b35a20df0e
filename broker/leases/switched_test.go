package leases_test

import (
	"slices"
	"testing"

	"github.com/daypass/daypass/broker/leases"
)

// TestLiveIDs reads in pages of any size what is alive of one thing, and nothing else.
func TestLiveIDs(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	want := map[leases.LiveOf][]string{}
	for range 3 {
		for _, c := range []struct{ policy, grant, issuer, provider string }{
			{"payments", "a", "db", "github"},
			{"payments", "b", "db", "github"},
			{"payments", "b", "other", "gitlab"},
			{"payments", "bb", "db", "github"},
			{"other", "b", "db", "gitlab"},
			{"zoo", "a", "other", "github"},
		} {
			session := f.job()
			session.Provider = c.provider
			r := f.reservation(session, c.grant)
			r.Leases[0].Policy, r.Leases[0].Issuer = c.policy, c.issuer
			if err := f.Reserve(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			id := r.Leases[0].ID
			for _, of := range []leases.LiveOf{{Policy: c.policy}, {Policy: c.policy, Grant: c.grant}, {Issuer: c.issuer}, {Provider: c.provider}} {
				want[of] = append(want[of], id)
			}
		}
	}
	ended := f.reserve(t, "b")
	if _, err := f.BeginRevoke(t.Context(), []string{ended.Leases[0].ID}, leases.Why{Actor: "a", Reason: "r"}); err != nil {
		t.Fatal(err)
	}
	for of, ids := range want {
		for _, of.Limit = range []int{1, 2, 3, 500} {
			var found []string
			for last := false; !last; {
				var page []string
				var err error
				if page, of.After, last, err = f.LiveIDs(t.Context(), of); err != nil {
					t.Fatal(err)
				}
				found = append(found, page...)
			}
			of.After = leases.Place{}
			if slices.Sort(found); !slices.Equal(found, slices.Sorted(slices.Values(ids))) {
				t.Errorf("%+v: %v, want %v", of, found, ids)
			}
		}
	}
}
