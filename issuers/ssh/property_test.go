package ssh_test

import (
	"encoding/json"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	cryptossh "golang.org/x/crypto/ssh"
	"pgregory.net/rapid"

	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/issuertest"
	"github.com/daypass/daypass/issuers/ssh"
)

// some draws a list of what stands in a pool, hostile things among it.
func some(t *rapid.T, label string, least int, pool ...string) []string {
	return rapid.SliceOfNDistinct(rapid.SampledFrom(pool), least, min(len(pool), least+3), rapid.ID[string]).Draw(t, label)
}

func drawRole(t *rapid.T) ssh.Role {
	r := ssh.Role{
		Type:       rapid.SampledFrom([]string{ssh.TypeUser, ssh.TypeUser, ssh.TypeHost}).Draw(t, "type"),
		Principals: some(t, "principals", 1, "deploy", "ci-*", "*-bot", "*.example.com", "a.example.com", "root"),
		MaxTTL:     time.Hour,
	}
	if r.Type == ssh.TypeUser {
		r.SourceAddresses = some(t, "sources", 0, "10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32", "192.0.2.7")
		r.ForceCommands = some(t, "commands", 0, "/bin/a", "/bin/b", "/bin/c $SSH_ORIGINAL_COMMAND")
		r.Extensions = some(t, "extensions", 0, "permit-pty", "permit-user-rc", "permit-X11-forwarding", "no-touch-required")
	}
	return r
}

// drawParameters asks for what fits the role most of the time, so that many are
// certified, and otherwise for something hostile besides.
func drawParameters(t *rapid.T, role ssh.Role) json.RawMessage {
	p := map[string]any{}
	fits := strings.ReplaceAll(rapid.SampledFrom(role.Principals).Draw(t, "principal"), "*", "x")
	hostile := func(label string, pool ...string) []string {
		if rapid.IntRange(0, 3).Draw(t, label+"?") > 0 {
			return nil
		}
		return some(t, label, 1, pool...)
	}
	p["principals"] = append([]string{fits}, hostile("asked principals", "deploy", "root", "ci-x", "ci-", "ci-*", "ci-x.y", "x-bot", "a.example.com", "b.example.com", "a.b.example.com", "example.com", "*", "", "ci-x,root", "ci-x root", "xdeploy", "{{ x }}")...)
	if list := hostile("asked sources", "10.0.0.0/8", "10.1.2.0/24", "10.1.2.3", "0.0.0.0/0", "8.0.0.0/5", "2001:db8:1::/48", "::/0", "::ffff:10.0.0.1", "192.0.2.7/32", "192.0.2.0/24", "10.0.0.0/8,11.0.0.0/8"); len(list) > 0 {
		p["source_address"] = list
	}
	if list := hostile("asked command", "/bin/a", "/bin/b", "/bin/a; sh", "/bin/sh"); len(list) > 0 {
		p["force_command"] = list[0]
	} else if len(role.ForceCommands) > 0 {
		p["force_command"] = role.ForceCommands[0]
	}
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// Whatever a grant asks for: what stands in a certificate, the role allows.
func TestCertificateIsWithinTheRole(t *testing.T) {
	t.Parallel()
	signer, key := issuertest.NewSigner(t, "EdDSA"), publicKey(t)
	certified := 0
	rapid.Check(t, func(rt *rapid.T) {
		role := drawRole(rt)
		issuer, err := ssh.New(t.Context(), ssh.Config{Signer: signer, Roles: map[string]ssh.Role{"r": role}})
		if err != nil {
			rt.Fatal(err)
		}
		lease := issuertest.NewLease("testtesttest", "r", time.Now())
		raw := drawParameters(rt, role)
		checked := issuer.CheckParameters("r", raw)
		c, err := issue(t, issuer, &issuers.IssueRequest{Lease: lease, Parameters: raw, PublicKey: key})
		if err != nil {
			return
		}
		certified++
		if checked != nil {
			rt.Fatalf("%s was refused and then certified: %v", raw, checked)
		}
		within(rt, role, c)
		if c.ValidAfter != uint64(lease.IssuedAt.Add(-time.Minute).Unix()) || c.ValidBefore != uint64(lease.ExpiresAt.Unix()) {
			rt.Fatalf("valid from %d to %d", c.ValidAfter, c.ValidBefore)
		}
	})
	if certified < 5 {
		t.Errorf("%d were certified: too little was tried", certified)
	}
}

func within(t *rapid.T, role ssh.Role, c *cryptossh.Certificate) {
	// Another way to read patterns than the issuer's.
	var patterns []string
	for _, entry := range role.Principals {
		patterns = append(patterns, strings.ReplaceAll(regexp.QuoteMeta(entry), `\*`, "[A-Za-z0-9_-]+"))
	}
	allowed := regexp.MustCompile("^(?:" + strings.Join(patterns, "|") + ")$")
	if len(c.ValidPrincipals) == 0 {
		t.Fatal("a certificate for everybody")
	}
	for _, name := range c.ValidPrincipals {
		if !allowed.MatchString(name) {
			t.Fatalf("principal %q of a role with %q", name, role.Principals)
		}
	}
	if role.Type == ssh.TypeHost && (c.CertType != cryptossh.HostCert || len(c.CriticalOptions)+len(c.Extensions) > 0) || role.Type == ssh.TypeUser && c.CertType != cryptossh.UserCert {
		t.Fatalf("%+v for a %s", c, role.Type)
	}
	if !slices.Equal(slices.Sorted(maps.Keys(c.Extensions)), slices.Sorted(slices.Values(role.Extensions))) {
		t.Fatalf("extensions %v of a role with %q", c.Extensions, role.Extensions)
	}
	command, forced := c.CriticalOptions["force-command"]
	if forced != (len(role.ForceCommands) > 0) || forced && !slices.Contains(role.ForceCommands, command) {
		t.Fatalf("command %q of a role with %q", command, role.ForceCommands)
	}
	source, bound := c.CriticalOptions["source-address"]
	if len(role.SourceAddresses) > 0 && !bound {
		t.Fatal("good from anywhere")
	}
	for text := range strings.SplitSeq(source, ",") {
		if network, err := netip.ParsePrefix(text); bound && (err != nil || !inside(network, role.SourceAddresses)) {
			t.Fatalf("good from %q, of a role with %q: %v", text, role.SourceAddresses, err)
		}
	}
}

// inside compares the ends of networks.
func inside(network netip.Prefix, wider []string) bool {
	if len(wider) == 0 {
		return network.Bits() > 0
	}
	last := network.Addr().AsSlice()
	for bit := network.Bits(); bit < network.Addr().BitLen(); bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	end, _ := netip.AddrFromSlice(last)
	return slices.ContainsFunc(wider, func(text string) bool {
		if !strings.Contains(text, "/") {
			text += "/32"
		}
		prefix := netip.MustParsePrefix(text)
		return prefix.Contains(network.Addr()) && prefix.Contains(end)
	})
}

// What is certified of a stranger's text is the one key that OpenSSH's own rules
// read in it, without options.
func FuzzPublicKey(f *testing.F) {
	good := strings.TrimSpace(publicKey(f))
	for _, seed := range []string{good, good + " comment", `no-pty ` + good, good + "\n" + good, "ssh-rsa AAAA", "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBA==", "", "# c\n" + good} {
		f.Add(seed)
	}
	issuer := open(f, issuertest.NewSigner(f, "EdDSA"))
	lease := issuertest.NewLease("testtesttest", "deployer", time.Now())
	f.Fuzz(func(t *testing.T, text string) {
		c, err := issue(t, issuer, &issuers.IssueRequest{Lease: lease, PublicKey: text})
		if err != nil {
			return
		}
		key, _, options, rest, err := cryptossh.ParseAuthorizedKey([]byte(text))
		if err != nil || len(options) > 0 || len(rest) > 0 || string(key.Marshal()) != string(c.Key.Marshal()) {
			t.Fatalf("%q: certified %s, read %v with options %q and rest %q: %v", text, c.Key.Type(), key, options, rest, err)
		}
	})
}

// What a grant says is refused by both, or certified; never a panic, and never a
// certificate without a principal.
func FuzzSSHParameters(f *testing.F) {
	for _, seed := range []string{`{"principals":["deploy"]}`, `{"principals":["ci-{{ x }}"],"source_address":["10.0.0.0/8"]}`, `{"force_command":"x"}`, `{"principals":[null]}`, `{}`, `[]`, `{"a"`, `{"principals":["deploy"],"principals":["root"]}`} {
		f.Add([]byte(seed))
	}
	issuer, key := open(f, issuertest.NewSigner(f, "EdDSA")), publicKey(f)
	lease := issuertest.NewLease("testtesttest", "deployer", time.Now())
	f.Fuzz(func(t *testing.T, raw []byte) {
		checked := issuer.CheckParameters("deployer", raw)
		c, err := issue(t, issuer, &issuers.IssueRequest{Lease: lease, Parameters: raw, PublicKey: key})
		if err != nil {
			return
		}
		if checked != nil || len(c.ValidPrincipals) == 0 || slices.ContainsFunc(c.ValidPrincipals, func(s string) bool { return s != "deploy" && !regexp.MustCompile(`^ci-[A-Za-z0-9_-]+$`).MatchString(s) }) {
			t.Fatalf("%q: %v, certified %v", raw, checked, c)
		}
	})
}
