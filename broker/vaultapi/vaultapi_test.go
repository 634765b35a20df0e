package vaultapi_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/issuers"
)

// TestThread is what a job does: log in, read, give back.
func TestThread(t *testing.T) {
	t.Parallel()
	b := newBroker(t, brokertest.Options{})
	c := &client{t: t, b: b}
	in := want(t, c.do(http.MethodPost, "auth/jwt/login", map[string]string{"jwt": b.Job(), "role": ""}))
	c.token = in.Auth.ClientToken
	if kind, ok := issuers.IsGenerated(c.token); !ok || kind != issuers.VaultToken {
		t.Errorf("the token is of kind %c", kind)
	}
	if a := in.Auth; a.LeaseDuration < 3500 || a.LeaseDuration > 3600 || a.TokenType != "service" || !a.Orphan || a.NumUses != 0 || a.EntityID != "" || string(a.MFARequirement) != "null" ||
		!slices.Contains(a.Policies, "payments/deploy-db") || !slices.Equal(a.Policies, a.TokenPolicies) || a.Metadata["role"] != "deploy" || a.Accessor == "" || strings.Contains(c.token, a.Accessor) {
		t.Errorf("auth %+v", a)
	}
	first, second := want(t, c.do(http.MethodGet, "database/creds/deploy", nil)), want(t, c.do(http.MethodGet, "database/creds/deploy", nil))
	if *first.LeaseID == *second.LeaseID {
		t.Error("two reads gave one lease")
	}
	got := first.data(t)
	path, id := (*first.LeaseID)[:strings.LastIndex(*first.LeaseID, "/")], (*first.LeaseID)[strings.LastIndex(*first.LeaseID, "/")+1:]
	if path != "database/creds/deploy" || !ids.Valid(ids.Lease, id) || !*first.Renewable || first.end() < 9*time.Minute || first.end() > 10*time.Minute || first.Auth != nil {
		t.Errorf("secret %+v", first)
	}
	if got["username"] != "dp_"+id || got["url"] == "" || got["env"] != "export PGPASSWORD='"+got["password"]+"'\nexport PGUSER='"+got["username"]+"'\n" {
		t.Errorf("data has %d values, env %q", len(got), strings.ReplaceAll(got["env"], got["password"], "…"))
	}
	if len(b.DB.Live()) != 2 {
		t.Errorf("live: %v", b.DB.Live())
	}
	if a := c.do(http.MethodPut, "auth/token/revoke-self", `{}`); a.Status != http.StatusNoContent || len(a.Body) != 0 {
		t.Errorf("revoke-self: %d %s", a.Status, a.Body)
	}
	brokertest.Poll(t, "both users are gone", func() bool { return len(b.DB.Live()) == 0 })
	refused(t, c.do(http.MethodGet, "database/creds/deploy", nil), 403, "permission denied")
	refused(t, c.do(http.MethodGet, "auth/token/lookup-self", nil), 403, "permission denied")
	refused(t, c.do(http.MethodPut, "auth/token/revoke-self", nil), 403, "permission denied")
	for kind, n := range map[string]int{"session.opened": 1, "session.login": 1, "session.logout": 1, "session.revoked": 0, "lease.issued": 2, "lease.revoked": 2} {
		if got := b.Count(`SELECT count(*) FROM audit_events WHERE type = $1`, kind); got != n {
			t.Errorf("%d events %s, want %d", got, kind, n)
		}
	}
	for _, line := range b.Log.Lines("request") {
		if route, _ := line["route"].(string); !strings.HasPrefix(route, "/vault/v1/") || line["vault_request_id"] == nil {
			t.Errorf("log line %v", line)
		}
	}
}

// TestLoginsApart: the GitLab runner logs in once for each secret with one job
// token. One of the tokens that is given back ends none of the others' leases.
func TestLoginsApart(t *testing.T) {
	t.Parallel()
	b := newBroker(t, brokertest.Options{})
	job := b.Job()
	one, other := login(t, b, job, "deploy"), login(t, b, job, "deploy")
	mine, theirs := want(t, one.do("GET", "database/creds/deploy", nil)), want(t, other.do("GET", "database/creds/deploy", nil))
	for _, call := range []string{"renew", "lookup", "revoke"} {
		refused(t, one.do("PUT", "sys/leases/"+call, map[string]any{"lease_id": *theirs.LeaseID}), 403, "permission denied")
	}
	if a := one.do("POST", "auth/token/revoke-self", nil); a.Status != 204 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	live := b.DB.Live()
	if len(live) != 1 || !strings.HasSuffix(*theirs.LeaseID, live[0]) || strings.HasSuffix(*mine.LeaseID, live[0]) {
		t.Errorf("live: %v", live)
	}
	want(t, other.do("GET", "auth/token/lookup-self", nil))
	want(t, login(t, b, job, "reader").do("GET", "database/creds/read", nil))
	if n := b.Count(`SELECT count(*) FROM sessions`); n != 1 {
		t.Errorf("%d sessions of one job token", n)
	}
	// Given back by the native API, the session lets nobody do more; giving back goes on.
	native := b.Exchange(job, "payments/deploy-db")
	if a := b.Do("POST", "/v1/session/revoke", native.Session.Token, nil); a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	refused(t, other.do("GET", "database/creds/deploy", nil), 403, "permission denied")
	refused(t, (&client{t: t, b: b}).do("POST", "auth/jwt/login", map[string]string{"jwt": job}), 400, "error validating token (replayed)")
	if a := other.do("PUT", "sys/leases/revoke", map[string]string{"lease_id": *theirs.LeaseID}); a.Status != 204 {
		t.Errorf("giving back what a dead session has: %d %s", a.Status, a.Body)
	}
	if a := other.do("PUT", "auth/token/revoke-self", nil); a.Status != 204 {
		t.Errorf("giving back a dead session: %d %s", a.Status, a.Body)
	}
}

// TestShapes of what stands at a path.
func TestShapes(t *testing.T) {
	t.Parallel()
	b := newBroker(t, brokertest.Options{})
	b.DB.Set(brokertest.Hooks{Values: func(issuers.Lease) []issuers.Value {
		return []issuers.Value{{Name: "data", Value: issuers.NewSecret("it's a value"), Sensitive: true}, {Name: "username", Value: issuers.NewSecret("u")}}
	}})
	c := login(t, b, b.Job(), "deploy")
	kv := want(t, c.do("GET", "secret/data/payments/database", nil))
	var store struct {
		Data     map[string]string `json:"data"`
		Metadata struct {
			Created  time.Time       `json:"created_time"`
			Custom   json.RawMessage `json:"custom_metadata"`
			Deletion *string         `json:"deletion_time"`
			Gone     *bool           `json:"destroyed"`
			Version  int             `json:"version"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(kv.Data, &store); err != nil || *kv.LeaseID != "" || *kv.Renewable || *kv.LeaseDuration != 0 || store.Metadata.Version != 1 ||
		time.Since(store.Metadata.Created) > time.Minute || store.Metadata.Gone == nil || store.Metadata.Deletion == nil || string(store.Metadata.Custom) != "null" {
		t.Errorf("%v %+v", err, kv)
	}
	if store.Data["username"] != "u" || store.Data["data_"] != "it's a value" || store.Data["data"] != "" {
		t.Errorf("data %q", store.Data)
	}
	want(t, c.do("GET", "secret/data/payments/database?version=1", nil))
	refused(t, c.do("GET", "secret/data/payments/database?version=7", nil), 404, "")
	flat := want(t, c.do("GET", "database/creds/deploy", nil)).data(t)
	if _, data := flat["data"]; data || flat["data_"] != "it's a value" {
		t.Error("a client takes flat data for a key-value store's")
	}
	minted := want(t, c.do("GET", "minted/payments", nil))
	if got := minted.data(t); strings.Count(got["token"], ".") != 2 || !strings.HasPrefix(got["env"], "export DAYPASS_JWT='") || !strings.HasPrefix(*minted.LeaseID, "minted/payments/lse_") || *minted.Renewable {
		t.Errorf("minted %+v", minted.LeaseID)
	}
	n := b.Count(`SELECT count(*) FROM leases`)
	// Those who only look get nothing made.
	for _, method := range []string{"HEAD", "LIST", "DELETE", "PATCH", "POST", "PUT", "OPTIONS"} {
		if a := c.do(method, "database/creds/deploy", nil); a.Status != 405 || (method != "HEAD" && string(a.Body) != `{"errors":["unsupported operation"]}`) {
			t.Errorf("%s: %d %s", method, a.Status, a.Body)
		}
	}
	refused(t, c.do("GET", "database/creds/deploy?list=true", nil), 405, "unsupported operation")
	if after := b.Count(`SELECT count(*) FROM leases`); after != n {
		t.Errorf("%d leases of requests that read nothing", after-n)
	}
}

func TestLeases(t *testing.T) {
	t.Parallel()
	b := newBroker(t, brokertest.Options{})
	c := login(t, b, b.Job(), "deploy")
	lease := *want(t, c.do("GET", "database/creds/deploy", nil)).LeaseID
	for _, increment := range []string{"", `,"increment":600`, `,"increment":"600"`, `,"increment":"10m"`, `,"increment":null`, `,"increment":0`, `,"increment":1e99`} {
		out := want(t, c.do("PUT", "sys/leases/renew", `{"lease_id":"`+lease+`"`+increment+`}`))
		if *out.LeaseID != lease || string(out.Data) != "null" || out.end() > 10*time.Minute || out.end() < 9*time.Minute || !*out.Renewable {
			t.Errorf("renewal by %q: %+v", increment, out)
		}
	}
	for _, increment := range []string{"-1", `"x"`, "true", "{}", `"-1s"`} {
		refused(t, c.do("PUT", "sys/leases/renew", `{"lease_id":"`+lease+`","increment":`+increment+`}`), 400, "increment")
	}
	looked := want(t, c.do("PUT", "sys/leases/lookup", map[string]string{"lease_id": lease}))
	var about struct {
		ID        string          `json:"id"`
		Issue     time.Time       `json:"issue_time"`
		Expire    time.Time       `json:"expire_time"`
		Renewal   json.RawMessage `json:"last_renewal"`
		Renewable bool            `json:"renewable"`
		TTL       int             `json:"ttl"`
	}
	if err := json.Unmarshal(looked.Data, &about); err != nil || about.ID != lease || !about.Renewable || about.TTL < 500 || about.Expire.Before(time.Now()) {
		t.Errorf("%v %+v", err, about)
	}
	// At the latest end there is nothing to add, and that is no error.
	b.Exec(`UPDATE leases SET max_expires_at = expires_at`)
	if out := want(t, c.do("PUT", "sys/leases/renew/"+lease, `{}`)); *out.Renewable || len(out.Warnings) != 1 || *out.LeaseDuration == 0 {
		t.Errorf("at its latest end: %+v", out)
	}
	signed := *want(t, c.do("GET", "minted/payments", nil)).LeaseID
	refused(t, c.do("PUT", "sys/leases/renew", map[string]string{"lease_id": signed}), 400, "lease is not renewable")
	// The bao CLI names the lease in the path; both are idempotent.
	for _, id := range []string{lease, "database/creds/deploy/lse_01JAAAAAAAAAAAAAAAAAAAAAAA", "nonsense", "../../x", signed} {
		if a := c.do("PUT", "sys/leases/revoke", map[string]any{"lease_id": id, "sync": true}); a.Status != 204 {
			t.Errorf("revoke %s: %d %s", id, a.Status, a.Body)
		}
	}
	if a := c.do("PUT", "sys/leases/revoke/"+lease, `{"sync":false}`); a.Status != 204 {
		t.Errorf("revoke by path: %d %s", a.Status, a.Body)
	}
	if live := b.DB.Live(); len(live) != 0 {
		t.Errorf("live: %v", live)
	}
	for _, id := range []string{lease, "nonsense"} {
		refused(t, c.do("PUT", "sys/leases/renew", map[string]string{"lease_id": id}), 400, "lease not found")
		refused(t, c.do("POST", "sys/leases/lookup", map[string]string{"lease_id": id}), 400, "lease not found")
	}
	refused(t, c.do("PUT", "sys/leases/renew", nil), 400, "lease_id is missing")
	refused(t, c.do("GET", "sys/leases/renew", nil), 405, "unsupported operation")
	refused(t, c.do("PUT", "sys/leases/tidy", nil), 404, "")
}

func TestOwnToken(t *testing.T) {
	t.Parallel()
	b := newBroker(t, brokertest.Options{})
	c := login(t, b, b.Job(), "reader")
	var self struct {
		ID       string            `json:"id"`
		TTL      int               `json:"ttl"`
		Creation int               `json:"creation_ttl"`
		Made     int64             `json:"creation_time"`
		Expire   time.Time         `json:"expire_time"`
		Path     string            `json:"path"`
		Type     string            `json:"type"`
		Policies []string          `json:"policies"`
		Meta     map[string]string `json:"meta"`
		Orphan   bool              `json:"orphan"`
	}
	if err := json.Unmarshal(want(t, c.do("GET", "auth/token/lookup-self", nil)).Data, &self); err != nil || self.ID != c.token || self.Path != "auth/jwt/login" || self.Type != "service" ||
		self.TTL < 3500 || self.Creation < self.TTL || !slices.Equal(self.Policies, []string{"payments/read-db"}) || self.Meta["role"] != "reader" || !self.Orphan || time.Since(time.Unix(self.Made, 0)) > time.Minute {
		t.Errorf("%v: lookup-self of %s says ttl %d, path %s", err, self.Meta["subject"], self.TTL, self.Path)
	}
	for _, body := range []any{nil, `{}`, `{"increment":3600}`, `{"increment":"1h"}`} {
		out := want(t, c.do("PUT", "auth/token/renew-self", body))
		if out.Auth == nil || out.Auth.ClientToken != c.token || out.Auth.LeaseDuration > 3600 || out.Auth.Renewable {
			t.Errorf("renew-self: %+v", out)
		}
	}
	// As a bearer token, and by curl, which says that JSON is a form.
	bearer := &client{t: t, b: b}
	want(t, bearer.do("GET", "database/creds/read", nil, "Authorization", "Bearer "+c.token))
	want(t, bearer.do("POST", "auth/token/renew-self", `{}`, "Authorization", "bearer "+c.token, "Content-Type", "application/x-www-form-urlencoded"))
	refused(t, c.do("GET", "auth/token/revoke-self", nil), 405, "unsupported operation")
	refused(t, c.do("POST", "auth/token/create", nil), 404, "")
}

// TestNamedToken: clients name a token in the body, too. It is the caller's own, or it
// is refused, whether it lives or not.
func TestNamedToken(t *testing.T) {
	t.Parallel()
	b := newBroker(t, brokertest.Options{})
	c, other := login(t, b, b.Job(), "reader"), login(t, b, b.Job(), "reader")
	var found struct {
		ID string `json:"id"`
	}
	own := map[string]any{"token": c.token, "increment": "1h"}
	if err := json.Unmarshal(want(t, c.do("POST", "auth/token/lookup", own)).Data, &found); err != nil || found.ID != c.token {
		t.Errorf("lookup: %v", err)
	}
	if out := want(t, c.do("PUT", "auth/token/renew", own)); out.Auth == nil || out.Auth.ClientToken != c.token {
		t.Error("renew gives another token")
	}
	for _, call := range []string{"lookup", "renew", "revoke"} {
		for _, named := range []string{other.token, other.token + "x", issuers.Generate(issuers.VaultToken).Reveal(), "root"} {
			refused(t, c.do("POST", "auth/token/"+call, map[string]string{"token": named}), 403, "permission denied")
		}
		refused(t, c.do("POST", "auth/token/"+call, `{}`), 400, "missing token")
		refused(t, c.do("GET", "auth/token/"+call, nil), 405, "unsupported operation")
	}
	refused(t, c.do("PUT", "auth/token/renew", map[string]any{"token": c.token, "increment": "soon"}), 400, "increment")
	if a := c.do("PUT", "auth/token/revoke", own); a.Status != http.StatusNoContent {
		t.Errorf("revoke: %d %s", a.Status, a.Body)
	}
	refused(t, c.do("POST", "auth/token/lookup", own), 403, "permission denied")
	want(t, other.do("GET", "auth/token/lookup-self", nil))
}

func TestSystem(t *testing.T) {
	t.Parallel()
	b := newBroker(t, brokertest.Options{})
	c := &client{t: t, b: b}
	var health map[string]any
	if a := c.do("GET", "sys/health?drsecondarycode=299&performancestandbycode=299&sealedcode=299&standbycode=299&uninitcode=299", nil); a.Status != 200 || a.Into(&health) != nil ||
		health["initialized"] != true || health["sealed"] != false || health["standby"] != false || health["version"] == "" {
		t.Errorf("health: %d %s", a.Status, a.Body)
	}
	refused(t, c.do("GET", "sys/health?sealedcode=x", nil), 400, "status code")
	for _, path := range []string{"sys/init", "sys/seal-status", "sys/leader"} {
		if a := c.do("GET", path, nil); a.Status != 200 || !json.Valid(a.Body) {
			t.Errorf("%s: %d %s", path, a.Status, a.Body)
		}
	}
	refused(t, c.do("GET", "sys/internal/ui/mounts/secret/payments/login", nil), 403, "permission denied")
	c = login(t, b, b.Job(), "deploy")
	for path, kind := range map[string]string{
		"secret": "kv", "secret/payments/login": "kv", "secret/data/payments/login": "kv", "database/creds/deploy": "database", "minted/payments": "generic",
	} {
		var about struct {
			Path    string            `json:"path"`
			Type    string            `json:"type"`
			Options map[string]string `json:"options"`
		}
		out := want(t, c.do("GET", "sys/internal/ui/mounts/"+path, nil))
		if err := json.Unmarshal(out.Data, &about); err != nil || about.Type != kind || (about.Options["version"] == "2") != (kind == "kv") || !strings.HasPrefix(path+"/", about.Path) {
			t.Errorf("%s: %s", path, out.Data)
		}
	}
	refused(t, c.do("GET", "sys/internal/ui/mounts/other/x", nil), 404, "")
	b.CloseDatabase()
	if a := c.do("GET", "sys/health", nil); a.Status != 503 || !strings.Contains(string(a.Body), `"sealed":true`) {
		t.Errorf("health without a database: %d %s", a.Status, a.Body)
	}
	if a := c.do("GET", "sys/health?sealedcode=200", nil); a.Status != 200 {
		t.Errorf("health without a database: %d %s", a.Status, a.Body)
	}
	refused(t, c.do("GET", "database/creds/deploy", nil), 503, "Vault is sealed")
	b.OpenDatabase()
	brokertest.Poll(t, "it reads again", func() bool { return c.do("GET", "database/creds/deploy", nil).Status == 200 })
	b.Drain()
	refused(t, c.do("GET", "database/creds/deploy", nil), 503, "Vault is sealed")
	refused(t, c.do("POST", "auth/jwt/login", map[string]string{"jwt": b.Job()}), 503, "Vault is sealed")
}
