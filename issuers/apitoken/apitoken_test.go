package apitoken_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/apitoken"
	"github.com/daypass/daypass/issuers/issuertest"
)

const audience = "https://deploy.example.com"

func open(t *testing.T, role apitoken.Role) *apitoken.Issuer {
	t.Helper()
	issuer, err := apitoken.New(t.Context(), apitoken.Config{Roles: map[string]apitoken.Role{"ci": role}})
	if err != nil {
		t.Fatal(err)
	}
	return issuer
}

func TestConformance(t *testing.T) {
	t.Parallel()
	issuertest.Exercise(t, func(t *testing.T) issuers.Issuer { return open(t, apitoken.Role{Audiences: []string{audience}}) }, issuertest.Options{Role: "ci"})
}

func TestDescription(t *testing.T) {
	t.Parallel()
	issuer := open(t, apitoken.Role{Audiences: []string{audience}, Scopes: []string{"deploy:read", "deploy:write"}})
	about := issuer.Describe("ci")
	if about.Kind != "apitoken" || about.Revocation != issuers.Introspection || !about.SideEffectFree || !about.Inside || about.DefaultTTL != 15*time.Minute ||
		about.Env["token"] != "DAYPASS_API_TOKEN" {
		t.Errorf("%+v", about)
	}
	access, ok := issuer.Access("ci")
	if !ok || !slices.Equal(access.Audiences, []string{audience}) || !slices.Equal(access.Scopes, []string{"deploy:read", "deploy:write"}) {
		t.Errorf("%+v, %t", access, ok)
	}
	access.Scopes[0] = "admin" // of a caller's copy
	if again, _ := issuer.Access("ci"); again.Scopes[0] != "deploy:read" {
		t.Error("a caller changed the role")
	}
	if about.BoundOnly || !about.Bindable || access.BoundOnly {
		t.Errorf("bound to keys only: %+v, %+v", about, access)
	}
	bound := open(t, apitoken.Role{Audiences: []string{audience}, BoundOnly: true})
	if access, _ := bound.Access("ci"); !access.BoundOnly || !bound.Describe("ci").BoundOnly {
		t.Errorf("a role whose tokens are bound doesn't say so: %+v", access)
	}
	if _, ok := issuer.Access("none"); ok {
		t.Error("a role that doesn't exist gives access")
	}
	short := open(t, apitoken.Role{Audiences: []string{audience}, DefaultTTL: time.Minute, Env: map[string]string{"token": "DEPLOY_TOKEN"}}).Describe("ci")
	if short.DefaultTTL != time.Minute || short.Env["token"] != "DEPLOY_TOKEN" {
		t.Errorf("%+v", short)
	}
}

// TestToken: it has the broker's own shape, and a policy can add nothing to it.
func TestToken(t *testing.T) {
	t.Parallel()
	issuer := open(t, apitoken.Role{Audiences: []string{audience}})
	lease := issuertest.NewLease("testtesttest", "ci", time.Now())
	made, err := issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: lease})
	if err != nil {
		t.Fatal(err)
	}
	if kind, ok := issuers.IsGenerated(made.Values[0].Value.Reveal()); !ok || kind != issuers.APIToken || made.Values[0].RandomBits < 128 {
		t.Errorf("%q of %t, with %d bits", kind, ok, made.Values[0].RandomBits)
	}
	_, err = issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: lease, Parameters: json.RawMessage(`{"scopes":["admin"]}`)})
	if !errors.Is(err, issuers.ErrRejected) {
		t.Errorf("with scopes of a policy: %v", err)
	}
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	good := []string{audience}
	for want, roles := range map[string]map[string]apitoken.Role{
		"no roles":              nil,
		"no audiences":          {"ci": {}},
		"without blanks":        {"ci": {Audiences: []string{"a b"}}},
		"1 to 1024 bytes":       {"ci": {Audiences: []string{strings.Repeat("a", 1025)}}},
		"audience \"a\" stands": {"ci": {Audiences: []string{"a", "a"}}},
		"32 and 64 are":         {"ci": {Audiences: good, Scopes: make([]string, 65)}},
		"quotes and":            {"ci": {Audiences: good, Scopes: []string{`a"b`}}},
		"without blanks, ":      {"ci": {Audiences: good, Scopes: []string{"a b"}}},
		"printable ASCII":       {"ci": {Audiences: good, Scopes: []string{"ä"}}},
		"scope \"x\" stands":    {"ci": {Audiences: good, Scopes: []string{"x", "x"}}},
		"name grants":           {"ci": {Audiences: good, Scopes: []string{"daypass:payments/deploy"}}},
		"there is no value":     {"ci": {Audiences: good, Env: map[string]string{"password": "A"}}},
		"a loader, shell":       {"ci": {Audiences: good, Env: map[string]string{"token": "PATH"}}},
	} {
		if _, err := apitoken.New(t.Context(), apitoken.Config{Roles: roles}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", roles, err, want)
		}
	}
}
