package config

import (
	"strings"
	"testing"
)

func TestSSHMistakes(t *testing.T) {
	t.Parallel()
	const good = "type: user, principals: [deploy], used_by: [{policy: p, environment: test}]"
	ssh := func(role string) string {
		return minimal + "issuers:\n  - name: fleet\n    type: ssh\n    roles: {r: {" + role + "}}\n"
	}
	for text, want := range map[string]string{
		ssh(good): "",
		minimal + "issuers:\n  - {name: j, type: jwt, revoked_authorities: [x], used_by: [{policy: p, environment: test}]}\n":      "an issuer of type jwt has no revoked_authorities",
		ssh(good + ", public_key: made, extensions: [permit-pty], env: {private_key: KEY}, max_ttl: 1h, default_ttl: 1h"):          "",
		strings.Replace(ssh(good), "type: ssh", "type: ssh\n    key: {label: x, algorithm: EdDSA}", 1):                             "",
		strings.Replace(ssh(good), "type: ssh", "type: ssh\n    key: {algorithm: PS256}", 1):                                       "SSH has no signatures with PS256",
		strings.Replace(ssh(good), "type: ssh", "type: ssh\n    target: {host: x}", 1):                                             "an issuer of type ssh has no target",
		minimal + "issuers:\n  - {name: fleet, type: ssh}\n":                                                                       "without roles",
		ssh("principals: [deploy], used_by: [{policy: p, environment: test}]"):                                                     `type can't be ""`,
		ssh(strings.Replace(good, "user", "usr", 1)):                                                                               "did you mean user?",
		ssh(strings.Replace(good, "[deploy]", "[]", 1)):                                                                            "principals is missing or empty",
		ssh(good + ", public_key: optional"):                                                                                       `public_key can't be "optional"`,
		ssh(good + ", key_types: [dsa]"):                                                                                           `key_types can't be "dsa"`,
		ssh(good + ", extensions: [permit-ptty]"):                                                                                  "did you mean permit-pty?",
		ssh(good + ", max_ttl: 25h"):                                                                                               "max_ttl is between 1s and 24h",
		ssh(good + ", default_ttl: 0s"):                                                                                            "default_ttl is between 1s and 24h",
		ssh(good + ", max_ttl: 1m, default_ttl: 2m"):                                                                               "default_ttl is longer than max_ttl",
		ssh(good + ", env: {private_key: KEY}"):                                                                                    `there is no value "private_key"`,
		ssh(good + ", audiences: [x]"):                                                                                             "an issuer of type ssh has no audiences",
		ssh(strings.Replace(good, "user", "host", 1) + ", extensions: [permit-pty]"):                                               "a host's certificate has no extensions",
		minimal + "issuers:\n  - {name: j, type: jwt, roles: {r: {principals: [x], used_by: [{policy: p, environment: test}]}}}\n": "an issuer of type jwt has no principals",
		strings.Replace(ssh(good), "type: ssh", "type: ssh\n    key: {label: daypass-signing}", 1):                                 "the key of issuer fleet is keys.signing",
		ssh(good) + "  - name: other\n    type: ssh\n    key: {label: daypass-fleet}\n    roles: {r: {" + good + "}}\n":            "issuers fleet and other have the same key",
	} {
		_, mistakes := Parse("c.yaml", []byte(text), nil)
		var said []string
		for _, m := range mistakes {
			said = append(said, m.String())
		}
		if all := strings.Join(said, "\n"); (want == "") != (all == "") || !strings.Contains(all, want) {
			t.Errorf("%s\n%q, want %q", text, all, want)
		}
	}
}

func TestSSHKeyComesFromSigning(t *testing.T) {
	t.Parallel()
	c, mistakes := Parse("daypass.example.yaml", example(t), nil)
	if len(mistakes) > 0 {
		t.Fatal(mistakes)
	}
	k := c.Issuer("fleet-ssh").Key
	if k.Type != KeyPKCS11 || k.Token != c.Keys.Signing.Token || k.Label != "daypass-fleet-ssh" || k.Label == c.Keys.Signing.Label || k.Algorithm != "ES256" {
		t.Errorf("%+v", k)
	}
}
