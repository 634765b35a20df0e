package x509

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// names is what a certificate says about whose it is: checked, and within the role.
type names struct {
	dns        []string
	ips        []netip.Addr
	uris       []*url.URL
	commonName string
}

const (
	maxNames = 50
	maxURI   = 2048 // bytes; SPIFFE-ID, section 2.3
)

// bind checks a grant's names against the role. With templates, a name that has
// one in it isn't looked at yet.
func (r *role) bind(p *parameters, templates bool) (*names, error) {
	later := func(s string) bool { return templates && strings.Contains(s, "{{") }
	n := &names{}
	if count := len(p.dnsNames) + len(p.ipAddresses) + len(p.uris); count > maxNames || (count == 0 && p.commonName == "") {
		return nil, fmt.Errorf("a certificate says whose it is: 1 to %d dns_names, ip_addresses and uris, or a common_name; these are %d", maxNames, count)
	}
	for _, name := range p.dnsNames {
		if later(name) {
			continue
		}
		if !isDNSName(name) {
			return nil, fmt.Errorf("dns_names: %q is no DNS name in small letters", name)
		}
		if !slices.ContainsFunc(r.DNSNames, func(pattern string) bool { return fitsDNS(pattern, name) }) {
			return nil, outside("dns_names", name)
		}
		n.dns = append(n.dns, name)
	}
	for _, text := range p.ipAddresses {
		if later(text) {
			continue
		}
		ip, err := netip.ParseAddr(text)
		if err != nil || ip.Zone() != "" || ip.Is4In6() || ip.String() != text {
			return nil, fmt.Errorf("ip_addresses: %q is no address in its usual form", text)
		}
		if !slices.ContainsFunc(r.networks, func(network netip.Prefix) bool { return network.Contains(ip) }) {
			return nil, outside("ip_addresses", text)
		}
		n.ips = append(n.ips, ip)
	}
	for _, text := range p.uris {
		if later(text) {
			continue
		}
		uri, err := parseURI(text)
		if err != nil {
			return nil, fmt.Errorf("uris: %w", err)
		}
		if !slices.ContainsFunc(r.URIs, func(pattern string) bool { return fitsURI(pattern, text) }) {
			return nil, outside("uris", text)
		}
		n.uris = append(n.uris, uri)
		if uri.Scheme == "spiffe" && len(p.uris) > 1 { // X509-SVID, section 2
			return nil, fmt.Errorf("uris: a certificate with a SPIFFE id has no other URI beside it, and %d stand here", len(p.uris))
		}
	}
	n.commonName = p.commonName
	if p.commonName == "" || later(p.commonName) {
		return n, nil
	}
	if !isAttribute(p.commonName) {
		return nil, fmt.Errorf("common_name: %q: 1 to %d printable bytes", p.commonName, maxAttribute)
	}
	own := slices.Concat(r.CommonNames, p.dnsNames, p.ipAddresses)
	if !slices.Contains(own, p.commonName) && !slices.ContainsFunc(own, later) {
		return nil, fmt.Errorf("common_name %q is neither one of the grant's dns_names and ip_addresses nor of the role's common_names", p.commonName)
	}
	return n, nil
}

func outside(what, name string) error {
	return fmt.Errorf("%s: %q is not within what the role allows in the server's configuration", what, name)
}

func (n *names) addresses() []net.IP {
	list := make([]net.IP, len(n.ips))
	for i, ip := range n.ips {
		list[i] = ip.AsSlice()
	}
	return list
}

var (
	dnsForm = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$`)
	})
	// uriForm is what stays the same however it is read: no escapes, no user, no
	// port, no empty segment, no query.
	uriForm = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[a-z][a-z0-9+.-]*://[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?(?:/[A-Za-z0-9._-]+)*$`)
	})
	digitForm = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[0-9]+$`)
	})
)

// isDNSName says whether that is a whole name of a host (RFC 1123, section 2.1) in
// small letters. One that ends in a number could be read as an address.
func isDNSName(name string) bool {
	return len(name) <= 253 && dnsForm().MatchString(name) && !digitForm().MatchString(name[strings.LastIndexByte(name, '.')+1:])
}

// fitsDNS is where patterns of names are anchored: the whole name, or one label in
// place of the star.
func fitsDNS(pattern, name string) bool {
	parent, wild := strings.CutPrefix(pattern, "*.")
	if !wild {
		return name == pattern
	}
	_, rest, ok := strings.Cut(name, ".")
	return ok && rest == parent
}

// parseURI takes a URI of the form scheme://host/segments and nothing else.
func parseURI(text string) (*url.URL, error) {
	bad := fmt.Errorf("%q is no URI of the form scheme://host/path, in small letters up to the path, without user, port, query, escapes or dots as a segment", text)
	if len(text) > maxURI || !uriForm().MatchString(text) {
		return nil, bad
	}
	uri, err := url.Parse(text)
	if err != nil || uri.String() != text {
		return nil, bad
	}
	for segment := range strings.SplitSeq(uri.Path, "/") {
		if segment == "." || segment == ".." {
			return nil, bad
		}
	}
	return uri, nil
}

// fitsURI is where patterns of URIs are anchored. text has the form of parseURI.
func fitsURI(pattern, text string) bool {
	parent, deep := strings.CutSuffix(pattern, "/**")
	if deep {
		return strings.HasPrefix(text, parent+"/")
	}
	parent, one := strings.CutSuffix(pattern, "/*")
	if !one {
		return text == pattern
	}
	segment, below := strings.CutPrefix(text, parent+"/")
	return below && !strings.Contains(segment, "/")
}

func parseNetwork(text string) (netip.Prefix, error) {
	network, err := netip.ParsePrefix(text)
	if err != nil {
		ip, err := netip.ParseAddr(text)
		if err != nil || ip.Zone() != "" {
			return network, fmt.Errorf("ip_networks: %q is no network or address: write 10.1.0.0/16 or 10.1.0.7", text)
		}
		network = netip.PrefixFrom(ip, ip.BitLen())
	}
	if network != network.Masked() {
		return network, fmt.Errorf("ip_networks: %q has bits behind its mask: write %s", text, network.Masked())
	}
	return network, nil
}

// isAttribute says whether that can stand in a subject and reads the same everywhere.
func isAttribute(text string) bool {
	return text != "" && len(text) <= maxAttribute && strings.TrimSpace(text) == text &&
		!strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' })
}
