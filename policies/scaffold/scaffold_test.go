package scaffold_test

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/daypass/daypass/policies/catalogue"
	"github.com/daypass/daypass/policies/document"
	"github.com/daypass/daypass/policies/scaffold"
)

func options(provider string) scaffold.Options {
	return scaffold.Options{
		Provider: provider, Repository: "acme/Pay.ments", RepositoryID: "1", OwnerID: "2",
		Owner: "payments-team@example.com", Environment: "production", Grant: "deploy-db", Issuer: "payments-db", Role: "deployer",
	}
}

// For every type of provider a policy comes out that loads, with tests that pass.
func TestEveryType(t *testing.T) {
	for _, typ := range catalogue.Types() {
		o := options(typ)
		o.Claims = map[string]any{}
		p, _ := catalogue.Lookup(typ)
		for i, path := range scaffold.Tenants(p) {
			if i >= 2 {
				o.Claims[path] = "3"
			}
		}
		if len(p.Tenant) == 0 {
			if _, err := o.Policy(t.Context()); err == nil || !strings.Contains(err.Error(), "at least one claim") {
				t.Errorf("%s: %v", typ, err)
			}
			o.Claims["sub"] = "https://ci.example.com/job/pay"
		}
		text, err := o.Policy(t.Context())
		if err != nil {
			t.Errorf("%s: %v", typ, err)
			continue
		}
		f, mistakes := document.Read("p.yaml", text)
		if len(mistakes) > 0 || f.Policy.Name != "pay-ments" || len(f.Policy.Tests) < 2 || len(f.Policy.Tests[0].Allow) != 1 {
			t.Errorf("%s: %v\n%s", typ, mistakes, text)
		}
		for path := range f.Policy.Jobs[0].Claims {
			if !p.Knows(path) {
				t.Errorf("%s: no claim %s", typ, path)
			}
		}
	}
}

func TestGitHub(t *testing.T) {
	o := options("github")
	text, err := o.Policy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const want = `policy: pay-ments
owner: payments-team@example.com
description: Jobs of acme/Pay.ments
environment: production

jobs:
  - name: release
    provider: github
    claims: # every line must hold
      repository_id: "1" # acme/Pay.ments, whatever it is called later
      repository_owner_id: "2"
      event_name: push
      ref: refs/heads/main
      runner_environment: github-hosted

grants:
  - name: deploy-db
    issuer: payments-db
    role: deployer
    ttl: 15m

tests: # run whenever the policy is loaded
`
	if !strings.HasPrefix(string(text), want) {
		t.Errorf("%s", text)
	}
}

func TestRefuses(t *testing.T) {
	for _, tc := range []struct {
		what   string
		change func(o *scaffold.Options)
		want   string
	}{
		{"an unknown type", func(o *scaffold.Options) { o.Provider = "forge" }, "no type of provider"},
		{"no id", func(o *scaffold.Options) { o.OwnerID = "" }, "gh api repos/acme/Pay.ments --jq '.id, .owner.id'"},
		{"a misspelt claim", func(o *scaffold.Options) { o.Claims = map[string]any{"enviroment": "x"} }, "did you mean environment?"},
		{"a bad name", func(o *scaffold.Options) { o.Grant = "Deploy DB" }, "would not load"},
	} {
		o := options("github")
		tc.change(&o)
		if text, err := o.Policy(t.Context()); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v\n%s", tc.what, err, text)
		}
	}
}

func TestFromToken(t *testing.T) {
	var o scaffold.Options
	if err := o.FromToken(catalogue.Samples()["github/push"].Claims); err != nil {
		t.Fatal(err)
	}
	if o.Provider != "github" || o.Repository != "octo-org/octo-repo" || o.Claims["repository_id"] != "74" || o.Claims["repository_owner_id"] != "65" || o.Claims["event_name"] != "push" {
		t.Errorf("%+v", o)
	}
	if open := o.Missing(); len(open) != 4 { // grant, issuer, environment, owner
		t.Errorf("%+v", open)
	}
	var other scaffold.Options
	if err := other.FromToken(map[string]any{"iss": "https://ci.example.com"}); err == nil {
		t.Error("a stranger's token is taken")
	}
}

func TestAsk(t *testing.T) {
	var (
		o   scaffold.Options
		out strings.Builder
	)
	in := strings.NewReader("gitlab\nacme/payments\n20\n72\ndeploy-db\npayments-db\nproduction\nteam@example.com\n\n")
	if err := o.Ask(in, &out); err != nil {
		t.Fatal(err)
	}
	if o.RepositoryID != "20" || o.OwnerID != "72" || o.Role != "" || !strings.Contains(out.String(), "glab api projects/acme%2Fpayments") {
		t.Errorf("%+v after\n%s", o, out.String())
	}
	if _, err := o.Policy(t.Context()); err != nil {
		t.Error(err)
	}
	var cut scaffold.Options
	if err := cut.Ask(strings.NewReader("github\n"), io.Discard); !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), "--repository") {
		t.Errorf("%v", err)
	}
}
