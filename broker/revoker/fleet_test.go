package revoker_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/issuers"
)

// TestSweep: two sweeps at once end each lease once, with one event that names it.
func TestSweep(t *testing.T) {
	t.Parallel()
	f := newFixture(t, brokertest.Options{})
	const n = 24
	for range n {
		f.Exchange(f.Job(), "payments/sign")
	}
	f.Exec(`UPDATE leases SET due_at = now() - interval '1 second'`)
	var swept atomic.Int32
	var running sync.WaitGroup
	for range 2 {
		running.Go(func() {
			for {
				found, err := f.store.Sweep(context.WithoutCancel(t.Context()), brokertest.IssuerJWT, 7)
				if err != nil {
					t.Error(err)
				}
				if swept.Add(int32(len(found))); len(found) == 0 {
					return
				}
			}
		})
	}
	running.Wait()
	if swept.Load() != n || f.Count(`SELECT count(*) FROM leases WHERE state = 'expired'`) != n {
		t.Errorf("%d were swept, want %d", swept.Load(), n)
	}
	if named := f.Count(`SELECT count(DISTINCT lease) FROM audit_events, jsonb_array_elements_text(body::jsonb #> '{data,leases}') AS named(lease) WHERE type = 'leases.expired'`); named != n {
		t.Errorf("%d have their end on record, want %d", named, n)
	}
}

// TestTwoRevokersShareTheWork and write exactly one end for each lease.
func TestTwoRevokersShareTheWork(t *testing.T) {
	t.Parallel()
	var policy strings.Builder
	policy.WriteString("policy: many\nowner: x@example.com\nenvironment: production\njobs: [{name: any, provider: github, claims: {repository_id: \"74\", ref: refs/heads/main, event_name: push}}]\ngrants:\n")
	var grants []string
	for i := range 16 {
		fmt.Fprintf(&policy, "  - {name: g%d, issuer: db, role: deployer, ttl: 10m, env: {username: USER_%d, password: PASSWORD_%d}}\n", i, i, i)
		grants = append(grants, fmt.Sprintf("many/g%d", i))
	}
	f := newFixture(t, brokertest.Options{Policies: map[string]string{"many.yaml": policy.String()}, IssueTime: 10 * time.Second})
	var total int
	for range 13 {
		total += len(f.Exchange(f.Job(), grants...).Credentials)
	}
	// One in seven fails once, so that claims cross.
	var calls atomic.Int32
	f.DB.Set(brokertest.Hooks{Revoke: func(context.Context, *issuers.RevokeRequest) error {
		if calls.Add(1)%7 == 0 {
			return issuers.ErrUnavailable
		}
		return nil
	}})
	other := &observer{}
	f.Exec(`UPDATE leases SET due_at = now() - interval '1 second'`)
	run(t, f.Revoker, f.another(t, other))
	brokertest.Poll(t, "all have ended", func() bool { return f.Count(`SELECT count(*) FROM leases WHERE state = 'revoked'`) == total })
	if n := f.Count(`SELECT count(*) FROM audit_events WHERE type = 'lease.revoked'`); n != total || total < 200 {
		t.Errorf("%d ends of %d leases", n, total)
	}
	if n := f.Count(`SELECT count(*) FROM (SELECT subject FROM audit_events WHERE type = 'lease.revoked' GROUP BY subject HAVING count(*) = 1) AS one`); n != total {
		t.Errorf("%d of %d leases have exactly one end", n, total)
	}
	brokertest.Poll(t, "both have counted", func() bool { return int(f.seen.revoked.Load()+other.revoked.Load()) == total })
	if f.seen.revoked.Load() == 0 || other.revoked.Load() == 0 {
		t.Errorf("one did all the work: %d and %d", f.seen.revoked.Load(), other.revoked.Load())
	}
}

// TestTakeover: the broker that claimed a lease died, and comes back too late.
func TestTakeover(t *testing.T) {
	t.Parallel()
	f := newFixture(t, brokertest.Options{})
	id := f.Exchange(f.Job(), "payments/deploy-db").Credentials[0].LeaseID
	f.begin(t, id)
	claimed, _, err := f.store.Claim(t.Context(), brokertest.IssuerDB, 10, 700*time.Millisecond)
	if err != nil || len(claimed) != 1 {
		t.Fatalf("%v %v", claimed, err)
	}
	f.once(t, 0) // while the claim holds
	run(t, f.Revoker)
	brokertest.Poll(t, "somebody else takes over", func() bool { return f.get(t, id).State == leases.Revoked })
	if done, err := f.store.Complete(t.Context(), claimed[0].Lease); err != nil || done {
		t.Errorf("it ended twice: %v %v", done, err)
	}
	if err := f.store.Postpone(t.Context(), claimed[0].Lease, f.store.Now(), "late", true); err != nil {
		t.Error(err)
	}
	if l := f.get(t, id); l.State != leases.Revoked || l.Stuck {
		t.Errorf("the one that came late changed it: %s, stuck %v", l.State, l.Stuck)
	}
}
