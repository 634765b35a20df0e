package postgres_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/postgres"
)

// list reads all pages.
func list(tb testing.TB, tg *target, issuer issuers.Lister) []issuers.Existing {
	tb.Helper()
	return listBy(tb, tg, issuer, 500)
}

func listBy(tb testing.TB, tg *target, issuer issuers.Lister, size int) []issuers.Existing {
	tb.Helper()
	var all []issuers.Existing
	req := &issuers.ListRequest{Installation: tg.setup.Installation, Limit: size}
	for {
		res, err := issuer.List(tb.Context(), req)
		if err != nil {
			tb.Fatal(err)
		}
		if len(res.Found) > size || (res.Next != "" && res.Next <= req.After) {
			tb.Fatalf("a page of %d, and then %q behind %q", len(res.Found), res.Next, req.After)
		}
		all = append(all, res.Found...)
		if req.After = res.Next; req.After == "" {
			return all
		}
	}
}

// TestListSaysWhatIsReal changes users behind the broker's back, in both set-ups.
func TestListSaysWhatIsReal(t *testing.T) {
	for _, owner := range []postgres.OwnerMode{postgres.OwnerSuperuser, postgres.OwnerCreateRole} {
		t.Run(string(owner), func(t *testing.T) {
			tg := newTarget(t, options{owner: owner})
			issuer := tg.issuer(t)
			kept, dropped, renamed := issue(t, issuer, newLease(tg)), issue(t, issuer, newLease(tg)), issue(t, issuer, newLease(tg))
			unknown := "dp_" + tg.setup.Installation + "_01j8z3aaaaaaaaaaaaaaaaaaaa_k3m9x0q2"
			foreign := "dp_otherotherot_01j8z3aaaaaaaaaaaaaaaaaaaa_" + tg.setup.Installation[4:]
			tg.admin(t, "", fmt.Sprintf("DROP ROLE %s; ALTER ROLE %s RENAME TO renamed_%s; CREATE ROLE %s; CREATE ROLE %s", dropped.name(), renamed.name(), tg.setup.Installation, unknown, foreign))
			for _, size := range []int{1, 3, 500} {
				want := map[string]string{
					kept.lease.ID: kept.name(), renamed.lease.ID: "renamed_" + tg.setup.Installation, "lse_01J8Z3AAAAAAAAAAAAAAAAAAAA": unknown,
				}
				for _, e := range listBy(t, tg, issuer, size) {
					if want[e.LeaseID] != e.Name || e.Installation != tg.setup.Installation {
						t.Errorf("by %d: %+v, want %q", size, e, want[e.LeaseID])
					}
					if known := e.Name != unknown; known != (time.Since(e.CreatedAt) < time.Hour) {
						t.Errorf("%s was made at %s", e.Name, e.CreatedAt)
					}
					delete(want, e.LeaseID)
				}
				if len(want) != 0 {
					t.Errorf("by %d: %v are missing", size, want)
				}
			}
		})
	}
}

// TestListOnAnOlderSetUp: a broker that is newer than the functions on its target
// says what to do; all else goes on.
func TestListOnAnOlderSetUp(t *testing.T) {
	tg := newTarget(t, options{})
	tg.admin(t, tg.databases[0], "DROP FUNCTION daypass.list_page(text, text, integer)")
	issuer := tg.issuer(t)
	u := issue(t, issuer, newLease(tg))
	_, err := issuer.List(t.Context(), &issuers.ListRequest{Installation: tg.setup.Installation, Limit: 10})
	if !errors.Is(err, issuers.ErrUnsupported) || !strings.Contains(err.Error(), "daypassd target setup postgres") {
		t.Errorf("%v, want ErrUnsupported and what to do", err)
	}
	gone(t, tg, issuer, u)
	tg.install(t)
	if found := list(t, tg, issuer); len(found) != 0 {
		t.Errorf("after the set-up was run again: %v", found)
	}
}
