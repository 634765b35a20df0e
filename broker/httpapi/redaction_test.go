package httpapi_test

import (
	"bufio"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/httpapi"
	"github.com/daypass/daypass/broker/instance"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/issuers"
)

// masked masks a text in one request, or the test fails.
func masked(t *testing.T, b *brokertest.Broker, token, text string) string {
	t.Helper()
	a := b.Do(http.MethodPost, api.PathRedact, token, text)
	if a.Status != http.StatusOK {
		t.Fatalf("masking: %d %s", a.Status, a.Body)
	}
	return string(a.Body)
}

const mask = "[daypass:redacted]"

// TestRedact: a session's values, its grants' patterns, the server's own and whatever
// has the broker's shape are masked for it; for a redactor everybody's are.
func TestRedact(t *testing.T) {
	t.Parallel()
	rule := leases.ServerRule("internal", `itk_[0-9a-f]{8}`)
	ended := leases.ServerRule("former", `fmr_[0-9a-f]{8}`)
	past := time.Now().Add(-time.Hour)
	ended.Until = &past
	b := brokertest.New(t, brokertest.Options{Redaction: instance.Redaction{Rules: []leases.Rule{rule, ended}}})
	mine, others := b.Exchange(b.Job(), "payments/deploy-db", "payments/sign"), b.Exchange(b.Job(), "payments/sign")
	if !slices.Contains(mine.Redaction.Patterns, rule.Pattern) || slices.Contains(mine.Redaction.Patterns, ended.Pattern) {
		t.Errorf("the answer of the exchange names patterns %v", mine.Redaction.Patterns)
	}
	if err := b.KeepRules(t.Context()); err != nil {
		t.Fatal(err)
	}
	own, other := mine.Credentials[1].Values["token"], others.Credentials[0].Values["token"]
	text := strings.Join([]string{
		"password " + mine.Credentials[0].Values["password"], "jwt " + own + ".", "other jwt " + other, "itk_0123abcd fmr_0123abcd pay_live_0123456789abcdefghijklmn", "unknown " + issuers.Generate(issuers.APIToken).Reveal(), "tail",
	}, "\n")
	want := strings.Join([]string{"password " + mask, "jwt " + mask + ".", "other jwt " + other, mask + " fmr_0123abcd " + mask, "unknown " + mask, "tail"}, "\n")
	if got := masked(t, b, mine.Session.Token, text); got != want {
		t.Errorf("for the session:\n%s\nwant\n%s", got, want)
	}
	if got, want := masked(t, b, b.Admin(admin.Redactor), text), strings.ReplaceAll(want, other, mask); got != want {
		t.Errorf("for a redactor:\n%s\nwant\n%s", got, want)
	}
	wantProblem(t, b.Do(http.MethodPost, api.PathRedact, b.Admin(admin.Viewer), text), http.StatusForbidden, api.CodeNotAllowed)
	wantProblem(t, b.Do(http.MethodPost, api.PathRedact, b.Job(), text), http.StatusUnauthorized, api.CodeInvalidToken)
	// In encodings, too, of tokens and of other values, also for a session that has none of these.
	only := b.Exchange(b.Job(), "payments/deploy-db")
	password := only.Credentials[0].Values["password"]
	for _, encoded := range []string{base64.StdEncoding.EncodeToString([]byte("user:" + password)), hex.EncodeToString([]byte(password))} {
		for _, token := range []string{only.Session.Token, b.Admin(admin.Redactor)} {
			if got := masked(t, b, token, "header "+encoded+" tail"); !strings.HasPrefix(got, "header ") || !strings.HasSuffix(got, " tail") || !strings.Contains(got, mask) || strings.Contains(got, encoded[12:]) {
				t.Errorf("%q of %q", got, encoded)
			}
		}
	}
	// Long streams are masked wherever a value stands.
	long := strings.Repeat("a line of a log that holds nothing\n", 5000)
	if got := masked(t, b, b.Admin(admin.Operator), long+own+"\n"+long+own); got != long+mask+"\n"+long+mask {
		t.Errorf("a long stream has %d bytes and still holds the value %t", len(got), strings.Contains(got, own))
	}
}

// TestRedactAsItComes: what is sent comes back before the request has ended, but for
// the word at its end.
func TestRedactAsItComes(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	job := b.Exchange(b.Job(), "payments/sign")
	value := job.Credentials[0].Values["token"]
	for _, token := range []string{job.Session.Token, b.Admin(admin.Redactor)} {
		reader, writer := io.Pipe()
		response, err := http.DefaultClient.Do(b.Request(http.MethodPost, api.PathRedact, token, reader))
		if err != nil {
			t.Fatal(err)
		}
		got := bufio.NewReader(response.Body)
		expect := func(want string) {
			t.Helper()
			text := make([]byte, len(want))
			if _, err := io.ReadFull(got, text); err != nil || string(text) != want {
				t.Errorf("it came back as %q, want %q: %v", text, want, err)
			}
		}
		send := func(text string) {
			t.Helper()
			if _, err := io.WriteString(writer, text); err != nil {
				t.Fatal(err)
			}
		}
		send("Password: ")
		expect("Password: ")
		send(value[:100])
		send(value[100:] + " is it\n")
		expect(mask + " is it\n")
		send("the end")
		writer.Close() //nolint:errcheck // never fails
		rest, err := io.ReadAll(got)
		if err != nil || string(rest) != "the end" {
			t.Errorf("the rest is %q: %v", rest, err)
		}
		response.Body.Close() //nolint:errcheck // it was read to its end
	}
}

// TestRedactIsBounded: in bytes, in time, at once and a minute.
func TestRedactIsBounded(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{Redaction: instance.Redaction{
		Streams: httpapi.Streams{MaxBytes: 1000, Idle: time.Second, MaxTime: time.Minute}, AtOnce: 1, Requests: 5,
	}})
	token := b.Exchange(b.Job(), "payments/sign").Session.Token
	wantProblem(t, b.Do(http.MethodPost, api.PathLeaks, token, strings.Repeat("x", 1001)), http.StatusRequestEntityTooLarge, api.CodeTooLarge)
	if a := b.Do(http.MethodPost, api.PathLeaks, token, strings.Repeat("x", 1000)); a.Status != http.StatusOK {
		t.Errorf("as long as it may be: %d", a.Status)
	}
	cut := func(body io.Reader) error {
		t.Helper()
		response, err := http.DefaultClient.Do(b.Request(http.MethodPost, api.PathRedact, token, body))
		if err != nil {
			return err
		}
		defer response.Body.Close() //nolint:errcheck // it was read to its end
		_, err = io.ReadAll(response.Body)
		return err
	}
	if err := cut(strings.NewReader(strings.Repeat("x", 5000))); err == nil {
		t.Error("a stream that was cut off looks whole")
	}
	silent, writer := io.Pipe()
	defer writer.Close() //nolint:errcheck // never fails
	ended := make(chan error, 1)
	go func() { ended <- cut(silent) }()
	brokertest.Poll(t, "the stream runs", func() bool {
		return strings.Contains(string(b.Do(http.MethodGet, api.PathMetrics, "", nil).Body), "daypass_redaction_streams 1")
	})
	wantProblem(t, b.Do(http.MethodPost, api.PathLeaks, token, "x"), http.StatusServiceUnavailable, api.CodeUnavailable)
	if err := <-ended; err == nil {
		t.Error("a stream that nothing came on looks whole")
	}
	brokertest.Poll(t, "its place is free", func() bool {
		return strings.Contains(string(b.Do(http.MethodGet, api.PathMetrics, "", nil).Body), "daypass_redaction_streams 0")
	})
	a := b.Do(http.MethodPost, api.PathLeaks, token, "x")
	wantProblem(t, a, http.StatusTooManyRequests, api.CodeRateLimited)
	if a := b.Do(http.MethodPost, api.PathLeaks, b.Admin(admin.Redactor), "x"); a.Status != http.StatusOK {
		t.Errorf("another caller: %d", a.Status)
	}
}

// watch begins to watch the rules.
func watch(t *testing.T, b *brokertest.Broker, token string) func() api.RuleChange {
	t.Helper()
	response, err := http.DefaultClient.Do(b.Request(http.MethodGet, api.PathRedactionRules+"?watch=true", token, nil))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() }) //nolint:errcheck // the test is over
	if response.StatusCode != http.StatusOK {
		t.Fatalf("watching: %d", response.StatusCode)
	}
	lines := bufio.NewScanner(response.Body)
	return func() (change api.RuleChange) {
		t.Helper()
		for lines.Scan() {
			change = api.RuleChange{}
			if err := json.Unmarshal(lines.Bytes(), &change); err != nil {
				t.Fatalf("%s: %v", lines.Bytes(), err)
			}
			if change.Type != api.RulesHeartbeat {
				return change
			}
		}
		t.Fatalf("the stream ended: %v", lines.Err())
		return change
	}
}

// TestWatchRules: a watcher is told of all rules, of each change, and of the end.
func TestWatchRules(t *testing.T) {
	t.Parallel()
	rule := leases.ServerRule("internal", `itk_[0-9a-f]{8}`)
	rule.Owner = "platform@example.com"
	b := brokertest.New(t, brokertest.Options{Redaction: instance.Redaction{Rules: []leases.Rule{rule}}})
	if err := b.KeepRules(t.Context()); err != nil {
		t.Fatal(err)
	}
	job := b.Exchange(b.Job(), "payments/deploy-db")
	nothing := b.Exchange(b.Job(), "payments/sign")
	ids := func(rules []api.Rule) []string {
		var list []string
		for _, r := range rules {
			list = append(list, r.ID)
		}
		slices.Sort(list)
		return list
	}
	old := leases.GrantRule("payments", "deploy-db", "pay_live_[0-9a-z]{24}")
	session, all, other := watch(t, b, job.Session.Token), watch(t, b, b.Admin(admin.Viewer)), watch(t, b, nothing.Session.Token)
	want := []string{"daypass", rule.ID, old.ID}
	slices.Sort(want)
	for name, next := range map[string]func() api.RuleChange{"session": session, "viewer": all} {
		first := next()
		if got := ids(first.Rules); first.Type != api.RulesAll || !slices.Equal(got, want) {
			t.Errorf("%s: %+v", name, first)
		}
		for _, r := range first.Rules {
			if r.ID == rule.ID && (r.Scope != api.ScopeServer || r.Name != "internal" || r.Owner != rule.Owner || r.Since == nil || r.Until != nil) ||
				r.ID == old.ID && (r.Scope != api.ScopeGrant || r.Owner != "payments@example.com" || r.Grant != "deploy-db") {
				t.Errorf("%s: %+v", name, r)
			}
		}
	}
	if first := other(); len(first.Rules) != 2 {
		t.Errorf("a session without the grant: %+v", first)
	}
	b.SetPolicies(map[string]string{"payments.yaml": strings.Replace(brokertest.Policies, "pay_live_[0-9a-z]{24}", "pay_next_[0-9a-z]{24}", 1)})
	b.MustReload()
	next := leases.GrantRule("payments", "deploy-db", "pay_next_[0-9a-z]{24}")
	for name, told := range map[string]func() api.RuleChange{"session": session, "viewer": all} {
		seen := map[string]api.Rule{}
		for len(seen) < 2 {
			for _, r := range told().Rules {
				seen[r.ID] = r
			}
		}
		if r := seen[next.ID]; r.Pattern != next.Pattern || r.Until != nil {
			t.Errorf("%s: the new rule: %+v", name, r)
		}
		if r := seen[old.ID]; r.Until == nil || r.Until.Before(time.Now().Add(399*24*time.Hour)) {
			t.Errorf("%s: the former rule: %+v", name, r)
		}
	}
	if a := b.Do(http.MethodPost, api.PathSessionRevoke, job.Session.Token, nil); a.Status >= 300 {
		t.Fatalf("%d", a.Status)
	}
	b.Disclose()
	if end := session(); end.Type != api.RulesEnd || end.Reason != "session_ended" {
		t.Errorf("when the session ends: %+v", end)
	}
	b.Drain()
	if end := all(); end.Type != api.RulesEnd || end.Reason != "shutdown" {
		t.Errorf("when the server stops: %+v", end)
	}
	wantProblem(t, b.Do(http.MethodGet, api.PathRedactionRules+"?watch=true", job.Session.Token, nil), http.StatusUnauthorized, api.CodeInvalidToken)
}
