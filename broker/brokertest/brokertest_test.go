package brokertest

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/issuers"
)

func TestMain(m *testing.M) { os.Exit(devtest.Main(m)) }

// recorder is a test that only takes down what was said of it.
type recorder struct {
	testing.TB
	errors []string
}

func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

func (r *recorder) Error(args ...any) { r.errors = append(r.errors, fmt.Sprint(args...)) }

// TestExaminationFinds what it looks for; a search that finds nothing proves
// nothing otherwise.
func TestExaminationFinds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		leak func(b *Broker, secret string)
		want string
	}{
		"nothing":               {func(*Broker, string) {}, ""},
		"a secret in the log":   {func(b *Broker, s string) { _, _ = fmt.Fprintln(b.Log, "token", s) }, "stands in the log"},
		"a secret in an answer": {func(b *Broker, s string) { b.answers.add([]byte(`{"detail":"` + s + `"}`)) }, "error answer holds"},
		"a secret in a row":     {func(b *Broker, s string) { b.Exec(`UPDATE leases SET last_error = $1`, s) }, "stands in table leases"},
		"a secret in bytes":     {func(b *Broker, s string) { b.Exec(`UPDATE leases SET handle = $1`, []byte("x"+s)) }, "stands in table leases"},
		"a secret in an event":  {func(b *Broker, s string) { b.Exec(`UPDATE audit_events SET body = body || $1`, s) }, "stands in table audit_events"},
		"a forged event":        {func(b *Broker, _ string) { b.Exec(`UPDATE audit_events SET body = replace(body, 'octo', 'evil')`) }, "not written by this installation"},
		"a missing event":       {func(b *Broker, _ string) { b.Exec(`DELETE FROM audit_events WHERE type = 'lease.issued'`) }, "misses events"},
		"a lease that is gone": {func(b *Broker, _ string) {
			b.Exec(`UPDATE leases SET state = 'revoked', due_at = NULL, ended_at = now()`)
		}, "nobody will take it back"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := New(t, Options{Idle: true})
			job := b.Job()
			out := b.Exchange(job, "payments/deploy-db", "payments/sign")
			said := &recorder{TB: t}
			for _, secret := range []string{job, out.Session.Token, out.Credentials[0].Values["password"], out.Credentials[1].Values["token"]} {
				if b.secrets.in(secret) == "" || b.secrets.in("x"+hex.EncodeToString([]byte(secret))) == "" {
					t.Fatal("a secret that was issued isn't known as one")
				}
			}
			// The broker is examined by the recorder, broken, and then repaired for its own end.
			whole := *b
			whole.t, whole.Log, whole.answers = said, &Log{}, &answers{}
			b.Exec(`CREATE TABLE kept_leases AS TABLE leases; CREATE TABLE kept_events AS TABLE audit_events`)
			c.leak(&whole, out.Credentials[0].Values["password"])
			whole.examine()
			b.Exec(`UPDATE leases l SET state = k.state, due_at = k.due_at, ended_at = k.ended_at, last_error = k.last_error, handle = k.handle FROM kept_leases k WHERE k.id = l.id`)
			b.Exec(`DELETE FROM audit_events; INSERT INTO audit_events SELECT * FROM kept_events; DROP TABLE kept_leases, kept_events`)
			if all := strings.Join(said.errors, "\n"); (c.want == "") != (all == "") || !strings.Contains(all, c.want) {
				t.Errorf("the examination says %q, want %q", all, c.want)
			}
		})
	}
}

func TestTargetKeepsTheFence(t *testing.T) {
	t.Parallel()
	b := New(t, Options{})
	out := b.Exchange(b.Job(), "payments/deploy-db")
	id := out.Credentials[0].LeaseID
	if live := b.DB.Live(); len(live) != 1 || live[0] != id {
		t.Fatalf("live: %v", live)
	}
	if _, err := b.DB.Issue(t.Context(), &issuers.IssueRequest{Lease: b.DB.Seen("Issue")[0].Lease}); err == nil {
		t.Error("the same user was made twice")
	}
}
