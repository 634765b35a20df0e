package postgres_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/postgres"
)

// TestEpoch: once a target has seen a later epoch, a broker on an older copy
// neither makes nor ends anything there, whatever connections it holds.
func TestEpoch(t *testing.T) {
	t.Parallel()
	tg := newTarget(t, options{})
	older := tg.issuer(t, func(c *postgres.Config) { c.Epoch = 1 })
	lease := newLease(tg)
	if _, err := older.Issue(t.Context(), &issuers.IssueRequest{Lease: lease}); err != nil {
		t.Fatal(err)
	}
	newer := tg.issuer(t, func(c *postgres.Config) { c.Epoch = 7 })
	if highest, err := newer.RaiseEpoch(t.Context()); err != nil || highest != 7 {
		t.Fatalf("raised to %d: %v", highest, err)
	}
	if highest, err := older.RaiseEpoch(t.Context()); err != nil || highest != 7 {
		t.Errorf("an older one is told %d: %v", highest, err)
	}
	none := tg.issuer(t, func(c *postgres.Config) { c.Epoch = 0 }) // a program from before there were epochs
	for name, issuer := range map[string]*postgres.Issuer{"older": older, "none": none} {
		if _, err := issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: newLease(tg)}); !errors.Is(err, issuers.ErrRejected) || !strings.Contains(err.Error(), "later epoch") {
			t.Errorf("%s issues: %v", name, err)
		}
		if _, err := issuer.Revoke(t.Context(), &issuers.RevokeRequest{Lease: lease}); err == nil || !strings.Contains(err.Error(), "later epoch") {
			t.Errorf("%s revokes: %v", name, err)
		}
		if _, err := issuer.List(t.Context(), &issuers.ListRequest{Installation: lease.Installation, Limit: 10}); err == nil {
			t.Errorf("%s lists", name)
		}
	}
	if response, err := newer.Revoke(t.Context(), &issuers.RevokeRequest{Lease: lease}); err != nil || !response.Found {
		t.Errorf("the newer one can't take back: %+v %v", response, err)
	}

	// A target that was set up before has no such function, and says so.
	tg.admin(t, tg.databases[0], `DROP FUNCTION daypass.raise_epoch`)
	if _, err := newer.RaiseEpoch(t.Context()); !errors.Is(err, issuers.ErrNoEpoch) {
		t.Errorf("without the function: %v", err)
	}
}
