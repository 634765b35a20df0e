package x509_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/netip"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"pgregory.net/rapid"

	"github.com/daypass/daypass/issuers"
	daypass "github.com/daypass/daypass/issuers/x509"
)

func ulidOf(raw []byte) string { return ulid.ULID(raw).String() }

// TestNamesStayWithinTheRole: whatever role, grant and request say, the certificate
// has the grant's names and no others, and each of them the role allows: judged
// here by regular expressions of their own.
func TestNamesStayWithinTheRole(t *testing.T) {
	p := newPKI(t, "EdDSA")
	key := newKey(t)
	// Names that fit some pattern, and names that look as if they did.
	name := rapid.SampledFrom([]string{
		"a.example.com", "b.example.com", "a.svc.example.com", "svc.example.com", "a.b", "com", "a.b.example.com", "a.example.com.evil.org", "aXexample.com", "*.example.com",
		"A.example.com", ".example.com", "a..example.com", "a.example.com.", "-a.example.com", "a_b.example.com", "10.1.2.3", "",
	})
	path := rapid.SampledFrom([]string{
		"spiffe://example.com/ci", "https://example.com/a", "https://example.com/ci/a/b", "spiffe://example.com/a/b", "https://example.com/ci/../a", "https://example.com//a",
		"https://example.com.evil.org/a", "https://example.com/%61", "https://example.com/a?b", "https://example.com/", "urn:example.com/a", "SPIFFE://example.com/ci", "https://example.com/*",
	})
	ip := rapid.SampledFrom([]string{"10.1.2.3", "10.2.0.1", "fd00::1", "::ffff:10.1.2.3", "127.0.0.1", "10.1.2.3%a"})
	lists := func(t *rapid.T, what string) (dns, ips, uris []string) {
		return rapid.SliceOfN(name, 0, 2).Draw(t, what+" dns"), rapid.SliceOfN(ip, 0, 1).Draw(t, what+" ips"), rapid.SliceOfN(path, 0, 1).Draw(t, what+" uris")
	}
	issued := 0
	rapid.Check(t, func(t *rapid.T) {
		// Mostly roles and grants that fit each other: otherwise nothing would be issued.
		role := daypass.Role{
			Usage: daypass.UsageClient, DNSNames: rapid.SliceOfN(rapid.SampledFrom([]string{"a.example.com", "*.example.com", "*.svc.example.com", "a.b", "com"}), 1, 4).Draw(t, "patterns"),
			IPNetworks: rapid.SliceOfN(rapid.SampledFrom([]string{"10.1.0.0/16", "fd00::/8", "127.0.0.1"}), 1, 3).Draw(t, "networks"),
			URIs:       rapid.SliceOfN(rapid.SampledFrom([]string{"spiffe://example.com/ci", "https://example.com/*", "https://example.com/ci/**", "spiffe://example.com/**"}), 1, 3).Draw(t, "uri patterns"),
		}
		config := p.config()
		config.Roles = map[string]daypass.Role{"r": role}
		issuer, err := daypass.New(context.Background(), config)
		if err != nil {
			return // a role that can't be
		}
		dns, ips, uris := lists(t, "grant")
		with := map[string]any{}
		for what, list := range map[string][]string{"dns_names": dns, "ip_addresses": ips, "uris": uris} {
			if len(list) > 0 {
				with[what] = list
			}
		}
		raw, err := json.Marshal(with)
		if err != nil {
			t.Fatal(err)
		}
		sent := ""
		if rapid.Bool().Draw(t, "csr") {
			asked := rapid.SliceOfN(rapid.SampledFrom(append([]string{"evil.example.com"}, dns...)), 0, 1).Draw(t, "asked")
			asked = slices.DeleteFunc(asked, func(s string) bool { return s == "" })
			sent = csr(p.t, key, x509.CertificateRequest{DNSNames: asked})
		}
		lease := p.lease("r")
		res, err := issuer.Issue(context.Background(), &issuers.IssueRequest{Lease: lease, Parameters: raw, CSR: sent})
		if err != nil {
			return
		}
		issued++
		block, _ := pem.Decode([]byte(res.Values[0].Value.Reveal()))
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(c.DNSNames, dns) || len(c.IPAddresses) != len(ips) || len(c.URIs) != len(uris) || c.IsCA || c.NotAfter.After(lease.ExpiresAt) || c.NotBefore.Before(lease.IssuedAt.Add(-2*time.Minute)) {
			t.Fatalf("the grant says %v %v %v, the certificate %v %v %v", dns, ips, uris, c.DNSNames, c.IPAddresses, c.URIs)
		}
		for _, got := range c.DNSNames {
			if !slices.ContainsFunc(role.DNSNames, func(pattern string) bool { return expression(pattern, `[^.]+`, `[^.]+`).MatchString(got) }) {
				t.Fatalf("%q is outside %q", got, role.DNSNames)
			}
		}
		for _, got := range c.IPAddresses {
			addr, _ := netip.AddrFromSlice(got)
			if !slices.ContainsFunc(role.IPNetworks, func(text string) bool {
				network, err := netip.ParsePrefix(text)
				return text == addr.Unmap().String() || (err == nil && network.Contains(addr.Unmap()))
			}) {
				t.Fatalf("%s is outside %q", got, role.IPNetworks)
			}
		}
		for _, got := range c.URIs {
			if !slices.ContainsFunc(role.URIs, func(pattern string) bool { return expression(pattern, `[^/]+`, `.+`).MatchString(got.String()) }) {
				t.Fatalf("%q is outside %q", got, role.URIs)
			}
		}
	})
	t.Logf("%d certificates", issued)
	if issued == 0 {
		t.Error("nothing was issued: the property says nothing")
	}
}

func expression(pattern, one, many string) *regexp.Regexp {
	quoted := regexp.QuoteMeta(pattern)
	quoted = regexp.MustCompile(`\\\*\\\*$`).ReplaceAllLiteralString(quoted, many)
	quoted = regexp.MustCompile(`\\\*`).ReplaceAllLiteralString(quoted, one)
	return regexp.MustCompile(`^(?:` + quoted + `)$`)
}
