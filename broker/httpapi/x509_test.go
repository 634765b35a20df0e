package httpapi_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	stdx509 "crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/issuers/issuertest"
	"github.com/daypass/daypass/issuers/x509"
)

const certificatePolicies = `
policy: payments
owner: payments@example.com
environment: production
jobs:
  - name: release
    provider: github
    claims: {repository_id: "74", repository_owner_id: "65", ref: refs/heads/main, event_name: push}
grants:
  - {name: web, jobs: [release], issuer: ci, role: web, ttl: 3h, with: {dns_names: ["web-{{ claims.repository_id }}.svc.example.com"]}}
  - {name: own, jobs: [release], issuer: ci, role: own, with: {dns_names: [web.svc.example.com]}}
`

// authority is a broker that certifies, below a root that it doesn't have.
type authority struct {
	*brokertest.Broker
	t      *testing.T
	dir    string
	signer *issuertest.Signer
	clock  *atomic.Int64 // how far it is ahead
}

func newAuthority(t *testing.T, algorithm string) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir(), signer: issuertest.NewSigner(t, algorithm), clock: &atomic.Int64{}}
	a.chain()
	a.Broker = brokertest.New(t, brokertest.Options{
		Policies: map[string]string{"payments.yaml": certificatePolicies},
		Clock:    func() time.Time { return time.Now().Add(time.Duration(a.clock.Load())) },
		Issuers: func(ctx context.Context, base string) (map[string]broker.Issuer, error) {
			web := x509.Role{Usage: x509.UsageBoth, DNSNames: []string{"*.svc.example.com"}}
			own := web
			own.CSR = x509.CSRRequired
			issuer, err := x509.New(ctx, x509.Config{
				Signer: a.signer, ChainFile: a.path("chain.pem"), PublicURL: base + "/v1/issuers/ci",
				Roles: map[string]x509.Role{"web": web, "own": own}, Now: time.Now,
			})
			return map[string]broker.Issuer{"ci": {Issuer: issuer, Target: base, Roles: []string{"own", "web"}}}, err
		},
	})
	return a
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) write(name, text string) string {
	a.t.Helper()
	if err := os.WriteFile(a.path(name), []byte(text), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return a.path(name)
}

// chain makes a root with openssl, which signs the request of the broker's key.
func (a *authority) chain() {
	a.t.Helper()
	request, err := x509.Request(a.t.Context(), a.signer, pkix.Name{CommonName: "Daypass CI"})
	if err != nil {
		a.t.Fatal(err)
	}
	a.write("ci.csr", string(request))
	a.openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", a.path("root.key"), "-out", a.path("root.pem"), "-subj", "/CN=Root", "-days", "2")
	a.openssl("x509", "-req", "-in", a.path("ci.csr"), "-CA", a.path("root.pem"), "-CAkey", a.path("root.key"), "-days", "1", "-copy_extensions", "copy", "-out", a.path("ci.pem"))
	own, err := os.ReadFile(a.path("ci.pem"))
	if err != nil {
		a.t.Fatal(err)
	}
	a.write("chain.pem", string(own))
}

// openssl runs it and wants it to succeed.
func (a *authority) openssl(args ...string) string {
	a.t.Helper()
	out, err := a.tryOpenSSL(args...)
	if err != nil {
		a.t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (a *authority) tryOpenSSL(args ...string) (string, error) {
	a.t.Helper()
	cmd := exec.CommandContext(a.t.Context(), "openssl", args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// issue asks for a certificate and writes it, and what goes with it, to files.
func (a *authority) issue(name string) (out *api.ExchangeResponse, path string) {
	a.t.Helper()
	out = a.Exchange(a.Job(), "payments/web")
	return out, a.write(name, out.Credentials[0].Values["certificate"])
}

func (a *authority) get(document string) *brokertest.Answer {
	a.t.Helper()
	answer := a.Do(http.MethodGet, api.PathIssuers+"/ci/"+document, "", nil)
	if answer.Status != http.StatusOK {
		a.t.Fatalf("%s: %d\n%s", document, answer.Status, answer.Body)
	}
	return answer
}

// TestOpenSSLVerifies: what was issued is accepted by another implementation until
// it has run out or was revoked, and no longer.
func TestOpenSSLVerifies(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []string{"ES256", "ES384", "RS256", "PS256", "EdDSA"} {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			a := newAuthority(t, algorithm)
			live, livePath := a.issue("live.pem")
			gone, gonePath := a.issue("gone.pem")
			verify := []string{"verify", "-CAfile", a.path("root.pem"), "-untrusted", a.path("chain.pem"), "-verify_hostname", "web-74.svc.example.com", "-purpose", "sslserver"}
			for _, path := range []string{livePath, gonePath} {
				a.openssl(append(verify, path)...)
			}
			end := live.Credentials[0].ExpiresAt
			if time.Until(end) > time.Hour {
				t.Errorf("it lives until %s: the role's max_ttl is an hour", end)
			}
			a.openssl(append(verify, "-attime", unix(end.Add(-time.Second)), livePath)...)
			if out, err := a.tryOpenSSL(append(verify, "-attime", unix(end), livePath)...); err == nil || !strings.Contains(out, "has expired") {
				t.Errorf("after its end: %v %s", err, out)
			}

			crl := func() []string {
				path := a.write("crl.pem", string(a.get("crl.pem").Body))
				return append(verify, "-crl_check", "-CRLfile", path)
			}
			a.openssl(append(crl(), livePath)...)
			a.openssl(append(crl(), gonePath)...)
			if answer := a.Do(http.MethodPost, api.PathLeases+"/"+gone.Credentials[0].LeaseID+"/revoke", gone.Session.Token, `{}`); answer.Status != http.StatusOK {
				t.Fatalf("revoking: %d %s", answer.Status, answer.Body)
			}
			a.clock.Store(int64(10 * time.Second)) // no list is handed out that is older
			a.openssl(append(crl(), livePath)...)
			if out, err := a.tryOpenSSL(append(crl(), gonePath)...); err == nil || !strings.Contains(out, "certificate revoked") {
				t.Errorf("revoked: %v %s", err, out)
			}
			a.ask(t, "live.pem", "good")
			a.ask(t, "gone.pem", "revoked")
			a.guess(t)
		})
	}
}

func unix(at time.Time) string { return strconv.FormatInt(at.Unix(), 10) }

// ask asks the responder with openssl, by both hashes that it knows.
func (a *authority) ask(t *testing.T, name, want string) {
	t.Helper()
	for _, hash := range []string{"-sha1", "-sha256"} {
		out := a.openssl("ocsp", "-issuer", a.path("chain.pem"), hash, "-cert", a.path(name), "-url", a.URL+api.PathIssuers+"/ci/ocsp",
			"-CAfile", a.path("root.pem"), "-no_nonce")
		if !strings.Contains(out, a.path(name)+": "+want) || !strings.Contains(out, "Response verify OK") {
			t.Errorf("%s %s: want %s\n%s", name, hash, want, out)
		}
	}
}

// guess asks for what was never issued: nobody signs for a guess.
func (a *authority) guess(t *testing.T) {
	t.Helper()
	a.signer.OnSign = func(context.Context) error {
		t.Error("a guess made the key sign")
		return nil
	}
	out, _ := a.tryOpenSSL("ocsp", "-issuer", a.path("chain.pem"), "-serial", "0x0193a5b6c7d8e9f00112233445566778", "-url", a.URL+api.PathIssuers+"/ci/ocsp", "-CAfile", a.path("root.pem"))
	if !strings.Contains(out, "unauthorized (6)") {
		t.Errorf("a serial that was never given: %s", out)
	}
}

func TestDocumentsOfAnIssuer(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "ES256")
	for name, kind := range map[string]string{
		"ca.der": "application/pkix-cert", "ca.pem": "application/pem-certificate-chain", "crl.der": "application/pkix-crl", "crl.pem": "application/x-pem-file",
	} {
		answer := a.get(name)
		if got := answer.Header.Get("Content-Type"); got != kind {
			t.Errorf("%s is %s", name, got)
		}
		if got := answer.Header.Get("Cache-Control"); !strings.HasPrefix(got, "public, max-age=") {
			t.Errorf("%s: Cache-Control %q", name, got)
		}
	}
	list, err := stdx509.ParseRevocationList(a.get("crl.der").Body)
	if err != nil || len(list.RevokedCertificateEntries) > 0 {
		t.Errorf("%v, %v", list, err)
	}
	for _, path := range []string{"/ci/other.der", "/release-jwt/ca.der", "/none/ca.der", "/ci/ocsp", "/ci"} {
		if answer := a.Do(http.MethodGet, api.PathIssuers+path, "", nil); answer.Status != http.StatusNotFound {
			t.Errorf("%s: %d", path, answer.Status)
		}
	}
	// The key is away: what was made before is handed out for as long as it may be,
	// and then nothing is.
	var asked atomic.Int32
	a.signer.OnSign = func(context.Context) error { asked.Add(1); return context.DeadlineExceeded }
	a.get("crl.der")
	a.clock.Store(int64(10 * time.Second))
	for range 3 { // one failure speaks for those that follow
		wantProblem(t, a.Do(http.MethodGet, api.PathIssuers+"/ci/crl.der", "", nil), http.StatusServiceUnavailable, api.CodeUnavailable)
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the key that is away was asked %d times", n)
	}
	a.get("ca.der")
	a.signer.OnSign = nil
	a.clock.Store(int64(11 * time.Second))
	a.get("crl.der")
}

func TestQuestionsAboutCertificates(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "ES256")
	_, path := a.issue("live.pem")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	leaf, by := parsePEM(t, text), parsePEM(t, a.get("ca.pem").Body)
	question, err := ocsp.CreateRequest(leaf, by, nil)
	if err != nil {
		t.Fatal(err)
	}
	post := func(body []byte, kind string) *brokertest.Answer {
		request := a.Request(http.MethodPost, api.PathIssuers+"/ci/ocsp", "", body)
		request.Header.Set("Content-Type", kind)
		return a.Send(request)
	}
	answer := post(question, "application/ocsp-request")
	if parsed, err := ocsp.ParseResponseForCert(answer.Body, leaf, by); err != nil || parsed.Status != ocsp.Good {
		t.Errorf("%v %v", parsed, err)
	}
	if got := answer.Header.Get("Content-Type"); got != "application/ocsp-response" {
		t.Errorf("Content-Type %s", got)
	}
	// RFC 6960, appendix A.1: the request in the path, with each of the ways to write +, / and =.
	plain := base64.StdEncoding.EncodeToString(question)
	for _, form := range []string{plain, url.PathEscape(plain), url.QueryEscape(plain), strings.ReplaceAll(plain, "/", "%2f")} {
		answer := a.Do(http.MethodGet, api.PathIssuers+"/ci/ocsp/"+form, "", nil)
		if parsed, err := ocsp.ParseResponseForCert(answer.Body, leaf, by); err != nil || parsed.Status != ocsp.Good {
			t.Errorf("GET %s: %d %v", form, answer.Status, err)
		}
	}
	if answer := post(question[1:], "application/ocsp-request"); answer.Status != http.StatusOK || string(answer.Body) != string(ocsp.MalformedRequestErrorResponse) || answer.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("garbage: %d %x", answer.Status, answer.Body)
	}
	wantProblem(t, post(question, "text/plain"), http.StatusUnsupportedMediaType, api.CodeUnsupportedType)
	wantProblem(t, post(make([]byte, 5000), "application/ocsp-request"), http.StatusRequestEntityTooLarge, api.CodeTooLarge)
	wantProblem(t, a.Do(http.MethodGet, api.PathIssuers+"/ci/ocsp/!!", "", nil), http.StatusBadRequest, api.CodeInvalidRequest)
	wantProblem(t, a.Do(http.MethodPost, api.PathIssuers+"/release-jwt/ocsp", "", question), http.StatusNotFound, api.CodeNotFound)
}

func parsePEM(t *testing.T, text []byte) *stdx509.Certificate {
	t.Helper()
	block, _ := pem.Decode(text)
	certificate, err := stdx509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func TestCertificateForTheJobsOwnKey(t *testing.T) {
	t.Parallel()
	a := newAuthority(t, "ES256")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	request := func(names ...string) string {
		der, err := stdx509.CreateCertificateRequest(rand.Reader, &stdx509.CertificateRequest{DNSNames: names}, key)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	}
	token := a.Job()
	try := func(grant, csr string) *brokertest.Answer {
		return a.Do(http.MethodPost, api.PathExchange, token, map[string]any{"grants": []any{map[string]any{"name": grant, "csr": csr}}})
	}
	answer := try("payments/own", request("web.svc.example.com"))
	var out api.ExchangeResponse
	if err := answer.Into(&out); answer.Status != http.StatusOK || err != nil {
		t.Fatalf("%d %v\n%s", answer.Status, err, answer.Body)
	}
	c := out.Credentials[0]
	leaf := parsePEM(t, []byte(c.Values["certificate"]))
	if !key.PublicKey.Equal(leaf.PublicKey) || len(c.Secret) > 0 || c.Values["private_key"] != "" || c.Env["DAYPASS_CERT"] == "" || c.Env["DAYPASS_KEY"] != "" {
		t.Errorf("got %v, secret %v, env %v", c.Values, c.Secret, c.Env)
	}
	if !leaf.NotAfter.Equal(c.ExpiresAt) || leaf.SerialNumber.Cmp(serial(t, c.Values["serial_number"])) != 0 {
		t.Errorf("ends at %s, the lease at %s", leaf.NotAfter, c.ExpiresAt)
	}
	if n := a.Count(`SELECT count(*) FROM leases WHERE id = $1 AND signing_key = $2`, c.LeaseID, a.signer.KeyID()); n != 1 {
		t.Error("the lease doesn't say which key signed")
	}
	// A private key that isn't made can't be asked for; without a field there is no secret to write.
	for query, want := range map[string]string{"&field=private_key": "no value", "": "no secret", "&field=ca": ""} {
		body := map[string]any{"grants": []any{map[string]any{"name": "payments/web", "csr": request()}}}
		answer := a.Do(http.MethodPost, api.PathExchange+"?format=value"+query, token, body)
		if (want == "") != (answer.Status == http.StatusOK) || !strings.Contains(answer.Problem.Detail, want) {
			t.Errorf("format=value%s: %d %s", query, answer.Status, answer.Body)
		}
	}
	// Who sends what can't be certified is told why, and nothing stays.
	leases := a.Count(`SELECT count(*) FROM leases`)
	for csr, want := range map[string]string{
		"":                          "needs a csr",
		"x":                         "one PEM block CERTIFICATE REQUEST",
		request("evil.example.com"): `DNS name "evil.example.com"`,
	} {
		answer := try("payments/own", csr)
		wantProblem(t, answer, http.StatusBadRequest, api.CodeInvalidRequest)
		if !strings.Contains(answer.Problem.Detail, want) || !strings.Contains(answer.Problem.Detail, "payments/own") {
			t.Errorf("%s, want %q", answer.Problem.Detail, want)
		}
	}
	if n := a.Count(`SELECT count(*) FROM leases`); n != leases {
		t.Errorf("%d leases of refused requests", n-leases)
	}
}

func serial(t *testing.T, text string) *big.Int {
	t.Helper()
	n, ok := new(big.Int).SetString(text, 16)
	if !ok {
		t.Fatalf("serial %q", text)
	}
	return n
}
