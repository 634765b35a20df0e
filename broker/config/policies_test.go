package config_test

import (
	"os"
	"strings"
	"testing"

	"github.com/daypass/daypass/broker/config"
	"github.com/daypass/daypass/policies"
)

func TestParseForPoliciesNeedsNoSecrets(t *testing.T) {
	example, err := os.ReadFile("../../daypass.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	short := `
issuers:
  - name: payments-db
    type: postgres
    target: {host: db, database: payments}
    admin: {user: daypass, password: "${NOT_SET_HERE}"}
    roles: {deployer: {member_of: [deploy], used_by: [{policy: payments, environment: production}]}}
providers: [{name: github, type: github, issuer: https://token.actions.githubusercontent.com, audience: https://ci.example.com}]
`
	for name, text := range map[string]string{"the example": string(example), "a short one": short} {
		c, mistakes := config.ParseForPolicies("daypass.yaml", []byte(text))
		if len(mistakes) > 0 {
			t.Errorf("%s: %v", name, mistakes)
		}
		if p := c.PolicyProviders()["github"]; p.Type != "github" || p.Issuer != "https://token.actions.githubusercontent.com" {
			t.Errorf("%s: provider %+v", name, p)
		}
		use := policies.GrantUse{Issuer: "payments-db", Role: "deployer", Policy: "payments", Environment: "production"}
		if err := c.CheckGrant(use); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		use.Environment = "staging"
		if err := c.CheckGrant(use); err == nil {
			t.Errorf("%s: used_by isn't asked", name)
		}
		if len(c.Environments) != 4 {
			t.Errorf("%s: environments %v", name, c.Environments)
		}
	}
}

func TestParseForPoliciesRefuses(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"isuers: []\n", "unknown key isuers"},
		{"providers: [{name: a, type: githup, issuer: https://a.example.com, audience: a}]\n", `unknown type of provider "githup"`},
		{"environments: [Prod]\n", "can't be the name of an environment"},
		{"issuers: [{name: a, type: jwt, used_by: [{policy: p, environment: moon}]}]\n", `unknown environment "moon"`},
		{"providers: [", ""},
	} {
		_, mistakes := config.ParseForPolicies("daypass.yaml", []byte(tc.text))
		if len(mistakes) != 1 || !strings.Contains(mistakes[0].Text, tc.want) {
			t.Errorf("%q: %v", tc.text, mistakes)
		}
	}
}
