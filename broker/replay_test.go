package broker_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/devkit"
	"github.com/daypass/daypass/broker/instance"
	"github.com/daypass/daypass/issuers"
)

// keyed sends an exchange with an Idempotency-Key, always the same.
func keyed(b *brokertest.Broker, token string, grants ...string) *brokertest.Answer {
	request := b.Request(http.MethodPost, api.PathExchange, token, map[string]any{"grants": grants})
	request.Header.Set(api.HeaderIdempotencyKey, "k")
	return b.Send(request)
}

func exchanged(t *testing.T, a *brokertest.Answer) *api.ExchangeResponse {
	t.Helper()
	out := &api.ExchangeResponse{}
	if a.Status != http.StatusOK {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	if err := a.Into(out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestReusedJTIIsRaised, a few times a minute, however many come.
func TestReusedJTIIsRaised(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	claims := map[string]any{"jti": "chosen-by-a-job"}
	b.Exchange(b.Token(devkit.ProfileGitHub, claims), "payments/sign")
	const more = 12
	for i := range more {
		claims["run_number"] = string(rune('a' + i))
		a := b.TryExchange(b.Token(devkit.ProfileGitHub, claims), "payments/sign")
		wantCode(t, a, 401, api.CodeInvalidToken)
		if a.Problem.Reason != api.ReasonReplayed {
			t.Errorf("%s", a.Body)
		}
	}
	b.Exchange(b.Token(devkit.ProfileGitHub, map[string]any{"jti": "another"}), "payments/sign")
	raised := b.Count(`SELECT count(*) FROM audit_events WHERE type = 'token.jti_reused'`)
	if raised == 0 || raised >= more {
		t.Errorf("%d events of %d tokens", raised, more)
	}
	if lines := b.Log.Lines("a job token came with the jti of another one and was refused"); len(lines) != raised {
		t.Errorf("%d lines in the log, %d events", len(lines), raised)
	}
	if a := b.Do("GET", "/metrics", "", nil); !strings.Contains(string(a.Body), `daypass_jti_reused_total{provider="github"} 12`) {
		t.Error("the metric doesn't count all of them")
	}
	if n := b.Count(`SELECT count(*) FROM sessions`); n != 2 {
		t.Errorf("%d sessions", n)
	}
}

// TestOnce: of many who come with one token to two brokers one gets something.
func TestOnce(t *testing.T) {
	t.Parallel()
	options := brokertest.Options{Once: map[string]bool{"github": true}}
	one := brokertest.New(t, options)
	options.Join = one
	two := brokertest.New(t, options)
	token := one.Job()
	var won atomic.Pointer[api.ExchangeResponse]
	var running sync.WaitGroup
	var wins atomic.Int32
	for i := range 16 {
		running.Go(func() {
			b, grant := []*brokertest.Broker{one, two}[i%2], []string{"payments/sign", "payments/deploy-db"}[i/2%2]
			switch a := b.TryExchange(token, grant); {
			case a.Status == http.StatusOK:
				wins.Add(1)
				out := &api.ExchangeResponse{}
				if err := a.Into(out); err != nil {
					t.Error(err)
				}
				won.Store(out)
			case a.Status == http.StatusServiceUnavailable && a.Problem.Code == api.CodeUnavailable: // another one is under way
			case a.Status != http.StatusUnauthorized || a.Problem.Reason != api.ReasonReplayed:
				t.Errorf("%d %s", a.Status, a.Body)
			}
		})
	}
	running.Wait()
	if wins.Load() != 1 {
		t.Fatalf("%d of them got something", wins.Load())
	}
	out := won.Load()
	two.Exchange(out.Session.Token, out.Credentials[0].Grant) // more comes by the session token
	// Another provider's tokens may come again.
	other := one.Token(devkit.ProfileGitLab, nil)
	for range 2 {
		wantCode(t, one.TryExchange(other, "payments/sign"), 403, api.CodeNotAllowed)
	}
}

// TestOnceIsNotUsedUpByAFailure: 5xx means that the token may be sent again.
func TestOnceIsNotUsedUpByAFailure(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{Once: map[string]bool{"github": true}})
	token := b.Job()
	b.DB.Set(brokertest.Hooks{Down: true})
	for range 2 {
		wantCode(t, b.TryExchange(token, "payments/deploy-db"), 502, api.CodeIssuerFailed)
	}
	b.DB.Set(brokertest.Hooks{})
	b.Exchange(token, "payments/deploy-db")
	wantCode(t, b.TryExchange(token, "payments/deploy-db"), 401, api.CodeInvalidToken)
}

// TestRetry: the answer was lost, and the client sends the same once more.
func TestRetry(t *testing.T) {
	t.Parallel()
	for name, once := range map[string]bool{"session": false, "once": true} {
		for _, grant := range []string{"payments/limited", "payments/sign"} {
			t.Run(name+" "+grant, func(t *testing.T) {
				t.Parallel()
				b := brokertest.New(t, brokertest.Options{Once: map[string]bool{"github": once}})
				token, viewer := b.Job(), b.Admin(admin.Viewer)
				first := exchanged(t, keyed(b, token, grant))
				// The revoker can't take the first one back: the answer doesn't wait for it.
				b.DB.Set(brokertest.Hooks{Revoke: func(context.Context, *issuers.RevokeRequest) error { return issuers.ErrUnavailable }})
				second := exchanged(t, keyed(b, token, grant))
				if a, c := first.Credentials[0].LeaseID, second.Credentials[0].LeaseID; a == c {
					t.Fatal("the same lease twice")
				}
				if l := b.Lease(viewer, first.Credentials[0].LeaseID); l.State != "revoking" && l.State != "expired" {
					t.Errorf("the first try's lease is %s", l.State)
				}
				if l := b.Lease(viewer, second.Credentials[0].LeaseID); l.State != "active" {
					t.Errorf("the second try's lease is %s", l.State)
				}
				wantCode(t, b.TryExchange(first.Session.Token, grant), 401, api.CodeInvalidToken)
				a := keyed(b, token, "payments/read-db")
				wantCode(t, a, 400, api.CodeInvalidRequest)
				if grant == "payments/limited" {
					wantCode(t, keyed(b, second.Session.Token, grant), 429, api.CodeTooManyLeases) // another token: no retry
				}
				// Format and notation are not what is asked for.
				request := b.Request(http.MethodPost, api.PathExchange+"?format=env&grant="+grant, token, nil)
				request.Header.Set(api.HeaderIdempotencyKey, "k")
				if a := b.Send(request); a.Status != http.StatusOK {
					t.Errorf("a third try: %d %s", a.Status, a.Body)
				}
				if n := b.Count(`SELECT count(*) FROM leases WHERE state IN ('issuing', 'active')`); n != 1 {
					t.Errorf("%d live leases", n)
				}
				b.DB.Set(brokertest.Hooks{})
			})
		}
	}
}

// TestRetryAfterItsTime is a new request.
func TestRetryAfterItsTime(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	token := b.Job()
	exchanged(t, keyed(b, token, "payments/deploy-db"))
	b.Exec(`UPDATE session_tokens SET created_at = created_at - interval '2 minutes'`)
	exchanged(t, keyed(b, token, "payments/sign"))
	if n := b.Count(`SELECT count(*) FROM leases WHERE state = 'active'`); n != 2 {
		t.Errorf("%d live leases", n)
	}
}

// TestRetryWhileTheFirstTryIsAtWork: the first one never answers with a
// credential that is being taken back.
func TestRetryWhileTheFirstTryIsAtWork(t *testing.T) {
	t.Parallel()
	for name, once := range map[string]bool{"session": false, "once": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one := brokertest.New(t, brokertest.Options{Once: map[string]bool{"github": once}})
			two := brokertest.New(t, brokertest.Options{Once: map[string]bool{"github": once}, Join: one})
			token := one.Job()
			atWork, goOn := make(chan struct{}), make(chan struct{})
			var first atomic.Bool
			one.DB.Set(brokertest.Hooks{Issued: func(context.Context, *issuers.IssueRequest) error {
				if first.CompareAndSwap(false, true) {
					close(atWork)
					<-goOn
				}
				return nil
			}})
			answer := make(chan *brokertest.Answer)
			go func() { answer <- keyed(one, token, "payments/limited") }()
			<-atWork
			out := exchanged(t, keyed(two, token, "payments/limited"))
			close(goOn)
			a := <-answer
			wantCode(t, a, 503, api.CodeUnavailable)
			if a.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			if l := one.Lease(one.Admin(admin.Viewer), out.Credentials[0].LeaseID); l.State != "active" {
				t.Errorf("the retry's lease is %s", l.State)
			}
			brokertest.Poll(t, "what the first try made is gone", func() bool { return len(one.DB.Live()) == 1 })
			two.StopWork()
		})
	}
}

// TestRetriesRace through two brokers: one set of credentials stays alive.
func TestRetriesRace(t *testing.T) {
	t.Parallel()
	for name, once := range map[string]bool{"session": false, "once": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const patient = 15 * time.Second // a dozen tries in each other's way, on a machine that may be slow
			one := brokertest.New(t, brokertest.Options{Once: map[string]bool{"github": once}, IssueTime: patient})
			two := brokertest.New(t, brokertest.Options{Once: map[string]bool{"github": once}, IssueTime: patient, Join: one})
			token := one.Job()
			var running sync.WaitGroup
			for i := range 12 {
				running.Go(func() {
					a := keyed([]*brokertest.Broker{one, two}[i%2], token, "payments/limited")
					if a.Status != http.StatusOK && a.Status != http.StatusServiceUnavailable {
						t.Errorf("%d %s", a.Status, a.Body)
					}
				})
			}
			running.Wait()
			exchanged(t, keyed(two, token, "payments/limited"))
			if n := one.Count(`SELECT count(*) FROM leases WHERE state IN ('issuing', 'active')`); n != 1 {
				t.Errorf("%d live leases", n)
			}
			brokertest.Poll(t, "one user is left", func() bool { return len(one.DB.Live()) == 1 })
			two.StopWork()
		})
	}
}

// TestCrashBetweenRetryAndIssue: the first try's are on their way out, and the
// next try finds nothing in its way.
func TestCrashBetweenRetryAndIssue(t *testing.T) {
	t.Parallel()
	var crash atomic.Bool
	b := brokertest.New(t, brokertest.Options{Once: map[string]bool{"github": true}, Checkpoint: func(step string) {
		if step == "after_supersede" && crash.Load() {
			panic(http.ErrAbortHandler)
		}
	}})
	token := b.Job()
	exchanged(t, keyed(b, token, "payments/limited"))
	crash.Store(true)
	wantCode(t, keyed(b, token, "payments/limited"), 500, api.CodeInternal)
	settled(t, b)
	crash.Store(false)
	exchanged(t, keyed(b, token, "payments/limited"))
}

// TestLimitsOfAJobAndATenant, by what their tokens say.
func TestLimitsOfAJobAndATenant(t *testing.T) {
	t.Parallel()
	job := func(b *brokertest.Broker, run string) string {
		return b.Token(devkit.ProfileGitHub, map[string]any{"run_id": run})
	}
	t.Run("leases", func(t *testing.T) {
		t.Parallel()
		one := brokertest.New(t, brokertest.Options{Limits: instance.Limits{Limits: broker.Limits{JobLeases: 2, TenantLeases: 3}}})
		two := brokertest.New(t, brokertest.Options{Join: one, Limits: instance.Limits{Limits: broker.Limits{JobLeases: 2, TenantLeases: 3}}})
		first := one.Exchange(job(one, "1"), "payments/sign")
		two.Exchange(job(two, "1"), "payments/deploy-db") // another token of the same job
		refused := func(a *brokertest.Answer, limit string) {
			t.Helper()
			wantCode(t, a, 429, api.CodeTooManyLeases)
			if !strings.Contains(a.Problem.Detail, limit) || a.Header.Get("Retry-After") == "" {
				t.Errorf("%s, Retry-After %q", a.Body, a.Header.Get("Retry-After"))
			}
		}
		refused(one.TryExchange(job(one, "1"), "payments/sign"), "job_leases")
		refused(one.TryExchange(first.Session.Token, "payments/sign"), "job_leases")
		one.Exchange(job(one, "2"), "payments/sign")
		refused(two.TryExchange(job(two, "3"), "payments/sign"), "tenant_leases")
		if a := two.Do("POST", api.PathSessionRevoke, first.Session.Token, nil); a.Status != 200 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		two.Exchange(job(two, "3"), "payments/sign")
		two.StopWork()
	})
	t.Run("requests", func(t *testing.T) {
		t.Parallel()
		b := brokertest.New(t, brokertest.Options{Limits: instance.Limits{Limits: broker.Limits{JobRequests: 2, TenantRequests: 4}}})
		refused := func(a *brokertest.Answer, limit string) {
			t.Helper()
			wantCode(t, a, 429, api.CodeRateLimited)
			if !strings.Contains(a.Problem.Detail, limit) || a.Header.Get("Retry-After") == "" {
				t.Errorf("%s, Retry-After %q", a.Body, a.Header.Get("Retry-After"))
			}
		}
		first := b.Exchange(job(b, "1"), "payments/sign")
		b.Exchange(first.Session.Token, "payments/sign")
		refused(b.TryExchange(job(b, "1"), "payments/sign"), "job_requests")
		b.Exchange(job(b, "2"), "payments/sign")
		wantCode(t, b.TryExchange(job(b, "3"), "payments/nothing"), 404, api.CodeNoSuchGrant) // it asked, all the same
		refused(b.TryExchange(job(b, "4"), "payments/sign"), "tenant_requests")
		other := b.Token(devkit.ProfileGitHub, map[string]any{"enterprise_id": "3"})
		b.Exchange(other, "payments/sign")
		if a := b.Do("POST", api.PathSessionRevoke, first.Session.Token, nil); a.Status != 200 { // giving back is always possible
			t.Errorf("%d %s", a.Status, a.Body)
		}
	})
}
