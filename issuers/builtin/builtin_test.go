package builtin_test

import (
	"crypto/x509/pkix"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/apitoken"
	"github.com/daypass/daypass/issuers/builtin"
	"github.com/daypass/daypass/issuers/issuertest"
	"github.com/daypass/daypass/issuers/postgres"
	"github.com/daypass/daypass/issuers/sealed"
	"github.com/daypass/daypass/issuers/ssh"
	"github.com/daypass/daypass/issuers/x509"
)

func specs(t *testing.T) map[string]builtin.Spec {
	t.Helper()
	signer := issuertest.NewSigner(t, "ES256")
	now := time.Now()
	chain, err := x509.SelfSigned(t.Context(), signer, pkix.Name{CommonName: "Trial"}, now, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "chain.pem")
	if err := os.WriteFile(file, chain, 0o600); err != nil {
		t.Fatal(err)
	}
	return map[string]builtin.Spec{
		builtin.KindX509: {Kind: builtin.KindX509, Name: "ci", ExternalURL: "https://daypass.example.com", Key: signer, X509: &x509.Config{
			ChainFile: file, Now: time.Now, Roles: map[string]x509.Role{"web": {Usage: x509.UsageClient, CommonNames: []string{"deployer"}}},
		}},
		builtin.KindJWT: {Kind: builtin.KindJWT, ExternalURL: "https://daypass.example.com", Signer: func() issuers.Signer { return signer }},
		builtin.KindPostgres: {Kind: builtin.KindPostgres, Installation: "testtesttest", Postgres: &postgres.Config{
			// Nothing answers there: opening must not ask.
			Target: postgres.Target{Host: "127.0.0.1", Port: 1, Database: "none"}, Admin: postgres.Admin{User: "daypass", Password: issuers.NewSecret("x")},
			Roles: map[string]postgres.Role{"deployer": {MemberOf: []string{"deploy"}}},
		}},
		builtin.KindSealed:   {Kind: builtin.KindSealed, Sealed: &sealed.Config{Vault: &awayVault{}, Roles: map[string]sealed.Role{"key": {Secret: "a/b"}}}},
		builtin.KindAPIToken: {Kind: builtin.KindAPIToken, APIToken: &apitoken.Config{Roles: map[string]apitoken.Role{"ci": {Audiences: []string{"https://deploy.example.com"}}}}},
		builtin.KindSSH:      {Kind: builtin.KindSSH, Key: signer, SSH: &ssh.Config{Roles: map[string]ssh.Role{"deployer": {Type: ssh.TypeUser, Principals: []string{"deploy"}}}}},
	}
}

// awayVault is a vault that nobody may ask.
type awayVault struct{ sealed.Vault }

func TestEveryKindOpensWithoutItsTarget(t *testing.T) {
	all := specs(t)
	for _, kind := range builtin.Kinds() {
		spec, ok := all[kind]
		if !ok {
			t.Errorf("kind %s has no case here", kind)
			continue
		}
		issuer, err := builtin.Open(t.Context(), spec)
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		if d := issuer.Describe(""); d.Kind != kind {
			t.Errorf("%s describes itself as %q", kind, d.Kind)
		}
	}
}

func TestOpenedKindWorks(t *testing.T) {
	spec := specs(t)[builtin.KindJWT]
	issuertest.Exercise(t, func(t *testing.T) issuers.Issuer {
		issuer, err := builtin.Open(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		return issuer
	}, issuertest.Options{Parameters: json.RawMessage(`{"audience":"a"}`)})
}

func TestMistakesNameTheIssuer(t *testing.T) {
	for _, spec := range []builtin.Spec{{Kind: "oracle"}, {Kind: builtin.KindPostgres}, {Kind: builtin.KindPostgres, Postgres: &postgres.Config{}}, {Kind: builtin.KindJWT}, {Kind: builtin.KindSealed}, {Kind: builtin.KindX509}, {Kind: builtin.KindSSH}, {Kind: builtin.KindAPIToken}, {Kind: builtin.KindAPIToken, APIToken: &apitoken.Config{}}, {Kind: builtin.KindSSH, SSH: &ssh.Config{}}} {
		spec.Name = "payments-db"
		issuer, err := builtin.Open(t.Context(), spec)
		if issuer != nil || err == nil || !strings.Contains(err.Error(), `"payments-db"`) {
			t.Errorf("%s: %v, %v", spec.Kind, issuer, err)
		}
	}
}
