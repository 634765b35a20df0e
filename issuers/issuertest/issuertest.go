// Package issuertest is the suite that every kind of issuer passes, and a fake
// issuer that fails on demand, for tests of what uses one.
package issuertest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/daypass/daypass/issuers"
)

// Options tell Exercise what to ask for. Zero values fit an issuer without roles and parameters.
type Options struct {
	// Installation is what the issuers were opened with. Empty: "testtesttest".
	Installation string
	// Role is the role of all leases.
	Role string
	// Parameters are what a grant of that role would say.
	Parameters json.RawMessage
	// CSR is what the job sends with each request.
	CSR string
	// PublicKey is too.
	PublicKey string
	// Works, where set, proves that a credential works or doesn't: it is asked
	// with true after an issue, and with false after a revocation of a kind that
	// takes back at once.
	Works func(t *testing.T, values map[string]string, want bool)
	// Static says that all leases of the role get the same values.
	Static bool
	// Now is the issuers' clock. Nil: the system's.
	Now func() time.Time
}

// prompt is how long a call with a cancelled context may take.
const prompt = 5 * time.Second

// Exercise runs the suite. open is called for each part and returns an issuer on
// the same target; one that is an io.Closer is closed at the end.
func Exercise(t *testing.T, open func(t *testing.T) issuers.Issuer, options Options) {
	t.Helper()
	if options.Installation == "" {
		options.Installation = "testtesttest"
	}
	if options.Now == nil {
		options.Now = time.Now //nolint:forbidigo // the default of an argument
	}
	s := &suite{Options: options}
	parts := []struct {
		name string
		run  func(*testing.T, issuers.Issuer)
	}{
		{"description", s.description},
		{"values", s.values},
		{"parameters are strict", s.parameters},
		{"a lease is issued once", s.once},
		{"revoking is idempotent and works by id alone", s.revoking},
		{"revoking before issuing", s.fence},
		{"late", s.late},
		{"cancelled", s.cancelled},
		{"at once", s.atOnce},
		{"renewing", s.renewing},
		{"listing", s.listing},
	}
	for _, part := range parts {
		t.Run(part.name, func(t *testing.T) {
			issuer := open(t)
			if closer, ok := issuer.(io.Closer); ok {
				t.Cleanup(func() {
					if err := closer.Close(); err != nil {
						t.Errorf("closing: %v", err)
					}
				})
			}
			part.run(t, issuer)
		})
	}
}

type suite struct{ Options }

// NewLease makes up a lease that can be issued for a minute and lives for ten.
func NewLease(installation, role string, now time.Time) issuers.Lease {
	return issuers.Lease{
		Installation: installation, Tenant: "main", ID: "lse_" + ulid.MustNew(ulid.Timestamp(now), rand.Reader).String(),
		Policy: "payments", Grant: "deploy", Role: role,
		IssuedAt: now, ExpiresAt: now.Add(10 * time.Minute), IssueDeadline: now.Add(time.Minute),
	}
}

func (s *suite) lease() issuers.Lease { return NewLease(s.Installation, s.Role, s.Now()) }

func (s *suite) issue(t *testing.T, issuer issuers.Issuer, lease issuers.Lease) *issuers.IssueResponse {
	t.Helper()
	res, err := issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: lease, Parameters: s.Parameters, CSR: s.CSR, PublicKey: s.PublicKey})
	if err != nil {
		t.Fatalf("issuing: %v", err)
	}
	if res == nil || len(res.Values) == 0 {
		t.Fatal("issuing gave no values")
	}
	return res
}

func (s *suite) revoke(t *testing.T, issuer issuers.Issuer, lease issuers.Lease, handle []byte) *issuers.RevokeResponse {
	t.Helper()
	res, err := issuer.Revoke(t.Context(), &issuers.RevokeRequest{Lease: lease, Handle: handle})
	if err != nil {
		t.Fatalf("revoking: %v", err)
	}
	if res == nil {
		t.Fatal("revoking gave neither an answer nor an error")
	}
	return res
}

func (s *suite) works(t *testing.T, res *issuers.IssueResponse, want bool) {
	t.Helper()
	if s.Works != nil {
		s.Works(t, reveal(res), want)
	}
}

func reveal(res *issuers.IssueResponse) map[string]string {
	values := make(map[string]string, len(res.Values))
	for _, v := range res.Values {
		values[v.Name] = v.Value.Reveal()
	}
	return values
}

func (s *suite) description(t *testing.T, issuer issuers.Issuer) {
	d := issuer.Describe(s.Role)
	if d.Kind == "" || d.DefaultTTL <= 0 {
		t.Errorf("kind %q and default ttl %s: both are needed", d.Kind, d.DefaultTTL)
	}
	switch d.Revocation {
	case issuers.Immediate, issuers.Introspection, issuers.Expiry:
	default:
		t.Errorf("revocation %q", d.Revocation)
	}
	if !d.SideEffectFree && d.IssueTimeout <= 0 {
		t.Error("an issue that changes something outside needs an IssueTimeout")
	}
	names := map[string]bool{}
	res := s.issue(t, issuer, s.lease())
	for _, v := range res.Values {
		names[v.Name] = true
		if sensitive, known := d.Values[v.Name]; !known || sensitive != v.Sensitive {
			t.Errorf("value %s is sensitive: %v, its description says %v (known: %v)", v.Name, v.Sensitive, sensitive, known)
		}
	}
	if len(names) != len(d.Values) {
		t.Errorf("the description has %d values, Issue gives %d", len(d.Values), len(names))
	}
	seen := map[string]string{}
	for value, name := range d.Env {
		if err := issuers.CheckEnvName(name); err != nil {
			t.Error(err)
		}
		if !names[value] {
			t.Errorf("env names value %q, which Issue doesn't give", value)
		}
		if other := seen[name]; other != "" {
			t.Errorf("values %s and %s both go to %s", other, value, name)
		}
		seen[name] = value
	}
}

func (s *suite) values(t *testing.T, issuer issuers.Issuer) {
	first, second := s.issue(t, issuer, s.lease()), s.issue(t, issuer, s.lease())
	s.works(t, first, true)
	s.works(t, second, true)
	values, other := reveal(first), reveal(second)
	sensitive := 0
	for _, v := range first.Values {
		if v.Name == "" || strings.ToLower(v.Name) != v.Name {
			t.Errorf("value name %q: lower case is needed", v.Name)
		}
		if v.Value.IsZero() {
			t.Errorf("value %s is empty", v.Name)
		}
		if !v.Sensitive {
			if v.RandomBits != 0 {
				t.Errorf("value %s has random bits and isn't sensitive", v.Name)
			}
			continue
		}
		sensitive++
		if (values[v.Name] == other[v.Name]) != s.Static {
			t.Errorf("two leases share the %s: %t, want %t", v.Name, !s.Static, s.Static)
		}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
			if strings.Contains(fmt.Sprintf(verb, first), v.Value.Reveal()) {
				t.Errorf("%s shows the %s", verb, v.Name)
			}
		}
	}
	if len(values) != len(first.Values) {
		t.Error("two values share a name")
	}
	if sensitive == 0 && s.CSR == "" && s.PublicKey == "" { // who sends one keeps the secret
		t.Error("no value is sensitive")
	}
}

func (s *suite) parameters(t *testing.T, issuer issuers.Issuer) {
	checker, ok := issuer.(issuers.ParameterChecker)
	if !ok {
		t.Skip("this kind has no parameters")
	}
	if err := checker.CheckParameters(s.Role, s.Parameters); err != nil {
		t.Errorf("its own parameters were refused: %v", err)
	}
	if err := checker.CheckParameters("no-such-role-anywhere", s.Parameters); err == nil {
		t.Error("a role that doesn't exist was accepted")
	}
	object := map[string]json.RawMessage{}
	if len(s.Parameters) > 0 {
		if err := json.Unmarshal(s.Parameters, &object); err != nil {
			t.Fatal(err)
		}
	}
	object["no_such_parameter"] = json.RawMessage(`"x"`)
	unknown, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range []string{string(unknown), `[]`, `"x"`, `{`, `{} {}`} {
		if err := checker.CheckParameters(s.Role, json.RawMessage(raw)); err == nil {
			t.Errorf("parameters %s were accepted", raw)
		}
		if _, err := issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: s.lease(), Parameters: json.RawMessage(raw), CSR: s.CSR, PublicKey: s.PublicKey}); !errors.Is(err, issuers.ErrRejected) {
			t.Errorf("issuing with parameters %s: %v, want ErrRejected", raw, err)
		}
	}
}

func (s *suite) once(t *testing.T, issuer issuers.Issuer) {
	if issuer.Describe(s.Role).SideEffectFree {
		t.Skip("an issue without a side effect may be repeated")
	}
	lease := s.lease()
	res := s.issue(t, issuer, lease)
	_, err := issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: lease, Parameters: s.Parameters, CSR: s.CSR, PublicKey: s.PublicKey})
	if !errors.Is(err, issuers.ErrRejected) && !errors.Is(err, issuers.ErrLate) {
		t.Errorf("issued again: %v, want ErrRejected", err)
	}
	s.silent(t, res, err)
	s.works(t, res, true) // the refusal took nothing away
	s.revoke(t, issuer, lease, res.Handle)
}

func (s *suite) revoking(t *testing.T, issuer issuers.Issuer) {
	lease := s.lease()
	res := s.issue(t, issuer, lease)
	for n := range 3 {
		// The first knows nothing but the lease's id, as after a lost answer.
		var handle []byte
		if n > 0 {
			handle = res.Handle
		}
		answer := s.revoke(t, issuer, issuers.Lease{Installation: lease.Installation, Tenant: lease.Tenant, ID: lease.ID, Role: lease.Role}, handle)
		if n == 0 && !answer.Found {
			t.Error("nothing was found of what had just been issued")
		}
		if issuer.Describe(s.Role).Revocation == issuers.Immediate {
			s.works(t, res, false)
		}
	}
	if issuer.Describe(s.Role).SideEffectFree {
		return
	}
	if _, err := issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: lease, Parameters: s.Parameters, CSR: s.CSR, PublicKey: s.PublicKey}); !errors.Is(err, issuers.ErrLate) {
		t.Errorf("issued after its revocation: %v, want ErrLate", err)
	}
}

func (s *suite) fence(t *testing.T, issuer issuers.Issuer) {
	if issuer.Describe(s.Role).SideEffectFree {
		t.Skip("an issue without a side effect leaves nothing to land late")
	}
	lease := s.lease()
	for range 2 {
		if s.revoke(t, issuer, lease, nil).Found {
			t.Error("something was found of what was never issued")
		}
	}
	if _, err := issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: lease, Parameters: s.Parameters, CSR: s.CSR, PublicKey: s.PublicKey}); !errors.Is(err, issuers.ErrLate) {
		t.Errorf("issued behind its revocation: %v, want ErrLate", err)
	}
}

func (s *suite) late(t *testing.T, issuer issuers.Issuer) {
	if issuer.Describe(s.Role).SideEffectFree {
		t.Skip("an issue without a side effect can't land late")
	}
	lease := s.lease()
	lease.IssueDeadline = s.Now().Add(-time.Second)
	if _, err := issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: lease, Parameters: s.Parameters, CSR: s.CSR, PublicKey: s.PublicKey}); !errors.Is(err, issuers.ErrLate) {
		t.Errorf("issued after its deadline: %v, want ErrLate", err)
	}
	if s.revoke(t, issuer, lease, nil).Found {
		t.Error("a late issue left something behind")
	}
}

func (s *suite) cancelled(t *testing.T, issuer issuers.Issuer) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	lease := s.lease()
	begin := time.Now() //nolint:forbidigo // how long a call takes is the wall clock's to say
	if _, err := issuer.Issue(ctx, &issuers.IssueRequest{Lease: lease, Parameters: s.Parameters, CSR: s.CSR, PublicKey: s.PublicKey}); !errors.Is(err, issuers.ErrUnavailable) {
		t.Errorf("issuing with a cancelled context: %v, want ErrUnavailable", err)
	}
	if !issuer.Describe(s.Role).SideEffectFree {
		if _, err := issuer.Revoke(ctx, &issuers.RevokeRequest{Lease: lease}); !errors.Is(err, issuers.ErrUnavailable) {
			t.Errorf("revoking with a cancelled context: %v, want ErrUnavailable", err)
		}
	}
	if took := time.Since(begin); took > prompt {
		t.Errorf("a cancelled context was heeded after %s", took)
	}
	s.revoke(t, issuer, lease, nil) // whatever landed
}

const concurrent = 8

func (s *suite) atOnce(t *testing.T, issuer issuers.Issuer) {
	var (
		wg      sync.WaitGroup
		leases  [concurrent]issuers.Lease
		answers [concurrent]*issuers.IssueResponse
		errs    [concurrent]error
	)
	for n := range concurrent {
		leases[n] = s.lease()
		wg.Go(func() {
			answers[n], errs[n] = issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: leases[n], Parameters: s.Parameters, CSR: s.CSR, PublicKey: s.PublicKey})
		})
	}
	wg.Wait()
	for n, err := range errs {
		if err != nil {
			t.Errorf("issuing at once: %v", err)
			continue
		}
		s.works(t, answers[n], true)
	}
	for n := range concurrent {
		wg.Go(func() { _, errs[n] = issuer.Revoke(t.Context(), &issuers.RevokeRequest{Lease: leases[n]}) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			t.Errorf("revoking at once: %v", err)
		}
	}
}

func (s *suite) renewing(t *testing.T, issuer issuers.Issuer) {
	renewer, ok := issuer.(issuers.Renewer)
	if !ok {
		t.Skip("this kind is not renewed")
	}
	lease := s.lease()
	res := s.issue(t, issuer, lease)
	req := &issuers.RenewRequest{Lease: lease, Handle: res.Handle, ExpiresAt: lease.ExpiresAt.Add(time.Hour)}
	if err := renewer.Renew(t.Context(), req); err != nil {
		t.Errorf("renewing: %v", err)
	}
	s.works(t, res, true)
	s.revoke(t, issuer, lease, res.Handle)
	// One that keeps nothing can't know: there the lease's state decides.
	if err := renewer.Renew(t.Context(), req); err == nil && !issuer.Describe(s.Role).SideEffectFree {
		t.Error("what was revoked was renewed")
	}
	if issuer.Describe(s.Role).Revocation == issuers.Immediate {
		s.works(t, res, false)
	}
}

func (s *suite) listing(t *testing.T, issuer issuers.Issuer) {
	lister, ok := issuer.(issuers.Lister)
	if !ok {
		t.Skip("this kind can't list")
	}
	first, second := s.lease(), s.lease()
	s.issue(t, issuer, first)
	s.issue(t, issuer, second)
	for _, size := range []int{1, 2, 1000} {
		found := s.list(t, lister, size)
		for _, lease := range []issuers.Lease{first, second} {
			e, listed := found[lease.ID]
			if !listed || e.Name == "" {
				t.Errorf("by pages of %d, lease %s is listed: %t, as %q", size, lease.ID, listed, e.Name)
			}
		}
	}
	s.revoke(t, issuer, first, nil)
	s.revoke(t, issuer, s.lease(), nil) // of which there never was anything
	found := s.list(t, lister, 1)
	if _, listed := found[first.ID]; listed {
		t.Error("what was revoked is listed")
	}
	if _, listed := found[second.ID]; !listed {
		t.Error("a revocation took another lease from the list")
	}
	other := []byte(s.Installation)
	other[0] ^= 1
	res, err := lister.List(t.Context(), &issuers.ListRequest{Installation: string(other), Limit: 1000})
	if err == nil && len(res.Found) != 0 {
		t.Errorf("another installation is told %+v", res.Found)
	}
	s.revoke(t, issuer, second, nil)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lister.List(ctx, &issuers.ListRequest{Installation: s.Installation, Limit: 1}); !errors.Is(err, issuers.ErrUnavailable) {
		t.Errorf("listing with a cancelled context: %v, want ErrUnavailable", err)
	}
}

// list reads all pages, by lease.
func (s *suite) list(t *testing.T, lister issuers.Lister, size int) map[string]issuers.Existing {
	t.Helper()
	const enough = 10_000 // pages
	found := map[string]issuers.Existing{}
	req := &issuers.ListRequest{Installation: s.Installation, Limit: size}
	for range enough {
		res, err := lister.List(t.Context(), req)
		if err != nil {
			t.Fatalf("listing: %v", err)
		}
		if len(res.Found) > size {
			t.Fatalf("a page of %d has %d", size, len(res.Found))
		}
		for _, e := range res.Found {
			if e.Installation != s.Installation {
				t.Errorf("%s of installation %q is listed", e.Name, e.Installation)
			}
			if _, twice := found[e.LeaseID]; twice {
				t.Errorf("lease %q is listed twice", e.LeaseID)
			}
			found[e.LeaseID] = e
		}
		if res.Next == "" {
			return found
		}
		req.After = res.Next
	}
	t.Fatal("the list has no end")
	return nil
}

// silent fails when an error says something secret.
func (s *suite) silent(t *testing.T, res *issuers.IssueResponse, err error) {
	t.Helper()
	text := fmt.Sprintf("%v %+v %#v", err, err, err)
	for _, v := range res.Values {
		if v.Sensitive && strings.Contains(text, v.Value.Reveal()) {
			t.Errorf("an error shows the %s", v.Name)
		}
	}
}
