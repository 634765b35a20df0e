package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/daypass/daypass/broker/devkit"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/keys/pkcs11"
	"github.com/daypass/daypass/issuers"
)

const x509Issuer = `  - name: ci
    type: x509
    chain_file: DIR/ci-chain.pem
    key: KEY
    roles:
      web: {usage: both, dns_names: ["*.svc.example.com"], max_ttl: 10m, used_by: [{policy: payments, environment: production}]}
policies:`

// TestCertificates goes the way of an operator: a key, a chain for a trial, a
// grant, and a certificate that the chain vouches for.
func TestCertificates(t *testing.T) {
	t.Parallel()
	t.Run("software", func(t *testing.T) {
		t.Parallel()
		p, provider := newBroker(t)
		p.certify(t, provider, "{}", nil, func() {
			store, err := keys.OpenSoftware(keys.SoftwareConfig{Dir: filepath.Join(p.dir, "keys"), PIN: issuers.NewSecret("1234567890abcdef"), Create: true})
			if err != nil {
				t.Fatal(err)
			}
			makeAuthority(t, store)
		})
	})
	t.Run("SoftHSM", func(t *testing.T) {
		t.Parallel()
		module, found := pkcs11.FindSoftHSM()
		if !found {
			t.Fatal("SoftHSM is not installed (hint: make deps)")
		}
		p, provider := newBroker(t)
		folder, pin := filepath.Join(p.dir, "hsm"), issuers.NewSecret("1234567890abcdef")
		if err := pkcs11.InitSoftHSM(t.Context(), pkcs11.SoftHSMConfig{Dir: folder, Module: module, TokenLabel: "ci", SOPIN: pin, PIN: pin}); err != nil {
			t.Fatal(err)
		}
		key := fmt.Sprintf("{type: pkcs11, module: %s, token: ci, pin_file: %s}", module, filepath.Join(p.dir, "pin"))
		p.certify(t, provider, key, []string{"SOFTHSM2_CONF=" + os.Getenv("SOFTHSM2_CONF")}, func() {
			token, err := pkcs11.Open(t.Context(), pkcs11.Config{Module: module, TokenLabel: "ci", PIN: pin})
			if err != nil {
				t.Fatal(err)
			}
			makeAuthority(t, token)
			if err := token.Close(); err != nil {
				t.Fatal(err)
			}
		})
	})
}

// certify does it with the authority's key in one place.
func (p place) certify(t *testing.T, provider *devkit.Provider, key string, environment []string, makeKey func()) {
	t.Helper()
	text, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	write(t, p.config, strings.Replace(string(text), "policies:", strings.NewReplacer("DIR", p.dir, "KEY", key).Replace(x509Issuer), 1))

	// No key yet: which, and how to make it.
	refused := func(want string, args ...string) {
		t.Helper()
		broker := start(t, environment, append(args, "--config", p.config)...)
		if state := broker.ended(t); state.Success() || !strings.Contains(strings.Join(broker.log(), "\n"), want) {
			t.Errorf("daypassd %s: %v %q, want %q", strings.Join(args, " "), state, broker.log(), want)
		}
	}
	refused("daypassd keys generate --issuer ci", "keys", "csr", "--issuer", "ci")
	refused("no issuer \"payments-db\" of type x509", "keys", "csr", "--issuer", "payments-db")
	refused("write CN=NAME", "keys", "csr", "--issuer", "ci", "--subject", "x")
	refused("--ttl goes with --self-signed", "keys", "csr", "--issuer", "ci", "--ttl", "1d")
	makeKey()

	// No chain yet: `serve` and `config check` say what makes it.
	refused("hint: `daypassd keys csr --issuer NAME`", "config", "check")
	refused("hint: `daypassd keys csr --issuer NAME`", "serve")
	if request := runProgram(t, environment, "keys", "csr", "--config", p.config, "--issuer", "ci", "--subject", "CN=Example CI,O=Example"); !strings.HasPrefix(request, "-----BEGIN CERTIFICATE REQUEST-----\n") {
		t.Errorf("the request is %q", request)
	}
	chain := runProgram(t, environment, "keys", "csr", "--config", p.config, "--issuer", "ci", "--self-signed", "--ttl", "1d")
	write(t, filepath.Join(p.dir, "ci-chain.pem"), chain)
	p.newPolicies(t, "policies.2", func(text string) string {
		return strings.Replace(text, "tests:", "  - {name: web, jobs: [github-main], issuer: ci, role: web, ttl: 1h, with: {dns_names: [web.svc.example.com]}}\n\ntests:", 1)
	})
	runProgram(t, environment, "config", "check", "--config", p.config)

	_, base := p.serve(t, environment...)
	a := exchange(t, base+"/v1/exchange?grant=payments/web", jobToken(t, provider))
	if a.StatusCode != http.StatusOK {
		t.Fatal(a.body)
	}
	credentials, ok := a.field(t, "credentials").([]any)
	if !ok || len(credentials) != 1 {
		t.Fatal(a.body)
	}
	credential, _ := credentials[0].(map[string]any)
	set, _ := credential["env"].(map[string]any)
	certificate, _ := set["DAYPASS_CERT"].(string)
	private, _ := set["DAYPASS_KEY"].(string)
	pair, err := tls.X509KeyPair([]byte(certificate), []byte(private))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(chain))
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "web.svc.example.com"}); err != nil {
		t.Error(err)
	}
	list := call(t, http.MethodGet, base+"/v1/issuers/ci/crl.der", "")
	crl, err := x509.ParseRevocationList([]byte(list.body))
	if err != nil {
		t.Fatal(err)
	}
	authority := call(t, http.MethodGet, base+"/v1/issuers/ci/ca.der", "")
	by, err := x509.ParseCertificate([]byte(authority.body))
	if err != nil {
		t.Fatal(err)
	}
	if err := crl.CheckSignatureFrom(by); err != nil {
		t.Error(err)
	}
}

// makeAuthority makes the key of the issuer ci.
func makeAuthority(t *testing.T, store keys.Store) {
	t.Helper()
	if _, err := store.MakeSigner(t.Context(), keys.Pair{Label: "daypass-ci", Algorithm: keys.ES256}); err != nil {
		t.Fatal(err)
	}
}
