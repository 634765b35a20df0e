package clients

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/brokertest"
)

// shortPolicies give credentials that end while a command runs.
const shortPolicies = `
policy: ci
owner: payments@example.com
environment: production
jobs:
  - name: release
    provider: github
    claims: {repository_id: "74", repository_owner_id: "65", ref: refs/heads/main, event_name: push}
grants:
  - {name: db, jobs: [release], issuer: db, role: deployer, ttl: 10s, max_ttl: 12s}
  - {name: deploy, jobs: [release], issuer: release-jwt, ttl: 10s, with: {audience: "https://deploy.example.com"}, env: {token: DEPLOY_TOKEN}}
  - {name: aws, jobs: [release], issuer: release-jwt, ttl: 10s, with: {audience: sts.amazonaws.com}}
  - {name: google, jobs: [release], issuer: release-jwt, ttl: 10s, with: {audience: storefront-ci}}
  - {name: k8s, jobs: [release], issuer: release-jwt, ttl: 10s, with: {audience: kubernetes}}
`

// keptPrograms are what the page's commands are here: each notes what it got, and
// goes on until that has changed.
var keptPrograms = map[string]string{
	"import.sh": `echo run >>used; trap 'exit 0' TERM; while :; do sleep 0.1; done`,
	"worker":    `echo "$PGUSER" >>used; [ "$(wc -l <used)" -lt 3 ] || exit 0; trap 'exit 0' TERM; while :; do sleep 0.1; done`,
	"agent":     `n=0; note() { n=$((n+1)); cat "$TOKEN_FILE" >>used; echo >>used; }; note; trap note HUP; until [ "$n" -ge 3 ]; do sleep 0.1; done`,
	"aws":       `[ -n "$AWS_ROLE_ARN" ]; changes "$AWS_WEB_IDENTITY_TOKEN_FILE"`,
	"gcloud":    `for a in "$@"; do case $a in --credential-source-file=*) echo "${a#*=}" ;; esac; done >google.json`,
	"upload.sh": `changes "$(cat "$GOOGLE_APPLICATION_CREDENTIALS")"`,
	"kubectl":   `case $2 in set) echo "$4" >kubeconfig ;; set-context) ;; *) changes "$(cat kubeconfig)" ;; esac`,
	"cosign":    `[ -n "$ACTIONS_ID_TOKEN_REQUEST_TOKEN" ] && [ -z "${DAYPASS_TOKEN_FILE-}${DAYPASS_SESSION_TOKEN-}" ]; echo "$ACTIONS_ID_TOKEN_REQUEST_TOKEN" >>used`,
}

const changes = `#!/bin/sh
set -eu
changes() {
  before=$(cat "$1"); echo "$before" >>used; cat "$1"
  until [ "$(cat "$1")" != "$before" ]; do sleep 0.1; done
  cat "$1" >>used; echo >>used; cat "$1"
}
`

func keptJob(t *testing.T, b *brokertest.Broker) *job {
	t.Helper()
	j := newJob(t, b).onGitHub("")
	j.env["XDG_RUNTIME_DIR"] = j.path("temp")
	if err := os.Mkdir(j.path("bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range keptPrograms {
		j.program(name, changes+text+"\n")
	}
	j.env["PATH"] = j.path("bin") + ":" + programs(t) + ":" + j.env["PATH"]
	return j
}

// finishKept wants that nothing of what was used stands in the log, lives, or was left.
func finishKept(j *job, out string, uses int) {
	j.t.Helper()
	used := slices.DeleteFunc(strings.Fields(j.read("used")), func(s string) bool { return s == "" })
	for _, value := range used {
		if strings.HasPrefix(value, "ey") && strings.Contains(out, value) {
			j.t.Errorf("a token stands in the log:\n%s", out)
		}
	}
	if distinct := slices.Compact(used); len(distinct) != uses {
		j.t.Errorf("%d different credentials were used, want %d: %q\n%s", len(distinct), uses, distinct, out)
	}
	if left, err := os.ReadDir(j.path("temp")); err != nil || len(left) > 0 {
		j.t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestExecPage runs every example of the page about long commands.
func TestExecPage(t *testing.T) {
	t.Parallel()
	examples := blocksOf(t, "docs/exec.md")
	if len(examples) != 7 {
		t.Errorf("%d examples, want 7", len(examples))
	}
	b := brokertest.New(t, brokertest.Options{Policies: map[string]string{"ci.yaml": shortPolicies}})
	t.Run("side by side", func(t *testing.T) { // since they wait more than they work
		for _, example := range examples {
			_, command, _ := strings.Cut(example.text, " -- ")
			t.Run(example.section+", "+strings.Fields(command)[0], func(t *testing.T) {
				t.Parallel()
				j := keptJob(t, b)
				out, code := j.run("sh", "-ec", strings.ReplaceAll(example.text, " ./", " "+j.path("bin")+"/"))
				want, uses := 0, 2
				switch {
				case strings.Contains(example.text, "import.sh"):
					want, uses = 1, 1
				case strings.Contains(example.text, "worker"), strings.Contains(example.text, "agent"):
					uses = 3
				case strings.Contains(example.text, "cosign"):
					uses = 1
				}
				if code != want {
					t.Fatalf("exit code %d, want %d\n%s", code, want, out)
				}
				finishKept(j, out, uses)
			})
		}
	})
	nothingLives(t, b)
}

// TestExecOutlivesItsSession: where the session ends, another job token opens the
// next one, and what was got in each is given back.
func TestExecOutlivesItsSession(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{Policies: map[string]string{"ci.yaml": shortPolicies}, SessionTTL: 15 * time.Second})
	j := keptJob(t, b)
	j.mustRun(programs(t)+"/daypass", "exec", "--grant", "ci/db", "--grant", "ci/deploy", "--file", "TOKEN_FILE=ci/deploy:token", "--on-expiry", "restart", "--",
		"sh", "-c", `echo "$PGUSER" >>used; cat "$TOKEN_FILE"; [ "$(wc -l <used)" -lt 4 ] || exit 0; trap 'exit 0' TERM; while :; do sleep 0.1; done`)
	finishKept(j, "", 4)
	nothingLives(t, b)
	var sessions int
	if err := b.Base.Pool.QueryRow(t.Context(), `SELECT count(DISTINCT session_id) FROM leases`).Scan(&sessions); err != nil || sessions < 2 {
		t.Errorf("%d sessions, want several: %v", sessions, err)
	}
	var alive int
	if err := b.Base.Pool.QueryRow(t.Context(), `SELECT count(*) FROM leases WHERE state IN ('active', 'issuing')`).Scan(&alive); err != nil || alive > 0 {
		t.Errorf("%d leases are still alive: %v", alive, err)
	}
}

// TestExecBound runs what the page on bound tokens shows for exec: the session is
// bound to a key, and given back all the same.
func TestExecBound(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	j := keptJob(t, b)
	example := blocksOf(t, "docs/dpop.md")[0]
	j.mustRun("sh", "-ec", strings.ReplaceAll(strings.TrimPrefix(example.text, "$ "), "./migrate.sh", `sh -c '[ -n "$PGPASSWORD" ]'`))
	nothingLives(t, b)
	const bound = `SELECT count(*) FROM session_tokens WHERE dpop_jkt IS NOT NULL AND revoked_at IS NOT NULL`
	if n, all := b.Count(bound), b.Count(`SELECT count(*) FROM session_tokens`); n != 1 || all != 1 {
		t.Errorf("%d session tokens, %d of them bound and given back, want 1", all, n)
	}
}
