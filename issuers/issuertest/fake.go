package issuertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/daypass/daypass/issuers"
)

// FakeKind is the kind that a Fake says it is.
const FakeKind = "fake"

// Fake is an issuer whose target is a map. It keeps the contract, the fence
// included, and fails when a hook says so. The zero value works; set its fields
// before the first call. It implements [issuers.Issuer], [issuers.Renewer],
// [issuers.ParameterChecker] and [issuers.Lister].
type Fake struct {
	// OnIssue, OnRevoke and OnRenew are called before the call does its work, and
	// may wait: on a channel, or for ctx. An error ends the call with it.
	OnIssue  func(ctx context.Context, req *issuers.IssueRequest) error
	OnRevoke func(ctx context.Context, req *issuers.RevokeRequest) error
	OnRenew  func(ctx context.Context, req *issuers.RenewRequest) error
	// OnList is too. What it returns stands for the answer, unless it returns nothing.
	OnList func(ctx context.Context, req *issuers.ListRequest) (*issuers.ListResponse, error)
	// AfterIssue is called when the credential stands. An error is then returned
	// in place of the answer: an answer that was lost.
	AfterIssue func(ctx context.Context, req *issuers.IssueRequest) error
	// OnCheck is asked by CheckParameters. Nil: every role but
	// "no-such-role-anywhere" exists, and there are no parameters.
	OnCheck func(role string, parameters json.RawMessage) error
	// Description is what Describe returns. Zero: an immediate revocation, 1 hour,
	// an IssueTimeout of 1 second, token → FAKE_TOKEN.
	Description issuers.Description
	// Now is the target's clock. Nil: the system's.
	Now func() time.Time

	mu    sync.Mutex
	live  map[string]issuers.Lease
	ended map[string]bool // true: it had been issued
	calls []Call
}

// Call is one call that a Fake saw.
type Call struct {
	Method string // Issue, Revoke or Renew
	Lease  issuers.Lease
	Handle []byte
	Err    error
}

// Calls returns what was called so far, in the order in which the calls ended.
func (f *Fake) Calls() []Call {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// Live returns the leases whose credentials stand, by id.
func (f *Fake) Live() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	ids := make([]string, 0, len(f.live))
	for id := range f.live {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// Describe implements [issuers.Issuer].
func (f *Fake) Describe(string) issuers.Description {
	if f.Description.Kind != "" {
		return f.Description
	}
	return issuers.Description{
		Kind: FakeKind, Revocation: issuers.Immediate, DefaultTTL: time.Hour, IssueTimeout: time.Second,
		Env: map[string]string{"token": "FAKE_TOKEN"}, Values: map[string]bool{"token": true},
	}
}

// CheckParameters implements [issuers.ParameterChecker].
func (f *Fake) CheckParameters(role string, parameters json.RawMessage) error {
	if f.OnCheck != nil {
		return f.OnCheck(role, parameters)
	}
	if role == "no-such-role-anywhere" {
		return fmt.Errorf("there is no role %q", role)
	}
	if s := string(parameters); s != "" && s != "{}" && s != "null" {
		return errors.New("a fake has no parameters")
	}
	return nil
}

// Issue implements [issuers.Issuer].
func (f *Fake) Issue(ctx context.Context, req *issuers.IssueRequest) (*issuers.IssueResponse, error) {
	res, err := f.issue(ctx, req)
	f.record(Call{Method: "Issue", Lease: req.Lease, Err: err})
	if err != nil {
		return nil, err
	}
	return res, nil
}

func (f *Fake) issue(ctx context.Context, req *issuers.IssueRequest) (*issuers.IssueResponse, error) {
	if err := f.CheckParameters(req.Lease.Role, req.Parameters); err != nil {
		return nil, fmt.Errorf("%w: %w", issuers.ErrRejected, err)
	}
	if f.OnIssue != nil {
		if err := f.OnIssue(ctx, req); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", issuers.ErrUnavailable, err)
	}
	if err := f.create(req.Lease); err != nil {
		return nil, err
	}
	if f.AfterIssue != nil {
		if err := f.AfterIssue(ctx, req); err != nil {
			return nil, err
		}
	}
	return &issuers.IssueResponse{
		Values: []issuers.Value{{Name: "token", Value: issuers.Generate(issuers.APIToken), Sensitive: true, RandomBits: issuers.GeneratedBits}},
		Handle: []byte("handle of " + req.Lease.ID),
	}, nil
}

func (f *Fake) create(lease issuers.Lease) error {
	now := time.Now //nolint:forbidigo // the default of an argument
	if f.Now != nil {
		now = f.Now
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !now().Before(lease.IssueDeadline) {
		return fmt.Errorf("%w: the deadline has passed", issuers.ErrLate)
	}
	if _, revoked := f.ended[lease.ID]; revoked {
		return fmt.Errorf("%w: revoked before", issuers.ErrLate)
	}
	if _, exists := f.live[lease.ID]; exists {
		return fmt.Errorf("%w: issued before", issuers.ErrRejected)
	}
	if f.live == nil {
		f.live = map[string]issuers.Lease{}
	}
	f.live[lease.ID] = lease
	return nil
}

// Revoke implements [issuers.Issuer].
func (f *Fake) Revoke(ctx context.Context, req *issuers.RevokeRequest) (*issuers.RevokeResponse, error) {
	found, err := f.revoke(ctx, req)
	f.record(Call{Method: "Revoke", Lease: req.Lease, Handle: req.Handle, Err: err})
	if err != nil {
		return nil, err
	}
	return &issuers.RevokeResponse{Found: found}, nil
}

func (f *Fake) revoke(ctx context.Context, req *issuers.RevokeRequest) (bool, error) {
	if f.OnRevoke != nil {
		if err := f.OnRevoke(ctx, req); err != nil {
			return false, err
		}
	}
	if err := ctx.Err(); err != nil {
		return false, fmt.Errorf("%w: %w", issuers.ErrUnavailable, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	_, live := f.live[req.Lease.ID]
	delete(f.live, req.Lease.ID)
	if f.ended == nil {
		f.ended = map[string]bool{}
	}
	f.ended[req.Lease.ID] = f.ended[req.Lease.ID] || live
	return f.ended[req.Lease.ID], nil
}

// Renew implements [issuers.Renewer].
func (f *Fake) Renew(ctx context.Context, req *issuers.RenewRequest) error {
	err := f.renew(ctx, req)
	f.record(Call{Method: "Renew", Lease: req.Lease, Handle: req.Handle, Err: err})
	return err
}

func (f *Fake) renew(ctx context.Context, req *issuers.RenewRequest) error {
	if f.OnRenew != nil {
		if err := f.OnRenew(ctx, req); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	lease, ok := f.live[req.Lease.ID]
	if !ok {
		return fmt.Errorf("%w: there is nothing to renew", issuers.ErrLate)
	}
	lease.ExpiresAt = req.ExpiresAt
	f.live[req.Lease.ID] = lease
	return nil
}

// List implements [issuers.Lister]. Pages go by the lease's id.
func (f *Fake) List(ctx context.Context, req *issuers.ListRequest) (*issuers.ListResponse, error) {
	if f.OnList != nil {
		if res, err := f.OnList(ctx, req); res != nil || err != nil {
			return res, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", issuers.ErrUnavailable, err)
	}
	res := &issuers.ListResponse{}
	for _, id := range f.Live() {
		f.mu.Lock()
		lease, stands := f.live[id]
		f.mu.Unlock()
		if id <= req.After || !stands || lease.Installation != req.Installation {
			continue
		}
		if len(res.Found) == req.Limit {
			res.Next = res.Found[req.Limit-1].LeaseID
			break
		}
		res.Found = append(res.Found, issuers.Existing{Installation: lease.Installation, LeaseID: id, Name: FakeKind + "-" + id, CreatedAt: lease.IssuedAt})
	}
	return res, nil
}

// Plant makes a credential behind the broker's back: an orphan, unless it has a lease.
func (f *Fake) Plant(lease issuers.Lease) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.live == nil {
		f.live = map[string]issuers.Lease{}
	}
	f.live[lease.ID] = lease
	delete(f.ended, lease.ID)
}

// Drop takes a credential away behind the broker's back.
func (f *Fake) Drop(leaseID string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.live, leaseID)
}

func (f *Fake) record(c Call) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, c)
}
