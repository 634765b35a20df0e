package leases_test

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/issuers"
)

func jti(name string) []byte {
	sum := sha256.Sum256([]byte(name))
	return sum[:]
}

func key(name string) []byte { return jti(name)[:16] }

func TestJTIStandsInOneToken(t *testing.T) {
	f := newFixture(t)
	first := f.job()
	first.JTI = jti("one")
	reserve := func(job leases.Session) error { return f.Reserve(t.Context(), f.reservation(job, "deploy-db")) }
	if err := reserve(first); err != nil {
		t.Fatal(err)
	}
	other := func(id []byte) leases.Session {
		job := f.job()
		job.JTI = id
		return job
	}
	for name, c := range map[string]struct {
		job  leases.Session
		want error
	}{
		"the same token":             {first, nil},
		"another token, another jti": {other(jti("two")), nil},
		"another token, same jti":    {other(jti("one")), leases.ErrReusedJTI},
		"a token without one":        {other(nil), nil},
		"another without one":        {other(nil), nil},
	} {
		if err := reserve(c.job); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	// The first token's session has ended: its jti is still its own.
	if _, err := f.pool.Exec(t.Context(), `UPDATE sessions SET revoked_at = now() WHERE jti = $1`, jti("one")); err != nil {
		t.Fatal(err)
	}
	if err := reserve(first); !errors.Is(err, leases.ErrReplayed) || errors.Is(err, leases.ErrReusedJTI) {
		t.Errorf("the same token after its session: %v", err)
	}
	if err := reserve(other(jti("one"))); !errors.Is(err, leases.ErrReusedJTI) || !errors.Is(err, leases.ErrReplayed) {
		t.Errorf("another token with its jti after its session: %v", err)
	}
	job := other(jti("one"))
	job.ID = ids.New(ids.Session, f.Now())
	if err := f.RecordReusedJTI(t.Context(), &job, f.Now()); err != nil {
		t.Error(err)
	}
	if n := f.count(t, `SELECT count(*) FROM audit_events WHERE type = 'token.jti_reused' AND subject = $1 AND count = 1`, job.ID); n != 1 {
		t.Errorf("%d events", n)
	}
}

// TestReusedJTIFailsNoNeighbour: it is a result, not an error, also where both
// come in one transaction.
func TestReusedJTIFailsNoNeighbour(t *testing.T) {
	f := newFixture(t, func(c *leases.Config) { c.Writers = 1 })
	second := f.join(t)
	const tokens, ids = 40, 4
	var opened, reused int
	var mu sync.Mutex
	var running sync.WaitGroup
	for i := range tokens {
		job := f.job()
		job.JTI = jti(string(rune('a' + i%ids)))
		store := []*leases.Store{f.Store, second}[i/ids%2]
		running.Go(func() {
			err := store.Reserve(t.Context(), f.reservation(job, "deploy-db"))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				opened++
			case errors.Is(err, leases.ErrReusedJTI):
				reused++
			default:
				t.Error(err)
			}
		})
		running.Go(func() {
			if err := store.Reserve(t.Context(), f.reservation(f.job(), "deploy-db")); err != nil {
				t.Errorf("a neighbour: %v", err)
			}
		})
	}
	running.Wait()
	if opened != ids || reused != tokens-ids {
		t.Errorf("%d opened a session and %d were refused, want %d and %d", opened, reused, ids, tokens-ids)
	}
}

func (f *fixture) once(job leases.Session) *leases.Reservation {
	r := f.reservation(job, "deploy-db")
	r.Once = true
	return r
}

func TestOnce(t *testing.T) {
	f := newFixture(t)
	stores := []*leases.Store{f.Store, f.join(t)}
	job := f.job()
	job.JTI = jti("one")
	var won []*leases.Reservation
	var mu sync.Mutex
	var running sync.WaitGroup
	for i := range 30 {
		running.Go(func() {
			r := f.once(job)
			err := stores[i%2].Reserve(t.Context(), r)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won = append(won, r)
			} else if !errors.Is(err, leases.ErrUnavailable) { // nothing is issued yet: it may still come to nothing
				t.Error(err)
			}
		})
	}
	running.Wait()
	if len(won) != 1 {
		t.Fatalf("%d used the token", len(won))
	}
	joined := f.reservation(won[0].Session, "deploy-db")
	joined.Joined = true
	if err := f.Reserve(t.Context(), joined); err != nil {
		t.Errorf("by its session token: %v", err)
	}
	// What failed after it was reserved brought its job nothing.
	why := leases.Why{Actor: "daypassd", Reason: "could not be issued"}
	if err := f.Undo(t.Context(), won[0], why); err != nil {
		t.Fatal(err)
	}
	if got := f.state(t, won[0].Leases[0].ID); got != leases.Revoking {
		t.Errorf("what was undone is %s", got)
	}
	again := f.once(job)
	if err := f.Reserve(t.Context(), again); err != nil || again.SessionID == won[0].SessionID {
		t.Fatalf("the token of a failed exchange, in session %s: %v", again.SessionID, err)
	}
	if err := f.Reserve(t.Context(), f.once(job)); !errors.Is(err, leases.ErrUnavailable) || errors.Is(err, leases.ErrReplayed) {
		t.Errorf("while the first is under way: %v", err)
	}
	f.activate(t, again)
	if err := f.Reserve(t.Context(), f.once(job)); !errors.Is(err, leases.ErrReplayed) {
		t.Errorf("once it is used: %v", err)
	}
	if _, err := f.RevokeSession(t.Context(), again.SessionID, again.Token.Hash, leases.Why{Actor: "job", Reason: "done"}); err != nil {
		t.Fatal(err)
	}
	if err := f.Undo(t.Context(), again, why); err != nil {
		t.Fatal(err)
	}
	if err := f.Reserve(t.Context(), f.once(job)); !errors.Is(err, leases.ErrReplayed) {
		t.Errorf("a token that was given back came again: %v", err)
	}
}

// TestRefusalUsesNoTokenUp: what a limit refused may come again, once.
func TestRefusalUsesNoTokenUp(t *testing.T) {
	f := newFixture(t)
	f.reserve(t, "deploy-db")
	job := f.job()
	r := f.once(job)
	r.Leases[0].MaxActive = 1
	if _, tooMany := errors.AsType[*leases.TooManyError](f.Reserve(t.Context(), r)); !tooMany {
		t.Fatal("it was not refused")
	}
	if err := f.Reserve(t.Context(), f.once(job)); err != nil {
		t.Errorf("the token was used up: %v", err)
	}
}

func (f *fixture) try(job leases.Session, name, request string, asked time.Time, grants ...string) *leases.Reservation {
	r := f.reservation(job, grants...)
	r.Retry = &leases.Retry{Key: key(name), Request: key(request), Asked: asked}
	return r
}

func TestRetryTakesTheFirstTrysPlace(t *testing.T) {
	for name, once := range map[string]bool{"session": false, "once": true} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			job, began := f.job(), f.Now()
			first := f.try(job, "k", "body", began, "deploy-db", "sign")
			first.Once = once
			first.Leases[1].Issued, first.Leases[1].Revocation = true, issuers.Expiry
			if err := f.Reserve(t.Context(), first); err != nil {
				t.Fatal(err)
			}
			if err := f.Reserve(t.Context(), f.try(job, "k", "other body", began.Add(time.Second), "deploy-db")); !errors.Is(err, leases.ErrOtherRequest) {
				t.Errorf("the same key with another body: %v", err)
			}
			for _, asked := range []time.Time{began, began.Add(-time.Second)} {
				if err := f.Reserve(t.Context(), f.try(job, "k", "body", asked, "deploy-db")); !errors.Is(err, leases.ErrOvertaken) {
					t.Errorf("a try that began %s after the first: %v", asked.Sub(began), err)
				}
			}
			second := f.try(job, "k", "body", began.Add(time.Second), "deploy-db", "sign")
			second.Once, second.Leases[0].MaxActive, second.MaxPerJob, second.JobKey, second.Whose = once, 1, 2, key("job"), key("whose")
			if err := f.Reserve(t.Context(), second); !errors.Is(err, leases.ErrRetry) {
				t.Fatalf("a retry: %v", err)
			}
			if got := f.state(t, first.Leases[0].ID); got != leases.Issuing {
				t.Errorf("to be told of the first try ended it: %s", got)
			}
			ended, err := f.Supersede(t.Context(), second)
			if err != nil || len(ended) != 2 {
				t.Fatalf("%d leases ended: %v", len(ended), err)
			}
			if a, b := f.state(t, first.Leases[0].ID), f.state(t, first.Leases[1].ID); a != leases.Revoking || b != leases.Expired {
				t.Errorf("the first try's are %s and %s", a, b)
			}
			if held, err := f.FindToken(t.Context(), first.Token.Hash); err != nil || !held.TokenRevoked {
				t.Errorf("its session token still works: %v", err)
			}
			if err := f.Reserve(t.Context(), second); err != nil {
				t.Fatalf("after that: %v", err)
			}
			if err := f.Activate(t.Context(), &leases.Activation{Now: f.Now(), Actor: "job", Leases: []leases.Minted{{ID: first.Leases[0].ID}}}); !errors.Is(err, leases.ErrNotActive) {
				t.Errorf("the first try goes on: %v", err)
			}
			if err := f.Undo(t.Context(), first, leases.Why{Actor: "daypassd", Reason: "overtaken"}); err != nil {
				t.Fatal(err)
			}
			if got := f.state(t, second.Leases[0].ID); got != leases.Issuing {
				t.Errorf("the end of the first try made the second %s", got)
			}
			third := f.try(job, "other key", "body", began.Add(2*time.Second), "deploy-db")
			third.Once = once
			if err := f.Reserve(t.Context(), third); (err == nil) == once {
				t.Errorf("a second exchange of the token: %v", err)
			}
		})
	}
}

func TestRetryLife(t *testing.T) {
	f := newFixture(t)
	job := f.job()
	first := f.try(job, "k", "body", f.Now().Add(-leases.RetryLife), "deploy-db")
	if err := f.Reserve(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	late := f.try(job, "k", "another body", f.Now(), "deploy-db")
	if err := f.Reserve(t.Context(), late); err != nil {
		t.Fatalf("after two minutes it is a new request: %v", err)
	}
	if got := f.state(t, first.Leases[0].ID); got != leases.Issuing {
		t.Errorf("the one before is %s", got)
	}
	if err := f.Reserve(t.Context(), f.try(job, "k", "another body", f.Now().Add(leases.RetryLife-time.Second), "deploy-db")); !errors.Is(err, leases.ErrRetry) {
		t.Errorf("and has two minutes of its own: %v", err)
	}
	joined := f.try(job, "k2", "body", f.Now(), "deploy-db")
	if err := f.Reserve(t.Context(), joined); err != nil {
		t.Errorf("another key: %v", err)
	}
}

// TestRetriesRace: however many tries of one exchange come at once through two
// brokers, the credentials of one stay alive.
func TestRetriesRace(t *testing.T) {
	f := newFixture(t)
	stores := []*leases.Store{f.Store, f.join(t)}
	job := f.job()
	began := f.Now()
	var running sync.WaitGroup
	var mu sync.Mutex
	live := map[string]bool{}
	for i := range 16 {
		running.Go(func() {
			store := stores[i%2]
			r := f.try(job, "k", "body", began.Add(time.Duration(i)*time.Millisecond), "deploy-db")
			r.Leases[0].MaxActive = 1
			for range 20 {
				err := store.Reserve(t.Context(), r)
				if errors.Is(err, leases.ErrRetry) {
					if _, err := store.Supersede(t.Context(), r); err != nil {
						t.Error(err)
					}
					continue
				}
				if err != nil {
					if !errors.Is(err, leases.ErrOvertaken) {
						t.Error(err)
					}
					return
				}
				err = store.Activate(t.Context(), activation(f, r))
				if err != nil && !errors.Is(err, leases.ErrNotActive) {
					t.Error(err)
				}
				mu.Lock()
				live[r.Leases[0].ID] = err == nil
				mu.Unlock()
				return
			}
			t.Error("a try never came to its end")
		})
	}
	running.Wait()
	if n := f.count(t, `SELECT count(*) FROM leases WHERE state IN ('issuing', 'active')`); n != 1 {
		t.Errorf("%d leases are alive, of %v", n, live)
	}
	if n := f.count(t, `SELECT count(*) FROM leases l JOIN session_tokens t ON t.hash = l.session_token WHERE state = 'active' AND t.created_at >= $1`, began.Add(15*time.Millisecond)); n != 1 {
		t.Error("the one that lives is not the last")
	}
}

func (f *fixture) limited(whose, job string, grants ...string) *leases.Reservation {
	r := f.reservation(f.job(), grants...)
	r.Whose, r.JobKey = key(whose), key(job)
	return r
}

func TestLimitsAreExactUnderConcurrency(t *testing.T) {
	for name, c := range map[string]struct {
		limit  string
		change func(r *leases.Reservation)
		other  func(f *fixture) *leases.Reservation // not counted with them
	}{
		"per job of a grant": {
			leases.LimitGrantPerJob, func(r *leases.Reservation) { r.Leases[0].MaxActivePerJob = 5 },
			func(f *fixture) *leases.Reservation { return f.limited("acme", "another job", "deploy-db", "read-db") },
		},
		"per job": {
			leases.LimitJob, func(r *leases.Reservation) { r.MaxPerJob = 10 },
			func(f *fixture) *leases.Reservation { return f.limited("acme", "another job", "deploy-db", "read-db") },
		},
		"per tenant": {
			leases.LimitTenant, func(r *leases.Reservation) { r.MaxPerTenant = 10 },
			func(f *fixture) *leases.Reservation { return f.limited("another", "job", "deploy-db", "read-db") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			stores := []*leases.Store{f.Store, f.join(t)}
			const exchanges, fit = 40, 5
			var taken []*leases.Reservation
			var mu sync.Mutex
			var running sync.WaitGroup
			for i := range exchanges {
				running.Go(func() {
					r := f.limited("acme", "job", "deploy-db", "read-db")
					c.change(r)
					err := stores[i%2].Reserve(t.Context(), r)
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						taken = append(taken, r)
					} else if tooMany, ok := errors.AsType[*leases.TooManyError](err); !ok || tooMany.Limit != c.limit {
						t.Error(err)
					}
				})
			}
			running.Wait()
			if live := f.count(t, `SELECT count(*) FROM leases`); len(taken) != fit || live != 2*fit {
				t.Fatalf("%d taken, %d leases; want %d and %d", len(taken), live, fit, 2*fit)
			}
			other := c.other(f)
			c.change(other)
			if err := f.Reserve(t.Context(), other); err != nil {
				t.Errorf("somebody else: %v", err)
			}
			// What is being revoked doesn't count, however long that takes.
			ended, err := f.BeginRevoke(t.Context(), []string{taken[0].Leases[0].ID, taken[0].Leases[1].ID}, leases.Why{Actor: "a", Reason: "b"})
			if err != nil {
				t.Fatal(err)
			}
			if err := f.Postpone(t.Context(), ended[0], f.Now().Add(time.Hour), "blocked", true); err != nil {
				t.Fatal(err)
			}
			for i, want := range []bool{true, false} {
				r := f.limited("acme", "job", "deploy-db", "read-db")
				c.change(r)
				if err := f.Reserve(t.Context(), r); (err == nil) != want {
					t.Errorf("exchange %d after a revocation began: %v", i+1, err)
				}
			}
		})
	}
}

// TestLimitOfALargeTenant: far from its limit it isn't counted each time, and yet
// it doesn't pass it.
func TestLimitOfALargeTenant(t *testing.T) {
	f := newFixture(t)
	const limit = 1200
	var grants []string
	for range 16 {
		grants = append(grants, rand.Text())
	}
	reserve := func() error {
		r := f.limited("acme", rand.Text(), grants...)
		r.MaxPerTenant = limit
		return f.Reserve(t.Context(), r)
	}
	taken := 0
	for {
		err := reserve()
		if tooMany, ok := errors.AsType[*leases.TooManyError](err); ok && tooMany.Limit == leases.LimitTenant {
			break
		}
		if taken++; err != nil || taken > limit {
			t.Fatal(taken, err)
		}
	}
	if taken != limit/len(grants) {
		t.Errorf("%d leases, the limit is %d", taken*len(grants), limit)
	}
	if _, ok := errors.AsType[*leases.TooManyError](reserve()); !ok {
		t.Error("and one more")
	}
}
