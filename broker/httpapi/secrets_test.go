package httpapi_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/secrets"
)

// keeper speaks of one secret as an operator.
type keeper struct {
	*brokertest.Broker
	t        *testing.T
	operator string
	name     string
}

func newKeeper(t *testing.T, options brokertest.Options, name string) *keeper {
	b := brokertest.New(t, options)
	return &keeper{Broker: b, t: t, operator: b.Admin(admin.Operator), name: name}
}

func (k *keeper) path(verb string) string {
	path := api.PathSecrets + "/" + k.name
	if verb != "" {
		path += ":" + verb
	}
	return path
}

func (k *keeper) want(a *brokertest.Answer) (s api.Secret) {
	k.t.Helper()
	if err := a.Into(&s); a.Status != http.StatusOK || err != nil {
		k.t.Fatalf("answered %d, %v\n%s", a.Status, err, a.Body)
	}
	return s
}

func (k *keeper) put(values map[string]string) api.Secret {
	k.t.Helper()
	for field, v := range values {
		if field != "username" {
			k.Hide(v)
		}
	}
	return k.want(k.Do(http.MethodPut, k.path(""), k.operator, map[string]any{"owner": "payments@example.com", "values": values}))
}

func (k *keeper) do(verb string, version int) *brokertest.Answer {
	return k.Do(http.MethodPost, k.path(verb), k.operator, api.SecretChange{Version: version})
}

func (k *keeper) promote(version int) {
	k.t.Helper()
	k.want(k.do(api.SecretVerify, version))
	k.want(k.do(api.SecretPromote, version))
}

func TestSecretToAJob(t *testing.T) {
	t.Parallel()
	k := newKeeper(t, brokertest.Options{}, brokertest.SecretKey)
	wantProblem(t, k.TryExchange(k.Job(), "payments/key"), 502, api.CodeIssuerFailed)
	k.put(map[string]string{"value": "sk_live_first_4711"})
	wantProblem(t, k.TryExchange(k.Job(), "payments/key"), 502, api.CodeIssuerFailed)
	k.promote(1)

	first := k.Exchange(k.Job(), "payments/key")
	c := first.Credentials[0]
	if c.Values["value"] != "sk_live_first_4711" || c.Env["STRIPE_KEY"] != "sk_live_first_4711" || !slices.Equal(c.Secret, []string{"value"}) ||
		c.Kind != "sealed" || c.Revocation != "expiry" || c.Renewable {
		t.Errorf("kind %s, revocation %s, secret %v, renewable %t", c.Kind, c.Revocation, c.Secret, c.Renewable)
	}
	// The next version: jobs that put it into its target get it, the others don't.
	if s := k.put(map[string]string{"value": "sk_live_second_4711"}); s.Pending != 2 || s.Current != 1 {
		t.Errorf("%+v", s)
	}
	both := k.Exchange(k.Job(), "payments/key", "payments/next-key")
	if both.Credentials[0].Values["value"] != "sk_live_first_4711" || both.Credentials[1].Values["value"] != "sk_live_second_4711" {
		t.Error("a job got the wrong version")
	}
	k.promote(2)
	second := k.Exchange(k.Job(), "payments/key")
	if second.Credentials[0].Values["value"] != "sk_live_second_4711" {
		t.Error("the next job got the former version")
	}
	if l := k.Lease(k.operator, c.LeaseID); l.State != "active" {
		t.Errorf("a promotion made a lease of the former version %s", l.State)
	}

	var reads api.SecretReadList
	viewer := k.Admin(admin.Viewer)
	if a := k.Do(http.MethodGet, k.path(api.SecretReads)+"?limit=3", viewer, nil); a.Into(&reads) != nil || len(reads.Reads) != 3 || reads.Next == "" {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	if r := reads.Reads[0]; r.LeaseID != second.Credentials[0].LeaseID || r.Version != 2 || r.State != "active" || r.Grant != "payments/key" || r.Provider != "github" || r.Subject == "" || r.Session != second.Session.ID {
		t.Errorf("%+v", r)
	}
	cursor := reads.Next
	reads = api.SecretReadList{}
	if a := k.Do(http.MethodGet, k.path(api.SecretReads)+"?cursor="+cursor, viewer, nil); a.Into(&reads) != nil || len(reads.Reads) != 1 || reads.Reads[0].LeaseID != c.LeaseID || reads.Next != "" {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	var events api.EventList
	if a := k.Do(http.MethodGet, api.PathAudit+"?subject="+reads.Reads[0].ID, viewer, nil); a.Into(&events) != nil || len(events.Events) != 1 ||
		events.Events[0].Type != "secret.read" || events.Events[0].Data["lease"] != c.LeaseID || !strings.HasPrefix(events.Events[0].Actor, "job github ") {
		t.Errorf("who read it is not in the audit log: %s", a.Body)
	}
}

// TestSecretThatCannotBeMasked reaches no job: masks in its place would tell what it is.
func TestSecretThatCannotBeMasked(t *testing.T) {
	t.Parallel()
	k := newKeeper(t, brokertest.Options{}, brokertest.SecretKey)
	k.want(k.Do(http.MethodPut, k.path(""), k.operator, map[string]any{"owner": "payments@example.com", "values": map[string]string{"value": "changeme"}}))
	k.promote(1)
	wantProblem(t, k.TryExchange(k.Job(), "payments/key"), 502, api.CodeIssuerFailed)
	if n := k.Count(`SELECT count(*) FROM leases WHERE state = 'active'`); n != 0 {
		t.Errorf("%d leases live", n)
	}
	k.put(map[string]string{"value": "sk_live_second_4711"})
	k.promote(2)
	k.Exchange(k.Job(), "payments/key")
}

func TestSecretIsDestroyed(t *testing.T) {
	t.Parallel()
	k := newKeeper(t, brokertest.Options{}, brokertest.SecretKey)
	k.put(map[string]string{"value": "sk_live_first_4711"})
	k.promote(1)
	held := k.Exchange(k.Job(), "payments/key")
	k.put(map[string]string{"value": "sk_live_second_4711"})
	k.promote(2)
	a := k.do(api.SecretDestroy, 1)
	wantProblem(t, a, 409, api.CodeInUse)
	if a.Problem.Count != 1 || !slices.Equal(a.Problem.Leases, []string{held.Credentials[0].LeaseID}) {
		t.Errorf("%s", a.Body)
	}
	if a := k.Do(http.MethodPost, api.PathSessionRevoke, held.Session.Token, nil); a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	k.want(k.do(api.SecretDestroy, 1))
	wantProblem(t, k.do(api.SecretDestroy, 1), 409, api.CodeWrongState)
	wantProblem(t, k.do(api.SecretRollback, 1), 409, api.CodeWrongState)
	wantProblem(t, k.do(api.SecretDestroy, 2), 409, api.CodeWrongState)
	k.want(k.Do(http.MethodPost, k.path(api.SecretDestroy), k.operator, api.SecretChange{Version: 2, Force: true}))
	s := k.want(k.Do(http.MethodGet, k.path(""), k.operator, nil))
	if s.Current != 0 || len(s.Versions) != 2 || s.Versions[0].State != "destroyed" || s.Versions[1].DestroyedAt == nil || s.Versions[1].Fields[0] != "value" {
		t.Errorf("%+v", s)
	}
	wantProblem(t, k.TryExchange(k.Job(), "payments/key"), 502, api.CodeIssuerFailed)
	if n := k.Count(`SELECT count(*) FROM secret_versions WHERE value IS NOT NULL`); n != 0 {
		t.Errorf("%d values are left", n)
	}
}

func TestSecretOfTwoFields(t *testing.T) {
	t.Parallel()
	k := newKeeper(t, brokertest.Options{}, brokertest.SecretLogin)
	k.want(k.Do(http.MethodPut, k.path(""), k.operator, map[string]any{
		"owner": "x", "values": map[string]string{"username": "app", "password": k.Hide("0123456789abcdefghijklmnop")}, "random_bits": map[string]int{"password": 130},
	}))
	k.promote(1)
	c := k.Exchange(k.Job(), "payments/login").Credentials[0]
	if c.Values["username"] != "app" || !slices.Equal(c.Secret, []string{"password"}) || len(c.Env) != 0 {
		t.Errorf("secret %v, env %v", c.Secret, c.Env)
	}
	if n := k.Count(`SELECT count(*) FROM fingerprints WHERE lease_id = $1 AND field = 'password'`, c.LeaseID); n != 1 {
		t.Errorf("%d fingerprints of a value with 130 random bits", n)
	}
	if n := k.Count(`SELECT count(*) FROM fingerprints`); n != 1 {
		t.Errorf("%d fingerprints: one of a value that can be guessed", n)
	}
	// A version that lacks what the role gives is not given in part.
	k.put(map[string]string{"password": "another-password"})
	k.promote(2)
	wantProblem(t, k.TryExchange(k.Job(), "payments/login"), 502, api.CodeIssuerFailed)
}

func TestSecretRefuses(t *testing.T) {
	t.Parallel()
	k := newKeeper(t, brokertest.Options{Idle: true}, brokertest.SecretKey)
	viewer, redactor := k.Admin(admin.Viewer), k.Admin(admin.Redactor)
	secret := k.Hide("the-confidential-value")
	body := fmt.Sprintf(`{"owner":"x","values":{"value":%q}}`, secret)
	for _, token := range []string{viewer, redactor} {
		wantProblem(t, k.Do(http.MethodPut, k.path(""), token, body), 403, api.CodeNotAllowed)
	}
	wantReason(t, k.Do(http.MethodPut, k.path(""), k.Job(), body), api.ReasonMalformed)
	for _, bad := range []string{
		`{"values":{"value":"` + secret + `"}}`, // no owner
		`{"owner":"x","values":{"value":"` + secret + `","value":"` + secret + `"}}`,
		`{"owner":"x","values":{"value":"` + secret + `"},"values":{"value":"` + secret + `"}}`,
		`{"owner":"x","Values":{"value":"` + secret + `"}}`,
		`{"owner":"x","values":"` + secret + `"}`,
		`{"owner":"x","values":["` + secret + `"]}`,
		`{"owner":"x","values":{"value":["` + secret + `"]}}`,
		`{"owner":"x","values":{"value":null}}`,
		`{"owner":"x","values":{"value":{"` + secret + `":1}}}`,
		`{"owner":"x","values":{"VALUE":"` + secret + `"}}`,
		`{"owner":"x","values":{"value":"` + secret + `"}`,
		`{"owner":"x","values":{"value":"` + secret + `"}} x`,
		`{"owner":"x","values":{"value":"` + secret + `\u0000"}}`,
		`{"owner":"x","values":{"value":"` + secret + `"},"random_bits":{"other":5}}`,
		`{"owner":"x","values":{"value":"` + secret + `"},"random_bits":{"value":-5}}`,
		`{"owner":"x","values":{"value":"` + secret + `"},"random_bits":{"value":"many"}}`,
		`{"owner":"x","rotate_every":"fortnight"}`,
		`{"owner":"x","rotate_every":"1s"}`,
		`{"owner":"x","hook":"https://evil.example"}`,
		`{"owner":"x\u0000"}`,
		`{"owner":""}`,
		`[]`,
		"\xff",
	} {
		wantProblem(t, k.Do(http.MethodPut, k.path(""), k.operator, bad), 400, api.CodeInvalidRequest)
	}
	a := k.Do(http.MethodPut, k.path(""), k.operator, `{"owner":"x","values":{"value":123456789012}}`)
	wantProblem(t, a, 400, api.CodeInvalidRequest)
	if strings.Contains(string(a.Body), "123456789012") {
		t.Errorf("a value is repeated: %s", a.Body)
	}
	wantProblem(t, k.Do(http.MethodPut, k.path(""), k.operator, `{"owner":"x","values":{"value":"`+strings.Repeat("x", api.MaxBody)+`"}}`), 413, api.CodeTooLarge)
	for _, name := range []string{"Payments", "a//b", "a/", "/a", "a%2F..%2Fb", "..", "a:verify:x", strings.Repeat("a", 129)} {
		wantProblem(t, k.Do(http.MethodPut, api.PathSecrets+"/"+name, k.operator, body), 404, api.CodeNotFound)
	}
	if n := k.Count(`SELECT count(*) FROM secrets`); n != 0 {
		t.Errorf("%d secrets were made", n)
	}
	k.put(map[string]string{"value": "sk_live_first_4711"})
	for verb, bodies := range map[string][]string{
		"verify": {`{}`, ``, `{"version":0}`, `{"version":-1}`, `{"version":99999999999}`, `{"version":"1"}`, `{"version":1,"force":true}`}, "rotate": {`{"version":1}`},
	} {
		for _, body := range bodies {
			wantProblem(t, k.Do(http.MethodPost, k.path(verb), k.operator, body), 400, api.CodeInvalidRequest)
		}
	}
	wantProblem(t, k.do("reveal", 1), 404, api.CodeNotFound)
	wantProblem(t, k.do(api.SecretVerify, 2), 404, api.CodeNotFound)
	wantProblem(t, k.do(api.SecretPromote, 1), 409, api.CodeWrongState)
	wantProblem(t, k.Do(http.MethodPost, k.path(api.SecretRotate), k.operator, nil), 409, api.CodeWrongState)
	wantProblem(t, k.Do(http.MethodPost, k.path(api.SecretVerify), viewer, api.SecretChange{Version: 1}), 403, api.CodeNotAllowed)
	for _, path := range []string{k.path("value"), k.path("verify"), api.PathSecrets + "/no/such", api.PathSecrets + "/no/such:reads"} {
		wantProblem(t, k.Do(http.MethodGet, path, viewer, nil), 404, api.CodeNotFound)
	}
	for _, query := range []string{"?version=0", "?version=x", "?cursor=x", "?limit=0", "?who=x"} {
		wantProblem(t, k.Do(http.MethodGet, k.path(api.SecretReads)+query, viewer, nil), 400, api.CodeInvalidRequest)
	}
	wantProblem(t, k.Do(http.MethodGet, api.PathSecrets, redactor, nil), 403, api.CodeNotAllowed)
}

// TestSecretIsNeverShown reads everything that an admin can, and looks for values.
func TestSecretIsNeverShown(t *testing.T) {
	t.Parallel()
	k := newKeeper(t, brokertest.Options{Idle: true}, brokertest.SecretKey)
	k.put(map[string]string{"value": "sk_live_first_4711"})
	k.promote(1)
	k.put(map[string]string{"value": "sk_live_second_4711"})
	k.Exchange(k.Job(), "payments/key")
	var list api.SecretList
	a := k.Do(http.MethodGet, api.PathSecrets, k.Admin(admin.Viewer), nil)
	if err := a.Into(&list); err != nil || len(list.Secrets) != 1 || list.Secrets[0].Name != k.name || list.Secrets[0].Current != 1 || list.Secrets[0].Pending != 2 || list.Secrets[0].Versions != nil {
		t.Errorf("%v %s", err, a.Body)
	}
	for _, path := range []string{api.PathSecrets, k.path(""), k.path(api.SecretReads), api.PathAudit, api.PathLeases, api.PathDecisions, api.PathMetrics, api.PathReady} {
		if a := k.Do(http.MethodGet, path, k.operator, nil); a.Status != 200 || strings.Contains(string(a.Body), "4711") {
			t.Errorf("%s: %d %s", path, a.Status, a.Body)
		}
	}
	if log := k.Log.String(); strings.Contains(log, "4711") || !strings.Contains(log, `"secret":"payments/stripe-key"`) {
		t.Error("a value stands in the log, or it doesn't say which secret a request was about")
	}
}

// memoryHook is a hook in the process.
type memoryHook struct {
	mu    sync.Mutex
	calls []string
	last  string
}

func (h *memoryHook) Call(_ context.Context, call *secrets.HookCall) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls, h.last = append(h.calls, string(call.Stage)), call.Values["value"].Secret.Reveal()
	return nil
}

func (h *memoryHook) seen() (calls, last string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.calls, " "), h.last
}

func TestSecretIsRotated(t *testing.T) {
	t.Parallel()
	hook := &memoryHook{}
	k := newKeeper(t, brokertest.Options{Idle: true, SecretHooks: map[string]secrets.Hook{"rotator": hook}}, brokertest.SecretKey)
	k.put(map[string]string{"value": "sk_live_first_4711"})
	k.promote(1)
	if s := k.want(k.Do(http.MethodPut, k.path(""), k.operator, `{"hook":"rotator","rotate_every":"720h"}`)); s.DueAt == nil || s.RotateAt == nil || s.RotateEvery != "720h0m0s" || s.Hook != "rotator" {
		t.Errorf("%+v", s)
	}
	k.Exec(`UPDATE secrets SET due_at = now() - interval '1 hour'`) // and nobody has noticed yet
	k.Start()
	brokertest.Poll(t, "the metrics", func() bool {
		body := string(k.Do(http.MethodGet, api.PathMetrics, "", nil).Body)
		return strings.Contains(body, "daypass_secrets_overdue 1") && strings.Contains(body, "daypass_secrets_rotation_failing 0") &&
			strings.Contains(body, `daypass_secret_due_timestamp_seconds{secret="payments/stripe-key"}`)
	})
	before := k.Exchange(k.Job(), "payments/key").Credentials[0]
	k.want(k.Do(http.MethodPost, k.path(api.SecretRotate), k.operator, nil))
	brokertest.Poll(t, "the rotation", func() bool { return k.want(k.Do(http.MethodGet, k.path(""), k.operator, nil)).Current == 2 })
	after := k.Exchange(k.Job(), "payments/key").Credentials[0]
	calls, last := hook.seen()
	if calls != "set verify" || after.Values["value"] != k.Hide(last) || after.Values["value"] == before.Values["value"] {
		t.Errorf("called %s; the next job doesn't get what the hook set", calls)
	}
	if n := k.Count(`SELECT count(*) FROM fingerprints WHERE lease_id = $1`, after.LeaseID); n != 1 {
		t.Errorf("%d fingerprints of what the broker made up", n)
	}
}

func TestTwoPromoteAtOnce(t *testing.T) {
	t.Parallel()
	k := newKeeper(t, brokertest.Options{Idle: true}, brokertest.SecretKey)
	k.put(map[string]string{"value": "sk_live_first_4711"})
	k.want(k.do(api.SecretVerify, 1))
	answers := make([]*brokertest.Answer, 6)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() { answers[i] = k.do(api.SecretPromote, 1) })
	}
	wg.Wait()
	won := 0
	for _, a := range answers {
		if a.Status == 200 {
			won++
			continue
		}
		wantProblem(t, a, 409, api.CodeWrongState)
	}
	if won != 1 {
		t.Errorf("%d won", won)
	}
}

// TestVaultIsNotTried: what stands in the broker's own database is no target, and
// no lease of a secret is made to try it.
func TestVaultIsNotTried(t *testing.T) {
	t.Parallel()
	k := newKeeper(t, brokertest.Options{Probe: true}, brokertest.SecretKey)
	k.put(map[string]string{"value": "sk_live_first_4711"})
	k.promote(1)
	brokertest.Poll(t, "the targets to be tried", func() bool { return k.Count(`SELECT count(*) FROM probes WHERE ended_at IS NOT NULL`) == 2 })
	if n := k.Count(`SELECT count(*) FROM probes WHERE issuer = $1`, brokertest.IssuerSealed) + k.Count(`SELECT count(*) FROM secret_reads`); n != 0 {
		t.Errorf("the vault was tried: %d", n)
	}
	if a := k.Do(http.MethodGet, api.PathReady, "", nil); a.Status != 200 || !strings.Contains(string(a.Body), `"vault":"ok"`) {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}

// TestSecretOfAnExchangeThatFails: what was read for a lease that came to nothing
// stays on record, and its lease ends.
func TestSecretOfAnExchangeThatFails(t *testing.T) {
	t.Parallel()
	k := newKeeper(t, brokertest.Options{}, brokertest.SecretKey)
	k.put(map[string]string{"value": "sk_live_first_4711"})
	k.promote(1)
	// Its other grant can't be had: there is no pending version.
	wantProblem(t, k.TryExchange(k.Job(), "payments/key", "payments/next-key"), 502, api.CodeIssuerFailed)
	brokertest.Poll(t, "the leases to end", func() bool {
		return k.Count(`SELECT count(*) FROM leases WHERE role = 'key' AND issuer = 'vault' AND state NOT IN ('revoked', 'expired')`) == 0
	})
	if n := k.Count(`SELECT count(*) FROM secret_reads WHERE version = 1`); n != 1 {
		t.Errorf("%d reads on record", n)
	}
	k.put(map[string]string{"value": "sk_live_second_4711"})
	k.promote(2)
	k.want(k.do(api.SecretDestroy, 1)) // nobody holds it
}
