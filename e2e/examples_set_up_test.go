package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"os/exec"
	"regexp"
	"strings"

	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/e2e/pages"
)

const secretOfService = "a-long-random-secret-of-a-service-of-tests"

var hashOfSecret = func() string {
	sum := sha256.Sum256([]byte(secretOfService))
	return hex.EncodeToString(sum[:])
}()

// The policies of the pages, without the grants that pages show themselves.
var policiesOfPages = map[string]string{
	"payments": `
  - {name: deploy-db, issuer: payments-db, role: deployer, ttl: 10m, max_ttl: 1h}
  - {name: registry, issuer: release-jwt, ttl: 5m, with: {audience: "https://registry.example.com"}}
`,
	"storefront": `
  - {name: deploy, issuer: cloud, role: cluster, ttl: 5m, with: {audience: kubernetes}}
  - {name: host, issuer: hosts-ssh, role: web, ttl: 1h, with: {principals: [a.web.example.com]}}
`,
	"fleet": "\n  - {name: runner, issuer: fleet-ssh, role: runner, ttl: 5m, with: {principals: [deploy]}}\n",
	"gone":  "\n  - {name: sign, issuer: release-jwt, ttl: 5m, with: {audience: \"https://gone.example.com\"}}\n",
}

// more is what the pages only speak of.
const more = `
issuers:
  - name: release-jwt
    used_by: [{policy: gone, environment: production}]
  - name: cloud
    roles:
      cluster: {profile: kubernetes, audiences: [kubernetes], used_by: [{policy: storefront, environment: production}]}
      tagged: {profile: aws, session_tags: true, audiences: [sts.amazonaws.com], used_by: [{policy: storefront, environment: production}]}
  - name: fleet-ssh
    roles:
      runner: {type: user, principals: [deploy], public_key: made, used_by: [{policy: fleet, environment: production}]}
`

// setUp are the steps before the broker starts.
func setUp() []step {
	return []step{
		{"", "databases", func(w *world, _ pages.Example) {
			devtest.MigratedAs(w.f.t, w.f.name)
			if err := w.f.server.CreateDatabase(w.f.t.Context(), w.f.target()); err != nil {
				w.f.t.Fatal(err)
			}
			w.f.sql(w.f.target(), `CREATE SCHEMA payments`)
		}},
		{"docs/targets-postgres.md", "CREATE ROLE", func(w *world, e pages.Example) {
			w.f.sql(w.f.target(), regexp.MustCompile(`\b(payments_owner|deploy)\b`).ReplaceAllStringFunc(e.Text, func(role string) string {
				return map[string]string{"deploy": w.f.name + "_deploy", "payments_owner": w.f.name + "_owner"}[role]
			}))
		}},
		{"docs/ssh.md", "roles:\n  web: {type: host", keep("hosts", "    ")},
		{"docs/ssh.md", "revoked_authorities", keep("revoked", "    ")},
		{"docs/ssh.md", "# daypass-krl", keep("krl", "")},
		{"docs/jwt.md", "aws.amazon.com/tags", keep("tags", "    ")},
		{"docs/policies.md", "used_by:", keep("used_by", "")},
		{"docs/lint.md", "lint:allow", func(w *world, e pages.Example) {
			claims := "    claims: {repository_id: \"74\", repository_owner_id: \"65\", ref: refs/heads/main, event_name: push}\n"
			if mistake := w.checkPolicy(e.Text + "    provider: github\n" + claims + "grants: [{name: g, issuer: i, role: r, ttl: 5m}]\n"); mistake != "" {
				w.f.t.Error(mistake)
			}
		}},
		{"docs/policies.md", "repository: {name", claims("github")},
		{"docs/policies.md", "groups_direct", claims("gitlab")},
		{"", "configuration", (*world).configure},
		{"docs/targets-postgres.md", "target setup", func(w *world, e pages.Example) {
			// The server is shared with other tests, whose databases keep their CONNECT.
			w.sh(e.Text, "--issuer payments-db >", "--issuer payments-db --keep-connect >",
				"psql -h db.internal -U postgres", "psql -Xq '"+w.f.on(w.f.target()).DSN("postgres")+"'", `\password daypass`, `\password `+w.f.account())
			w.f.write("target.password", targetPassword)
			leaks.secret("target password", targetPassword)
		}},
		{"docs/x509.md", "keys csr", func(w *world, e pages.Example) {
			w.sh("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout root.key -out root.pem -subj /CN=Root -days 1 -addext keyUsage=critical,keyCertSign,cRLSign")
			w.sh(e.Text)
		}},
		{"", "keys of SSH", func(w *world, _ pages.Example) {
			w.sh("for issuer in fleet-ssh hosts-ssh; do daypassd keys generate --config daypass.yaml --issuer $issuer > $issuer.pem; done")
		}},
		{"docs/operations.md", "config check", script},
		{"", "broker", func(w *world, _ pages.Example) {
			w.f.t = w.t // it outlives this step
			w.b = w.f.start("GORACE=atexit_sleep_ms=0")
			w.env["DAYPASS_URL"] = w.b.url
		}},
		{"docs/operations.md", "admin token create", func(w *world, e pages.Example) {
			w.sh("daypassd admin token create --config daypass.yaml --role viewer --owner leaving@example.com --ttl 1h > leaving.token")
			var leaving string
			conn := w.f.connect(w.f.name)
			defer conn.Close(w.f.t.Context()) //nolint:errcheck // its work is done
			if err := conn.QueryRow(w.f.t.Context(), `SELECT id FROM admin_tokens WHERE owner = 'leaving@example.com'`).Scan(&leaving); err != nil {
				w.f.t.Fatal(err)
			}
			out := w.sh(e.Text, "adm_…", leaving)
			if !strings.Contains(out, "ana@example.com") || !strings.Contains(out, leaving) {
				w.f.t.Errorf("the list:\n%s", out)
			}
			w.f.admin = strings.TrimSpace(w.read("admin.token"))
			leaks.secret("admin token", w.f.admin)
			for _, name := range []string{"viewer.token", "redactor.token", ".daypass-admin", ".daypass/token"} {
				w.f.write(name, w.f.admin)
			}
		}},
	}
}

// keep is the step of a piece that another step puts where it belongs.
func keep(name, indent string) func(*world, pages.Example) {
	return func(w *world, e pages.Example) {
		w.words[name] = indent + strings.TrimSpace(strings.ReplaceAll(e.Text, "\n", "\n"+indent)) + "\n"
	}
}

// claims is the step of some lines of a job entry.
func claims(provider string) func(*world, pages.Example) {
	return func(w *world, e pages.Example) {
		ids := map[string]string{
			"github": "repository_owner_id: \"65\"\nref: refs/heads/main\nevent_name: push\n",
			"gitlab": "project_id: \"20\"\nnamespace_id: \"72\"\nref_type: branch\nref_protected: \"true\"\n",
		}[provider]
		entry := "  - name: release\n    provider: " + provider + "\n    claims:\n      " + strings.ReplaceAll(ids+e.Text, "\n", "\n      ")
		if mistake := w.checkPolicy("jobs:\n" + strings.TrimRight(entry, " \n") + "\ngrants: [{name: g, issuer: i, role: r, ttl: 5m}]\n"); mistake != "" {
			w.f.t.Error(mistake)
		}
	}
}

// configure writes configuration and policies: what all pages show of them, at once.
func (w *world) configure(pages.Example) {
	t := w.f.t
	key, err := exec.Command("ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", w.path("former")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, key)
	}
	former := strings.Join(strings.Fields(w.read("former.pub"))[:2], " ")
	text := w.settings()
	for _, part := range w.parts {
		text = w.merge(text, w.local(part.Text))
	}
	text = w.merge(text, more)
	revoked := regexp.MustCompile(`"ecdsa[^"]*"`).ReplaceAllString(w.words["revoked"], `"`+former+`"`)
	text = w.merge(text, "issuers:\n  - name: hosts-ssh\n    type: ssh\n"+w.words["hosts"]+revoked)
	text = w.merge(text, "issuers:\n  - name: release-jwt\n    "+w.words["used_by"])
	text = strings.Replace(text, "https://rotator.internal.example.com", w.hook.URL, 1)
	w.f.config = w.f.write("daypass.yaml", text)
	grants := w.grants()
	grants["storefront"] += "  - name: tags\n    issuer: cloud\n    role: tagged\n    ttl: 5m\n" + w.words["tags"]
	for name, text := range policiesOfPages {
		text = "grants: " + text
		if grants[name] != "" {
			text = w.merge(text, "grants:\n"+grants[name])
		}
		w.f.write("policies/"+name+".yaml", wholePolicy(name, text))
	}
}

// grants are those that pages show, by the policy whose they are.
func (w *world) grants() map[string]string {
	w.f.t.Helper()
	all, err := pages.All("..")
	if err != nil {
		w.f.t.Fatal(err)
	}
	of := map[string]string{"docs/oauth.md": "payments", "docs/static-secrets.md": "payments", "docs/x509.md": "payments", "docs/jwt.md": "storefront", "docs/ssh.md": "fleet"}
	grants := map[string]string{}
	for _, e := range all {
		if _, text, is := strings.Cut("\n"+e.Text, "\ngrants:\n"); is && e.Language == "yaml" && of[e.Page] != "" {
			grants[of[e.Page]] += text
		}
	}
	return grants
}
