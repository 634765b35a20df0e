package vaultapi_test

import (
	"encoding/json"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/broker/vaultapi"
)

func TestMain(m *testing.M) { os.Exit(devtest.Main(m)) }

// mapping is that of the tests: deploy may read most of the payments policy, reader
// one grant of it.
func mapping() vaultapi.Mapping {
	return vaultapi.Mapping{
		Mounts: []vaultapi.Mount{
			{Path: "jwt", DefaultRole: "deploy", Roles: map[string][]string{
				"deploy": {"payments/deploy-db", "payments/sign", "payments/login", "payments/limited", "payments/night"},
				"reader": {"payments/read-db"},
				"night":  {"payments/night"},
				"wide":   {"payments/wide"},
			}},
			{Path: "team/ci", Roles: map[string][]string{"deploy": {"payments/deploy-db"}}},
		},
		Paths: map[string]string{
			"database/creds/deploy":         "payments/deploy-db",
			"database/creds/limited":        "payments/limited",
			"database/creds/read":           "payments/read-db",
			"database/creds/night":          "payments/night",
			"secret/data/payments/login":    "payments/login",
			"secret/data/payments/database": "payments/deploy-db",
			"minted/payments":               "payments/sign",
			"static/login":                  "payments/login",
		},
	}
}

func newBroker(t *testing.T, options brokertest.Options) *brokertest.Broker {
	t.Helper()
	options.Vault = mapping()
	return brokertest.New(t, options)
}

// answer is a body of Vault's API, every key of it.
type answer struct {
	RequestID     *string         `json:"request_id"`
	LeaseID       *string         `json:"lease_id"`
	Renewable     *bool           `json:"renewable"`
	LeaseDuration *int            `json:"lease_duration"`
	Data          json.RawMessage `json:"data"`
	WrapInfo      json.RawMessage `json:"wrap_info"`
	Warnings      []string        `json:"warnings"`
	Auth          *struct {
		ClientToken    string            `json:"client_token"`
		Accessor       string            `json:"accessor"`
		Policies       []string          `json:"policies"`
		TokenPolicies  []string          `json:"token_policies"`
		Metadata       map[string]string `json:"metadata"`
		LeaseDuration  int               `json:"lease_duration"`
		Renewable      bool              `json:"renewable"`
		EntityID       string            `json:"entity_id"`
		TokenType      string            `json:"token_type"`
		Orphan         bool              `json:"orphan"`
		MFARequirement json.RawMessage   `json:"mfa_requirement"`
		NumUses        int               `json:"num_uses"`
	} `json:"auth"`
}

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// want reads a success, and checks what all of them have in common.
func want(t *testing.T, a *brokertest.Answer) *answer {
	t.Helper()
	out := &answer{}
	if a.Status != http.StatusOK {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	if err := a.Into(out); err != nil {
		t.Fatalf("%v\n%s", err, a.Body)
	}
	if out.RequestID == nil || !uuidForm.MatchString(*out.RequestID) || out.LeaseID == nil || out.Renewable == nil || out.LeaseDuration == nil || out.Data == nil || string(out.WrapInfo) != "null" {
		t.Errorf("a key of the envelope is missing or wrong: %s", a.Body)
	}
	for _, key := range []string{"warnings", "auth"} {
		if !strings.Contains(string(a.Body), `"`+key+`":`) {
			t.Errorf("the envelope has no %s", key)
		}
	}
	wantHeaders(t, a)
	return out
}

func wantHeaders(t *testing.T, a *brokertest.Answer) {
	t.Helper()
	if a.Header.Get("Content-Type") != "application/json" || a.Header.Get("Cache-Control") != "no-store" || a.Header.Get("X-Request-Id") == "" {
		t.Errorf("headers %v", a.Header)
	}
}

// refused checks all that every error has in common, and the first of its texts.
func refused(t *testing.T, a *brokertest.Answer, status int, text string) {
	t.Helper()
	var body struct {
		Errors []string `json:"errors"`
	}
	if err := a.Into(&body); err != nil || a.Status != status {
		t.Fatalf("%d %v %s, want %d %q", a.Status, err, a.Body, status, text)
	}
	wantHeaders(t, a)
	if status == http.StatusNotFound {
		if string(a.Body) != `{"errors":[]}` {
			t.Errorf("a client takes this for the secret: %s", a.Body)
		}
		return
	}
	if len(body.Errors) == 0 || !strings.Contains(body.Errors[0], text) {
		t.Errorf("errors %q, want %q", body.Errors, text)
	}
	if after := a.Header.Get("Retry-After"); (after != "") != (status == 429 || status == 503) {
		t.Errorf("Retry-After %q with status %d", after, status)
	}
}

// client sends what a client of Vault sends.
type client struct {
	t     *testing.T
	b     *brokertest.Broker
	token string
}

func (c *client) do(method, path string, body any, headers ...string) *brokertest.Answer {
	c.t.Helper()
	request := c.b.Request(method, "/vault/v1/"+path, "", body)
	if c.token != "" {
		request.Header.Set("X-Vault-Token", c.token)
	}
	request.Header.Set("X-Vault-Request", "true")
	for pair := range slices.Chunk(headers, 2) {
		request.Header.Add(pair[0], pair[1])
	}
	return c.b.Send(request)
}

func login(t *testing.T, b *brokertest.Broker, job, role string) *client {
	t.Helper()
	c := &client{t: t, b: b}
	out := want(t, c.do(http.MethodPut, "auth/jwt/login", map[string]string{"jwt": job, "role": role}))
	if out.Auth == nil || string(out.Data) != "null" || *out.LeaseID != "" {
		t.Fatalf("login: %+v", out)
	}
	c.token = out.Auth.ClientToken
	return c
}

// data is the flat data of a secret.
func (a *answer) data(t *testing.T) map[string]string {
	t.Helper()
	var data map[string]string
	if err := json.Unmarshal(a.Data, &data); err != nil {
		t.Fatalf("%v: %s", err, a.Data)
	}
	return data
}

func (a *answer) end() time.Duration { return time.Duration(*a.LeaseDuration) * time.Second }
