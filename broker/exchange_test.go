package broker_test

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/issuers"
)

func wantCode(t *testing.T, a *brokertest.Answer, status int, code api.Code) {
	t.Helper()
	if a.Status != status || a.Problem.Code != code {
		t.Fatalf("answered %d %s, want %d %s\n%s", a.Status, a.Problem.Code, status, code, a.Body)
	}
}

// settled waits until nothing of what was begun is left: no user on a target,
// and no lease that hasn't ended.
func settled(t *testing.T, b *brokertest.Broker) {
	t.Helper()
	brokertest.Poll(t, "nothing is left on the targets", func() bool { return len(b.DB.Live())+len(b.Other.Live()) == 0 })
	brokertest.Poll(t, "every lease has ended", func() bool {
		return b.Count(`SELECT count(*) FROM leases WHERE state NOT IN ('revoked', 'expired')`) == 0
	})
}

// TestReservedBeforeIssued fails when the two are swapped: a crash in between
// would then leave a credential that nobody knows of.
func TestReservedBeforeIssued(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	var found atomic.Int32
	b.DB.Set(brokertest.Hooks{Issue: func(ctx context.Context, req *issuers.IssueRequest) error {
		var state string
		var events int
		err := b.Base.Pool.QueryRow(ctx, `
SELECT l.state, (SELECT count(*) FROM audit_events e WHERE e.subject = l.id AND e.type = 'lease.reserved')
FROM leases l JOIN sessions s ON s.id = l.session_id WHERE l.id = $1 AND l.expires_at = $2 AND l.issue_deadline = $3`,
			req.Lease.ID, req.Lease.ExpiresAt, req.Lease.IssueDeadline).Scan(&state, &events)
		if err != nil || state != "issuing" || events != 1 {
			return fmt.Errorf("the lease is not on record: %q, %d events: %w", state, events, err)
		}
		found.Add(1)
		return nil
	}})
	b.Exchange(b.Job(), "payments/deploy-db", "payments/read-db")
	if found.Load() != 2 {
		t.Errorf("looked %d times", found.Load())
	}
}

// TestSideEffectFreeTakesOneCommit: what is only signed is on record, active and
// issued, when the answer comes, by one transaction.
func TestSideEffectFreeTakesOneCommit(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	c := b.Exchange(b.Job(), "payments/sign").Credentials[0]
	if n := b.Count(`SELECT count(DISTINCT xmin::text::bigint) FROM (SELECT xmin FROM leases WHERE id = $1 UNION ALL SELECT xmin FROM audit_events WHERE subject = $1
UNION ALL SELECT xmin FROM session_tokens UNION ALL SELECT xmin FROM sessions UNION ALL SELECT xmin FROM fingerprints WHERE lease_id = $1) AS all_of_it`, c.LeaseID); n != 1 {
		t.Errorf("%d transactions", n)
	}
	if n := b.Count(`SELECT count(*) FROM leases WHERE id = $1 AND state = 'active' AND events = 1`, c.LeaseID); n != 1 {
		t.Error("the lease doesn't begin as active")
	}
}

// TestLostAnswers: the user was made, and then the issuer did what issuers do.
// The lease's id alone is enough to take it back.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(context.Context, *issuers.IssueRequest) error{
		"an error": func(context.Context, *issuers.IssueRequest) error {
			return fmt.Errorf("%w: reset", issuers.ErrUnavailable)
		},
		"a panic": func(context.Context, *issuers.IssueRequest) error { panic("dpp_" + strings.Repeat("x", 33)) },
		"a hang": func(ctx context.Context, _ *issuers.IssueRequest) error {
			<-ctx.Done()
			return ctx.Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := brokertest.New(t, brokertest.Options{IssueTime: time.Second})
			b.DB.Set(brokertest.Hooks{Issued: lose})
			token := b.Job()
			a := b.TryExchange(token, "payments/deploy-db")
			wantCode(t, a, 502, api.CodeIssuerFailed)
			if a.Problem.Grant != "payments/deploy-db" || strings.Contains(string(a.Body)+b.Log.String(), "dpp_xxx") {
				t.Errorf("%s", a.Body)
			}
			settled(t, b)
			revocations := b.DB.Seen("Revoke")
			if len(revocations) == 0 || revocations[0].Handle != nil {
				t.Errorf("taken back with %v", revocations)
			}
			b.DB.Set(brokertest.Hooks{})
			b.Exchange(token, "payments/deploy-db") // the token may be sent again
		})
	}
}

func TestTargetThatFails(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{IssueTime: 300 * time.Millisecond})
	token := b.Job()
	for name, fail := range map[string]func(context.Context, *issuers.IssueRequest) error{
		"refuses": func(context.Context, *issuers.IssueRequest) error {
			return fmt.Errorf("%w: no such role", issuers.ErrRejected)
		},
		"hangs before it makes anything": func(ctx context.Context, _ *issuers.IssueRequest) error {
			<-ctx.Done()
			return ctx.Err()
		},
		"answers too late": func(ctx context.Context, req *issuers.IssueRequest) error {
			<-ctx.Done() // and goes on all the same, as a target does that was asked already
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			b.DB.Set(brokertest.Hooks{Issue: fail})
			began := time.Now()
			wantCode(t, b.TryExchange(token, "payments/deploy-db"), 502, api.CodeIssuerFailed)
			if took := time.Since(began); took > 4*time.Second {
				t.Errorf("it took %s", took)
			}
			settled(t, b)
		})
	}
	b.DB.Set(brokertest.Hooks{})
	b.Exchange(token, "payments/sign")
}

// TestAllOrNothing: the second of three grants fails.
func TestAllOrNothing(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	b.Other.Set(brokertest.Hooks{Issue: func(context.Context, *issuers.IssueRequest) error { return issuers.ErrUnavailable }})
	a := b.TryExchange(b.Job(), "payments/deploy-db", "payments/other-db", "payments/sign")
	wantCode(t, a, 502, api.CodeIssuerFailed)
	if a.Problem.Grant != "payments/other-db" {
		t.Errorf("the answer names %q: %s", a.Problem.Grant, a.Body)
	}
	brokertest.Poll(t, "the first is taken back", func() bool { return len(b.DB.Seen("Revoke")) > 0 && len(b.DB.Live()) == 0 })
	if n := b.Count(`SELECT count(*) FROM leases WHERE state = 'active' OR handle IS NOT NULL`); n != 0 {
		t.Errorf("%d leases are alive", n)
	}
	if n := b.Count(`SELECT count(*) FROM audit_events WHERE type = 'lease.issued'`); n != 0 {
		t.Errorf("%d credentials were issued, says the log", n)
	}
	// Not found on a target is an answer only once nothing can be made there.
	if n := b.Count(`SELECT count(*) FROM leases WHERE issuer = 'other' AND state = 'revoking'`); n != 1 {
		t.Errorf("%d leases wait for the target that failed", n)
	}
}

// TestPanicWhileItIsUndone: what was made can neither be put on record nor handed
// to the revoker, and one of the issuers panics when it is to take it back. The job
// hears of the database, and the other issuer is asked all the same.
func TestPanicWhileItIsUndone(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	b.DB.Set(brokertest.Hooks{Revoke: func(context.Context, *issuers.RevokeRequest) error { panic("a mistake in an issuer") }})
	b.Other.Set(brokertest.Hooks{Issued: func(context.Context, *issuers.IssueRequest) error {
		b.CloseDatabase()
		return nil
	}})
	wantCode(t, b.TryExchange(b.Job(), "payments/deploy-db", "payments/other-db"), 503, api.CodeUnavailable)
	if len(b.DB.Live()) != 1 || len(b.Other.Live()) != 0 {
		t.Errorf("%d and %d users are there, want the one whose issuer panicked", len(b.DB.Live()), len(b.Other.Live()))
	}
	b.DB.Set(brokertest.Hooks{})
	b.OpenDatabase()
	settled(t, b) // the revoker comes to it
}

// TestRevokedWhileItWasIssued: somebody ended the lease before it was activated.
func TestRevokedWhileItWasIssued(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	operator := b.Admin(admin.Operator)
	b.DB.Set(brokertest.Hooks{Issued: func(_ context.Context, req *issuers.IssueRequest) error {
		if a := b.Do(http.MethodPost, api.PathLeases+"/"+req.Lease.ID+"/revoke", operator, `{"reason":"a leak"}`); a.Status != 200 {
			return errors.New("revoking: " + strconv.Itoa(a.Status))
		}
		return nil
	}})
	a := b.TryExchange(b.Job(), "payments/deploy-db")
	if a.Status < 500 || strings.Contains(string(a.Body), "dpp_") {
		t.Errorf("a credential that was revoked is handed out: %d %s", a.Status, a.Body)
	}
	settled(t, b)
}

func TestMaxActive(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	first := b.Exchange(b.Job(), "payments/limited")
	for range 2 {
		a := b.TryExchange(b.Job(), "payments/read-db", "payments/limited")
		wantCode(t, a, 429, api.CodeTooManyLeases)
		if seconds, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || seconds < 1 || a.Problem.Grant != "payments/limited" {
			t.Errorf("Retry-After %q, grant %q", a.Header.Get("Retry-After"), a.Problem.Grant)
		}
	}
	if live := b.DB.Live(); len(live) != 1 {
		t.Errorf("%d users", len(live))
	}
	b.Do(http.MethodPost, api.PathSessionRevoke, first.Session.Token, nil)
	b.Exchange(b.Job(), "payments/limited")
}

// TestDatabaseGoesAway at every step of an exchange: the answer is 503, and
// nothing is alive once the database is back.
func TestDatabaseGoesAway(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"before_reserve", "after_reserve", "issued", "before_activate"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			var b *brokertest.Broker
			var once sync.Once
			away := func() { once.Do(b.CloseDatabase) }
			b = brokertest.New(t, brokertest.Options{IssueTime: 2 * time.Second, Checkpoint: func(at string) {
				if at == step {
					away()
				}
			}})
			if step == "issued" {
				b.DB.Set(brokertest.Hooks{Issued: func(context.Context, *issuers.IssueRequest) error {
					away()
					return nil
				}})
			}
			token := b.Job()
			a := b.TryExchange(token, "payments/deploy-db", "payments/read-db")
			wantCode(t, a, 503, api.CodeUnavailable)
			if a.Header.Get("Retry-After") == "" || strings.Contains(string(a.Body), "dpp_") {
				t.Errorf("%v\n%s", a.Header, a.Body)
			}
			for range 2 { // others are told the same
				a := b.TryExchange(b.Job(), "payments/sign")
				wantCode(t, a, 503, api.CodeUnavailable)
			}
			if a := b.Do(http.MethodGet, api.PathReady, "", nil); a.Status != 503 {
				t.Errorf("ready without a database: %d %s", a.Status, a.Body)
			}
			if a := b.Do(http.MethodGet, api.PathLive, "", nil); a.Status != 200 {
				t.Errorf("not alive without a database: %d", a.Status)
			}
			b.OpenDatabase()
			settled(t, b)
			brokertest.Poll(t, "the same token is served", func() bool { return b.TryExchange(token, "payments/deploy-db").Status == 200 })
		})
	}
}

// TestDatabaseAwayForAdmins: who asks about leases is told to come again.
func TestDatabaseAwayForAdmins(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	viewer, session := b.Admin(admin.Viewer), b.Exchange(b.Job(), "payments/sign").Session.Token
	b.CloseDatabase()
	for path, token := range map[string]string{api.PathLeases: viewer, api.PathAudit: viewer, api.PathSession: session} {
		a := b.Do(http.MethodGet, path, token, nil)
		wantCode(t, a, 503, api.CodeUnavailable)
		if a.Header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", path)
		}
	}
	b.OpenDatabase()
}

// TestProviderAway: its keys can't be had, and no token is judged by chance.
func TestProviderAway(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	token := b.Job()
	if err := b.Provider.Close(); err != nil {
		t.Fatal(err)
	}
	a := b.TryExchange(token, "payments/sign")
	wantCode(t, a, 503, api.CodeUnavailable)
	if a.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}

// brittleSigner is a key in an HSM that goes away.
type brittleSigner struct {
	keys.Signer
	away *atomic.Bool
}

// SignContext implements keys.Signer.
func (s brittleSigner) SignContext(ctx context.Context, digest []byte, options crypto.SignerOpts) ([]byte, error) {
	if s.away.Load() {
		return nil, errors.New("CKR_DEVICE_REMOVED")
	}
	return s.Signer.SignContext(ctx, digest, options)
}

// TestSigningKeyAway: it is the broker that is broken, not a target, and only
// what has to be signed is refused.
func TestSigningKeyAway(t *testing.T) {
	t.Parallel()
	var away atomic.Bool
	b := brokertest.New(t, brokertest.Options{Signer: func(s keys.Signer) keys.Signer { return brittleSigner{s, &away} }})
	away.Store(true)
	token := b.Job()
	for range 2 {
		a := b.TryExchange(token, "payments/sign")
		wantCode(t, a, 503, api.CodeUnavailable)
		if a.Header.Get("Retry-After") == "" || strings.Contains(string(a.Body), "CKR_") {
			t.Errorf("%v\n%s", a.Header, a.Body)
		}
	}
	if n := b.Count(`SELECT count(*) FROM leases`); n != 0 {
		t.Errorf("%d leases of what was never signed", n)
	}
	a := b.TryExchange(token, "payments/deploy-db", "payments/sign")
	wantCode(t, a, 503, api.CodeUnavailable)
	brokertest.Poll(t, "what was made beside it is taken back", func() bool { return len(b.DB.Live()) == 0 && len(b.DB.Seen("Revoke")) > 0 })
	b.Exchange(token, "payments/deploy-db")
	away.Store(false)
	b.Exchange(token, "payments/sign")
}

// TestOnlyRandomValuesAreFingerprinted: the hash of a value that can be guessed
// would let a thief of the database try.
func TestOnlyRandomValuesAreFingerprinted(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	b.DB.Set(brokertest.Hooks{Values: func(lease issuers.Lease) []issuers.Value {
		return []issuers.Value{
			{Name: "username", Value: issuers.NewSecret("dp_" + lease.ID), RandomBits: 160}, // not sensitive
			{Name: "password", Value: issuers.Generate(issuers.Password), Sensitive: true, RandomBits: issuers.GeneratedBits},
			{Name: "pin", Value: issuers.NewSecret("pin-4711-4711"), Sensitive: true, RandomBits: 26},
			{Name: "almost", Value: issuers.NewSecret("127-random-bits"), Sensitive: true, RandomBits: 127},
		}
	}})
	out := b.Exchange(b.Job(), "payments/deploy-db")
	id := out.Credentials[0].LeaseID
	if n := b.Count(`SELECT count(*) FROM fingerprints WHERE lease_id = $1`, id); n != 1 {
		t.Errorf("%d values were fingerprinted, want 1", n)
	}
	if n := b.Count(`SELECT count(*) FROM fingerprints WHERE lease_id = $1 AND field = 'password' AND key_id <> '' AND scheme <> ''`, id); n != 1 {
		t.Error("the password was not, or its row doesn't name its key and scheme")
	}
}
