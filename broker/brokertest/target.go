package brokertest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/issuertest"
)

// IssueTimeout is how long an issue on a Target can still take effect after its
// deadline.
const IssueTimeout = 200 * time.Millisecond

// Hooks decide what a target does. Each may wait, panic, or end the call with
// its error; nil ones do nothing. The broker's own tries of a target don't see
// them, but for Down and Panic.
type Hooks struct {
	Issue   func(ctx context.Context, req *issuers.IssueRequest) error  // before the user is made
	Issued  func(ctx context.Context, req *issuers.IssueRequest) error  // after it: an answer that is lost
	Revoke  func(ctx context.Context, req *issuers.RevokeRequest) error // before it is removed
	Revoked func(ctx context.Context, req *issuers.RevokeRequest) error // after it
	Renew   func(ctx context.Context, req *issuers.RenewRequest) error
	// List may answer in the target's place; nil for both: the target does.
	List func(ctx context.Context, req *issuers.ListRequest) (*issuers.ListResponse, error)
	// Down refuses every call, the broker's own tries included.
	Down bool
	// Panic is what an issuer with a mistake in it does with every call.
	Panic bool
	// Values replaces what a user's credential is made of.
	Values func(lease issuers.Lease) []issuers.Value
}

// Target is a database server of which nothing is true but the contract: users
// in memory, each under its lease's id, refused after their deadline and after
// they were taken back. Its credentials look like those of kind postgres.
type Target struct {
	*issuertest.Fake

	secrets *secrets
	mu      sync.Mutex
	hooks   Hooks
}

func newTarget(s *secrets) *Target {
	t := &Target{secrets: s}
	t.Fake = &issuertest.Fake{
		Description: issuers.Description{
			Kind: "postgres", Revocation: issuers.Immediate, DefaultTTL: 10 * time.Minute, IssueTimeout: IssueTimeout,
			Env:    map[string]string{"username": "PGUSER", "password": "PGPASSWORD"},
			Values: map[string]bool{"username": false, "password": true, "url": true},
		},
		OnIssue: func(ctx context.Context, req *issuers.IssueRequest) error {
			return call(ctx, t, req.Lease, req, t.now().Issue)
		},
		AfterIssue: func(ctx context.Context, req *issuers.IssueRequest) error {
			return call(ctx, t, req.Lease, req, t.now().Issued)
		},
		OnRevoke: func(ctx context.Context, req *issuers.RevokeRequest) error {
			return call(ctx, t, req.Lease, req, t.now().Revoke)
		},
		OnRenew: func(ctx context.Context, req *issuers.RenewRequest) error {
			return call(ctx, t, req.Lease, req, t.now().Renew)
		},
		OnList: func(ctx context.Context, req *issuers.ListRequest) (*issuers.ListResponse, error) {
			if err := call(ctx, t, issuers.Lease{}, req, nil); err != nil {
				return nil, err
			}
			if list := t.now().List; list != nil {
				return list(ctx, req)
			}
			return nil, nil //nolint:nilnil // the target answers
		},
	}
	return t
}

// Set replaces the hooks, for all calls from here on.
func (t *Target) Set(hooks Hooks) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hooks = hooks
}

func (t *Target) now() Hooks {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.hooks
}

func call[R any](ctx context.Context, t *Target, lease issuers.Lease, req R, hook func(context.Context, R) error) error {
	if t.now().Panic {
		panic("a mistake in an issuer")
	}
	if t.now().Down {
		return fmt.Errorf("%w: nobody is at home", issuers.ErrUnavailable)
	}
	if hook == nil || lease.Policy == broker.SystemSession {
		return nil
	}
	return hook(ctx, req)
}

// Describe implements issuers.Issuer.
func (t *Target) Describe(role string) issuers.Description {
	about := t.Fake.Describe(role)
	if values := t.now().Values; values != nil {
		about.Values = map[string]bool{}
		for _, v := range values(issuers.Lease{}) {
			about.Values[v.Name] = v.Sensitive
		}
	}
	return about
}

// Issue implements issuers.Issuer.
func (t *Target) Issue(ctx context.Context, req *issuers.IssueRequest) (*issuers.IssueResponse, error) {
	response, err := t.Fake.Issue(ctx, req)
	if err != nil {
		return nil, err
	}
	password := issuers.Generate(issuers.Password)
	response.Values = []issuers.Value{
		{Name: "username", Value: issuers.NewSecret("dp_" + req.Lease.ID)},
		{Name: "password", Value: password, Sensitive: true, RandomBits: issuers.GeneratedBits},
		{Name: "url", Value: issuers.NewSecret("postgres://dp_" + req.Lease.ID + ":" + password.Reveal() + "@db.example/payments"), Sensitive: true, RandomBits: issuers.GeneratedBits},
	}
	if values := t.now().Values; values != nil {
		response.Values = values(req.Lease)
	}
	for _, v := range response.Values {
		if v.Sensitive {
			t.secrets.add(v.Value.Reveal())
		}
	}
	return response, nil
}

// Revoke implements issuers.Issuer.
func (t *Target) Revoke(ctx context.Context, req *issuers.RevokeRequest) (*issuers.RevokeResponse, error) {
	response, err := t.Fake.Revoke(ctx, req)
	if err != nil {
		return nil, err
	}
	if err := call(ctx, t, req.Lease, req, t.now().Revoked); err != nil {
		return nil, err
	}
	return response, nil
}

// Seen returns the calls of a method for the leases of jobs.
func (t *Target) Seen(method string) []issuertest.Call {
	var seen []issuertest.Call
	for _, c := range t.Calls() {
		if c.Method == method && c.Lease.Policy != broker.SystemSession {
			seen = append(seen, c)
		}
	}
	return seen
}
