package ssh_test

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/devkit/devtest"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/issuertest"
	"github.com/daypass/daypass/issuers/ssh"
)

// ground is a server that trusts an authority of its own for the principal
// "deploy", and a key of a job.
type ground struct {
	*devtest.SSHD
	issuer *ssh.Issuer
	key    string // the public key of "id"
}

// know is what a broker knows of revoked leases.
type know struct {
	issuers.Revocations
	revoked []issuers.Revoked
	now     time.Time
	err     error
}

func (k know) RevokedEarly(context.Context, string) ([]issuers.Revoked, error) {
	return k.revoked, k.err
}
func (k know) Now() time.Time { return k.now }

func (k know) revoke(leaseIDs ...string) know {
	k.now = time.Now()
	for _, id := range leaseIDs {
		k.revoked = append(k.revoked, issuers.Revoked{LeaseID: id})
	}
	return k
}

func document(tb testing.TB, issuer *ssh.Issuer, name string, k know) string {
	tb.Helper()
	d, err := issuer.Publish(tb.Context(), name, k)
	if err != nil {
		tb.Fatal(err)
	}
	return string(d.Body)
}

func newGround(t *testing.T, algorithm string, roles map[string]ssh.Role) *ground {
	t.Helper()
	issuer, err := ssh.New(t.Context(), ssh.Config{Signer: issuertest.NewSigner(t, algorithm), Roles: roles})
	if err != nil {
		t.Fatal(err)
	}
	g := &ground{SSHD: devtest.NewSSHD(t), issuer: issuer}
	g.key = g.Keygen("id")
	g.Write("principals", "deploy\n")
	g.Configure(
		"TrustedUserCAKeys "+g.Write("ca.pub", document(t, issuer, "ca.pub", know{})),
		"AuthorizedPrincipalsFile "+g.Path("principals"),
		"RevokedKeys "+g.Write("krl", document(t, issuer, "krl", know{}.revoke())),
	)
	return g
}

func role(change func(*ssh.Role)) map[string]ssh.Role {
	r := ssh.Role{Type: ssh.TypeUser, Principals: []string{"deploy", "other"}, DefaultPrincipals: []string{"deploy"}}
	if change != nil {
		change(&r)
	}
	return map[string]ssh.Role{"r": r}
}

// certify writes the certificate for "id".
func (g *ground) certify(t *testing.T, lease issuers.Lease, parameters string) {
	t.Helper()
	res, err := g.issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: lease, Parameters: []byte(parameters), PublicKey: g.key})
	if err != nil {
		t.Fatal(err)
	}
	g.Write("id-cert.pub", res.Values[0].Value.Reveal())
}

func (g *ground) login(command ...string) (string, error) {
	return g.SSH(append(g.Known(), "-i", g.Path("id"), "-oCertificateFile="+g.Path("id-cert.pub")), command...)
}

func lease() issuers.Lease { return issuertest.NewLease("testtesttest", "r", time.Now()) }

// refused fails unless sshd turned the client down, for the reason that its log gives.
func (g *ground) refused(t *testing.T, why string) {
	t.Helper()
	before := len(g.Log())
	if out, err := g.login("echo", "in"); err == nil || !strings.Contains(err.Error(), "Permission denied") {
		t.Errorf("sshd let it in, or failed otherwise: %q %v", out, err)
	}
	if said := g.Log()[before:]; !strings.Contains(said, why) {
		t.Errorf("sshd didn't say %q:\n%s", why, said)
	}
}

func (g *ground) accepted(t *testing.T) {
	t.Helper()
	if out, err := g.login("echo", "in"); err != nil || out != "in\n" {
		t.Errorf("%q %v\n%s", out, err, g.Log())
	}
}

func TestSSHDAccepts(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []string{"ES256", "ES384", "EdDSA", "RS256"} {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			g := newGround(t, algorithm, role(nil))
			if _, err := g.SSH(append(g.Known(), "-i", g.Path("id")), "true"); err == nil {
				t.Fatal("sshd takes the key without a certificate")
			}
			l := lease()
			g.certify(t, l, ``)
			g.accepted(t)
			if !strings.Contains(g.Log(), "ID daypass:main/payments/deploy lease="+l.ID) {
				t.Errorf("the log doesn't lead to the lease:\n%s", g.Log())
			}
		})
	}
}

func TestSSHDRefuses(t *testing.T) {
	t.Parallel()
	g := newGround(t, "ES256", role(nil))

	t.Log("after its end")
	l := lease()
	l.IssuedAt, l.ExpiresAt = l.IssuedAt.Add(-time.Hour), l.IssuedAt.Add(-time.Second)
	g.certify(t, l, ``)
	g.refused(t, "expired")

	t.Log("another principal")
	g.certify(t, lease(), `{"principals":["other"]}`)
	g.refused(t, "principal")

	t.Log("from elsewhere")
	g.certify(t, lease(), `{"source_address":["10.0.0.0/8"]}`)
	g.refused(t, "source")
	g.certify(t, lease(), `{"source_address":["10.0.0.0/8","127.0.0.1"]}`)
	g.accepted(t)

	t.Log("another authority")
	good := g.issuer
	g.issuer = newGround(t, "ES256", role(nil)).issuer
	g.certify(t, lease(), ``)
	g.refused(t, "Failed publickey")
	g.issuer = good
	g.certify(t, lease(), ``)
	g.accepted(t)
}

func TestSSHDReadsTheList(t *testing.T) {
	t.Parallel()
	g := newGround(t, "ES256", role(nil))
	l := lease()
	g.certify(t, l, ``)
	g.Write("krl", document(t, g.issuer, "krl", know{}.revoke(lease().ID, lease().ID)))
	g.accepted(t)
	g.Write("krl", document(t, g.issuer, "krl", know{}.revoke(lease().ID, l.ID, lease().ID)))
	g.refused(t, "revoked")
	g.certify(t, lease(), ``)
	g.accepted(t)
}

// An authority whose key somebody else may have is refused as a whole, before its
// line is gone from every server.
func TestSSHDRefusesARevokedAuthority(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []string{"ES256", "RS256"} {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			g := newGround(t, algorithm, role(nil))
			old := document(t, g.issuer, "ca.pub", know{})
			g.certify(t, lease(), ``)
			g.accepted(t)
			next, err := ssh.New(t.Context(), ssh.Config{Signer: issuertest.NewSigner(t, "ES256"), Roles: role(nil), RevokedAuthorities: []string{old}})
			if err != nil {
				t.Fatal(err)
			}
			g.Write("ca.pub", old+document(t, next, "ca.pub", know{}))
			revoked := lease()
			g.Write("krl", document(t, next, "krl", know{}.revoke(revoked.ID)))
			g.refused(t, "revoked")
			g.issuer = next
			g.certify(t, lease(), ``)
			g.accepted(t)
			g.certify(t, revoked, ``)
			g.refused(t, "revoked")
		})
	}
}

func TestSSHDForcesTheCommand(t *testing.T) {
	t.Parallel()
	g := newGround(t, "EdDSA", role(func(r *ssh.Role) { r.ForceCommands = []string{"echo forced: $SSH_ORIGINAL_COMMAND"} }))
	g.certify(t, lease(), ``)
	if out, err := g.login("echo", "mine"); err != nil || out != "forced: echo mine\n" {
		t.Errorf("%q %v", out, err)
	}
}

// A role without extensions gives no terminal and no forwarding.
func TestSSHDGivesWhatTheRoleLists(t *testing.T) {
	t.Parallel()
	g := newGround(t, "ES256", role(nil))
	g.certify(t, lease(), ``)
	terminal := func() string {
		out, err := g.SSH(append(g.Known(), "-tt", "-i", g.Path("id"), "-oCertificateFile="+g.Path("id-cert.pub")), "test -t 0 && echo terminal")
		t.Log(out, err)
		return out
	}
	if out := terminal(); strings.Contains(out, "\nterminal") || strings.HasPrefix(out, "terminal") || !strings.Contains(out, "PTY allocation request failed") {
		t.Errorf("a terminal without permit-pty: %q", out)
	}
	g.issuer = withRole(t, g, func(r *ssh.Role) { r.Extensions = []string{"permit-pty"} })
	g.certify(t, lease(), ``)
	if out := terminal(); !strings.Contains(out, "terminal") || strings.Contains(out, "failed") {
		t.Errorf("no terminal with permit-pty: %q", out)
	}
}

// withRole makes a new authority that the server trusts.
func withRole(t *testing.T, g *ground, change func(*ssh.Role)) *ssh.Issuer {
	t.Helper()
	issuer, err := ssh.New(t.Context(), ssh.Config{Signer: issuertest.NewSigner(t, "ES256"), Roles: role(change)})
	if err != nil {
		t.Fatal(err)
	}
	g.Write("ca.pub", document(t, issuer, "ca.pub", know{}))
	g.Write("krl", document(t, issuer, "krl", know{}.revoke()))
	return issuer
}

func TestMadeKeyLogsIn(t *testing.T) {
	t.Parallel()
	g := newGround(t, "ES256", role(func(r *ssh.Role) { r.PublicKey = ssh.KeyMade }))
	res, err := g.issuer.Issue(t.Context(), &issuers.IssueRequest{Lease: lease()})
	if err != nil {
		t.Fatal(err)
	}
	// As a job does it: two files beside each other, and -i alone.
	g.Write("job-cert.pub", res.Values[0].Value.Reveal())
	if out, err := g.SSH(append(g.Known(), "-i", g.Write("job", res.Values[1].Value.Reveal())), "echo", "in"); err != nil || out != "in\n" {
		t.Errorf("%q %v\n%s", out, err, g.Log())
	}
}

func TestClientAcceptsTheHost(t *testing.T) {
	t.Parallel()
	g := newGround(t, "ES256", role(nil))
	g.certify(t, lease(), ``)
	hosts, err := ssh.New(t.Context(), ssh.Config{Signer: issuertest.NewSigner(t, "ES384"), Roles: map[string]ssh.Role{
		"r": {Type: ssh.TypeHost, Principals: []string{"*.example.com"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	known := g.Write("known_hosts.ca", "@cert-authority *.example.com "+document(t, hosts, "ca.pub", know{}))
	certifyHost := func(l issuers.Lease) {
		res, err := hosts.Issue(t.Context(), &issuers.IssueRequest{Lease: l, Parameters: []byte(`{"principals":["web-1.example.com"]}`), PublicKey: g.HostKey})
		if err != nil {
			t.Fatal(err)
		}
		g.Configure("HostCertificate "+g.Write("host_key-cert.pub", res.Values[0].Value.Reveal()), "TrustedUserCAKeys "+g.Path("ca.pub"), "AuthorizedPrincipalsFile "+g.Path("principals"))
	}
	visit := func(name string) error {
		_, err := g.SSH([]string{"-oUserKnownHostsFile=" + known, "-oStrictHostKeyChecking=yes", "-oHostKeyAlias=" + name, "-i", g.Path("id"), "-oCertificateFile=" + g.Path("id-cert.pub")}, "true")
		return err
	}
	if err := visit("web-1.example.com"); err == nil {
		t.Error("a host without a certificate was accepted")
	}
	certifyHost(lease())
	if err := visit("web-1.example.com"); err != nil {
		t.Error(err)
	}
	if err := visit("web-2.example.com"); err == nil || !strings.Contains(err.Error(), "ost key verification failed") {
		t.Errorf("a certificate of another host was accepted: %v", err)
	}
	l := lease()
	l.IssuedAt, l.ExpiresAt = l.IssuedAt.Add(-time.Hour), l.IssuedAt.Add(-time.Second)
	certifyHost(l)
	if err := visit("web-1.example.com"); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("a certificate past its end was accepted: %v", err)
	}
}

// keygen runs ssh-keygen.
func keygen(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), devtest.Program(t, "ssh-keygen"), args...).CombinedOutput()
	return string(out), err
}

func TestKeygenReadsTheCertificate(t *testing.T) {
	t.Parallel()
	g := newGround(t, "ES256", role(func(r *ssh.Role) {
		r.Extensions, r.ForceCommands, r.SourceAddresses, r.VerifyRequired = []string{"permit-pty", "permit-agent-forwarding", "no-touch-required"}, []string{"/usr/bin/deploy"}, []string{"10.0.0.0/8", "2001:db8::/32"}, true
	}))
	l := lease()
	g.certify(t, l, ``)
	out, err := keygen(t, "-L", "-f", g.Path("id-cert.pub"))
	if err != nil {
		t.Fatal(out, err)
	}
	for _, want := range []string{
		"user certificate", `Key ID: "daypass:main/payments/deploy lease=` + l.ID + `"`, "using ecdsa-sha2-nistp256", "Principals: \n                deploy\n",
		"force-command /usr/bin/deploy\n", "source-address 10.0.0.0/8,2001:db8::/32\n", "verify-required\n",
		"Extensions: \n                no-touch-required\n                permit-agent-forwarding\n                permit-pty\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

func TestKeygenReadsTheList(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []string{"ES256", "ES384", "EdDSA", "RS256"} {
		g := newGround(t, algorithm, role(nil))
		var all know
		for n := range 300 {
			l := lease()
			all = all.revoke(l.ID)
			if n%100 == 0 {
				g.certify(t, l, ``)
				if out, err := keygen(t, "-Q", "-f", g.Path("krl"), g.Path("id-cert.pub")); err != nil || !strings.Contains(out, "ok") {
					t.Errorf("%s: before: %s %v", algorithm, out, err)
				}
				g.Write("krl", document(t, g.issuer, "krl", all))
				if out, err := keygen(t, "-Q", "-f", g.Path("krl"), g.Path("id-cert.pub")); err == nil || !strings.Contains(out, "REVOKED") {
					t.Errorf("%s: after: %s %v", algorithm, out, err)
				}
			}
		}
		g.Write("krl", document(t, g.issuer, "krl", all))
		if out, err := keygen(t, "-Q", "-l", "-f", g.Path("krl")); err != nil || strings.Count(out, "serial: ") != 300 || !strings.Contains(out, "CA key") {
			t.Errorf("%s: %v\n%.600s", algorithm, err, out)
		}
	}
}
