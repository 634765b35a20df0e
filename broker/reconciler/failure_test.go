package reconciler_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/reconciler"
	"github.com/daypass/daypass/issuers"
)

// TestRevocationThatFails: what can't be taken back is tried at each run, with one
// event that it was found, and what came of it on record.
func TestRevocationThatFails(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	stuck, free := f.plant(time.Hour), f.plant(time.Hour)
	f.DB.Set(brokertest.Hooks{Revoke: func(_ context.Context, req *issuers.RevokeRequest) error {
		if req.Lease.ID == stuck {
			return fmt.Errorf("%w: it owns a subscription", issuers.ErrBlocked)
		}
		return nil
	}})
	for n := range 2 {
		run, err := f.RunOnce(t.Context(), brokertest.IssuerDB, reconciler.Options{})
		if !errors.Is(err, issuers.ErrBlocked) || run.Orphans != 2-n || run.Revoked != 1-n {
			t.Fatalf("%+v, %v", run, err)
		}
	}
	report, err := f.Report(t.Context(), brokertest.IssuerDB, 10)
	if err != nil || report.OrphansTotal != 1 || report.Orphans[0].Attempts != 2 || !strings.Contains(report.Orphans[0].LastError, "owns a subscription") || stands(f, free) {
		t.Errorf("%+v, %v", report, err)
	}
	if f.events("orphan.found", "") != 2 {
		t.Error("an orphan has more than one event of its finding")
	}
	f.DB.Set(brokertest.Hooks{})
	f.want(f.once(reconciler.Options{}), 1, 1, 1, 0)
	counts, err := f.Counts(t.Context())
	if err != nil || len(counts) != 2 {
		t.Fatalf("%+v, %v", counts, err)
	}
	for _, c := range counts {
		if c.Orphans != 0 || c.Missing != 0 || (c.Issuer == brokertest.IssuerDB) == c.Succeeded.IsZero() {
			t.Errorf("%+v", c)
		}
	}
}
