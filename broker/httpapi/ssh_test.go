package httpapi_test

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/issuers/issuertest"
	"github.com/daypass/daypass/issuers/ssh"
)

const sshPolicy = `
policy: fleet
owner: fleet@example.com
environment: production
jobs:
  - name: release
    provider: github
    claims: {repository_id: "74", repository_owner_id: "65", ref: refs/heads/main, event_name: push}
grants:
  - {name: login, jobs: [release], issuer: fleet-ssh, role: deployer, ttl: 10m, with: {principals: [deploy]}}
  - {name: made, jobs: [release], issuer: fleet-ssh, role: runner, ttl: 10m}
  - {name: long, jobs: [release], issuer: fleet-ssh, role: short, ttl: 10m}
  - {name: sign, jobs: [release], issuer: release-jwt, ttl: 5m, with: {audience: "https://sts.example.com"}}
`

// fleet is a broker with an authority for SSH, whose clock can be put forward.
type fleet struct {
	*brokertest.Broker
	ahead atomic.Int64 // nanoseconds
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	issuer, err := ssh.New(t.Context(), ssh.Config{Signer: issuertest.NewSigner(t, "ES256"), Roles: map[string]ssh.Role{
		"deployer": {Type: ssh.TypeUser, Principals: []string{"deploy"}},
		"runner":   {Type: ssh.TypeUser, Principals: []string{"deploy"}, DefaultPrincipals: []string{"deploy"}, PublicKey: ssh.KeyMade},
		"short":    {Type: ssh.TypeUser, Principals: []string{"deploy"}, DefaultPrincipals: []string{"deploy"}, PublicKey: ssh.KeyMade, MaxTTL: time.Minute},
	}})
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{}
	f.Broker = brokertest.New(t, brokertest.Options{
		Policies: map[string]string{"fleet.yaml": sshPolicy},
		Issuers: func(context.Context, string) (map[string]broker.Issuer, error) {
			return map[string]broker.Issuer{"fleet-ssh": {Issuer: issuer, Target: "fleet-ssh", Roles: []string{"deployer", "runner", "short"}}}, nil
		},
		Clock: func() time.Time { return time.Now().Add(time.Duration(f.ahead.Load())) },
	})
	return f
}

func withKey(grant, publicKey string) map[string]any {
	return map[string]any{"grants": []any{map[string]any{"name": grant, "public_key": publicKey}}}
}

// TestRevokedCertificateIsRefusedBySSHD: what a server fetches from the broker,
// and what becomes of a certificate that was taken back before its end.
func TestRevokedCertificateIsRefusedBySSHD(t *testing.T) {
	t.Parallel()
	f, sshd := newFleet(t), devtest.NewSSHD(t)
	fetch := func(name string) {
		t.Helper()
		a := f.Do(http.MethodGet, api.PathIssuers+"/fleet-ssh/"+name, "", nil)
		if a.Status != http.StatusOK {
			t.Fatalf("%s: %d\n%s", name, a.Status, a.Body)
		}
		sshd.Write(name, string(a.Body))
	}
	fetch("ca.pub")
	fetch("krl")
	sshd.Configure("TrustedUserCAKeys "+sshd.Path("ca.pub"), "RevokedKeys "+sshd.Path("krl"), "AuthorizedPrincipalsFile "+sshd.Write("principals", "deploy\n"))

	key := sshd.Keygen("id")
	var kept, given api.ExchangeResponse
	for name, into := range map[string]*api.ExchangeResponse{"kept": &kept, "given": &given} {
		if a := f.Do(http.MethodPost, api.PathExchange, f.Job(), withKey("fleet/login", key)); a.Status != http.StatusOK || a.Into(into) != nil {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		c := into.Credentials[0]
		if len(c.Secret) != 0 || c.Env["DAYPASS_SSH_CERT"] != c.Values["certificate"] || c.Revocation != "expiry" || c.Kind != "ssh" {
			t.Errorf("%+v", c)
		}
		sshd.Write(name+"-cert.pub", c.Values["certificate"])
	}
	login := func(name string) (string, error) {
		return sshd.SSH(append(sshd.Known(), "-i", sshd.Path("id"), "-oCertificateFile="+sshd.Path(name+"-cert.pub")), "echo", "in")
	}
	for _, name := range []string{"kept", "given"} {
		if out, err := login(name); err != nil || out != "in\n" {
			t.Fatalf("%s: %q %v\n%s", name, out, err, sshd.Log())
		}
	}

	if a := f.Do(http.MethodPost, api.PathLeases+"/"+given.Credentials[0].LeaseID+"/revoke", given.Session.Token, nil); a.Status != http.StatusOK {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	f.ahead.Store(int64(11 * time.Second)) // the broker keeps documents for ten
	if out, err := documentedScript(t, f.URL+api.PathIssuers+"/fleet-ssh/krl", sshd.Path("krl")); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := login("given"); err == nil || !strings.Contains(sshd.Log(), "revoked") {
		t.Errorf("sshd takes what was revoked: %v\n%s", err, sshd.Log())
	}
	if out, err := login("kept"); err != nil || out != "in\n" {
		t.Errorf("sshd refuses what wasn't revoked: %q %v\n%s", out, err, sshd.Log())
	}
}

// documentedScript runs the script of docs/ssh.md that servers fetch the list with.
func documentedScript(t *testing.T, args ...string) (string, error) {
	t.Helper()
	page, err := os.ReadFile("../../docs/ssh.md")
	if err != nil {
		t.Fatal(err)
	}
	_, script, found := strings.Cut(string(page), "```sh\n#!/bin/sh\n")
	script, _, ended := strings.Cut(script, "```")
	if !found || !ended {
		t.Fatal("docs/ssh.md has no such script")
	}
	out, err := exec.CommandContext(t.Context(), "sh", append([]string{"-c", script, "daypass-krl"}, args...)...).CombinedOutput()
	return string(out), err
}

// TestDocumentedScriptKeepsTheOldList where there is no new one: a file that sshd
// can't read locks everybody out.
func TestDocumentedScriptKeepsTheOldList(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	file := filepath.Join(t.TempDir(), "krl")
	for path, want := range map[string]string{
		"/v1/issuers/fleet-ssh/ca.pub": "magic", "/v1/issuers/fleet-ssh/none": "404",
	} {
		if err := os.WriteFile(file, []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := documentedScript(t, f.URL+path, file)
		if kept, readErr := os.ReadFile(file); err == nil || !strings.Contains(out, want) || readErr != nil || string(kept) != "old" {
			t.Errorf("%s: %v %q, and the list is %q", path, err, out, kept)
		}
	}
	if files, err := os.ReadDir(filepath.Dir(file)); err != nil || len(files) != 1 {
		t.Errorf("left behind: %v %v", files, err)
	}
}

func TestDocumentsOfAnAuthority(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	for name, want := range map[string]string{"ca.pub": "text/plain; charset=utf-8", "krl": "application/octet-stream"} {
		a := f.Do(http.MethodGet, api.PathIssuers+"/fleet-ssh/"+name, "", nil)
		if a.Status != http.StatusOK || a.Header.Get("Content-Type") != want || !strings.HasPrefix(a.Header.Get("Cache-Control"), "public, max-age=") || len(a.Body) == 0 {
			t.Errorf("%s: %v %q", name, a.Header, a.Body)
		}
	}
	if a := f.Do(http.MethodGet, api.PathIssuers+"/fleet-ssh/id", "", nil); a.Status != http.StatusNotFound {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}

func TestKeysThatJobsSend(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	const good = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
	for _, c := range []struct{ grant, key, want string }{
		{"fleet/login", "", "needs a public_key"},
		{"fleet/login", "ssh-rsa x", "grant fleet/login: the public key is not one line"},
		{"fleet/login", "-----BEGIN OPENSSH PRIVATE KEY-----", "not one line"},
		{"fleet/login", good + "\n" + good, "not one line"},
		{"fleet/login", good + " " + strings.Repeat("x", 16<<10), "16384 is the limit"},
		{"fleet/made", good, "takes no public_key"},
		{"fleet/sign", good, "takes no public_key"},
	} {
		a := f.Do(http.MethodPost, api.PathExchange, f.Job(), withKey(c.grant, c.key))
		wantProblem(t, a, http.StatusBadRequest, api.CodeInvalidRequest)
		if !strings.Contains(a.Problem.Detail, c.want) {
			t.Errorf("%s %.40q: %q, want %q", c.grant, c.key, a.Problem.Detail, c.want)
		}
	}
	if n := f.Count(`SELECT count(*) FROM leases WHERE state = 'active'`); n != 0 {
		t.Errorf("%d leases of refused requests live", n)
	}
	a := f.Do(http.MethodPost, api.PathExchange+"?format=value", f.Job(), withKey("fleet/login", good))
	wantProblem(t, a, http.StatusBadRequest, api.CodeInvalidRequest)
	a = f.Do(http.MethodPost, api.PathExchange+"?format=value&field=certificate", f.Job(), withKey("fleet/login", good))
	if a.Status != http.StatusOK || !strings.HasPrefix(string(a.Body), "ssh-ed25519-cert-v01@openssh.com ") {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	if out := f.Exchange(f.Job(), "fleet/long"); time.Until(out.Credentials[0].ExpiresAt) > time.Minute {
		t.Errorf("a role of a minute gave until %s", out.Credentials[0].ExpiresAt)
	}
	if out := f.Exchange(f.Job(), "fleet/made"); !strings.HasPrefix(out.Credentials[0].Env["DAYPASS_SSH_KEY"], "-----BEGIN OPENSSH PRIVATE KEY-----\n") || out.Credentials[0].Secret[0] != "private_key" {
		t.Error("no private key where one is made")
	}
}
