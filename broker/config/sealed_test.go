package config

import (
	"strings"
	"testing"
)

func TestSealed(t *testing.T) {
	issuer := func(role string) string {
		return minimal + "issuers: [{name: vault, type: sealed, roles: {key: {" + role + ", used_by: [{policy: payments, environment: production}]}}}]\n"
	}
	hooks := func(list string) string { return minimal + "secrets: {hooks: [" + list + "]}\n" }
	const hook = "{name: rotator, url: https://rotator.example.com/daypass}"
	for _, test := range []struct{ name, text, want string }{
		{"a secret", issuer("secret: payments/stripe-key"), ""},
		{"of two fields", issuer("secret: a, fields: [username, password], visible: [username], version: pending, env: {password: PGPASSWORD}"), ""},
		{"no roles", minimal + "issuers: [{name: vault, type: sealed}]\n", "an issuer of type sealed without roles"},
		{"no secret", issuer("fields: [a]"), "the key secret is missing or empty"},
		{"a path", issuer("secret: ../a"), "can't be the name of a secret"},
		{"a version", issuer("secret: a, version: pendin"), "did you mean pending?"},
		{"a field's name", issuer("secret: a, fields: [Pass]"), "can't be the name of a field"},
		{"a field twice", issuer("secret: a, fields: [b, b]"), "the field b stands twice"},
		{"visible of nowhere", issuer("secret: a, visible: [b]"), `there is no field "b"`},
		{"all visible", issuer("secret: a, visible: [value]"), "all fields are visible"},
		{"env of nowhere", issuer("secret: a, env: {password: X}"), `there is no value "password"`},
		{"env of a loader", issuer("secret: a, env: {value: LD_PRELOAD}"), "LD_PRELOAD"},
		{"a group", issuer("secret: a, member_of: [x]"), "an issuer of type sealed has no member_of"},
		{"a target", strings.Replace(issuer("secret: a"), "type: sealed,", "type: sealed, target: {host: x},", 1), "an issuer of type sealed has no target"},
		{"a secret of a jwt", minimal + "issuers: [{name: j, type: jwt, roles: {r: {secret: a, used_by: []}}}]\n", "an issuer of type jwt has no secret"},
		{"a hook", hooks(hook), ""},
		{"two hooks", hooks(hook + ", " + hook), "there are two hooks rotator"},
		{"a hook over http", hooks("{name: rotator, url: http://rotator.example.com}"), "the url is not https"},
		{"a hook without URL", hooks("{name: rotator}"), "url"},
		{"a hook that is taken", hooks("{name: generate, url: https://a.example.com}"), "a hook can't be called generate"},
		{"a hook's name", hooks("{name: A B, url: https://a.example.com}"), `"A B" can't be the name of a hook`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, mistakes := parse(t, test.text)
			var all []string
			for _, m := range mistakes {
				all = append(all, m.String())
			}
			if got := strings.Join(all, "\n"); (test.want == "") != (got == "") || !strings.Contains(got, test.want) {
				t.Errorf("mistakes are %q, want %q", got, test.want)
			}
		})
	}
}
