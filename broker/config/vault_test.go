package config

import (
	"reflect"
	"strings"
	"testing"
)

const vaultMinimal = `vault:
  mounts:
    - path: jwt
      default_role: deploy
      roles: {deploy: {grants: [payments/deploy-db]}}
  paths:
    database/creds/deploy: payments/deploy-db
`

func TestVault(t *testing.T) {
	c, mistakes := parse(t, minimal+vaultMinimal)
	if len(mistakes) > 0 || len(c.Warnings) > 0 || len(c.Vault.Mounts) != 1 || !reflect.DeepEqual(c.Vault.Mounts[0].Roles["deploy"].Grants, []string{"payments/deploy-db"}) ||
		c.Vault.Paths["database/creds/deploy"] != "payments/deploy-db" {
		t.Fatalf("%v %v %+v", mistakes, c.Warnings, c.Vault)
	}
	if c, mistakes := parse(t, minimal); len(mistakes) > 0 || len(c.Vault.Mounts) > 0 {
		t.Errorf("without it: %v %+v", mistakes, c.Vault)
	}
	for name, tc := range map[string]struct{ old, with, want string }{
		"a mount with a slash":    {"path: jwt", "path: /jwt", `"/jwt" can't be the path of a mount`},
		"a mount called token":    {"path: jwt", "path: token", "a mount can't be at token"},
		"a mount below auth":      {"path: jwt", "path: auth/jwt", "a mount can't be at auth/jwt"},
		"an unknown default role": {"default_role: deploy", "default_role: deploi", "did you mean deploy?"},
		"no roles":                {"{deploy: {grants: [payments/deploy-db]}}", "{}", "mount jwt has no"},
		"no grants":               {"[payments/deploy-db]", "[]", "role deploy has no grants"},
		"a role's name":           {"{deploy: {grants", "{deploy: {grants: [payments/deploy-db]}, \"a/b\": {grants", `"a/b" can't be the name of a role`},
		"no grant":                {"[payments/deploy-db]", "[payments/deploy-db, deploy]", `"deploy" is no grant`},
		"a grant twice":           {"[payments/deploy-db]", "[payments/deploy-db, payments/deploy-db]", "stands twice"},
		"two mounts":              {"  paths:", "    - {path: jwt, roles: {r: {grants: [payments/deploy-db]}}}\n  paths:", "there are two mounts jwt"},
		"a path of sys":           {"database/creds/deploy:", "sys/health:", "no secret can be at sys/health"},
		"a path of auth":          {"database/creds/deploy:", "auth/jwt/login:", "no secret can be at auth/jwt/login"},
		"a short path":            {"database/creds/deploy:", "database:", `"database" can't be the path of a secret`},
		"a path with dots":        {"database/creds/deploy:", "database/../deploy:", "can't be the path of a secret"},
		"a path with an end":      {"database/creds/deploy:", "database/creds/deploy/:", "can't be the path of a secret"},
		"an escaped path":         {"database/creds/deploy:", "database%2fcreds/deploy:", "can't be the path of a secret"},
		"a path to no grant":      {": payments/deploy-db\n", ": deploy\n", `database/creds/deploy: "deploy" is no grant`},
		"an unknown key":          {"  paths:", "  namespace: x\n  paths:", "unknown key"},
	} {
		if !strings.Contains(vaultMinimal, tc.old) {
			t.Fatalf("%s: %q isn't there", name, tc.old)
		}
		_, mistakes := parse(t, minimal+strings.Replace(vaultMinimal, tc.old, tc.with, 1))
		if len(mistakes) == 0 || !strings.Contains(mistakes[0].String(), tc.want) {
			t.Errorf("%s: %v, want %q", name, mistakes, tc.want)
		}
	}
	for _, text := range []string{"vault: {}\n", "vault: {mounts: []}\n", "vault: {mounts: [{path: jwt, roles: {r: {grants: [a/b]}}}]}\n"} {
		if _, mistakes := parse(t, minimal+text); len(mistakes) == 0 {
			t.Errorf("%s is taken", text)
		}
	}
	for text, want := range map[string]string{
		strings.Replace(vaultMinimal, "[payments/deploy-db]", "[payments/deploy-db, payments/other]", 1):       "no path stands for the grant payments/other",
		strings.Replace(vaultMinimal, "  paths:\n", "  paths:\n    database/creds/other: payments/other\n", 1): "no role has the grant payments/other",
		vaultMinimal + "providers_are_once": "can log in once",
	} {
		whole := minimal + text
		if rest, ok := strings.CutSuffix(whole, "providers_are_once"); ok {
			whole = strings.Replace(rest, "audience: https://ci.example.com}", "audience: https://ci.example.com, replay: once}", 1)
		}
		if c, mistakes := parse(t, whole); len(mistakes) > 0 || len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0].String(), want) {
			t.Errorf("%v %v, want %q", mistakes, c.Warnings, want)
		}
	}
}
