package vaultapi_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/devkit"
	"github.com/daypass/daypass/broker/instance"
	"github.com/daypass/daypass/issuers"
)

// rows counts what a login could leave behind.
func rows(b *brokertest.Broker) string {
	return fmt.Sprint(b.Count(`SELECT count(*) FROM sessions`), b.Count(`SELECT count(*) FROM session_tokens`), b.Count(`SELECT count(*) FROM leases`),
		b.Count(`SELECT count(*) FROM audit_events WHERE type LIKE 'session.%' OR type LIKE 'lease.%'`))
}

// TestRefusedLogins write no row, and are told without a word of the token.
func TestRefusedLogins(t *testing.T) {
	t.Parallel()
	b := newBroker(t, brokertest.Options{Idle: true})
	c := &client{t: t, b: b}
	before := rows(b)
	fork := b.Token(devkit.ProfileGitHub, map[string]any{"repository": "mallory/octo-repo", "repository_id": "666", "repository_owner": "mallory", "repository_owner_id": "667"})
	feature := b.Token(devkit.ProfileGitHub, map[string]any{"ref": "refs/heads/feature"})
	job := b.Job()
	for name, x := range map[string]struct {
		body   any
		mount  string
		status int
		text   string
	}{
		"a fork's":             {map[string]string{"jwt": fork, "role": "deploy"}, "jwt", 403, "permission denied"},
		"of another branch":    {map[string]string{"jwt": feature, "role": "deploy"}, "jwt", 403, "permission denied"},
		"a role that fits not": {map[string]string{"jwt": job, "role": "night"}, "jwt", 403, "permission denied"},
		"a grant that isn't":   {map[string]string{"jwt": job, "role": "wide"}, "jwt", 403, "permission denied"},
		"an unknown role":      {map[string]string{"jwt": job, "role": "root"}, "jwt", 400, "role"},
		"an unknown mount":     {map[string]string{"jwt": job, "role": "deploy"}, "kubernetes", 400, "mount"},
		"no role, no default":  {map[string]string{"jwt": job}, "team/ci", 400, "missing role"},
		"mount token":          {map[string]string{"jwt": job}, "token", 400, "mount"},
		"no token":             {map[string]string{"role": "deploy"}, "jwt", 400, "missing token"},
		"a null token":         {`{"jwt":null,"role":"deploy"}`, "jwt", 400, "missing token"},
		"a number":             {`{"jwt":1}`, "jwt", 400, "jwt is a string"},
		"a list":               {`["jwt"]`, "jwt", 400, "JSON object"},
		"two objects":          {`{"jwt":"a"}{"jwt":"b"}`, "jwt", 400, "JSON object"},
		"a form":               {"jwt=" + job, "jwt", 400, "JSON object"},
		"a member twice":       {`{"jwt":"` + job + `","role":"deploy","role":"night"}`, "jwt", 400, "twice"},
		"another case":         {`{"JWT":"` + job + `","role":"deploy"}`, "jwt", 400, "missing token"},
		"no UTF-8":             {"{\"jwt\":\"\xff\"}", "jwt", 400, "UTF-8"},
		"too much":             {`{"jwt":"` + strings.Repeat("a", 65<<10) + `"}`, "jwt", 413, "64 KiB"},
		"a long token":         {map[string]string{"jwt": strings.Repeat("a", 17<<10), "role": "deploy"}, "jwt", 400, "16 KiB"},
		"a bad signature":      {map[string]string{"jwt": job[:strings.LastIndexByte(job, '.')] + fork[strings.LastIndexByte(fork, '.'):]}, "jwt", 400, "error validating token (signature)"},
		"no JWT":               {map[string]string{"jwt": "x"}, "jwt", 400, "error validating token (malformed)"},
		"an admin's":           {map[string]string{"jwt": b.Admin(admin.Operator)}, "jwt", 400, "a token of Daypass"},
		"expired":              {map[string]string{"jwt": b.Token(devkit.ProfileGitHub, map[string]any{"exp": time.Now().Add(-time.Minute).Unix()})}, "jwt", 400, "error validating token (expired)"},
	} {
		a := c.do(http.MethodPost, "auth/"+x.mount+"/login", x.body)
		if a.Status != x.status {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
			continue
		}
		refused(t, a, x.status, x.text)
		if bytes.Contains(a.Body, []byte(job[:20])) {
			t.Errorf("%s: the answer repeats the token: %s", name, a.Body)
		}
		if name == "of another branch" != bytes.Contains(a.Body, []byte("other claims: ref")) {
			t.Errorf("%s: %s", name, a.Body)
		}
	}
	if after := rows(b); after != before {
		t.Errorf("rows before %s, after %s", before, after)
	}
	refused(t, c.do("GET", "auth/jwt/login", nil), 405, "unsupported operation")
	want(t, c.do("PUT", "auth/team/ci/login", map[string]any{"jwt": job, "role": "deploy", "other": []int{1}}))
	want(t, c.do("PUT", "auth/jwt/login", `{"jwt":"`+job+`","role":null}`))
}

// TestTokensAreGoodAtHome alone, whatever header or door they come by.
func TestTokensAreGoodAtHome(t *testing.T) {
	t.Parallel()
	b := newBroker(t, brokertest.Options{})
	job := b.Job()
	c, reader := login(t, b, job, "deploy"), login(t, b, job, "reader")
	native := b.Exchange(job, "payments/deploy-db")
	lease := api.PathLeases + "/" + native.Credentials[0].LeaseID
	for _, call := range []struct{ method, path string }{
		{"POST", api.PathExchange + "?grant=payments/deploy-db"},
		{"GET", api.PathSession},
		{"POST", api.PathSessionRevoke},
		{"GET", lease},
		{"POST", lease + "/renew"},
		{"POST", lease + "/revoke"},
		{"GET", api.PathLeases},
		{"GET", api.PathAudit},
		{"GET", api.PathRedactionRules},
		{"POST", api.PathPoliciesReload},
	} {
		a := b.Do(call.method, call.path, c.token, nil)
		if a.Status != 401 || a.Problem.Code != api.CodeInvalidToken || a.Problem.Reason != api.ReasonMalformed {
			t.Errorf("%s %s takes a token of the façade: %d %s", call.method, call.path, a.Status, a.Body)
		}
	}
	before := rows(b)
	for name, token := range map[string]string{
		"no":      "",
		"session": native.Session.Token, "job": job, "admin": b.Admin(admin.Operator), "made up": issuers.Generate(issuers.VaultToken).Reveal(),
		"long": strings.Repeat("a", 17<<10), "cut": c.token[:20], "hvs.": "hvs.CAESIJ", "password": issuers.Generate(issuers.Password).Reveal(),
	} {
		for _, path := range []string{"database/creds/deploy", "secret/data/payments/login", "auth/token/lookup-self", "sys/internal/ui/mounts/secret", "nothing/here"} {
			other := &client{t: t, b: b, token: token}
			if a := other.do("GET", path, nil); a.Status != 403 {
				t.Errorf("%s token at %s: %d %s", name, path, a.Status, a.Body)
			}
			other.token = ""
			if a := other.do("GET", path, nil, "Authorization", "Bearer "+token); a.Status != 403 {
				t.Errorf("%s bearer at %s: %d %s", name, path, a.Status, a.Body)
			}
		}
		for _, path := range []string{"auth/token/revoke-self", "auth/token/renew-self", "auth/token/revoke", "auth/token/lookup", "sys/leases/revoke", "sys/leases/renew"} {
			if a := (&client{t: t, b: b, token: token}).do("PUT", path, `{"lease_id":"a/b"}`); a.Status != 403 {
				t.Errorf("%s token at %s: %d %s", name, path, a.Status, a.Body)
			}
		}
	}
	refused(t, c.do("GET", "database/creds/deploy", nil, "X-Vault-Token", reader.token), 403, "permission denied") // two tokens
	// A role reads its own paths.
	for _, x := range []struct {
		c    *client
		path string
	}{{reader, "database/creds/deploy"}, {reader, "secret/data/payments/login"}, {c, "database/creds/read"}, {c, "database/creds/night"}} {
		refused(t, x.c.do("GET", x.path, nil), 403, "permission denied")
	}
	refused(t, reader.do("GET", "sys/internal/ui/mounts/secret", nil), 404, "")
	if after := rows(b); after != before {
		t.Errorf("rows before %s, after %s", before, after)
	}
}

// TestBroadPoliciesOpenNothing beyond the role of a token.
func TestBroadPoliciesOpenNothing(t *testing.T) {
	t.Parallel()
	b := newBroker(t, brokertest.Options{Policies: map[string]string{"payments.yaml": strings.Replace(brokertest.Policies, "environment: production", "environment: production\nsession: broad", 1)}})
	reader := login(t, b, b.Job(), "reader")
	want(t, reader.do("GET", "database/creds/read", nil))
	refused(t, reader.do("GET", "database/creds/deploy", nil), 403, "permission denied")
}

func TestPaths(t *testing.T) {
	t.Parallel()
	b := newBroker(t, brokertest.Options{Idle: true})
	c := login(t, b, b.Job(), "deploy")
	before := rows(b)
	for _, path := range []string{
		"", "/", "database", "database/creds", "database/creds/", "database/creds/deploy/", "/database/creds/deploy", "database//creds/deploy", "Database/creds/deploy",
		"database/creds/../creds/deploy", "./database/creds/deploy", "database/creds/%2e%2e/creds/deploy", "database%2Fcreds%2Fdeploy", "database/creds%2fdeploy",
		`database%5ccreds%5cdeploy`, "database/creds/deploy%00", "database/creds/deploy%20", "database/creds/deploy;x=1", "sys/health/../../database/creds/deploy",
		"auth/jwt/login/../../../database/creds/deploy", "v1/database/creds/deploy", "sys/mounts", "sys/policies/acl/root", "identity/entity", "cubbyhole/x",
		strings.Repeat("a/", 2000), "database/creds/" + strings.Repeat("d", 3000), "ns1/database/creds/deploy", "secret/metadata/payments/login", "secret/payments/login",
	} {
		if a := c.do("GET", path, nil); a.Status != 404 || string(a.Body) != `{"errors":[]}` {
			t.Errorf("%q: %d %s", path, a.Status, a.Body)
		}
		if a := (&client{t: t, b: b}).do("GET", path, nil); a.Status != 403 {
			t.Errorf("%q without a token: %d %s", path, a.Status, a.Body)
		}
	}
	for _, path := range []string{"/vault", "/vault/", "/vault/v2/x", "/vault/ui/"} {
		request := b.Request("GET", path, "", nil)
		request.Header.Set("X-Vault-Token", c.token)
		refused(t, b.Send(request), 404, "")
	}
	// What is beside it is the native API's.
	for _, path := range []string{"/vaults", "/v1/sys/health"} {
		if a := b.Do("GET", path, "", nil); a.Status != 404 || a.Problem.Code != api.CodeNotFound {
			t.Errorf("%s: %d %s", path, a.Status, a.Body)
		}
	}
	if after := rows(b); after != before {
		t.Errorf("rows before %s, after %s", before, after)
	}
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	b := newBroker(t, brokertest.Options{})
	c := login(t, b, b.Job(), "deploy")
	for _, space := range []string{"", "root", "/", "root/", " "} {
		want(t, c.do("GET", "auth/token/lookup-self", nil, "X-Vault-Namespace", space))
	}
	before := rows(b)
	for _, space := range []string{"main", "team", "root/team", "ROOT", "../root"} {
		refused(t, c.do("GET", "database/creds/deploy", nil, "X-Vault-Namespace", space), 400, "namespaces")
		refused(t, c.do("POST", "auth/jwt/login", map[string]string{"jwt": b.Job()}, "X-Vault-Namespace", space), 400, "namespaces")
	}
	refused(t, c.do("GET", "database/creds/deploy", nil, "X-Vault-Namespace", "", "X-Vault-Namespace", "team"), 400, "namespaces")
	refused(t, c.do("GET", "database/creds/deploy", nil, "X-Vault-Wrap-TTL", "5m"), 400, "wrapping")
	refused(t, c.do("POST", "auth/jwt/login", map[string]string{"jwt": b.Job()}, "DPoP", "a.b.c"), 400, "bound to keys")
	refused(t, c.do("POST", "auth/jwt/login", map[string]string{"jwt": b.Job()}, "X-Vault-Wrap-TTL", "300"), 400, "wrapping")
	if after := rows(b); after != before {
		t.Errorf("rows before %s, after %s", before, after)
	}
}

func inlineHeaders(values map[string]any) []string {
	headers := []string{"X-Vault-Inline-Auth-Path", "auth/jwt/login"}
	for key, value := range values {
		encoded, _ := json.Marshal(map[string]any{"key": key, "value": value}) //nolint:errchkjson // strings
		headers = append(headers, "X-Vault-Inline-Auth-Parameter-"+key, base64.RawURLEncoding.EncodeToString(encoded))
	}
	return headers
}

func TestInlineAuthentication(t *testing.T) {
	t.Parallel()
	b := newBroker(t, brokertest.Options{})
	c := &client{t: t, b: b}
	job := b.Job()
	good := inlineHeaders(map[string]any{"jwt": job, "role": "deploy"})
	out := want(t, c.do("GET", "database/creds/deploy", nil, good...))
	if out.data(t)["password"] == "" || *out.LeaseID != "" || *out.Renewable {
		t.Errorf("%+v", out)
	}
	want(t, c.do("GET", "secret/data/payments/database", nil, inlineHeaders(map[string]any{"jwt": job})...))
	if n := b.Count(`SELECT count(*) FROM leases`); n != 2 {
		t.Errorf("%d leases", n)
	}
	before := rows(b)
	fork := b.Token(devkit.ProfileGitHub, map[string]any{"repository": "mallory/octo-repo", "repository_id": "666", "repository_owner": "mallory", "repository_owner_id": "667"})
	for name, x := range map[string]struct {
		headers []string
		path    string
		status  int
	}{
		"another role's path": {inlineHeaders(map[string]any{"jwt": job, "role": "reader"}), "database/creds/deploy", 403},
		"a fork":              {inlineHeaders(map[string]any{"jwt": fork, "role": "deploy"}), "database/creds/deploy", 403},
		"an unknown role":     {inlineHeaders(map[string]any{"jwt": job, "role": "x"}), "database/creds/deploy", 400},
		"no token":            {inlineHeaders(map[string]any{"role": "deploy"}), "database/creds/deploy", 400},
		"no JWT":              {inlineHeaders(map[string]any{"jwt": "x"}), "database/creds/deploy", 400},
		"a session token":     {inlineHeaders(map[string]any{"jwt": issuers.Generate(issuers.SessionToken).Reveal()}), "database/creds/deploy", 400},
		"a number":            {inlineHeaders(map[string]any{"jwt": 1}), "database/creds/deploy", 400},
		"no base64":           {append([]string{"X-Vault-Inline-Auth-Parameter-Jwt", "!"}, inlineHeaders(nil)...), "database/creds/deploy", 400},
		"twice":               {append([]string{"X-Vault-Inline-Auth-Parameter-Jwt", good[3]}, good...), "database/creds/deploy", 400},
		"two paths":           {append([]string{"X-Vault-Inline-Auth-Path", "auth/jwt/login"}, good...), "database/creds/deploy", 400},
		"with a token":        {append([]string{"X-Vault-Token", "x"}, good...), "database/creds/deploy", 400},
		"a namespace":         {append([]string{"X-Vault-Inline-Auth-Namespace", "team"}, good...), "database/creds/deploy", 400},
		"another operation":   {append([]string{"X-Vault-Inline-Auth-Operation", "read"}, good...), "database/creds/deploy", 400},
		"no login":            {append([]string{"X-Vault-Inline-Auth-Path", "jwt/login"}, good[2:]...), "database/creds/deploy", 400},
		"no secret":           {good, "auth/token/lookup-self", 403},
	} {
		a := c.do("GET", x.path, nil, x.headers...)
		if a.Status != x.status {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
		}
	}
	if after := rows(b); after != before {
		t.Errorf("rows before %s, after %s", before, after)
	}
}

// TestOnce: a job token that may come once logs in once, and its token reads on. A
// login that fails uses nothing up.
func TestOnce(t *testing.T) {
	t.Parallel()
	b := newBroker(t, brokertest.Options{Once: map[string]bool{"github": true}})
	job := b.Job()
	anybody := &client{t: t, b: b}
	refused(t, anybody.do("POST", "auth/jwt/login", map[string]string{"jwt": job, "role": "night"}), 403, "permission denied")
	c := login(t, b, job, "deploy")
	for range 2 {
		want(t, c.do("GET", "database/creds/deploy", nil))
		refused(t, anybody.do("POST", "auth/jwt/login", map[string]string{"jwt": job}), 400, "error validating token (replayed)")
		if a := b.TryExchange(job, "payments/deploy-db"); a.Status != 401 || a.Problem.Reason != api.ReasonReplayed {
			t.Errorf("the token is good once more: %d %s", a.Status, a.Body)
		}
	}
	// The other way round: used by an exchange.
	used := b.Job()
	b.Exchange(used, "payments/sign")
	refused(t, anybody.do("POST", "auth/jwt/login", map[string]string{"jwt": used}), 400, "error validating token (replayed)")
	// One that has logged in and read nothing is used up, too.
	used = b.Job()
	login(t, b, used, "deploy")
	if a := b.TryExchange(used, "payments/deploy-db"); a.Status != 401 || a.Problem.Reason != api.ReasonReplayed {
		t.Errorf("a login left its token: %d %s", a.Status, a.Body)
	}
	// Two at once: one has it.
	used = b.Job()
	var running sync.WaitGroup
	codes := make([]int, 4)
	for i := range codes {
		running.Go(func() { codes[i] = anybody.do("POST", "auth/jwt/login", map[string]string{"jwt": used}).Status })
	}
	running.Wait()
	in := 0
	for _, code := range codes {
		if code == 200 {
			in++
		} else if code != 400 && code != 503 {
			t.Errorf("answered %d", code)
		}
	}
	if in != 1 {
		t.Errorf("%d of %v logged in", in, codes)
	}
}

// TestGivenBackMeanwhile: what is read while its token is given back lives for
// nobody: either it is refused, or it was taken back with the token.
func TestGivenBackMeanwhile(t *testing.T) {
	t.Parallel()
	b := newBroker(t, brokertest.Options{})
	job := b.Job()
	for range 3 {
		c := login(t, b, job, "deploy")
		var running sync.WaitGroup
		for range 3 {
			running.Go(func() { c.do("GET", "database/creds/deploy", nil) })
		}
		running.Go(func() {
			if a := c.do("PUT", "auth/token/revoke-self", nil); a.Status != 204 {
				t.Errorf("%d %s", a.Status, a.Body)
			}
		})
		running.Wait()
		refused(t, c.do("GET", "database/creds/deploy", nil), 403, "permission denied")
	}
	brokertest.Poll(t, "nothing is left", func() bool {
		return b.Count(`SELECT count(*) FROM leases WHERE state IN ('issuing', 'active', 'revoking')`) == 0 && len(b.DB.Live()) == 0
	})
}

// TestReservedTooLate stops a read between its look at the token and its place on
// record, and gives the token back meanwhile.
func TestReservedTooLate(t *testing.T) {
	t.Parallel()
	var once sync.Once
	armed, reached, goOn := make(chan struct{}), make(chan struct{}), make(chan struct{})
	b := newBroker(t, brokertest.Options{Checkpoint: func(step string) {
		select {
		case <-armed:
		default:
			return
		}
		if step == "before_reserve" {
			once.Do(func() {
				close(reached)
				<-goOn
			})
		}
	}})
	c := login(t, b, b.Job(), "deploy")
	close(armed)
	var late *brokertest.Answer
	var running sync.WaitGroup
	running.Go(func() { late = c.do("GET", "database/creds/deploy", nil) })
	<-reached
	if a := c.do("PUT", "auth/token/revoke-self", nil); a.Status != 204 {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	close(goOn)
	running.Wait()
	refused(t, late, 403, "permission denied")
	if n := b.Count(`SELECT count(*) FROM leases`); n != 0 || len(b.DB.Seen("Issue")) != 0 {
		t.Errorf("%d leases of a token that was given back", n)
	}
}

// TestLimits of the native API hold here, in this API's words.
func TestLimits(t *testing.T) {
	t.Parallel()
	b := newBroker(t, brokertest.Options{Limits: instance.Limits{Limits: broker.Limits{JobRequests: 6}, FailedTokens: 5}})
	c := login(t, b, b.Job(), "deploy")
	want(t, c.do("GET", "database/creds/limited", nil))
	refused(t, c.do("GET", "database/creds/limited", nil), 429, "max_active")
	answers := map[int]int{}
	for range 10 {
		answers[c.do("GET", "minted/payments", nil).Status]++
	}
	if answers[200] < 1 || answers[429] < 1 || len(answers) != 2 {
		t.Errorf("answers of ten reads: %v", answers)
	}
	made := issuers.Generate(issuers.VaultToken).Reveal()
	for range 5 {
		(&client{t: t, b: b, token: made}).do("GET", "auth/token/lookup-self", nil)
	}
	refused(t, (&client{t: t, b: b, token: made}).do("GET", "auth/token/lookup-self", nil), 429, "too many requests")
	want(t, c.do("GET", "auth/token/lookup-self", nil))
}

// TestFailuresLeaveNothing: clients of Vault try again on 5xx.
func TestFailuresLeaveNothing(t *testing.T) {
	t.Parallel()
	b := newBroker(t, brokertest.Options{})
	c := login(t, b, b.Job(), "deploy")
	b.DB.Set(brokertest.Hooks{Down: true})
	refused(t, c.do("GET", "database/creds/deploy", nil), 502, "nothing was left behind")
	b.DB.Set(brokertest.Hooks{Panic: true})
	refused(t, c.do("GET", "database/creds/deploy", nil), 502, "nothing was left behind")
	b.DB.Set(brokertest.Hooks{})
	brokertest.Poll(t, "what failed is over", func() bool {
		return b.Count(`SELECT count(*) FROM leases WHERE state IN ('issuing', 'active')`) == 0
	})
	want(t, c.do("GET", "database/creds/deploy", nil))
	if n := len(b.DB.Live()); n != 1 {
		t.Errorf("%d users", n)
	}
}
