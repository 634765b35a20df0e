package sealed_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/issuertest"
	"github.com/daypass/daypass/issuers/sealed"
)

// vault is one in memory, which keeps the contract.
type vault struct {
	mu       sync.Mutex
	versions map[string]*sealed.Version // by secret; the pending one: behind "next "
	ended    map[string]bool            // by lease; false: it has read
	fails    error
}

func newVault() *vault {
	login := func(password string) *sealed.Version {
		return &sealed.Version{Number: 1, Values: map[string]sealed.Value{
			"username": {Secret: issuers.NewSecret("app-user"), RandomBits: 200}, "password": {Secret: issuers.NewSecret(password), RandomBits: 130},
		}}
	}
	return &vault{
		versions: map[string]*sealed.Version{"payments/login": login("current-password"), "next payments/login": login("pending-password")},
		ended:    map[string]bool{},
	}
}

// Read implements sealed.Vault.
func (v *vault) Read(ctx context.Context, lease issuers.Lease, wanted sealed.Wanted) (*sealed.Version, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.fails != nil {
		return nil, v.fails
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%w: %w", issuers.ErrUnavailable, ctx.Err())
	}
	name := wanted.Secret
	if wanted.Pending {
		name = "next " + name
	}
	ended, known := v.ended[lease.ID]
	version := v.versions[name]
	switch {
	case ended || time.Now().After(lease.IssueDeadline):
		return nil, issuers.ErrLate
	case known || version == nil:
		return nil, issuers.ErrRejected
	}
	v.ended[lease.ID] = false
	return version, nil
}

// End implements sealed.Vault.
func (v *vault) End(ctx context.Context, lease issuers.Lease) (bool, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if ctx.Err() != nil {
		return false, fmt.Errorf("%w: %w", issuers.ErrUnavailable, ctx.Err())
	}
	_, known := v.ended[lease.ID]
	if !known {
		v.ended[lease.ID+" fence"] = true
	}
	v.ended[lease.ID] = true
	return known && !v.ended[lease.ID+" fence"], nil
}

var loginFields = []string{"username", "password"}

func open(t *testing.T, v sealed.Vault) *sealed.Issuer {
	t.Helper()
	issuer, err := sealed.New(t.Context(), sealed.Config{Vault: v, Roles: map[string]sealed.Role{
		"login": {Secret: "payments/login", Fields: loginFields, Visible: []string{"username"}, Env: map[string]string{"password": "LOGIN_PASSWORD"}},
		"next":  {Secret: "payments/login", Fields: []string{"password"}, Pending: true},
		"none":  {Secret: "payments/none"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return issuer
}

func TestConformance(t *testing.T) {
	t.Parallel()
	issuertest.Exercise(t, func(t *testing.T) issuers.Issuer { return open(t, newVault()) }, issuertest.Options{Role: "login", Static: true})
}

func TestIssue(t *testing.T) {
	t.Parallel()
	v := newVault()
	issuer := open(t, v)
	lease := func(role string) issuers.Lease { return issuertest.NewLease("testtesttest", role, time.Now()) }
	out, err := issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: lease("login")})
	if err != nil {
		t.Fatal(err)
	}
	user, password := out.Values[0], out.Values[1]
	if user.Name != "username" || user.Sensitive || user.RandomBits != 0 || user.Value.Reveal() != "app-user" {
		t.Errorf("a visible field: %+v", user)
	}
	if password.Name != "password" || !password.Sensitive || password.RandomBits != 130 || password.Value.Reveal() != "current-password" {
		t.Errorf("a secret field: %+v, %d bits", password, password.RandomBits)
	}
	out, err = issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: lease("next")})
	if err != nil || len(out.Values) != 1 || out.Values[0].Value.Reveal() != "pending-password" {
		t.Errorf("the pending version: %v", err)
	}
	if _, err := issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: lease("none")}); !errors.Is(err, issuers.ErrRejected) || !strings.Contains(err.Error(), "payments/none") {
		t.Errorf("a secret that isn't there: %v", err)
	}
	about := issuer.Describe("login")
	if about.Kind != "sealed" || about.Revocation != issuers.Expiry || about.SideEffectFree || !about.Inside || about.DefaultTTL != 15*time.Minute {
		t.Errorf("%+v", about)
	}
	v.fails = issuers.ErrUnavailable
	if _, err := issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: lease("login")}); !errors.Is(err, issuers.ErrUnavailable) {
		t.Errorf("%v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	role := func(change func(*sealed.Role)) sealed.Config {
		r := sealed.Role{Secret: "payments/login", Fields: slices.Clone(loginFields)}
		change(&r)
		return sealed.Config{Vault: newVault(), Roles: map[string]sealed.Role{"r": r}}
	}
	many := make([]string, sealed.MaxFields+1)
	for i := range many {
		many[i] = fmt.Sprint("f", i)
	}
	for what, config := range map[string]sealed.Config{
		"no vault":             {Roles: map[string]sealed.Role{"r": {Secret: "a"}}},
		"no roles":             {Vault: newVault()},
		"no secret":            role(func(r *sealed.Role) { r.Secret = "" }),
		"a path":               role(func(r *sealed.Role) { r.Secret = "../a" }),
		"a field's name":       role(func(r *sealed.Role) { r.Fields[0] = "User" }),
		"a field twice":        role(func(r *sealed.Role) { r.Fields[0] = "password" }),
		"too many fields":      role(func(r *sealed.Role) { r.Fields = many }),
		"visible of nowhere":   role(func(r *sealed.Role) { r.Visible = []string{"x"} }),
		"all visible":          role(func(r *sealed.Role) { r.Visible = loginFields }),
		"env of nowhere":       role(func(r *sealed.Role) { r.Env = map[string]string{"x": "X"} }),
		"env of a loader":      role(func(r *sealed.Role) { r.Env = map[string]string{"password": "LD_PRELOAD"} }),
		"one variable for two": role(func(r *sealed.Role) { r.Env = map[string]string{"password": "X", "username": "X"} }),
	} {
		if _, err := sealed.New(t.Context(), config); err == nil {
			t.Errorf("%s is accepted", what)
		}
	}
	if _, err := sealed.New(t.Context(), role(func(*sealed.Role) {})); err != nil {
		t.Error(err)
	}
}

func FuzzCheckName(f *testing.F) {
	for _, s := range []string{"a", "a/b-c", "a//b", "-a", "a-", "A", "a:b", "..", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if sealed.CheckName(name) != nil {
			return
		}
		if len(name) > 128 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-/") != "" {
			t.Errorf("%q is a name", name)
		}
		for word := range strings.SplitSeq(name, "/") {
			if word == "" || strings.HasPrefix(word, "-") || strings.HasSuffix(word, "-") {
				t.Errorf("%q is a name", name)
			}
		}
	})
}
