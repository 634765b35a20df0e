package httpapi_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/client"
	"github.com/daypass/daypass/broker/httpapi"
	"github.com/daypass/daypass/broker/instance"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/redact"
)

// TestRedactionClient: broker/client masks, searches and watches at a real broker, as
// `daypass redact` and `daypass scan` do.
func TestRedactionClient(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{Redaction: instance.Redaction{
		Rules: []leases.Rule{leases.ServerRule("internal", `itk_[0-9a-f]{8}`)}, Streams: httpapi.Streams{MaxBytes: 1 << 20, Idle: time.Minute, MaxTime: time.Minute},
	}})
	if err := b.KeepRules(t.Context()); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(client.Config{URL: b.URL})
	if err != nil {
		t.Fatal(err)
	}
	job := b.Exchange(b.Job(), "payments/deploy-db", "payments/sign")
	t.Run("redact", func(t *testing.T) { clientMasks(t, b, c, job) })
	t.Run("leaks", func(t *testing.T) { clientSearches(t, b, c, job) })
	t.Run("watch", func(t *testing.T) { clientWatches(t, b, c, job) })
}

// clientMasks: a long text of one line comes back masked while it is sent; one that is
// longer than the broker takes ends with an error, and so does one of a stranger.
func clientMasks(t *testing.T, b *brokertest.Broker, c *client.Client, job *api.ExchangeResponse) {
	password := job.Credentials[0].Values["password"]
	line := strings.Repeat("x", 100_000) + " "
	for name, token := range map[string]string{"session": job.Session.Token, "redactor": b.Admin(admin.Redactor)} {
		out, err := c.Redact(t.Context(), token, strings.NewReader(line+password+" itk_0123abcd "+line+password))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(out)
		if want := line + mask + " " + mask + " " + line + mask; err != nil || string(got) != want {
			t.Errorf("%s: %d bytes, want %d, the password in it: %t, %v", name, len(got), len(want), strings.Contains(string(got), password), err)
		}
		out.Close() //nolint:errcheck // it was read to its end
	}
	out, err := c.Redact(t.Context(), job.Session.Token, strings.NewReader(strings.Repeat(line, 12)))
	if err == nil {
		_, err = io.ReadAll(out)
		out.Close() //nolint:errcheck // it was read to its end
	}
	if err == nil {
		t.Error("a text that was cut off looks whole")
	}
	var problem *api.Problem
	if _, err := c.Redact(t.Context(), b.Admin(admin.Viewer), strings.NewReader("x")); !errors.As(err, &problem) || problem.Code != api.CodeNotAllowed {
		t.Errorf("for a viewer: %v", err)
	}
}

// clientSearches: what is found is told, recorded with its source, and taken back.
func clientSearches(t *testing.T, b *brokertest.Broker, c *client.Client, job *api.ExchangeResponse) {
	text := "PGPASSWORD=" + job.Credentials[0].Values["password"] + "\n"
	found, err := c.Leaks(t.Context(), b.Admin(admin.Redactor), strings.NewReader(text), client.LeakSearch{Revoke: true, Source: "dist/, git ."})
	if err != nil {
		t.Fatal(err)
	}
	if len(found.Leaks) != 1 || found.Leaks[0].LeaseID != job.Credentials[0].LeaseID || !found.Leaks[0].Revoked || found.Leaks[0].Offset != 11 || found.Bytes != int64(len(text)) {
		t.Errorf("%+v", found)
	}
	if n := b.Count(`SELECT count(*) FROM audit_events WHERE type = 'leak.found' AND body LIKE '%"source":"dist/, git ."%'`); n != 1 {
		t.Errorf("%d events with the source", n)
	}
}

// clientWatches: the rules that the client tells are those that mask, changes come while
// it watches, and the end of the session ends it.
func clientWatches(t *testing.T, b *brokertest.Broker, c *client.Client, job *api.ExchangeResponse) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	told, ended := make(chan api.RuleList, 10), make(chan error, 1)
	go func() {
		ended <- c.WatchRedactionRules(ctx, job.Session.Token, func(rules api.RuleList) error {
			told <- rules
			return nil
		})
	}()
	masks := func(text string) bool {
		var rules api.RuleList
		select {
		case rules = <-told:
		case err := <-ended:
			t.Fatalf("the watch ended: %v", err)
		}
		config := redact.Config{}
		for _, rule := range rules.Rules {
			config.Patterns = append(config.Patterns, rule.Pattern)
		}
		masker, err := redact.New(config)
		if err != nil {
			t.Fatal(err)
		}
		return masker.String(text) == mask+" "+mask
	}
	if !masks("itk_0123abcd pay_live_0123456789abcdefghijklmn") {
		t.Error("the first rules don't mask")
	}
	b.SetPolicies(map[string]string{"payments.yaml": strings.Replace(brokertest.Policies, "pay_live_[0-9a-z]{24}", "pay_next_[0-9a-z]{24}", 1)})
	b.MustReload()
	for !masks("itk_0123abcd pay_next_0123456789abcdefghijklmn") {
		continue // a change may come in parts
	}
	if a := b.Do(http.MethodPost, api.PathSessionRevoke, job.Session.Token, nil); a.Status >= 300 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	b.Disclose()
	var problem *api.Problem
	if err := <-ended; !errors.As(err, &problem) || problem.Code != api.CodeInvalidToken {
		t.Errorf("after its session: %v", err)
	}
}
