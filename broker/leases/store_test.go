package leases_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/issuers"
)

func TestLifeOfALease(t *testing.T) {
	f := newFixture(t)
	r := f.reserve(t, "deploy-db", "read-db")
	id := r.Leases[0].ID
	if got := f.state(t, id); got != leases.Issuing {
		t.Fatalf("after Reserve it is %s", got)
	}
	f.activate(t, r)
	if got := f.state(t, id); got != leases.Active {
		t.Fatalf("after Activate it is %s", got)
	}
	if claimed, expired, err := f.Claim(t.Context(), "db", 10, time.Minute); err != nil || len(claimed) != 0 || len(expired) != 0 {
		t.Fatalf("a lease that isn't due was claimed: %v %v %v", claimed, expired, err)
	}
	f.due(t)
	claimed, _, err := f.Claim(t.Context(), "db", 10, time.Minute)
	if err != nil || len(claimed) != 2 {
		t.Fatalf("claimed %d, want 2: %v", len(claimed), err)
	}
	if again, _, err := f.Claim(t.Context(), "db", 10, time.Minute); err != nil || len(again) != 0 {
		t.Fatalf("claimed twice: %v %v", again, err)
	}
	for _, c := range claimed {
		if string(c.Handle) != "handle of "+c.ID {
			t.Errorf("handle of %s came back as %q", c.ID, c.Handle)
		}
		if done, err := f.Complete(t.Context(), c.Lease); err != nil || !done {
			t.Errorf("completing: %v %v", done, err)
		}
		if done, err := f.Complete(t.Context(), c.Lease); err != nil || done {
			t.Errorf("completing twice: %v %v", done, err)
		}
	}
	if got := f.state(t, id); got != leases.Revoked {
		t.Fatalf("in the end it is %s", got)
	}
}

func TestSelfContainedCredentialExpiresWithoutWork(t *testing.T) {
	f := newFixture(t)
	r := f.reservation(f.job(), "sign")
	r.Leases[0].Revocation, r.Leases[0].Issued = issuers.Expiry, true
	r.Leases[0].Fingerprints = []leases.Fingerprint{{Sum: [32]byte{1}, Field: "token", KeyID: "k", Scheme: "s"}}
	r.Leases[0].Rules = []leases.Rule{{ID: "r1", Policy: "payments", Grant: "sign", Pattern: "x{8}"}}
	if err := f.Reserve(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if got := f.state(t, r.Leases[0].ID); got != leases.Active {
		t.Fatalf("an issued lease begins as %s", got)
	}
	var prints int
	if err := f.pool.QueryRow(t.Context(), `SELECT count(*) FROM fingerprints WHERE lease_id = $1`, r.Leases[0].ID).Scan(&prints); err != nil || prints != 1 {
		t.Errorf("%d fingerprints, want 1: %v", prints, err)
	}
	rules, err := f.RulesOf(t.Context(), r.Token.Hash)
	if err != nil || len(rules) != 1 || rules[0].Pattern != "x{8}" {
		t.Errorf("rules of the session: %v %v", rules, err)
	}
	f.due(t)
	claimed, expired, err := f.Claim(t.Context(), "db", 10, time.Minute)
	if err != nil || len(claimed) != 0 || len(expired) != 1 {
		t.Fatalf("claimed %v, expired %v: %v", claimed, expired, err)
	}
	if got := f.state(t, r.Leases[0].ID); got != leases.Expired {
		t.Fatalf("it is %s", got)
	}
}

func TestOneJobTokenOpensOneSession(t *testing.T) {
	f := newFixture(t)
	job := f.job()
	const exchanges = 24
	sessions := make([]string, exchanges)
	var running sync.WaitGroup
	for i := range exchanges {
		running.Go(func() {
			r := f.reservation(job, "deploy-db")
			if err := f.Reserve(t.Context(), r); err != nil {
				t.Error(err)
			}
			sessions[i] = r.SessionID
		})
	}
	running.Wait()
	for _, id := range sessions {
		if id == "" || id != sessions[0] {
			t.Fatalf("several sessions for one token: %v", sessions)
		}
	}
}

func TestTokenIsUsedUpByARevocation(t *testing.T) {
	f := newFixture(t)
	job := f.job()
	mine, other := f.reservation(job, "deploy-db"), f.reservation(job, "deploy-db")
	for _, r := range []*leases.Reservation{mine, other} {
		if err := f.Reserve(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // twice: a revocation is idempotent
		ended, err := f.RevokeSession(t.Context(), mine.SessionID, mine.Token.Hash, leases.Why{Actor: "job", Reason: "done"})
		if err != nil || len(ended) != 1 || ended[0].ID != mine.Leases[0].ID || ended[0].State != leases.Revoking {
			t.Fatalf("revoked %v: %v", ended, err)
		}
	}
	if got := f.state(t, other.Leases[0].ID); got != leases.Issuing {
		t.Errorf("the lease of another exchange is %s", got)
	}
	again := f.reservation(job, "deploy-db")
	if err := f.Reserve(t.Context(), again); !errors.Is(err, leases.ErrReplayed) {
		t.Errorf("the token may come again: %v", err)
	}
	if _, err := f.Get(t.Context(), again.Leases[0].ID); !errors.Is(err, leases.ErrNotFound) {
		t.Errorf("what was refused left a lease: %v", err)
	}
}

func TestClaimsOfASessionCannotBeChosenInTheDatabase(t *testing.T) {
	f := newFixture(t)
	r := f.reserve(t, "deploy-db")
	if _, err := f.FindToken(t.Context(), r.Token.Hash); err != nil {
		t.Fatal(err)
	}
	for column, value := range map[string]string{"claims": `{"sub":"repo:a/b","ref":"refs/heads/main"}`, "provider": "gitlab", "subject": "repo:c/d", "issuer": "https://other.example"} {
		var before string
		if err := f.pool.QueryRow(t.Context(), `SELECT `+column+`::text FROM sessions WHERE id = $1`, r.SessionID).Scan(&before); err != nil {
			t.Fatal(err)
		}
		kind := "text"
		if column == "claims" {
			kind = "json"
		}
		set := func(to string) {
			if _, err := f.pool.Exec(t.Context(), `UPDATE sessions SET `+column+` = $2::text::`+kind+` WHERE id = $1`, r.SessionID, to); err != nil {
				t.Fatal(err)
			}
		}
		set(value)
		if _, err := f.FindToken(t.Context(), r.Token.Hash); !errors.Is(err, leases.ErrForged) {
			t.Errorf("%s was changed, and believed: %v", column, err)
		}
		set(before)
	}
	if _, err := f.FindToken(t.Context(), r.Token.Hash); err != nil {
		t.Errorf("unchanged again, and not believed: %v", err)
	}
}

func TestMaxActiveIsExactUnderConcurrency(t *testing.T) {
	f := newFixture(t)
	const limit, exchanges = 5, 40
	var took, refused int
	var mu sync.Mutex
	var running sync.WaitGroup
	for range exchanges {
		running.Go(func() {
			r := f.reservation(f.job(), "deploy-db", "unlimited")
			r.Leases[0].MaxActive = limit
			err := f.Reserve(t.Context(), r)
			mu.Lock()
			defer mu.Unlock()
			var tooMany *leases.TooManyError
			switch {
			case err == nil:
				took++
			case errors.As(err, &tooMany) && tooMany.Grant == "payments/deploy-db":
				refused++
			default:
				t.Error(err)
			}
		})
	}
	running.Wait()
	if took != limit || refused != exchanges-limit {
		t.Fatalf("%d taken and %d refused, want %d and %d", took, refused, limit, exchanges-limit)
	}
	var others int
	if err := f.pool.QueryRow(t.Context(), `SELECT count(*) FROM leases WHERE grant_name = 'unlimited'`).Scan(&others); err != nil || others != limit {
		t.Errorf("%d leases of the other grant: an exchange is taken whole or not at all: %v", others, err)
	}
	if err := f.pool.QueryRow(t.Context(), `SELECT count(*) FROM sessions`).Scan(&others); err != nil || others != limit {
		t.Errorf("%d sessions: what was refused was not opened: %v", others, err)
	}
}

func TestLeaseEndsWithItsSession(t *testing.T) {
	f := newFixture(t)
	job := f.job()
	job.ExpiresAt = f.Now().Add(30 * time.Second)
	first := f.reservation(job, "deploy-db")
	first.Leases[0].ExpiresAt = job.ExpiresAt
	if err := f.Reserve(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	r := f.reservation(job, "deploy-db")
	var sooner *leases.SessionEndsError
	if err := f.Reserve(t.Context(), r); !errors.As(err, &sooner) || !sooner.At.Equal(job.ExpiresAt) {
		t.Fatalf("got %v, want that the session ends at %s", err, job.ExpiresAt)
	}
	r = f.reservation(job, "deploy-db")
	r.Leases[0].ExpiresAt = job.ExpiresAt
	if err := f.Reserve(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	l, err := f.Get(t.Context(), r.Leases[0].ID)
	if err != nil || l.Renewable || !l.MaxExpiresAt.Equal(job.ExpiresAt) {
		t.Errorf("renewable %v until %s, want no later than the session: %v", l.Renewable, l.MaxExpiresAt, err)
	}
}

func TestClocksApart(t *testing.T) {
	f := newFixture(t)
	f.skew = 5 * time.Second
	if err := f.Reserve(t.Context(), f.reservation(f.job(), "deploy-db")); !errors.Is(err, leases.ErrUnavailable) {
		t.Fatalf("a broker whose clock is five seconds off reserved: %v", err)
	}
}

// TestSlowIsNotReplayed: a busy broker may take its time between reading a token
// and putting its session on record, and what waited for too long may come again.
func TestSlowIsNotReplayed(t *testing.T) {
	f := newFixture(t)
	for waited, want := range map[time.Duration]error{3 * time.Second: nil, 8 * time.Second: nil, 12 * time.Second: leases.ErrUnavailable} {
		job := f.job()
		job.OpenedAt = job.OpenedAt.Add(-waited)
		r := f.reservation(job, "deploy-db")
		if want != nil {
			r.Now = r.Now.Add(-waited)
			r.Leases[0].ExpiresAt = r.Now.Add(time.Minute)
		}
		if err := f.Reserve(t.Context(), r); !errors.Is(err, want) {
			t.Errorf("after %s: %v, want %v", waited, err, want)
		}
		again := f.reservation(job, "deploy-db")
		if err := f.Reserve(t.Context(), again); err != nil || (want != nil) != (again.SessionID == again.Session.ID) {
			t.Errorf("after %s, once more: %v; session %s, would open %s", waited, err, again.SessionID, again.Session.ID)
		}
	}
}

func TestActivateFindsThatARevocationHasBegun(t *testing.T) {
	f := newFixture(t)
	r := f.reserve(t, "deploy-db", "read-db")
	if _, err := f.BeginRevoke(t.Context(), []string{r.Leases[1].ID}, leases.Why{Actor: "a", Reason: "b"}); err != nil {
		t.Fatal(err)
	}
	if err := f.Activate(t.Context(), activation(f, r)); !errors.Is(err, leases.ErrNotActive) {
		t.Fatalf("Activate: %v", err)
	}
	if got := f.state(t, r.Leases[1].ID); got != leases.Revoking {
		t.Errorf("it is %s", got)
	}
}

func TestOneBadRowDoesNotFailItsNeighbours(t *testing.T) {
	f := newFixture(t, func(c *leases.Config) { c.Writers = 1 })
	good := make([]*leases.Reservation, 8)
	bad := f.reserve(t, "deploy-db") // its lease id is taken from here on
	var running sync.WaitGroup
	for i := range good {
		good[i] = f.reservation(f.job(), "deploy-db")
		running.Go(func() {
			if err := f.Reserve(t.Context(), good[i]); err != nil {
				t.Error(err)
			}
		})
		running.Go(func() {
			twice := f.reservation(f.job(), "deploy-db")
			twice.Leases[0].ID = bad.Leases[0].ID
			if err := f.Reserve(t.Context(), twice); err == nil {
				t.Error("a lease id was taken twice")
			}
		})
	}
	running.Wait()
	for _, r := range good {
		if got := f.state(t, r.Leases[0].ID); got != leases.Issuing {
			t.Errorf("a neighbour is %s", got)
		}
	}
}

func TestExactlyOneCompletes(t *testing.T) {
	f := newFixture(t)
	r := f.reserve(t, "deploy-db")
	f.due(t)
	claimed, _, err := f.Claim(t.Context(), "db", 1, time.Minute)
	if err != nil || len(claimed) != 1 {
		t.Fatalf("%v %v", claimed, err)
	}
	var done int
	var mu sync.Mutex
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			mine := *claimed[0].Lease
			ok, err := f.Complete(t.Context(), &mine)
			if err != nil {
				t.Error(err)
			}
			if ok {
				mu.Lock()
				done++
				mu.Unlock()
			}
		})
	}
	running.Wait()
	if done != 1 {
		t.Errorf("%d completed %s", done, r.Leases[0].ID)
	}
}

func TestStuckLeaseIsForgottenOnlyWithAReasonOnRecord(t *testing.T) {
	f := newFixture(t)
	r := f.reserve(t, "deploy-db")
	id := r.Leases[0].ID
	if _, err := f.Forget(t.Context(), id, leases.Why{Actor: "a", Reason: "b"}); !errors.Is(err, leases.ErrNotStuck) {
		t.Fatalf("a live lease was forgotten: %v", err)
	}
	ended, err := f.BeginRevoke(t.Context(), []string{id}, leases.Why{Actor: "a", Reason: "b"})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Postpone(t.Context(), ended[0], f.Now().Add(time.Hour), "blocked by a function", true); err != nil {
		t.Fatal(err)
	}
	l, err := f.Get(t.Context(), id)
	if err != nil || !l.Stuck || l.LastError != "blocked by a function" || l.Attempts != 1 {
		t.Fatalf("stuck %v, %q, %d: %v", l.Stuck, l.LastError, l.Attempts, err)
	}
	if l, err = f.Forget(t.Context(), id, leases.Why{Actor: "a", Reason: "the target is gone"}); err != nil || l.State != leases.Forgotten {
		t.Fatalf("%v %v", l, err)
	}
}

func TestRenew(t *testing.T) {
	f := newFixture(t)
	r := f.reserve(t, "deploy-db")
	l, err := f.Get(t.Context(), r.Leases[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	later := l.ExpiresAt.Add(time.Minute)
	if err := f.Renew(t.Context(), l, later, "job"); !errors.Is(err, leases.ErrNotActive) {
		t.Fatalf("a lease that isn't active was renewed: %v", err)
	}
	f.activate(t, r)
	stale, err := f.Get(t.Context(), l.ID)
	if err != nil {
		t.Fatal(err)
	}
	fresh := *stale
	if err := f.Renew(t.Context(), &fresh, later, "job"); err != nil {
		t.Fatal(err)
	}
	if err := f.Renew(t.Context(), stale, later.Add(time.Minute), "job"); !errors.Is(err, leases.ErrNotActive) {
		t.Fatalf("two renewals of the same state both won: %v", err)
	}
	due, err := f.NextDue(t.Context(), "db")
	if err != nil || !due.Equal(later) {
		t.Errorf("due at %s, want the new end %s: %v", due, later, err)
	}
}

func TestListPagesAndFilters(t *testing.T) {
	f := newFixture(t)
	for i := range 5 {
		f.reserve(t, fmt.Sprintf("grant-%d", i%2))
	}
	seen := map[string]bool{}
	filter := leases.Filter{Grant: "grant-0", Limit: 2}
	for {
		page, err := f.List(t.Context(), filter)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, l := range page {
			if l.Grant != "grant-0" || seen[l.ID] {
				t.Errorf("%s of %s, seen before: %v", l.ID, l.Grant, seen[l.ID])
			}
			seen[l.ID] = true
		}
		filter.Before = page[len(page)-1].ID
	}
	if len(seen) != 3 {
		t.Errorf("%d leases on all pages, want 3", len(seen))
	}
}

// TestDatabaseAway: what can't be written is not answered with success.
func TestDatabaseAway(t *testing.T) {
	f := newFixture(t)
	config := f.pool.Config()
	config.ConnConfig.Host, config.ConnConfig.Fallbacks = t.TempDir(), nil // no server has its socket there
	dead, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	if _, err := leases.Open(t.Context(), leases.Config{
		Pool: dead, Audit: f.recorder, Handles: &keys.RowSealer{}, Claims: &keys.Hasher{}, Installation: "0123456789ab", Tenant: "main", Now: time.Now,
	}); !errors.Is(err, leases.ErrUnavailable) {
		t.Errorf("opening without a database: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Reserve(ctx, f.reservation(f.job(), "deploy-db")); !errors.Is(err, leases.ErrUnavailable) {
		t.Errorf("a caller that has gone: %v", err)
	}
}
