package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/e2e/pages"
)

// ofTargets are the steps of what stands on targets.
func ofTargets() []step {
	return []step{
		{"docs/operations.md", "/forget", func(w *world, e pages.Example) {
			lease := w.stuck()
			w.sh(e.Text, "lse_…", lease)
			if !strings.Contains(w.said, "forgotten") {
				w.f.t.Errorf("%s", w.said)
			}
		}},
		{"docs/reconcile.md", "lease reconcile", func(w *world, e pages.Example) {
			lines := strings.Split(strings.TrimSpace(e.Text), "\n")
			w.sh(lines[0])
			w.f.sql(w.f.name, `UPDATE leases SET ended_at = ended_at - interval '1 hour' WHERE state = 'forgotten'`) // an orphan is one for ten minutes
			var listed string
			eventually(w.f.t, "what nobody knows is an orphan", func() bool {
				w.f.t.Helper()
				listed = w.either(lines[1])
				return regexp.MustCompile(`1 orphans`).MatchString(listed)
			})
			w.f.sql(w.f.target(), `DROP FUNCTION payments.blocks()`)
			for _, line := range lines[2:] {
				w.either(line)
			}
			w.said = listed
		}},
		{"docs/reconcile.md", "ORPHAN", prints},
		{"docs/scaling.md", "UPDATE clock", func(w *world, e pages.Example) { w.f.sql(w.f.name, e.Text) }},
		{"docs/scaling.md", "postgres://", func(w *world, e pages.Example) {
			config, err := pgx.ParseConfig(strings.TrimSpace(strings.ReplaceAll(e.Text, "…", "x")))
			if err != nil || config.Host != "db1.internal" || !slices.ContainsFunc(config.Fallbacks, func(c *pgconn.FallbackConfig) bool { return c.Host == "db2.internal" }) {
				w.f.t.Errorf("%v, %v", config, err)
			}
		}},
	}
}

// either runs a command whose exit code says whether it found something.
func (w *world) either(script string) string {
	w.f.t.Helper()
	w.sh("code=0; { " + script + "\n} || code=$?; [ $code -le 1 ]")
	return w.said
}

// stuck makes a lease that can't be taken back: its user owns what acts by its
// owner's rights, which nobody inherits unseen.
func (w *world) stuck() string {
	w.f.t.Helper()
	given := w.exchange("payments/deploy-db").Credentials[0]
	w.sh("psql -Xq '" + given.Values["url"] + "' -c \"CREATE FUNCTION payments.blocks() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'\"")
	if _, _, err := w.b.call(http.MethodPost, api.PathLeases+"/"+given.LeaseID+"/revoke", w.f.admin, map[string]string{"reason": "a test"}); err != nil {
		w.f.t.Fatal(err)
	}
	eventually(w.f.t, "it is stuck", func() bool {
		return w.f.count(w.f.name, `SELECT count(*) FROM leases WHERE id = $1 AND stuck`, given.LeaseID) == 1
	})
	return given.LeaseID
}

// ofOperators are the steps of who runs a broker.
func ofOperators() []step {
	return []step{
		{"docs/operations.md", "policies/reload", func(w *world, e pages.Example) {
			if err := os.Remove(w.path("policies/gone.yaml")); err != nil {
				w.f.t.Fatal(err)
			}
			var digest string
			eventually(w.f.t, "a set that removes a policy waits for a word", func() bool {
				status, body, err := w.b.call(http.MethodPost, api.PathPoliciesReload, w.f.admin, nil)
				var pending struct{ Code, Digest string }
				if err != nil || json.Unmarshal(body, &pending) != nil || status == http.StatusOK {
					w.f.t.Fatalf("%d %s %v", status, body, err)
				}
				digest = pending.Digest
				return digest != ""
			})
			w.sh(e.Text, "DIGEST", digest)
		}},
		{"docs/operations.md", "policies/explain", func(w *world, e pages.Example) {
			token, err := w.f.provider.Token("github", exampleAudience, map[string]any{"ref": "refs/heads/feature"})
			if err != nil {
				w.f.t.Fatal(err)
			}
			_, body, err := w.b.call(http.MethodPost, api.PathExchange+"?grant=payments/deploy-db", token, nil)
			var denied api.Problem
			if err != nil || json.Unmarshal(body, &denied) != nil || denied.Code != api.CodeNotAllowed {
				w.f.t.Fatalf("%s %v", body, err)
			}
			eventually(w.f.t, "the denial is on record", func() bool {
				status, _, err := w.b.call(http.MethodPost, api.PathPoliciesExplain, w.f.admin, map[string]string{"request_id": denied.RequestID})
				return err == nil && status == http.StatusOK
			})
			if out := w.sh(e.Text, "req_…", denied.RequestID); !strings.Contains(out, "refs/heads/feature") {
				w.f.t.Errorf("%s", out)
			}
		}},
		{"docs/switches.md", "switch off provider", func(w *world, e pages.Example) {
			out := w.sh(e.Text)
			if !strings.Contains(out, "INC-4711") {
				w.f.t.Errorf("%s", out)
			}
			w.sh("daypass switch on provider github; daypass switch on policy payments; daypass switch on grant payments/deploy-db")
		}},
		{"docs/switches.md", "/v1/switches", func(w *world, e pages.Example) {
			w.sh(e.Text)
			w.sh("daypass switch on grant payments/deploy-db")
		}},
		{"docs/operations.md", "lease job pause", func(w *world, e pages.Example) {
			lines := strings.SplitAfter(strings.TrimSpace(e.Text), "\n")
			w.exchange("payments/deploy-db")
			w.sh(strings.Join(lines[:len(lines)-1], ""))
			job := regexp.MustCompile(`job_\w+`).FindString(w.said)
			w.either(strings.Replace(lines[len(lines)-1], "job_01J8Z3", job, 1)) // it has ended
			if !strings.Contains(w.said, job) {
				w.f.t.Errorf("%s", w.said)
			}
		}},
		{"docs/audit.md", "keys audit", script},
		{"docs/audit.md", "audit checkpoint", func(w *world, e pages.Example) {
			eventually(w.f.t, "there is a checkpoint", func() bool {
				status, _, err := w.b.call(http.MethodGet, api.PathAuditCheckpoint, w.f.admin, nil)
				return err == nil && status == http.StatusOK
			})
			w.sh(e.Text)
			w.sh("cp *.checkpoint 2026-10-31.checkpoint")
		}},
		{"docs/audit.md", "audit verify", func(w *world, e pages.Example) {
			// What happens meanwhile stands behind the last checkpoint: exit code 4.
			eventually(w.f.t, "all of it is signed", func() bool {
				w.f.t.Helper()
				w.sh("code=0; ( " + e.Text + ") || code=$?; [ $code = 0 ] || [ $code = 4 ]; echo code=$code")
				return strings.Contains(w.said, "code=0")
			})
		}},
		{"docs/fsck.md", "daypassd fsck", func(w *world, e pages.Example) {
			// Somebody else writes to the database.
			w.f.sql(w.f.name, `DELETE FROM audit_events WHERE id IN (SELECT e.id FROM audit_events e JOIN leases l ON l.id = e.subject WHERE e.type = 'lease.revoked' AND l.state = 'revoked' LIMIT 1)`)
			lines := strings.Split(strings.TrimSpace(e.Text), "\n")
			w.exits(1, lines[0])
			first := w.said
			w.exits(1, lines[1])
			var report any
			if err := json.Unmarshal([]byte(w.read("fsck.json")), &report); err != nil {
				w.f.t.Error(err)
			}
			w.said = first
		}},
		{"docs/fsck.md", "event-of-end", prints},
	}
}
