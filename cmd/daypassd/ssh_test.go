package main

import (
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

const sshIssuer = `  - name: fleet-ssh
    type: ssh
    key: {algorithm: ES384}
    roles:
      runner:
        type: user
        principals: [deploy]
        public_key: made
        extensions: [permit-pty]
        force_commands: [/usr/bin/deploy]
        source_addresses: [127.0.0.1]
        max_ttl: 10m
        used_by: [{policy: payments, environment: production}]
`

// TestSSHIssuer: from the configuration to a certificate that its authority, a key in
// an HSM, signed.
func TestSSHIssuer(t *testing.T) {
	t.Parallel()
	p, provider, environment := newIsolated(t)
	env := []string{environment}
	text, err := os.ReadFile(p.config)
	if err != nil {
		t.Fatal(err)
	}
	write(t, p.config, strings.Replace(string(text), "policies: {dir", sshIssuer+"policies: {dir", 1))
	p.newPolicies(t, "policies.2", func(text string) string {
		return strings.Replace(text, "grants:\n", "grants:\n  - {name: login, jobs: [github-main], issuer: fleet-ssh, role: runner, ttl: 5m, with: {principals: [deploy]}}\n", 1)
	})
	block, _ := pem.Decode([]byte(runProgram(t, env, "keys", "generate", "--issuer", "fleet-ssh", "--config", p.config)))
	if block == nil {
		t.Fatal("keys generate printed no public key")
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	again := exec.CommandContext(t.Context(), "daypassd", "keys", "generate", "--issuer", "fleet-ssh", "--config", p.config)
	again.Env = cleanEnv(environment)
	if said, err := again.CombinedOutput(); err == nil || !strings.Contains(string(said), "configure another label") {
		t.Errorf("the authority's key was made twice: %s %v", said, err)
	}
	_, base := p.serve(t, environment)

	document := call(t, http.MethodGet, base+"/v1/issuers/fleet-ssh/ca.pub", "")
	want, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	if key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(document.body)); err != nil || string(key.Marshal()) != string(want.Marshal()) {
		t.Errorf("ca.pub is %q: %v", document.body, err)
	}
	a := exchange(t, base+"/v1/exchange?grant=payments/login&format=value&field=certificate", jobToken(t, provider))
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(a.body))
	certificate, ok := key.(*ssh.Certificate)
	if err != nil || !ok {
		t.Fatalf("%s %s: %v", a.Status, a.body, err)
	}
	if string(certificate.SignatureKey.Marshal()) != string(want.Marshal()) || certificate.CriticalOptions["force-command"] != "/usr/bin/deploy" ||
		certificate.CriticalOptions["source-address"] != "127.0.0.1/32" || len(certificate.Extensions) != 1 || certificate.ValidPrincipals[0] != "deploy" {
		t.Errorf("%+v", certificate)
	}
	if list := call(t, http.MethodGet, base+"/v1/issuers/fleet-ssh/krl", ""); !strings.HasPrefix(list.body, "SSHKRL\n\x00") {
		t.Errorf("%s %q", list.Status, list.body)
	}
}
