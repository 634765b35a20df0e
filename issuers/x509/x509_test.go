package x509_test

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/issuertest"
	daypass "github.com/daypass/daypass/issuers/x509"
)

func TestConformance(t *testing.T) {
	key := newKey(t)
	for _, algorithm := range []string{"ES256", "ES384", "RS256", "PS256", "EdDSA"} {
		for role, sent := range map[string]string{"web": "", "made": "", "own": csr(t, key, x509.CertificateRequest{})} {
			t.Run(algorithm+" "+role, func(t *testing.T) {
				p := newPKI(t, algorithm)
				roots := x509.NewCertPool()
				roots.AddCert(p.root)
				issuertest.Exercise(t, func(t *testing.T) issuers.Issuer { return p.open() }, issuertest.Options{
					Role: role, Parameters: with, CSR: sent, Now: func() time.Time { return p.now },
					Works: func(t *testing.T, values map[string]string, want bool) {
						if !want {
							return
						}
						leaf, between := decode(t, values["certificate"])
						if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: p.now, DNSName: "a.svc.example.com"}); err != nil {
							t.Error(err)
						}
						if sent == "" {
							if _, err := tls.X509KeyPair([]byte(values["certificate"]), []byte(values["private_key"])); err != nil {
								t.Error(err)
							}
						} else if !key.PublicKey.Equal(leaf.PublicKey) || values["private_key"] != "" {
							t.Error("the certificate isn't for the key of the request")
						}
					},
				})
			})
		}
	}
}

func decode(t *testing.T, text string) (*x509.Certificate, *x509.CertPool) {
	t.Helper()
	between := x509.NewCertPool()
	block, rest := pem.Decode([]byte(text))
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	between.AppendCertsFromPEM(rest)
	return leaf, between
}

func TestWhatACertificateSays(t *testing.T) {
	p := newPKI(t, "ES256")
	issuer := p.open()
	lease := p.lease("web")
	values, c := p.issue(issuer, issuers.IssueRequest{Lease: lease, Parameters: json.RawMessage(
		`{"dns_names":["db.example.com","a.svc.example.com"],"ip_addresses":["10.1.2.3","fd00::1"],"uris":["https://example.com/a/b"],"common_name":"deployer"}`)})
	if !c.NotAfter.Equal(lease.ExpiresAt) || !c.NotBefore.Equal(lease.IssuedAt.Add(-time.Minute)) {
		t.Errorf("valid from %s to %s, the lease is from %s to %s", c.NotBefore, c.NotAfter, lease.IssuedAt, lease.ExpiresAt)
	}
	if c.IsCA || !c.BasicConstraintsValid || c.KeyUsage != x509.KeyUsageDigitalSignature ||
		!slices.Equal(c.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}) {
		t.Errorf("CA %v, usage %v, %v", c.IsCA, c.KeyUsage, c.ExtKeyUsage)
	}
	if got := c.Subject.String(); got != "CN=deployer,O=Example" {
		t.Errorf("subject %s", got)
	}
	if !slices.Equal(c.DNSNames, []string{"db.example.com", "a.svc.example.com"}) || len(c.IPAddresses) != 2 || len(c.URIs) != 1 || len(c.EmailAddresses) != 0 {
		t.Errorf("names %v %v %v %v", c.DNSNames, c.IPAddresses, c.URIs, c.EmailAddresses)
	}
	if c.CRLDistributionPoints[0] != publicURL+"/crl.der" || c.OCSPServer[0] != publicURL+"/ocsp" || c.IssuingCertificateURL[0] != publicURL+"/ca.der" {
		t.Errorf("points to %v %v %v", c.CRLDistributionPoints, c.OCSPServer, c.IssuingCertificateURL)
	}
	if len(c.SubjectKeyId) != 20 || len(c.AuthorityKeyId) == 0 || values["serial_number"] != c.SerialNumber.Text(16) {
		t.Errorf("ids %x %x, serial %s", c.SubjectKeyId, c.AuthorityKeyId, values["serial_number"])
	}
	if n := strings.Count(values["certificate"], "BEGIN"); n != 2 { // the root stays at home
		t.Errorf("the certificate comes with %d blocks", n)
	}
	if n := strings.Count(values["ca"], "BEGIN"); n != 2 {
		t.Errorf("ca has %d blocks", n)
	}
	_, other := p.issue(issuer, issuers.IssueRequest{Lease: p.lease("made"), Parameters: with})
	if _, ok := other.PublicKey.(ed25519.PublicKey); !ok {
		t.Errorf("the role makes Ed25519 keys, not %T", other.PublicKey)
	}
}

func TestNoSubjectButNames(t *testing.T) {
	p := newPKI(t, "ES256")
	config := p.config()
	config.Roles = map[string]daypass.Role{"web": {Usage: daypass.UsageServer, DNSNames: []string{"db.example.com"}}}
	issuer, err := daypass.New(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	_, c := p.issue(issuer, issuers.IssueRequest{Lease: p.lease("web"), Parameters: json.RawMessage(`{"dns_names":["db.example.com"]}`)})
	for _, extension := range c.Extensions {
		if extension.Id.String() == "2.5.29.17" && !extension.Critical { // RFC 5280, section 4.2.1.6
			t.Error("the names are not critical, and there is no subject")
		}
	}
	if len(c.Subject.Names) > 0 || len(c.DNSNames) != 1 {
		t.Errorf("subject %s, names %v", c.Subject, c.DNSNames)
	}
}

func TestParametersOutsideTheRole(t *testing.T) {
	p := newPKI(t, "ES256")
	issuer := p.open()
	for raw, want := range map[string]string{
		`{}`:                               "1 to 50",
		`null`:                             "no object",
		`{"email":[]}`:                     `no parameter "email"`,
		`{"DNS_NAMES":["db.example.com"]}`: "no parameter",
		`{"dns_names":["db.example.com"],"dns_names":["db.example.com"]}`:                  "twice",
		`{"dns_names":["db.example.com"]} {}`:                                              "no object",
		`{"dns_names":[]}`:                                                                 "dns_names",
		`{"dns_names":[null]}`:                                                             "dns_names",
		`{"dns_names":"db.example.com"}`:                                                   "dns_names",
		`{"common_name":""}`:                                                               "common_name",
		`{"dns_names":["evil.example.com"]}`:                                               "not within",
		`{"dns_names":["db.example.com.evil.org"]}`:                                        "not within",
		`{"dns_names":["a.b.svc.example.com"]}`:                                            "not within",
		`{"dns_names":["svc.example.com"]}`:                                                "not within",
		`{"dns_names":[".svc.example.com"]}`:                                               "no DNS name",
		`{"dns_names":["*.svc.example.com"]}`:                                              "no DNS name",
		`{"dns_names":["A.svc.example.com"]}`:                                              "no DNS name",
		`{"dns_names":["db.example.com."]}`:                                                "no DNS name",
		`{"dns_names":["db.example.com\u0000.svc.example.com"]}`:                           "no DNS name",
		`{"dns_names":["10.1.2.3"]}`:                                                       "no DNS name",
		`{"ip_addresses":["10.2.0.1"]}`:                                                    "not within",
		`{"ip_addresses":["::ffff:10.1.2.3"]}`:                                             "no address",
		`{"ip_addresses":["fd00::1%eth0"]}`:                                                "no address",
		`{"ip_addresses":["10.1.2.03"]}`:                                                   "no address",
		`{"uris":["spiffe://example.com/ci/a/b"]}`:                                         "not within",
		`{"uris":["spiffe://example.com/ci/"]}`:                                            "no URI",
		`{"uris":["spiffe://example.com/ci/.."]}`:                                          "no URI",
		`{"uris":["spiffe://example.com.evil.org/ci/a"]}`:                                  "not within",
		`{"uris":["https://example.com/a?b"]}`:                                             "no URI",
		`{"uris":["https://example.com/%2e%2e"]}`:                                          "no URI",
		`{"uris":["https://user@example.com/a"]}`:                                          "no URI",
		`{"uris":["spiffe://example.com/ci/a","https://example.com/a"]}`:                   "SPIFFE",
		`{"dns_names":["db.example.com"],"common_name":"admin"}`:                           "common_name",
		`{"dns_names":["db.example.com"],"common_name":"deployer\n"}`:                      "common_name",
		`{"dns_names":["db.example.com"],"common_name":"` + strings.Repeat("a", 65) + `"}`: "common_name",
	} {
		if err := issuer.CheckParameters("web", json.RawMessage(raw)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", raw, err, want)
		}
		if _, err := issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: p.lease("web"), Parameters: json.RawMessage(raw)}); !errors.Is(err, issuers.ErrRejected) {
			t.Errorf("issued with %s: %v", raw, err)
		}
	}
	// What a template leaves open is checked when it is filled.
	raw := json.RawMessage(`{"dns_names":["{{ claims.service }}.svc.example.com"],"common_name":"{{ claims.service }}"}`)
	if err := issuer.CheckParameters("web", raw); err != nil {
		t.Error(err)
	}
	if _, err := issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: p.lease("web"), Parameters: raw}); !errors.Is(err, issuers.ErrRejected) {
		t.Errorf("a template that wasn't filled: %v", err)
	}
}

func TestEndsOfLife(t *testing.T) {
	p := newPKI(t, "ES256")
	issuer := p.open()
	lease := p.lease("web")
	try := func(change func(*issuers.Lease)) error {
		l := lease
		change(&l)
		_, err := issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: l, Parameters: with})
		return err
	}
	for name, change := range map[string]func(*issuers.Lease){
		"longer than max_ttl": func(l *issuers.Lease) { l.ExpiresAt = l.IssuedAt.Add(time.Hour + time.Second) },
		"past the authority's end": func(l *issuers.Lease) {
			l.IssuedAt = p.now.Add(48*time.Hour - 5*time.Minute)
			l.ExpiresAt = l.IssuedAt.Add(6 * time.Minute)
		},
		"before its beginning": func(l *issuers.Lease) {
			l.IssuedAt = p.now.Add(-2 * time.Hour)
			l.ExpiresAt = l.IssuedAt.Add(time.Minute)
		},
		"no life":      func(l *issuers.Lease) { l.ExpiresAt = l.IssuedAt },
		"no id":        func(l *issuers.Lease) { l.ID = "lse_1" },
		"a small id":   func(l *issuers.Lease) { l.ID = strings.ToLower(l.ID) },
		"no such role": func(l *issuers.Lease) { l.Role = "" },
	} {
		if err := try(change); !errors.Is(err, issuers.ErrRejected) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := try(func(l *issuers.Lease) { l.ExpiresAt = l.IssuedAt.Add(time.Hour) }); err != nil {
		t.Error(err)
	}
	p.signer.OnSign = func(context.Context) error { return errors.New("the token is gone") }
	if err := try(func(*issuers.Lease) {}); !errors.Is(err, issuers.ErrUnavailable) {
		t.Errorf("a key that is away: %v", err)
	}
	config := p.config()
	config.Signer = nil
	keyless, err := daypass.New(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keyless.Issue(t.Context(), &issuers.IssueRequest{Lease: lease, Parameters: with}); !errors.Is(err, issuers.ErrRejected) {
		t.Errorf("issued without a key: %v", err)
	}
}

func TestChainFile(t *testing.T) {
	p := newPKI(t, "ES256")
	other := newPKI(t, "ES256")
	issuer := p.open()
	own := p.intermediate(nil)
	read := func(t *testing.T) string {
		t.Helper()
		text, err := os.ReadFile(p.file)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	good := read(t)
	expired := p.intermediate(func(c *x509.Certificate) { c.NotAfter = p.now.Add(-time.Minute) })
	for name, bad := range map[string]func(){
		"another key":    func() { p.write(other.intermediate(nil), other.root) },
		"no authority":   func() { p.write(p.intermediate(func(c *x509.Certificate) { c.IsCA, c.MaxPathLenZero = false, false })) },
		"no keyCertSign": func() { p.write(p.intermediate(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })) },
		"no cRLSign":     func() { p.write(p.intermediate(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCertSign })) },
		"wrong order":    func() { p.write(p.root, own) },
		"not its issuer": func() { p.write(own, other.root) },
		"other purposes": func() {
			p.write(p.intermediate(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }))
		},
		"too many":        func() { p.write(own, p.root, p.root, p.root, p.root, p.root, p.root, p.root, p.root) },
		"path too long":   func() { p.write(own, p.narrow(), p.root) },
		"nothing":         func() { p.write() },
		"something else":  func() { writeFile(t, p.file, good+"-----BEGIN X-----\n-----END X-----\n") },
		"text behind it":  func() { writeFile(t, p.file, good+"and more") },
		"a folder's name": func() { writeFile(t, p.file, strings.Repeat("a", 300<<10)) },
	} {
		t.Run(name, func(t *testing.T) {
			bad()
			if _, err := daypass.New(t.Context(), p.config()); err == nil || !strings.Contains(err.Error(), p.file) {
				t.Errorf("opened: %v", err)
			}
			// One that runs goes on with what it had.
			p.now = p.now.Add(time.Minute)
			p.issue(issuer, issuers.IssueRequest{Lease: p.lease("web"), Parameters: with})
		})
	}
	// An authority that has run out doesn't keep the broker from starting; nothing is issued until it is renewed.
	p.write(expired, p.root)
	late := p.open()
	if _, err := late.Issue(t.Context(), &issuers.IssueRequest{Lease: p.lease("web"), Parameters: with}); !errors.Is(err, issuers.ErrRejected) {
		t.Errorf("an authority that has run out: %v", err)
	}
	renewed := p.intermediate(func(c *x509.Certificate) { c.Subject.CommonName = "Renewed" })
	p.write(renewed, p.root)
	p.now = p.now.Add(time.Minute)
	if _, c := p.issue(late, issuers.IssueRequest{Lease: p.lease("web"), Parameters: with}); c.Issuer.CommonName != "Renewed" {
		t.Errorf("issued by %s", c.Issuer)
	}
	// Name constraints of those above hold, whatever the role says.
	p.write(p.intermediate(func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"other.example.com"} }), p.root)
	p.now = p.now.Add(time.Minute)
	if _, err := late.Issue(t.Context(), &issuers.IssueRequest{Lease: p.lease("web"), Parameters: with}); !errors.Is(err, issuers.ErrRejected) {
		t.Errorf("outside the authority's name constraints: %v", err)
	}
}

// narrow is a root of the same name and key that allows no authority below it.
func (p *pki) narrow() *x509.Certificate {
	template := p.template("Root")
	template.MaxPathLenZero = true
	return p.sign(template, p.root, p.rootKey.Public(), p.rootKey)
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestRolesThatCantBe(t *testing.T) {
	good := roles()["web"]
	for want, change := range map[string]func(*daypass.Role){
		"usage":         func(r *daypass.Role) { r.Usage = "" },
		"csr":           func(r *daypass.Role) { r.CSR = "sometimes" },
		"made_key":      func(r *daypass.Role) { r.MadeKey = daypass.KeyRSA },
		"accepted_keys": func(r *daypass.Role) { r.AcceptedKeys = []string{"p224"} },
		"max_ttl":       func(r *daypass.Role) { r.DefaultTTL = 2 * time.Hour },
		"dns_names":     func(r *daypass.Role) { r.DNSNames = []string{"*"} },
		"small letters": func(r *daypass.Role) { r.DNSNames = []string{"a*.example.com"} },
		"ip_networks":   func(r *daypass.Role) { r.IPNetworks = []string{"10.0.0.1/8"} },
		"uris":          func(r *daypass.Role) { r.URIs = []string{"spiffe://*/a"} },
		"organization":  func(r *daypass.Role) { r.Organization = []string{""} },
		"no value":      func(r *daypass.Role) { r.Env = map[string]string{"token": "T"} },
		"PATH":          func(r *daypass.Role) { r.Env = map[string]string{"ca": "PATH"} },
		"private_key":   func(r *daypass.Role) { r.CSR = daypass.CSRRequired; r.Env = map[string]string{"private_key": "KEY"} },
		"whose it is":   func(r *daypass.Role) { r.DNSNames, r.IPNetworks, r.URIs, r.CommonNames = nil, nil, nil, nil },
	} {
		role := good
		change(&role)
		if err := role.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
}

// TestHandshake is what certificates are for: both sides show one, and a server
// knows the job by it.
func TestHandshake(t *testing.T) {
	p := newPKI(t, "ES256")
	p.now = time.Now()
	issuer := p.open()
	pair := func() (tls.Certificate, *x509.CertPool) {
		values, _ := p.issue(issuer, issuers.IssueRequest{Lease: p.lease("web"), Parameters: json.RawMessage(`{"ip_addresses":["10.1.0.1"],"dns_names":["a.svc.example.com"],"common_name":"deployer"}`)})
		certificate, err := tls.X509KeyPair([]byte(values["certificate"]), []byte(values["private_key"]))
		if err != nil {
			t.Fatal(err)
		}
		trusted := x509.NewCertPool()
		trusted.AppendCertsFromPEM([]byte(values["ca"]))
		return certificate, trusted
	}
	certificate, trusted := pair()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.TLS.PeerCertificates[0].Subject.CommonName) //nolint:gosec // plain text, to the test itself
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, ClientCAs: trusted, ClientAuth: tls.RequireAndVerifyClientCert}
	server.Config.ErrorLog = nil
	server.StartTLS()
	defer server.Close()
	get := func(certificates ...tls.Certificate) (string, error) {
		transport := &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: trusted, ServerName: "a.svc.example.com", Certificates: certificates},
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, server.Listener.Addr().String())
			},
		}
		defer transport.CloseIdleConnections()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := (&http.Client{Transport: transport}).Do(request)
		if err != nil {
			return "", err
		}
		defer response.Body.Close() //nolint:errcheck // read to its end
		body, err := io.ReadAll(response.Body)
		return string(body), err
	}
	client, _ := pair()
	if body, err := get(client); err != nil || body != "deployer" {
		t.Errorf("%q, %v", body, err)
	}
	if _, err := get(); err == nil {
		t.Error("a client without a certificate came in")
	}
}
