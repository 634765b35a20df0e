package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/keys/pkcs11"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/issuertest"
	"github.com/daypass/daypass/issuers/jwt"
)

// TestAllAlgorithms: what the broker signs and publishes, this verifier takes by
// discovery and key set alone, while it lives and where it is meant for.
func TestAllAlgorithms(t *testing.T) {
	var signers []keys.Signer
	for _, algorithm := range keys.Algorithms() {
		signers = append(signers, issuertest.NewSigner(t, algorithm))
	}
	verifies(t, signers)
}

// TestKeysInAnHSM is the same with keys that no process has ever seen.
func TestKeysInAnHSM(t *testing.T) {
	module, found := pkcs11.FindSoftHSM()
	if !found {
		t.Fatal("SoftHSM is missing: install the package softhsm2, or set DAYPASS_SOFTHSM_MODULE")
	}
	pin := issuers.NewSecret("verify-4711")
	if err := pkcs11.InitSoftHSM(t.Context(), pkcs11.SoftHSMConfig{
		Dir: filepath.Join(t.TempDir(), "keys"), Module: module, TokenLabel: "verifyjwt", SOPIN: issuers.NewSecret("verify-so-4711"), PIN: pin,
	}); err != nil {
		t.Fatal(err)
	}
	token, err := pkcs11.Open(t.Context(), pkcs11.Config{Module: module, TokenLabel: "verifyjwt", PIN: pin})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := token.Close(); err != nil {
			t.Error(err)
		}
	})
	var signers []keys.Signer
	for _, algorithm := range keys.Algorithms() {
		pair := keys.Pair{Label: "sign-" + algorithm, Algorithm: algorithm}
		if algorithm == keys.RS256 || algorithm == keys.PS256 {
			pair.Bits = 2048
		}
		signer, err := token.MakeSigner(t.Context(), pair)
		if errors.Is(err, pkcs11.ErrAlgorithm) && algorithm == keys.EdDSA {
			continue // not every SoftHSM is built with it
		}
		if err != nil || signer.Algorithm() != algorithm {
			t.Fatalf("%s: %v", algorithm, err)
		}
		signers = append(signers, signer)
	}
	verifies(t, signers)
}

func verifies(t *testing.T, signers []keys.Signer) {
	t.Helper()
	set, err := keys.JWKS(signers...)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		if err := json.NewEncoder(w).Encode(map[string]string{"issuer": server.URL, "jwks_uri": server.URL + "/jwks.json"}); err != nil {
			t.Error(err)
		}
	})
	mux.HandleFunc("GET /jwks.json", func(w http.ResponseWriter, _ *http.Request) {
		if _, err := w.Write(set); err != nil {
			t.Error(err)
		}
	})
	for _, signer := range signers {
		t.Run(signer.Algorithm(), func(t *testing.T) {
			issuer, err := jwt.New(t.Context(), jwt.Config{Issuer: server.URL, Signer: func() issuers.Signer { return signer }})
			if err != nil {
				t.Fatal(err)
			}
			token := func(issued time.Time) string {
				res, err := issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: issuertest.NewLease("testtesttest", "", issued), Parameters: []byte(`{"audience":"api"}`)})
				if err != nil {
					t.Fatal(err)
				}
				return res.Values[0].Value.Reveal()
			}
			good := token(time.Now())
			var out bytes.Buffer
			if err := run(server.URL, "api", strings.NewReader(good+"\n"), &out); err != nil || !strings.Contains(out.String(), `"sub": "daypass:main/payments/deploy"`) {
				t.Errorf("%v\n%s", err, out.String())
			}
			for name, c := range map[string]struct{ audience, token, want string }{
				"run out":          {"api", token(time.Now().Add(-time.Hour)), "expired"},
				"another audience": {"other", good, "audience"},
				"changed":          {"api", good[:len(good)-6] + "AAAAAA", "signature"},
			} {
				out.Reset()
				if err := run(server.URL, c.audience, strings.NewReader(c.token), &out); err == nil || !strings.Contains(err.Error(), c.want) || out.Len() > 0 {
					t.Errorf("%s: %v\n%s", name, err, out.String())
				}
			}
		})
	}
}
