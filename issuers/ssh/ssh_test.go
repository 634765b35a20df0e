package ssh_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	cryptossh "golang.org/x/crypto/ssh"

	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/issuertest"
	"github.com/daypass/daypass/issuers/ssh"
)

// roles are one of each sort.
func roles() map[string]ssh.Role {
	return map[string]ssh.Role{
		"deployer": {
			Type: ssh.TypeUser, Principals: []string{"deploy", "ci-*"}, DefaultPrincipals: []string{"deploy"},
			SourceAddresses: []string{"10.0.0.0/8", "127.0.0.1"}, Extensions: []string{"permit-pty"}, MaxTTL: time.Hour,
		},
		"runner": {Type: ssh.TypeUser, Principals: []string{"deploy"}, DefaultPrincipals: []string{"deploy"}, PublicKey: ssh.KeyMade},
		"forced": {Type: ssh.TypeUser, Principals: []string{"deploy"}, DefaultPrincipals: []string{"deploy"}, ForceCommands: []string{"/usr/bin/deploy", "/usr/bin/status"}},
		"token": {
			Type: ssh.TypeUser, Principals: []string{"deploy"}, DefaultPrincipals: []string{"deploy"},
			KeyTypes: []string{"ed25519-sk"}, VerifyRequired: true, ForceCommands: []string{"/usr/bin/deploy"},
		},
		"web": {Type: ssh.TypeHost, Principals: []string{"*.example.com"}, DefaultTTL: time.Hour},
	}
}

func open(tb testing.TB, signer issuers.Signer) *ssh.Issuer {
	tb.Helper()
	issuer, err := ssh.New(tb.Context(), ssh.Config{Signer: signer, Roles: roles()})
	if err != nil {
		tb.Fatal(err)
	}
	return issuer
}

// publicKey makes a key up, and gives the line of its .pub file.
func publicKey(tb testing.TB) string {
	tb.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return line(tb, public)
}

func line(tb testing.TB, public any) string {
	tb.Helper()
	key, err := cryptossh.NewPublicKey(public)
	if err != nil {
		tb.Fatal(err)
	}
	return string(cryptossh.MarshalAuthorizedKey(key))
}

func issue(tb testing.TB, issuer *ssh.Issuer, req *issuers.IssueRequest) (*cryptossh.Certificate, error) {
	tb.Helper()
	res, err := issuer.Issue(tb.Context(), req)
	if err != nil {
		return nil, err
	}
	return parse(tb, res), nil
}

func parse(tb testing.TB, res *issuers.IssueResponse) *cryptossh.Certificate {
	tb.Helper()
	key, _, _, rest, err := cryptossh.ParseAuthorizedKey([]byte(res.Values[0].Value.Reveal()))
	certificate, ok := key.(*cryptossh.Certificate)
	if err != nil || !ok || len(rest) > 0 || res.Values[0].Name != "certificate" {
		tb.Fatalf("%T %q %v", key, rest, err)
	}
	return certificate
}

func request(tb testing.TB, role, parameters string) *issuers.IssueRequest {
	tb.Helper()
	req := &issuers.IssueRequest{Lease: issuertest.NewLease("testtesttest", role, time.Now()), Parameters: json.RawMessage(parameters)}
	if role != "runner" {
		req.PublicKey = publicKey(tb)
	}
	return req
}

func TestConformance(t *testing.T) {
	for role, parameters := range map[string]string{"deployer": `{"principals":["ci-release"]}`, "runner": ``, "forced": `{"force_command":"/usr/bin/deploy"}`, "web": `{"principals":["a.example.com"]}`} {
		t.Run(role, func(t *testing.T) {
			signer := issuertest.NewSigner(t, "ES256")
			options := issuertest.Options{Role: role, Parameters: json.RawMessage(parameters), PublicKey: request(t, role, "").PublicKey}
			issuertest.Exercise(t, func(t *testing.T) issuers.Issuer { return open(t, signer) }, options)
		})
	}
}

func TestCertificateVerifies(t *testing.T) {
	for algorithm, want := range map[string]string{"ES256": "ecdsa-sha2-nistp256", "ES384": "ecdsa-sha2-nistp384", "EdDSA": "ssh-ed25519", "RS256": "rsa-sha2-256"} {
		signer := issuertest.NewSigner(t, algorithm)
		issuer := open(t, signer)
		req := request(t, "deployer", `{"principals":["deploy","ci-release"],"source_address":["10.1.0.0/16"]}`)
		res, err := issuer.Issue(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		c := parse(t, res)
		if res.SigningKey != signer.KeyID() || c.Signature.Format != want || len(c.Nonce) != 32 {
			t.Errorf("%s: signed by %s with %s, nonce %x", algorithm, res.SigningKey, c.Signature.Format, c.Nonce)
		}
		authority, err := cryptossh.NewPublicKey(signer.Public())
		if err != nil {
			t.Fatal(err)
		}
		if string(c.SignatureKey.Marshal()) != string(authority.Marshal()) || string(cryptossh.MarshalAuthorizedKey(c.Key)) != req.PublicKey {
			t.Errorf("%s: another key", algorithm)
		}
		checker := cryptossh.CertChecker{Clock: func() time.Time { return req.Lease.IssuedAt }, SupportedCriticalOptions: []string{"source-address"}}
		for principal, want := range map[string]bool{"deploy": true, "ci-release": true, "root": false} {
			if err := checker.CheckCert(principal, c); (err == nil) != want {
				t.Errorf("%s: %s: %v", algorithm, principal, err)
			}
		}
		for at, want := range map[time.Time]bool{
			req.Lease.IssuedAt.Add(-time.Minute): true, req.Lease.IssuedAt.Add(-62 * time.Second): false,
			req.Lease.ExpiresAt.Add(-time.Second): true, req.Lease.ExpiresAt.Add(time.Second): false,
		} {
			checker.Clock = func() time.Time { return at }
			if err := checker.CheckCert("deploy", c); (err == nil) != want {
				t.Errorf("%s: at %s of a lease from %s to %s: %v", algorithm, at, req.Lease.IssuedAt, req.Lease.ExpiresAt, err)
			}
		}
	}
}

func TestCertificateSaysWhatTheRoleSays(t *testing.T) {
	issuer := open(t, issuertest.NewSigner(t, "EdDSA"))
	req := request(t, "deployer", ``)
	c, err := issue(t, issuer, req)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(c.ValidPrincipals) != "[deploy]" || c.CertType != cryptossh.UserCert || c.Serial == 0 ||
		fmt.Sprint(c.CriticalOptions) != "map[source-address:10.0.0.0/8,127.0.0.1/32]" || fmt.Sprint(c.Extensions) != "map[permit-pty:]" ||
		c.KeyId != "daypass:main/payments/deploy lease="+req.Lease.ID {
		t.Errorf("%+v", c)
	}
	again, err := issue(t, issuer, req)
	if err != nil || again.Serial != c.Serial {
		t.Errorf("serial %d, then %d, %v: it derives from the lease alone", c.Serial, again.Serial, err)
	}
	host, err := issue(t, issuer, request(t, "web", `{"principals":["a.example.com"]}`))
	if err != nil || host.CertType != cryptossh.HostCert || len(host.CriticalOptions) != 0 || len(host.Extensions) != 0 || fmt.Sprint(host.ValidPrincipals) != "[a.example.com]" {
		t.Errorf("%+v %v", host, err)
	}
	forced, err := issue(t, issuer, request(t, "forced", `{"force_command":"/usr/bin/status"}`))
	if err != nil || fmt.Sprint(forced.CriticalOptions) != "map[force-command:/usr/bin/status]" || len(forced.Extensions) != 0 {
		t.Errorf("%+v %v", forced, err)
	}
}

func TestKeyIsMadeForTheLease(t *testing.T) {
	issuer := open(t, issuertest.NewSigner(t, "ES256"))
	req := request(t, "runner", ``)
	res, err := issuer.Issue(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Values) != 2 || res.Values[1].Name != "private_key" || !res.Values[1].Sensitive || res.Values[1].RandomBits < 128 {
		t.Fatalf("%v", res.Values)
	}
	private, err := cryptossh.ParsePrivateKey([]byte(res.Values[1].Value.Reveal()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cryptossh.NewCertSigner(parse(t, res), private); err != nil {
		t.Errorf("the certificate is not of that key: %v", err)
	}
	req.PublicKey = publicKey(t)
	var sent *issuers.SentError
	if _, err := issuer.Issue(t.Context(), req); !errors.As(err, &sent) || !errors.Is(err, issuers.ErrRejected) {
		t.Errorf("a key that isn't wanted: %v", err)
	}
}

func TestParametersRefused(t *testing.T) {
	issuer := open(t, issuertest.NewSigner(t, "ES256"))
	for _, c := range []struct{ role, parameters, want string }{
		{"deployer", `{"principals":["root"]}`, "not among those"},
		{"deployer", `{"principals":["deploy","root"]}`, "not among those"},
		{"deployer", `{"principals":["ci-"]}`, "not among those"},
		{"deployer", `{"principals":["ci-a.b"]}`, "not among those"},
		{"deployer", `{"principals":["xci-a"]}`, "not among those"},
		{"deployer", `{"principals":["ci-*"]}`, "can stand in one"},
		{"deployer", `{"principals":["ci-a,root"]}`, "can stand in one"},
		{"deployer", `{"principals":["ci-a\nroot"]}`, "can stand in one"},
		{"deployer", `{"principals":["-oProxyCommand"]}`, "the first is no -"},
		{"deployer", `{"principals":["deploy","deploy"]}`, "twice"},
		{"deployer", `{"principals":[]}`, "a list of 1 to"},
		{"deployer", `{"principals":[null]}`, "a list of 1 to"},
		{"deployer", `{"principals":"deploy"}`, "a list of 1 to"},
		{"deployer", `{"principals":["deploy"],"principals":["deploy"]}`, "stands twice"},
		{"deployer", `{"Principals":["deploy"]}`, "no parameter"},
		{"deployer", `{"extensions":["permit-user-rc"]}`, "no parameter"},
		{"deployer", `{"source_address":["11.0.0.0/8"]}`, "not within"},
		{"deployer", `{"source_address":["8.0.0.0/5"]}`, "not within"},
		{"deployer", `{"source_address":["0.0.0.0/0"]}`, "is everybody"},
		{"deployer", `{"source_address":["10.0.0.1/8"]}`, "the network is 10.0.0.0/8"},
		{"deployer", `{"source_address":["::ffff:10.0.0.1"]}`, "as IPv4"},
		{"deployer", `{"source_address":["fe80::1%eth0"]}`, "write 10.0.0.5"},
		{"deployer", `{"source_address":["10.0.0.0/8,0.0.0.0/0"]}`, "write 10.0.0.5"},
		{"deployer", `{"source_address":["!10.0.0.0/8"]}`, "write 10.0.0.5"},
		{"deployer", `{"force_command":"/bin/sh"}`, "not among the role's"},
		{"forced", `{"force_command":"/usr/bin/deploy; sh"}`, "not among the role's"},
		{"forced", `{"force_command":""}`, "a string is needed"},
		{"forced", ``, "force_command is missing"},
		{"web", ``, "principals is missing"},
		{"web", `{"principals":["example.com"]}`, "not among those"},
		{"web", `{"principals":["a.b.example.com"]}`, "not among those"},
		{"web", `{"principals":["A.example.com"]}`, "small letters"},
		{"web", `{"principals":["a.example.com"],"source_address":["10.0.0.0/8"]}`, "a host's certificate"},
	} {
		err := issuer.CheckParameters(c.role, json.RawMessage(c.parameters))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s: %v, want %q", c.role, c.parameters, err, c.want)
		}
		if _, err := issue(t, issuer, request(t, c.role, c.parameters)); !errors.Is(err, issuers.ErrRejected) {
			t.Errorf("%s %s was certified: %v", c.role, c.parameters, err)
		}
	}
}

func TestTemplatesAreCheckedWhenFilled(t *testing.T) {
	issuer := open(t, issuertest.NewSigner(t, "ES256"))
	if err := issuer.CheckParameters("deployer", json.RawMessage(`{"principals":["ci-{{ claims.environment }}"],"source_address":["{{ claims.runner }}"]}`)); err != nil {
		t.Error(err)
	}
	for _, filled := range []string{`{"principals":["ci-x,root"]}`, `{"principals":["ci-{{x}}"]}`, `{"source_address":["{{ claims.runner }}"]}`} {
		if _, err := issue(t, issuer, request(t, "deployer", filled)); !errors.Is(err, issuers.ErrRejected) {
			t.Errorf("%s: %v", filled, err)
		}
	}
	// A shell would run what a template brings.
	if err := issuer.CheckParameters("forced", json.RawMessage(`{"force_command":"/usr/bin/deploy {{ claims.ref }}"}`)); err == nil {
		t.Error("a template in a command was accepted")
	}
}

func TestPublicKeysRefused(t *testing.T) {
	issuer := open(t, issuertest.NewSigner(t, "ES256"))
	good := strings.TrimSpace(publicKey(t))
	short, err := rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec // too short is the point
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := issue(t, issuer, request(t, "deployer", ``))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"none":         "",
		"options":      `command="sh" ` + good,
		"two":          good + "\n" + good,
		"a comment":    "# x",
		"blanks":       "  " + good,
		"a tab":        strings.Replace(good, " ", "\t", 1),
		"other type":   strings.Replace(good, "ssh-ed25519", "ssh-rsa", 1),
		"DSA":          "ssh-dss AAAAB3NzaC1kc3MAAACBAA==",
		"short RSA":    line(t, &short.PublicKey),
		"certificate":  string(cryptossh.MarshalAuthorizedKey(certificate)),
		"cut":          good[:len(good)-8],
		"longer":       good[:len(good)-4] + "AAAAAAAA",
		"sk":           "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABHNzaDo=",
		"private":      "-----BEGIN OPENSSH PRIVATE KEY-----",
		"large":        good + " " + strings.Repeat("x", ssh.MaxPublicKey),
		"nul":          good + " \x00",
		"another line": good + "\n\n",
	} {
		req := request(t, "deployer", ``)
		req.PublicKey = text
		var sent *issuers.SentError
		if _, err := issue(t, issuer, req); !errors.As(err, &sent) || !errors.Is(err, issuers.ErrRejected) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPublicKeysTaken(t *testing.T) {
	issuer := open(t, issuertest.NewSigner(t, "ES256"))
	long, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]string{"comment": strings.TrimSpace(publicKey(t)) + " ana@laptop with blanks\r\n", "RSA": line(t, &long.PublicKey)}
	for name, curve := range map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()} {
		private, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys[name] = line(t, &private.PublicKey)
	}
	for name, text := range keys {
		req := request(t, "deployer", ``)
		req.PublicKey = text
		if _, err := issue(t, issuer, req); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	req := request(t, "token", ``)
	req.PublicKey = "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABHNzaDo="
	c, err := issue(t, issuer, req)
	if err != nil || fmt.Sprint(c.CriticalOptions) != "map[force-command:/usr/bin/deploy verify-required:]" {
		t.Errorf("%v %v", c, err)
	}
}

func TestLifeIsBounded(t *testing.T) {
	issuer := open(t, issuertest.NewSigner(t, "ES256"))
	for _, life := range []time.Duration{0, -time.Minute, time.Hour + time.Second} {
		req := request(t, "deployer", ``)
		req.Lease.ExpiresAt = req.Lease.IssuedAt.Add(life)
		if _, err := issue(t, issuer, req); !errors.Is(err, issuers.ErrRejected) {
			t.Errorf("a life of %s: %v", life, err)
		}
	}
	req := request(t, "deployer", ``)
	req.Lease.ID = ""
	if _, err := issue(t, issuer, req); !errors.Is(err, issuers.ErrRejected) {
		t.Errorf("no lease: %v", err)
	}
}

func TestSignerFails(t *testing.T) {
	signer := issuertest.NewSigner(t, "ES256")
	signer.OnSign = func(context.Context) error { return errors.New("token removed") }
	if _, err := issue(t, open(t, signer), request(t, "deployer", ``)); !errors.Is(err, issuers.ErrUnavailable) {
		t.Errorf("%v, want ErrUnavailable", err)
	}
	// What waits for a token waits no longer than the request.
	ctx, cancel := context.WithCancel(t.Context())
	signer.OnSign = func(signing context.Context) error {
		cancel()
		<-signing.Done()
		return signing.Err()
	}
	if _, err := open(t, signer).Issue(ctx, request(t, "deployer", ``)); !errors.Is(err, context.Canceled) || !errors.Is(err, issuers.ErrUnavailable) {
		t.Errorf("%v, want the context's", err)
	}
}

func TestDescribe(t *testing.T) {
	issuer := open(t, issuertest.NewSigner(t, "ES256"))
	job, made, host := issuer.Describe("deployer"), issuer.Describe("runner"), issuer.Describe("web")
	if !job.Accepts.PublicKeyNeeded || !job.Accepts.PublicKey || made.Accepts.PublicKey || !host.Accepts.PublicKeyNeeded || job.Accepts.CSR {
		t.Errorf("%+v %+v %+v", job.Accepts, made.Accepts, host.Accepts)
	}
	if job.DefaultTTL != 5*time.Minute || host.DefaultTTL != time.Hour || made.Env["private_key"] != "DAYPASS_SSH_KEY" || job.Env["certificate"] != "DAYPASS_SSH_CERT" || len(job.Env) != 1 ||
		job.Revocation != issuers.Expiry || !job.SideEffectFree {
		t.Errorf("%+v %+v %+v", job, made, host)
	}
}

func TestConfigRefused(t *testing.T) {
	signer := issuertest.NewSigner(t, "ES256")
	user := func(change func(*ssh.Role)) ssh.Config {
		role := ssh.Role{Type: ssh.TypeUser, Principals: []string{"deploy"}}
		change(&role)
		return ssh.Config{Signer: signer, Roles: map[string]ssh.Role{"r": role}}
	}
	for want, config := range map[string]ssh.Config{
		"no key":               {Roles: roles()},
		"no roles":             {Signer: signer},
		"which SSH doesn't":    {Signer: issuertest.NewSigner(t, "PS256"), Roles: roles()},
		"user or host":         user(func(r *ssh.Role) { r.Type = "" }),
		"1 to 64 are needed":   user(func(r *ssh.Role) { r.Principals = nil }),
		`principals: "*"`:      user(func(r *ssh.Role) { r.Principals = []string{"*"} }),
		`principals: "a*b"`:    user(func(r *ssh.Role) { r.Principals = []string{"a*b"} }),
		`principals: "*a*"`:    user(func(r *ssh.Role) { r.Principals = []string{"*a*"} }),
		`principals: "a b"`:    user(func(r *ssh.Role) { r.Principals = []string{"a b"} }),
		"not among those":      user(func(r *ssh.Role) { r.DefaultPrincipals = []string{"root"} }),
		"required or made":     user(func(r *ssh.Role) { r.PublicKey = "optional" }),
		"a host keeps":         user(func(r *ssh.Role) { r.Type, r.PublicKey = ssh.TypeHost, ssh.KeyMade }),
		"a host's certificate": user(func(r *ssh.Role) { r.Type, r.Extensions = ssh.TypeHost, []string{"permit-pty"} }),
		"key_types: there is":  user(func(r *ssh.Role) { r.KeyTypes = []string{"dsa"} }),
		"extensions: there is": user(func(r *ssh.Role) { r.Extensions = []string{"permit-PTY"} }),
		"nobody to verify":     user(func(r *ssh.Role) { r.PublicKey, r.VerifyRequired = ssh.KeyMade, true }),
		"one line of 1":        user(func(r *ssh.Role) { r.ForceCommands = []string{"a\nb"} }),
		"is everybody":         user(func(r *ssh.Role) { r.SourceAddresses = []string{"::/0"} }),
		"at most 24h":          user(func(r *ssh.Role) { r.MaxTTL = 25 * time.Hour }),
		"default_ttl 2h0m0s":   user(func(r *ssh.Role) { r.MaxTTL, r.DefaultTTL = time.Hour, 2*time.Hour }),
		"no value \"private":   user(func(r *ssh.Role) { r.Env = map[string]string{"private_key": "A"} }),
		"obeys it":             user(func(r *ssh.Role) { r.Env = map[string]string{"certificate": "GIT_SSH_COMMAND"} }),
		"would both be SSH_KEY": user(func(r *ssh.Role) {
			r.PublicKey, r.Env = ssh.KeyMade, map[string]string{"private_key": "SSH_KEY", "certificate": "SSH_KEY"}
		}),
		"this authority's own":  {Signer: signer, Roles: roles(), RevokedAuthorities: []string{line(t, signer.Public())}},
		"revoked_authorities: ": {Signer: signer, Roles: roles(), RevokedAuthorities: []string{"/etc/ssh/old.pub"}},
	} {
		if _, err := ssh.New(t.Context(), config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
