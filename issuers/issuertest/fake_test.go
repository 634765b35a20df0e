package issuertest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/issuertest"
)

func TestFakeKeepsTheContract(t *testing.T) {
	issuertest.Exercise(t, func(*testing.T) issuers.Issuer { return &issuertest.Fake{} }, issuertest.Options{Role: "any"})
}

func TestFakeFailsOnDemand(t *testing.T) {
	lost := errors.New("lost")
	down := true
	f := &issuertest.Fake{
		AfterIssue: func(context.Context, *issuers.IssueRequest) error { return lost },
		OnRevoke: func(context.Context, *issuers.RevokeRequest) error {
			if down {
				return issuers.ErrUnavailable
			}
			return nil
		},
	}
	lease := issuertest.NewLease("testtesttest", "any", time.Now())
	if _, err := f.Issue(t.Context(), &issuers.IssueRequest{Lease: lease}); !errors.Is(err, lost) {
		t.Fatal(err)
	}
	if live := f.Live(); len(live) != 1 || live[0] != lease.ID {
		t.Fatalf("a lost answer leaves its credential, not %v", live)
	}
	if _, err := f.Revoke(t.Context(), &issuers.RevokeRequest{Lease: lease}); !errors.Is(err, issuers.ErrUnavailable) {
		t.Fatal(err)
	}
	down = false
	if res, err := f.Revoke(t.Context(), &issuers.RevokeRequest{Lease: lease}); err != nil || !res.Found {
		t.Fatal(res, err)
	}
	if calls := f.Calls(); len(calls) != 3 || calls[0].Method != "Issue" || calls[1].Err == nil || calls[2].Err != nil {
		t.Fatalf("calls: %+v", calls)
	}
}

func TestFakeHangs(t *testing.T) {
	f := &issuertest.Fake{OnIssue: func(ctx context.Context, _ *issuers.IssueRequest) error { <-ctx.Done(); return ctx.Err() }}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := f.Issue(ctx, &issuers.IssueRequest{Lease: issuertest.NewLease("testtesttest", "", time.Now())}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if len(f.Live()) != 0 {
		t.Fatal("what hung left something")
	}
}
