package leases_test

import (
	"errors"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/issuers"
)

// TestTokenThatIsAskedFor: of a credential that everybody asks the broker about,
// nothing is left to do once its lease has ended: by its time, by somebody's hand,
// or by a promotion.
func TestTokenThatIsAskedFor(t *testing.T) {
	f := newFixture(t)
	issue := func(n byte) *leases.Reservation {
		t.Helper()
		r := f.reservation(f.job(), "deploy-api")
		r.Leases[0].Kind, r.Leases[0].Revocation, r.Leases[0].Issued = "apitoken", issuers.Introspection, true
		r.Leases[0].Fingerprints = []leases.Fingerprint{{Sum: [32]byte{n}, Field: "token", KeyID: "k", Scheme: "s"}}
		if err := f.Reserve(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	find := func(n byte, kinds ...string) (*leases.TokenLease, error) {
		return f.FindPrinted(t.Context(), [32]byte{n}, "token", kinds)
	}
	swept, revoked, promoted := issue(1), issue(2), issue(3)

	l, err := find(2, "jwt", "apitoken")
	if err != nil || l.ID != revoked.Leases[0].ID || l.State != leases.Active {
		t.Fatalf("found %+v: %v", l, err)
	}
	for what, try := range map[string]func() (*leases.TokenLease, error){
		"another kind":  func() (*leases.TokenLease, error) { return find(2, "jwt") },
		"another token": func() (*leases.TokenLease, error) { return find(9, "apitoken") },
		"another field": func() (*leases.TokenLease, error) {
			return f.FindPrinted(t.Context(), [32]byte{2}, "password", []string{"apitoken"})
		},
	} {
		if l, err := try(); !errors.Is(err, leases.ErrNotFound) {
			t.Errorf("%s: %+v %v", what, l, err)
		}
	}

	ended, err := f.BeginRevoke(t.Context(), []string{revoked.Leases[0].ID}, leases.Why{Actor: "test", Reason: "asked"})
	if err != nil || ended[0].State != leases.Revoked || ended[0].EndedAt == nil || ended[0].ValidElsewhereUntil() != nil {
		t.Errorf("revoked: %+v %v", ended, err)
	}
	if l, err := find(2, "apitoken"); err != nil || l.State != leases.Revoked {
		t.Errorf("found %+v: %v", l, err)
	}
	if _, err := f.pool.Exec(t.Context(), `UPDATE leases SET due_at = now() - interval '1 second' WHERE id = $1`, swept.Leases[0].ID); err != nil {
		t.Fatal(err)
	}
	found, err := f.Sweep(t.Context(), "db", 10)
	if err != nil || len(found) != 1 || found[0].ID != swept.Leases[0].ID || f.state(t, found[0].ID) != leases.Expired {
		t.Errorf("swept %v: %v", found, err)
	}
	if n, err := f.EndLive(t.Context(), leases.Why{Actor: "test", Reason: "promoted"}); err != nil || n != 1 || f.state(t, promoted.Leases[0].ID) != leases.Revoked {
		t.Errorf("a promotion ended %d: %v", n, err)
	}
	if next, err := f.NextDue(t.Context(), "db"); err != nil || !next.IsZero() {
		t.Errorf("something is due at %s: %v", next.Format(time.RFC3339), err)
	}
	f.checkInvariants(t)
}
