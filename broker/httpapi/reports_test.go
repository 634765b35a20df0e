package httpapi_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/disclosures"
	"github.com/daypass/daypass/broker/httpapi"
	"github.com/daypass/daypass/broker/instance"
	"github.com/daypass/daypass/issuers"
)

// gitHub signs reports, and publishes its key.
type gitHub struct {
	key *ecdsa.PrivateKey
	url string
}

func newGitHub(t *testing.T) *gitHub {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{"public_keys": []any{map[string]any{
		"key_identifier": "k1", "key": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), "is_current": true,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }))
	t.Cleanup(server.Close)
	return &gitHub{key, server.URL}
}

// report is a request as GitHub sends it.
func (g *gitHub) report(t *testing.T, b *brokertest.Broker, body string) *http.Request {
	t.Helper()
	sum := sha256.Sum256([]byte(body))
	signature, err := ecdsa.SignASN1(rand.Reader, g.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	request := b.Request(http.MethodPost, api.PathLeaksGitHub, "", body)
	request.Header.Set("Github-Public-Key-Identifier", "k1")
	request.Header.Set("Github-Public-Key-Signature", base64.StdEncoding.EncodeToString(signature))
	return request
}

// TestGitHubReports: what GitHub found is taken back, whatever it is, and GitHub is
// told what was real; a report without its signature does nothing.
func TestGitHubReports(t *testing.T) {
	t.Parallel()
	g := newGitHub(t)
	keys, err := disclosures.NewGitHubKeys(disclosures.GitHubKeysConfig{URL: g.url, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	b := brokertest.New(t, brokertest.Options{Redaction: instance.Redaction{Reporters: httpapi.Reporters{GitHub: keys}}})
	job, other := b.Exchange(b.Job(), "payments/deploy-db", "payments/sign"), b.Exchange(b.Job(), "payments/deploy-db")
	viewer, spare := b.Admin(admin.Viewer), b.Admin(admin.Operator)
	tokens := []string{job.Credentials[0].Values["password"], job.Credentials[1].Values["token"], other.Session.Token, spare, issuers.Generate(issuers.Password).Reveal(), "no token at all"}
	var report []map[string]string
	for _, token := range tokens {
		for _, url := range []string{"https://github.com/octo-org/octo-repo/blob/main/x", "https://github.com/octo-org/octo-repo/blob/main/y"} {
			report = append(report, map[string]string{"token": token, "type": "daypass_token", "url": url, "source": "content"})
		}
	}
	body, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	forged := g.report(t, b, string(body))
	forged.Header.Set("Github-Public-Key-Signature", g.report(t, b, "[]").Header.Get("Github-Public-Key-Signature"))
	wantProblem(t, b.Send(forged), http.StatusUnauthorized, api.CodeInvalidToken)
	wantProblem(t, b.Do(http.MethodPost, api.PathLeaksGitHub, "", body), http.StatusUnauthorized, api.CodeInvalidToken)
	if l := b.Lease(viewer, job.Credentials[0].LeaseID); l.State != "active" {
		t.Errorf("after forged reports it is %s", l.State)
	}
	for range 2 { // a second time it does no more
		a := b.Send(g.report(t, b, string(body)))
		var verdicts []map[string]string
		if err := a.Into(&verdicts); err != nil || a.Status != http.StatusOK || len(verdicts) != len(report) {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		for i, v := range verdicts {
			sum := sha256.Sum256([]byte(report[i]["token"]))
			want := map[bool]string{true: "true_positive", false: "false_positive"}[i < 8]
			if v["token_hash"] != hex.EncodeToString(sum[:]) || v["token_type"] != "daypass_token" || v["label"] != want {
				t.Errorf("token %d: %v, want %s", i, v, want)
			}
		}
	}
	for _, id := range []string{job.Credentials[0].LeaseID, other.Credentials[0].LeaseID} {
		brokertest.Poll(t, "it is taken back", func() bool { return b.Lease(viewer, id).State == "revoked" })
	}
	if l := b.Lease(viewer, job.Credentials[1].LeaseID); l.State != "expired" {
		t.Errorf("the JWT's lease is %s", l.State)
	}
	if a := b.Do(http.MethodGet, api.PathLeases, spare, nil); a.Status != http.StatusUnauthorized {
		t.Errorf("the admin token: %d", a.Status)
	}
	if n := b.Count(`SELECT count(*) FROM audit_events WHERE type = 'leak.found' AND body LIKE '%"actor":"github secret scanning"%'`); n != 8 {
		t.Errorf("%d events of four tokens in two files", n)
	}
	if n := b.Count(`SELECT count(*) FROM audit_events WHERE type = 'session.revoked' AND subject = $1`, other.Session.ID); n != 1 {
		t.Errorf("the session was ended %d times", n)
	}
	wantProblem(t, b.Send(g.report(t, b, `{"token":"x"}`)), http.StatusBadRequest, api.CodeInvalidRequest)
	wantProblem(t, b.Send(g.report(t, b, strings.Repeat("x", 1<<20+1))), http.StatusRequestEntityTooLarge, api.CodeTooLarge)
	metrics := string(b.Do(http.MethodGet, api.PathMetrics, "", nil).Body)
	for _, want := range []string{`daypass_leak_reports_total{from="github",outcome="taken"} 2`, `daypass_leak_reports_total{from="github",outcome="refused"} 4`, `daypass_leaks_revoked_total{kind="lease"} 2`, `daypass_leaks_revoked_total{kind="admin_token"} 1`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	wantProblem(t, b.Do(http.MethodGet, api.PathLeaksGitLabTypes, "", nil), http.StatusNotFound, api.CodeNotFound)
}

// TestGitLabReports: the same in GitLab's format, with its token.
func TestGitLabReports(t *testing.T) {
	t.Parallel()
	const secret = "a token of thirty-two characters"
	b := brokertest.New(t, brokertest.Options{Redaction: instance.Redaction{Reporters: httpapi.Reporters{
		GitLab: func() (issuers.Secret, error) { return issuers.NewSecret(secret), nil }, GitLabTypes: []string{"gitleaks_rule_id_daypass_token"},
	}}})
	job := b.Exchange(b.Job(), "payments/deploy-db", "payments/sign")
	send := func(method, path, token, body string) *brokertest.Answer {
		request := b.Request(method, path, "", body)
		if token != "" {
			request.Header.Set("Authorization", token)
		}
		return b.Send(request)
	}
	report := `[{"type":"gitleaks_rule_id_daypass_token","token":"` + job.Credentials[0].Values["password"] + `","location":"https://gitlab.example.com/x/-/blob/main/y"},
{"type":"gitleaks_rule_id_daypass_token","token":"` + job.Credentials[1].Values["token"] + `","location":"z"}]`
	for _, wrong := range []string{"", "Bearer ", "Bearer wrong", secret + "x"} {
		wantProblem(t, send(http.MethodPost, api.PathLeaksGitLab, wrong, report), http.StatusUnauthorized, api.CodeInvalidToken)
		wantProblem(t, send(http.MethodGet, api.PathLeaksGitLabTypes, wrong, ""), http.StatusUnauthorized, api.CodeInvalidToken)
	}
	if a := send(http.MethodGet, api.PathLeaksGitLabTypes, secret, ""); a.Status != http.StatusOK || string(a.Body) != `{"types":["gitleaks_rule_id_daypass_token"]}` {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	wantProblem(t, send(http.MethodPost, api.PathLeaksGitLab, secret, `[{"type":"other","token":"x","location":""}]`), http.StatusBadRequest, api.CodeInvalidRequest)
	for _, token := range []string{secret, "Bearer " + secret} {
		if a := send(http.MethodPost, api.PathLeaksGitLab, token, report); a.Status != http.StatusNoContent {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	}
	viewer := b.Admin(admin.Viewer)
	brokertest.Poll(t, "it is taken back", func() bool { return b.Lease(viewer, job.Credentials[0].LeaseID).State == "revoked" })
	if n := b.Count(`SELECT count(*) FROM audit_events WHERE type = 'leak.found' AND body LIKE '%gitlab https://gitlab.example.com/x/-/blob/main/y%'`); n != 1 {
		t.Errorf("%d events say where", n)
	}
	wantProblem(t, b.Send(b.Request(http.MethodPost, api.PathLeaksGitHub, "", "[]")), http.StatusNotFound, api.CodeNotFound)
}
