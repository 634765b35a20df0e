package config

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/policies"
	"github.com/daypass/daypass/policies/lint"
	"github.com/daypass/daypass/policies/strictyaml"
)

const minimal = `listen: 127.0.0.1:8080
external_url: http://127.0.0.1:8080
database: {url_file: /db}
allow_software_keys: true
keys:
  signing: {type: software, dir: /keys, pin_file: /pin}
  sealing: {type: software, dir: /keys, pin_file: /pin}
providers:
  - {name: github, type: github, issuer: https://token.actions.githubusercontent.com, audience: https://ci.example.com}
policies: {dir: /policies}
`

func parse(t testing.TB, text string, env ...string) (*Config, []strictyaml.Mistake) {
	t.Helper()
	return Parse("c.yaml", []byte(text), env)
}

func TestMinimal(t *testing.T) {
	c, mistakes := parse(t, minimal)
	if len(mistakes) > 0 || len(c.Warnings) > 0 {
		t.Fatal(mistakes, c.Warnings)
	}
	if c.Log.Level != "info" || len(c.Environments) != 4 || c.Keys.Signing.Algorithm != "ES256" || c.Keys.Signing.Label != "daypass-signing" ||
		c.Keys.Sealing.Label != "daypass-sealing" || c.Providers[0].SessionTTL.Std() != time.Hour || c.TLS.Enabled() {
		t.Errorf("defaults: %+v", c)
	}
	want := lint.Provider{Type: "github", Issuer: "https://token.actions.githubusercontent.com", Audience: "https://ci.example.com", SessionTTL: time.Hour}
	if got := c.PolicyProviders(); !reflect.DeepEqual(got, map[string]lint.Provider{"github": want}) {
		t.Errorf("providers are %v", got)
	}
}

func TestLimitsAndReplay(t *testing.T) {
	defaults := Limits{FailedTokens: 60, JobRequests: 120, TenantRequests: 6000, JobLeases: 100, TenantLeases: 50_000, LeakRequests: 60}
	without := func(l Limits) Limits {
		l.At = strictyaml.Where{}
		return l
	}
	c, mistakes := parse(t, minimal)
	if len(mistakes) > 0 || !reflect.DeepEqual(without(c.Limits), defaults) || len(c.Once()) != 0 {
		t.Errorf("%v; limits %+v, once %v", mistakes, c.Limits, c.Once())
	}
	c, mistakes = parse(t, strings.Replace(minimal, "audience: https://ci.example.com", "audience: a, replay: once", 1)+"limits: {job_leases: 7, tenant_requests: 0}\n", "DAYPASSD_LIMITS__FAILED_TOKENS=9")
	want := defaults
	want.JobLeases, want.FailedTokens = 7, 9
	if len(mistakes) > 0 || !reflect.DeepEqual(without(c.Limits), want) || !reflect.DeepEqual(c.Once(), map[string]bool{"github": true}) {
		t.Errorf("%v; limits %+v, once %v", mistakes, c.Limits, c.Once())
	}
	// The example shows what holds when a key is left out.
	if c, _ := Parse("daypass.example.yaml", example(t), nil); !reflect.DeepEqual(without(c.Limits), defaults) || c.Providers[0].Replay != ReplaySession {
		t.Errorf("the example says %+v, %q", c.Limits, c.Providers[0].Replay)
	}
}

func example(t *testing.T) []byte {
	t.Helper()
	data, err := os.ReadFile("../../daypass.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestExample: the example passes the check, files included, with stand-ins below
// a temporary folder, and shows every key there is.
func TestExample(t *testing.T) {
	data := example(t)
	c, mistakes := Parse("daypass.example.yaml", data, nil)
	for _, m := range append(mistakes, c.Warnings...) {
		t.Error(m)
	}
	dir := t.TempDir()
	var looked []string
	stat := func(path string) (fs.FileInfo, error) {
		looked = append(looked, path)
		stand := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(stand), 0o700); err != nil {
			t.Fatal(err)
		}
		if path == "/etc/daypass/policies" {
			if err := os.MkdirAll(stand, 0o700); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(stand, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return os.Stat(stand)
	}
	for _, m := range c.CheckFiles(stat) {
		t.Error(m)
	}
	if len(looked) != 14 {
		t.Errorf("looked at %d files: %q", len(looked), looked)
	}
	for _, key := range keyNames(reflect.TypeFor[Config]()) {
		if !strings.Contains(string(data), key+":") {
			t.Errorf("the example doesn't show the key %s", key)
		}
	}
	if c.Issuer("payments-db").Roles["deployer"].Owner != "payments_owner" || c.Issuer("absent") != nil || len(c.ProxyNetworks) != 2 {
		t.Errorf("read %+v", c)
	}
}

// keyNames are the names of all keys, but for those that are refused.
func keyNames(t reflect.Type) []string {
	var list []string
	if t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		return keyNames(t.Elem())
	}
	if t.Kind() == reflect.Struct {
		for field := range t.Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
			if name == "" || name == "-" || field.Type == reflect.TypeFor[*strictyaml.Value]() {
				continue
			}
			list = append(list, name)
			list = append(list, keyNames(field.Type)...)
		}
	}
	return list
}

func TestEnvironment(t *testing.T) {
	c, mistakes := parse(t, minimal, "DAYPASSD_LISTEN=127.0.0.1:1", "DAYPASSD_LOG__LEVEL=debug", "DAYPASSD_DATABASE__URL_FILE=/other", "DAYPASSD_ALLOW_SOFTWARE_KEYS=true",
		"DAYPASSD_KEYS__SIGNING__PIN_FILE=/p", "HOME=/root", "DAYPASS_URL=x")
	if len(mistakes) > 0 {
		t.Fatal(mistakes)
	}
	if c.Listen != "127.0.0.1:1" || c.Log.Level != "debug" || c.Database.URLFile != "/other" || c.Keys.Signing.PINFile != "/p" {
		t.Errorf("read %+v", c)
	}
	for entry, want := range map[string]string{
		"DAYPASSD_LISTN=x":                   "$DAYPASSD_LISTN: no such setting (hint: did you mean DAYPASSD_LISTEN?)",
		"DAYPASSD_DATABASE_URL_FILE=x":       "did you mean DAYPASSD_DATABASE__URL_FILE?",
		"DAYPASSD_PROVIDERS=x":               "settings of lists and of mappings by name can't be set this way",
		"DAYPASSD_INSECURE_HTTP=yes":         "$DAYPASSD_INSECURE_HTTP: true or false is wanted here",
		"DAYPASSD_ADMINS=x":                  "no such setting",
		"DAYPASSD_SERVICE_HOST=10.0.0.1":     "enableServiceLinks: false",
		"DAYPASSD_PORT_8443_TCP=tcp://10.0.": "enableServiceLinks: false",
		"DAYPASSD_LOG__LEVEL=a\nb":           "a text of one line",
		"DAYPASSD_LOG__LEVEL=loud":           `unknown level "loud"`,
	} {
		_, mistakes := parse(t, minimal, entry)
		if len(mistakes) != 1 || !strings.Contains(mistakes[0].String(), want) {
			t.Errorf("%s: %v, want %q", entry, mistakes, want)
		}
	}
}

func TestSecrets(t *testing.T) {
	text := strings.Replace(minimal, "{url_file: /db}", "{url: \"${DB_URL}\"}", 1)
	text = strings.Replace(text, "pin_file: /pin", "pin: \"${PIN}\"", 1)
	c, mistakes := parse(t, text, "DB_URL=postgres://u:hunter2@h/d", "PIN=1234567890")
	if len(mistakes) > 0 {
		t.Fatal(mistakes)
	}
	if c.Database.URL.Reveal() != "postgres://u:hunter2@h/d" || c.Keys.Signing.PIN.Reveal() != "1234567890" {
		t.Error("the secrets were not read")
	}
	if shown := fmt.Sprintf("%+v %#v", c, c.Database); strings.Contains(shown, "hunter2") || strings.Contains(shown, "1234567890") {
		t.Error("a printed configuration shows a secret")
	}
	if c.Database.Pooled() {
		t.Error("a direct URL where none is given")
	}
	c, mistakes = parse(t, minimal, "DAYPASSD_DATABASE__DIRECT_URL=postgres://u:hunter2@h/direct")
	if len(mistakes) > 0 || !c.Database.Pooled() || c.Database.DirectURL.Reveal() != "postgres://u:hunter2@h/direct" || c.Database.RawDirectURL != "" {
		t.Errorf("%v %q", mistakes, c.Database.RawDirectURL)
	}
	c, mistakes = parse(t, strings.Replace(minimal, "database: {url_file: /db}\n", "", 1), "DAYPASSD_DATABASE__URL=postgres://u:hunter2@h/d")
	if len(mistakes) > 0 || c.Database.URL.Reveal() != "postgres://u:hunter2@h/d" || c.Database.RawURL != "" {
		t.Error("the URL of the environment was not read:", mistakes)
	}
	for _, tc := range []struct{ text, want string }{
		{"database: {url: \"postgres://u:hunter2@h/d\"}", "3:17: a secret in the file"},
		{"database: {url: \"x${DB_URL}\"}", "3:17: a secret in the file"},
		{"database: {url: \"${ABSENT}\"}", "3:17: the environment variable ABSENT is not set"},
		{"database: {url_file: /db, url: \"${DB_URL}\"}", "3:32: both url and url_file"},
		{"database: {url_file: \"${DB_URL}\"}", "3:22: ${…} is read in secrets alone"},
		{"database: {url_file: /db, direct_url: \"postgres://u:hunter2@h/d\"}", "3:39: a secret in the file"},
		{"database: {url_file: /db, direct_url_file: /d, direct_url: \"${DB_URL}\"}", "3:60: both direct_url and direct_url_file"},
		{"database: {}", "the key url_file is missing"},
		{"database: {url_file: /db, max_connections: 7}", "max_connections is between 8 and 1000"},
		{"database: {url_file: /db, max_connections: 0}", "max_connections is between 8 and 1000"},
	} {
		_, mistakes := parse(t, strings.Replace(minimal, "database: {url_file: /db}", tc.text, 1), "DB_URL=x")
		if len(mistakes) != 1 || !strings.Contains(mistakes[0].String(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.text, mistakes, tc.want)
		}
		for _, m := range mistakes {
			if strings.Contains(m.String(), "hunter2") {
				t.Errorf("the mistake %q shows the secret", m)
			}
		}
	}
}

func TestMistakes(t *testing.T) {
	const provider = "  - {name: github, type: github, issuer: https://token.actions.githubusercontent.com, audience: https://ci.example.com}\n"
	pg := func(text string) string {
		return minimal + "issuers:\n  - name: db\n    type: postgres\n    target: {host: localhost, database: d}\n    admin: {user: u, password_file: /p}\n" + text
	}
	role := "    roles: {r: {member_of: [g], used_by: [{policy: p, environment: test}]%s}}\n"
	jwt := func(text string) string { return minimal + "issuers:\n  - name: j\n    type: jwt\n" + text }
	public := func(text string) string {
		return strings.Replace(text, "external_url: http://127.0.0.1:8080", "external_url: https://d.example.com", 1)
	}
	change := func(old, with string) string {
		if !strings.Contains(minimal, old) {
			t.Fatalf("%q is not in the minimal configuration", old)
		}
		return strings.Replace(minimal, old, with, 1)
	}
	for _, tc := range []struct {
		name, text string
		want       []string
	}{
		{"admins", minimal + "admins: {x: 1}\n", []string{"11:9: admins is not enforced by this version (hint: make tokens with: daypassd admin token)"}},
		{"a schedule", change("{type: software, dir: /keys, pin_file: /pin}\n  sealing", "{type: software, dir: /keys, pin_file: /pin, rotate_every: 7d}\n  sealing"), nil},
		{"no schedule", change("{type: software, dir: /keys, pin_file: /pin}\n  sealing", "{type: software, dir: /keys, pin_file: /pin, rotate_every: never}\n  sealing"), nil},
		{"a schedule without time for the next key", change("{type: software, dir: /keys, pin_file: /pin}\n  sealing", "{type: software, dir: /keys, pin_file: /pin, rotate_every: 25h}\n  sealing"), []string{"rotate_every is between 26h and 366d"}},
		{"a slow schedule", change("{type: software, dir: /keys, pin_file: /pin}\n  sealing", "{type: software, dir: /keys, pin_file: /pin, rotate_every: 367d}\n  sealing"), []string{"rotate_every is between 26h and 366d"}},
		{"a schedule that is none", change("{type: software, dir: /keys, pin_file: /pin}\n  sealing", "{type: software, dir: /keys, pin_file: /pin, rotate_every: often}\n  sealing"), []string{`"often" is no duration (hint: write 30d, or never)`}},
		{"a schedule for the sealing key", strings.Replace(minimal, "sealing: {type: software,", "sealing: {rotate_every: 30d, type: software,", 1), []string{"rotate_every is for keys.signing alone"}},
		{"audit key", change("  signing", "  audit: {type: pkcs11}\n  signing"), []string{"the key module is missing", "the key pin_file is missing", "the key token is missing"}},
		{"audit key that rotates", change("  signing", "  audit: {rotate_every: 30d}\n  signing"), []string{"rotate_every is for keys.signing alone"}},
		{"audit key that signs JWTs", change("  signing", "  audit: {label: daypass-signing}\n  signing"), []string{"keys.audit is the key keys.signing"}},
		{"audit key of RSA", change("  signing", "  audit: {algorithm: RS256}\n  signing"), []string{`checkpoints are not signed by "RS256"`}},
		{"size of an audit key", change("  signing", "  audit: {bits: 2048}\n  signing"), []string{"a key for ES256 has no choice of size"}},
		{"checkpoint file without a key", minimal + "audit: {checkpoint_file: /checkpoints}\n", []string{"nothing signs the checkpoints"}},
		{"checkpoint file somewhere", change("  signing", "  audit: {label: daypass-audit}\n  signing") + "audit: {checkpoint_file: checkpoints}\n", []string{"audit.checkpoint_file is not a whole path"}},
		{"unknown key", minimal + "lisen: x\n", []string{"11:1: unknown key lisen (hint: did you mean listen?)"}},
		{"public plain HTTP", change("listen: 127.0.0.1", "listen: 0.0.0.0"), []string{"1:9: plain HTTP on 0.0.0.0:8080"}},
		{"all addresses", change("listen: 127.0.0.1:8080", "listen: \":8080\""), []string{"plain HTTP on :8080"}},
		{"public admin listener", minimal + "admin_listen: 10.0.0.1:1\n", []string{"plain HTTP on 10.0.0.1:1"}},
		{"same listener", minimal + "admin_listen: 127.0.0.1:8080\n", []string{"admin_listen is the same as listen"}},
		{"no port", change("127.0.0.1:8080\nexternal", "localhost\nexternal"), []string{"is no host and port", "plain HTTP"}},
		{"half of tls", minimal + "tls: {cert_file: /c}\n", []string{"tls has cert_file or key_file, but not both"}},
		{"tls and insecure", minimal + "tls: {cert_file: /c, key_file: /k}\ninsecure_http: true\n", []string{"insecure_http beside tls"}},
		{"external_url over http", change("http://127.0.0.1:8080", "http://daypass.example.com"), []string{"2:15: external_url is not https"}},
		{"external_url with a slash", change("http://127.0.0.1:8080", "https://daypass.example.com/"), []string{"ends in a slash"}},
		{"external_url with a query", change("http://127.0.0.1:8080", "https://daypass.example.com?x"), []string{"has a query"}},
		{"external_url is no URL", change("http://127.0.0.1:8080", "daypass"), []string{"is no URL"}},
		{"provider is us", change("https://token.actions.githubusercontent.com", "http://127.0.0.1:8080/"), []string{"the issuer is this server's external_url"}},
		{"two providers", change(provider, provider+strings.Replace(provider, "name: github", "name: hub", 1)), []string{"the providers github and hub have the same issuer and audience"}},
		{"one provider twice", change(provider, provider+strings.Replace(provider, "ci.example.com", "other.example.com", 1)), []string{"there are two providers github"}},
		{"providers apart by a slash", change(provider, provider+strings.NewReplacer("name: github", "name: hub", "content.com,", "content.com/,").Replace(provider)), []string{"differ by a slash"}},
		{"provider over http", change("https://token", "http://token"), []string{"the issuer is not https"}},
		{"provider of unknown type", change("type: github", "type: githup"), []string{"did you mean github?"}},
		{"provider's name", change("name: github", "name: Git Hub"), []string{`"Git Hub" can't be the name of a provider`}},
		{"a shared audience", change("audience: https://ci.example.com", "audience: sts.amazonaws.com"), []string{"[GEN-001] other services accept tokens for the audience sts.amazonaws.com too"}},
		{"GitLab.com with an authority of its own", change("type: github, issuer: https://token.actions.githubusercontent.com", "type: gitlab, issuer: https://gitlab.com, allow_private_address: true"), []string{"[GL-008] GitLab.com has no private address"}},
		{"provider without audience", change(", audience: https://ci.example.com", ""), []string{"the key audience is missing"}},
		{"long session", change("audience: https://ci.example.com", "audience: a, session_ttl: 2d"), []string{"session_ttl is between 1m and 24h"}},
		{"token age of zero", change("audience: https://ci.example.com", "audience: a, max_token_age: 0s"), []string{"max_token_age is between 1m and 31d"}},
		{"long token age", change("audience: https://ci.example.com", "audience: a, max_token_age: 32d"), []string{"max_token_age is between 1m and 31d"}},
		{"token age", change("audience: https://ci.example.com", "audience: a, max_token_age: 31d, audience_alone: true, algorithms: [ES256, EdDSA]"), nil},
		{"no algorithms", change("audience: https://ci.example.com", "audience: a, algorithms: []"), []string{"the list of algorithms is empty"}},
		{"algorithm none", change("audience: https://ci.example.com", "audience: a, algorithms: [none]"), []string{`job tokens can't be signed with "none"`}},
		{"symmetric algorithm", change("audience: https://ci.example.com", "audience: a, algorithms: [RS256, HS256]"), []string{`job tokens can't be signed with "HS256"`}},
		{"algorithm in small", change("audience: https://ci.example.com", "audience: a, algorithms: [rs256]"), []string{`signed with "rs256": the algorithms are RS256`}},
		{"unknown replay", change("audience: https://ci.example.com", "audience: a, replay: twice"), []string{`replay is session or once, not "twice"`}},
		{"limit below zero", change("policies: {dir: /policies}", "policies: {dir: /policies}\nlimits: {job_leases: -1}"), []string{"job_leases is a number from 1 to"}},
		{"enormous limit", change("policies: {dir: /policies}", "policies: {dir: /policies}\nlimits: {failed_tokens: 1000000001}"), []string{"failed_tokens is a number from 1 to"}},
		{"unknown limit", change("policies: {dir: /policies}", "policies: {dir: /policies}\nlimits: {requests: 1}"), []string{"requests"}},
		{"software keys not allowed", change("allow_software_keys: true", "allow_software_keys: false"), []string{"software keys", "software keys"}},
		{"keys without a module", change("{type: software, dir: /keys, pin_file: /pin}\n  sealing", "{type: pkcs11, pin_file: /pin}\n  sealing"), []string{"the key module is missing", "the key token is missing"}},
		{"keys of both types", change("{type: software, dir: /keys, pin_file: /pin}\n  sealing", "{type: software, dir: /keys, pin_file: /pin, token: x}\n  sealing"), []string{"a key of type software has no token"}},
		{"algorithm", change("{type: software", "{algorithm: HS256, type: software"), []string{`signing with "HS256" is not possible`}},
		{"isolated software keys", change("{type: software, dir: /keys, pin_file: /pin}\n  sealing", "{type: software, dir: /keys, pin_file: /pin, isolate: true}\n  sealing"), []string{"a key of type software has no module to isolate"}},
		{"isolate_env alone", change("{type: software, dir: /keys, pin_file: /pin}\n  sealing", "{type: pkcs11, module: /m, token: t, pin_file: /pin, isolate_env: [A]}\n  sealing"), []string{"isolate_env without isolate"}},
		{"isolate_env", change("{type: software, dir: /keys, pin_file: /pin}\n  sealing", "{type: pkcs11, module: /m, token: t, pin_file: /pin, isolate: true, isolate_env: [A, A=1, DAYPASS_PIN, A]}\n  sealing"), []string{`"A=1" can't be the name`, "DAYPASS_PIN is the server's own", "A stands here twice"}},
		{"isolated in part", change("{type: software, dir: /keys, pin_file: /pin}\n  sealing: {type: software, dir: /keys, pin_file: /pin}", "{type: pkcs11, module: /m, token: t, pin_file: /pin, isolate: true}\n  sealing: {type: pkcs11, module: /m, token: t, pin_file: /pin}"), []string{"isolate and isolate_env of this key differ from another's of the same module /m"}},
		{"isolated", change("{type: software, dir: /keys, pin_file: /pin}\n  sealing: {type: software, dir: /keys, pin_file: /pin}", "{type: pkcs11, module: /m, token: t, pin_file: /pin, isolate: true, isolate_env: [A]}\n  sealing: {type: pkcs11, module: /m, token: t, pin_file: /pin, isolate: true, isolate_env: [A]}"), nil},
		{"a backup of a key that signs", change("signing: {type: software", "signing: {backup: wrapped, type: software"), []string{"backup is for keys that seal"}},
		{"a backup by another name", change("sealing: {type: software", "sealing: {backup: wraped, type: software"), []string{`backup can't be "wraped"`}},
		{"a backup of a folder", change("sealing: {type: software", "sealing: {backup: wrapped, type: software"), []string{"no wrapped backup"}},
		{"keys that open", change("  sealing", "  opening: [{label: former}, {label: other, type: pkcs11, module: /m, token: t, pin_file: /p}]\n  sealing"), nil},
		{"a key that opens without a label", change("  sealing", "  opening: [{type: software, dir: /keys, pin_file: /pin}]\n  sealing"), []string{"the key label is missing"}},
		{"a key that opens and seals", change("  sealing", "  opening: [{label: daypass-sealing}]\n  sealing"), []string{"keys.opening repeats the key keys.sealing"}},
		{"a key that opens by an algorithm", change("  sealing", "  opening: [{label: former, algorithm: ES256, bits: 2048, rotate_every: 30d}]\n  sealing"), []string{"a key that opens has no algorithm", "has no bits", "has no rotate_every"}},
		{"no sealing key", change("  sealing: {type: software, dir: /keys, pin_file: /pin}\n", ""), []string{"the key keys.sealing is missing"}},
		{"an unknown answer to changes", change("policies: {dir: /policies}", "policies: {dir: /policies, on_policy_change: revok}"), []string{`on_policy_change can't be "revok"`}},
		{"no policies", change("policies: {dir: /policies}\n", ""), []string{"the key dir is missing or empty"}},
		{"environments", minimal + "environments: [a, a, B]\n", []string{"can't be the name of an environment", "the environment a stands here twice"}},
		{"proxies", minimal + "trusted_proxies: [0.0.0.0/0, x, 10.0.0.1]\n", []string{"is no address or network", "believes everybody's"}},
		{"level", minimal + "log: {level: loud}\n", []string{"unknown level"}},
		{"x509 without all", minimal + "issuers: [{name: ci, type: x509}]\n", []string{"the key chain_file is missing", "type x509 without roles"}},
		{"x509 with keys of others", x509Issuer("schema: x", "usage: client, dns_names: [a.example.com], audiences: [a]"), []string{"x509 has no schema", "x509 has no audiences"}},
		{"keys of x509 elsewhere", jwt("    chain_file: /c\n    roles: {r: {usage: client, used_by: [{policy: p, environment: test}]}}\n"), []string{"jwt has no chain_file", "jwt has no usage"}},
		{"x509 role without usage", x509Issuer("", "dns_names: [a.example.com]"), []string{"role web: usage can't be"}},
		{"x509 role with a bad name", x509Issuer("", "usage: client, dns_names: ['a.*.example.com']"), []string{"role web: dns_names"}},
		{"x509 role with a long life", x509Issuer("", "usage: client, dns_names: [a.example.com], max_ttl: 25h"), []string{"max_ttl is between"}},
		{"x509 with the key of another", x509Issuer("key: {label: daypass-signing}", "usage: client, dns_names: [a.example.com]"), []string{"the key of issuer ci is keys.signing"}},
		{"x509 twice with a key", x509Issuer("key: {label: same}", "usage: client, dns_names: [a.example.com]") + strings.TrimPrefix(strings.ReplaceAll(x509Issuer("key: {label: same}", "usage: client, dns_names: [a.example.com]"), "name: ci", "name: ca"), minimal+"issuers:\n"), []string{"issuers ci and ca have the same key"}},
		{"x509 with a key that rotates", x509Issuer("key: {rotate_every: 30d}", "usage: client, dns_names: [a.example.com]"), []string{"rotate_every is for keys.signing alone"}},
		{"issuer of unknown type", minimal + "issuers: [{name: a, type: mysql}]\n", []string{"unknown type of issuer"}},
		{"two issuers", jwt("    used_by: [{policy: p, environment: test}]\n  - {name: j, type: jwt, used_by: [{policy: p, environment: test}]}\n"), []string{"there are two issuers j"}},
		{"postgres", pg(fmt.Sprintf(role, "")), nil},
		{"postgres without all", minimal + "issuers: [{name: a, type: postgres}]\n", []string{"the key host", "the key database", "the key user", "the key password_file", "without roles"}},
		{"postgres's sslmode", strings.Replace(pg(fmt.Sprintf(role, "")), "database: d", "database: d, sslmode: prefer", 1), []string{"unknown sslmode"}},
		{"postgres's port", strings.Replace(pg(fmt.Sprintf(role, "")), "database: d", "database: d, port: 0", 1), []string{"port is between 1 and 65535"}},
		{"postgres with audiences", pg(fmt.Sprintf(role, ", audiences: [a]")), []string{"an issuer of type postgres has no audiences"}},
		{"role without groups", pg("    roles: {r: {used_by: [{policy: p, environment: test}]}}\n"), []string{"member_of is missing or empty"}},
		{"role's iterations", pg(fmt.Sprintf(role, ", scram_iterations: 0")), []string{"scram_iterations is between"}},
		{"role's env", pg(fmt.Sprintf(role, ", env: {user: A, password: LD_PRELOAD}")), []string{"LD_", `there is no value "user"`}},
		{"role's environment", pg("    roles: {r: {member_of: [g], used_by: [{policy: p, environment: tset}]}}\n"), []string{"unknown environment \"tset\" (hint: did you mean test?)"}},
		{"role's policy twice", pg("    roles: {r: {member_of: [g], used_by: [{policy: p, environment: test}, {policy: p, environment: test}]}}\n"), []string{"stands here twice"}},
		{"jwt for ourselves", jwt("    roles: {r: {audiences: [\"http://127.0.0.1:8080/\"], used_by: [{policy: p, environment: test}]}}\n"), []string{"an audience is this server's external_url"}},
		{"jwt of unknown profile", jwt("    roles: {r: {profile: amazon, used_by: [{policy: p, environment: test}]}}\n"), []string{`unknown profile "amazon"`}},
		{"jwt of no profile", jwt("    roles: {r: {profile: '', used_by: [{policy: p, environment: test}]}}\n"), []string{"profile"}},
		{"jwt for a cloud over http", jwt("    roles: {r: {profile: aws, used_by: [{policy: p, environment: test}]}}\n"), []string{"profile aws: it fetches keys over https alone"}},
		{"jwt that Azure can't verify", public(jwt("    roles: {r: {profile: azure, used_by: [{policy: p, environment: test}]}}\n")), []string{"profile azure: it takes no token signed with ES256"}},
		{"postgres with a profile", pg(fmt.Sprintf(role, ", profile: aws, session_tags: true")), []string{"an issuer of type postgres has no profile", "an issuer of type postgres has no session_tags"}},
		{"jwt with a target", jwt("    target: {host: x}\n    used_by: [{policy: p, environment: test}]\n"), []string{"an issuer of type jwt has no target"}},
		{"jwt with both", jwt("    used_by: [{policy: p, environment: test}]\n    roles: {r: {used_by: [{policy: p, environment: test}]}}\n"), []string{"used_by beside roles"}},
		{"several at once", "listen: x\nfoo: 1\n", []string{"1:1: the key dir", "1:1: the key external_url", "1:1: the key keys.sealing", "1:1: the key keys.signing", "1:1: the key url_file", "is no host and port", "plain HTTP", "2:1: unknown key foo"}},
		{"not YAML", "a: [", []string{"c.yaml:1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, mistakes := parse(t, tc.text)
			texts := make([]string, len(mistakes))
			for i, m := range mistakes {
				texts[i] = m.String()
			}
			slices.Sort(texts)
			if len(texts) != len(tc.want) {
				t.Fatalf("%d mistakes, want %d: %q", len(texts), len(tc.want), texts)
			}
			for _, want := range tc.want {
				if !slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(text, want) }) {
					t.Errorf("%q is not among %q", want, texts)
				}
			}
		})
	}
}

// x509Issuer is a configuration with an issuer of type x509.
func x509Issuer(more, role string) string {
	if more != "" {
		more = "    " + more + "\n"
	}
	return minimal + "issuers:\n  - name: ci\n    type: x509\n    chain_file: /chain.pem\n" + more + "    roles: {web: {used_by: [{policy: p, environment: test}], " + role + "}}\n"
}

func TestX509(t *testing.T) {
	c, mistakes := parse(t, x509Issuer("default_ttl: 10m", "usage: both, dns_names: ['*.example.com'], max_ttl: 30m, csr: required"))
	if len(mistakes) > 0 {
		t.Fatal(mistakes)
	}
	issuer := c.Issuer("ci")
	if issuer.ChainFile != "/chain.pem" || issuer.Key.Label != "daypass-ci" || issuer.Key.Type != c.Keys.Signing.Type || issuer.Key.Algorithm != "ES256" {
		t.Errorf("read %+v with the key %+v", issuer, issuer.Key)
	}
	role := issuer.Roles["web"]
	if got := role.X509(); got.Usage != "both" || got.CSR != "required" || got.MaxTTL != 30*time.Minute || !reflect.DeepEqual(got.DNSNames, []string{"*.example.com"}) {
		t.Errorf("the role is %+v", got)
	}
}

func TestWarnings(t *testing.T) {
	for text, want := range map[string]string{
		strings.Replace(minimal, "type: github, issuer: https://token.actions.githubusercontent.com", "type: jenkins, issuer: https://jenkins.example.com/oidc", 1): "[JK-002] this issuer signs for all jobs",
		minimal + "issuers: [{name: j, type: jwt}]\n":                                                                    "issuer j can be used by no policy",
		minimal + "issuers: [{name: j, type: jwt, roles: {r: {audiences: [a]}}}]\n":                                      "role r of issuer j can be used by no policy",
		strings.Replace(minimal, minimal[strings.Index(minimal, "providers"):strings.Index(minimal, "policies")], "", 1): "nobody can get anything",
		minimal + "issuers: [{name: d, type: postgres, target: {host: h, database: d, sslmode: require}, admin: {user: u, password_file: /p}, roles: {r: {member_of: [g], used_by: [{policy: p, environment: test}]}}}]\n": "could be the server",
	} {
		c, mistakes := parse(t, text)
		if len(mistakes) > 0 || len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0].String(), want) {
			t.Errorf("warnings %v and mistakes %v, want %q", c.Warnings, mistakes, want)
		}
	}
}

func TestCheckGrant(t *testing.T) {
	c, _ := Parse("daypass.example.yaml", example(t), nil)
	for _, tc := range []struct {
		use  policies.GrantUse
		want string
	}{
		{policies.GrantUse{Issuer: "payments-db", Role: "deployer", Policy: "payments", Environment: "production"}, ""},
		{policies.GrantUse{Issuer: "release-jwt", Policy: "payments", Environment: "production"}, ""},
		{policies.GrantUse{Issuer: "payments-db", Role: "deployer", Policy: "payments", Environment: "test"}, "may not be used by policy payments in test"},
		{policies.GrantUse{Issuer: "payments-db", Role: "deployer", Policy: "other", Environment: "production"}, "may not be used by policy other"},
		{policies.GrantUse{Issuer: "payments-db", Role: "deploier", Policy: "payments", Environment: "production"}, "did you mean deployer?"},
		{policies.GrantUse{Issuer: "payments-db", Policy: "payments", Environment: "production"}, "has no role"},
		{policies.GrantUse{Issuer: "release-jwt", Role: "x", Policy: "payments", Environment: "production"}, "has no role"},
		{policies.GrantUse{Issuer: "release-jwt", Policy: "other", Environment: "production"}, "may not be used"},
		{policies.GrantUse{Issuer: "payment-db", Role: "deployer", Policy: "payments", Environment: "production"}, "did you mean payments-db?"},
	} {
		err := c.CheckGrant(tc.use)
		if (err == nil) != (tc.want == "") || (err != nil && !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%+v: %v, want %q", tc.use, err, tc.want)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	text := minimal
	for _, name := range []string{"/db", "/pin"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		text = strings.ReplaceAll(text, "file: "+name, "file: "+filepath.Join(dir, name))
	}
	path := filepath.Join(dir, "daypass.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, mistakes := Load(path, nil)
	if len(mistakes) != 1 || !strings.Contains(mistakes[0].String(), "10:17: /policies: no such file or directory") {
		t.Errorf("mistakes are %v", mistakes)
	}
	if _, mistakes := Load(filepath.Join(dir, "absent"), nil); len(mistakes) != 1 || mistakes[0].File == "" {
		t.Errorf("an absent file: %v", mistakes)
	}
	if _, mistakes := Load(dir, nil); len(mistakes) != 1 {
		t.Errorf("a folder: %v", mistakes)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(minimal), "DAYPASSD_LISTEN=x")
	if data, err := os.ReadFile("../../daypass.example.yaml"); err == nil {
		f.Add(data, "DAYPASSD_LOG__LEVEL=debug")
	}
	f.Fuzz(func(t *testing.T, data []byte, env string) {
		c, mistakes := Parse("c.yaml", data, []string{env})
		if len(mistakes) == 0 && (c.Listen == "" || c.ExternalURL == "" || c.Policies.Dir == "" || (c.Database.URLFile == "" && c.Database.URL.IsZero())) {
			t.Fatalf("incomplete without a mistake: %+v", c)
		}
		for _, m := range mistakes {
			if m.File == "" || m.Text == "" {
				t.Fatalf("a mistake without a place: %+v", m)
			}
		}
	})
}

func TestPolicyDefaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		policies string
		env      []string
		watch    bool
		onChange string
	}{
		{"{dir: /policies}", nil, true, OnPolicyChangeKeep},
		{"{dir: /policies, watch: false, on_policy_change: revoke}", nil, false, OnPolicyChangeRevoke},
		{"{dir: /policies}", []string{"DAYPASSD_POLICIES__WATCH=false", "DAYPASSD_POLICIES__ON_POLICY_CHANGE=revoke"}, false, OnPolicyChangeRevoke},
	} {
		got, mistakes := Parse("daypass.yaml", []byte(strings.Replace(minimal, "{dir: /policies}", c.policies, 1)), c.env)
		if len(mistakes) > 0 || got.Policies.Watch != c.watch || got.Policies.OnPolicyChange != c.onChange {
			t.Errorf("%s %v: %+v %v", c.policies, c.env, got.Policies, mistakes)
		}
	}
}
