package oidc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// fetchTimeout bounds one fetch of a provider's keys, discovery included.
const fetchTimeout = 5 * time.Second

// errAddress says that a name resolved to an address that is not to be reached.
var errAddress = errors.New("address is not public\n" +
	"hint: for a provider in your own network set allow_private_address")

// reach says which addresses besides the public ones a client may connect to.
type reach struct {
	private  bool // private and loopback ones: a provider in our own network
	loopback bool // loopback ones alone: a demo provider on http
}

// newClient makes the client that fetches a provider's documents. The address is
// checked when the connection is made, after resolution, so that a name that
// resolves elsewhere the second time gains nothing. There is no proxy, not even
// one from the environment: the check would see the proxy's address only.
// Whoever needs one sets Config.Client.
func newClient(may reach, roots *x509.CertPool) *http.Client {
	dialer := &net.Dialer{
		Timeout: fetchTimeout,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			return may.check(address)
		},
	}
	return &http.Client{
		Timeout:       fetchTimeout,
		CheckRedirect: noRedirect,
		Transport: &http.Transport{
			Proxy:                  nil,
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
			TLSHandshakeTimeout:    fetchTimeout,
			ResponseHeaderTimeout:  fetchTimeout,
			MaxResponseHeaderBytes: 64 << 10,
			MaxConnsPerHost:        2,
			IdleConnTimeout:        30 * time.Second,
			ForceAttemptHTTP2:      true,
		},
	}
}

// noRedirect hands a redirect back as the answer that it is, which is then
// refused for not being a 200.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

func (may reach) check(address string) error {
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("reading the resolved address: %w", err)
	}
	if !may.allows(target.Addr().Unmap()) {
		return errAddress
	}
	return nil
}

// allows takes an address without IPv4-in-IPv6 mapping. Link-local addresses, where
// clouds keep their metadata services, are out of reach in every configuration.
func (may reach) allows(ip netip.Addr) bool {
	switch {
	case ip.IsUnspecified(), ip.IsMulticast(), ip.IsLinkLocalUnicast():
		return false
	case ip.IsLoopback():
		return may.loopback || may.private
	case ip.IsPrivate():
		return may.private
	}
	for _, block := range reservedBlocks() {
		if block.prefix.Contains(ip) {
			return block.private && may.private
		}
	}
	return ip.IsGlobalUnicast()
}

type reservedBlock struct {
	prefix  netip.Prefix
	private bool // in use inside networks, and so reached where private ones are
}

// reservedBlocks lists what netip doesn't call private and yet isn't the public
// Internet (RFC 6890), with the IPv6 ranges that carry an IPv4 address inside.
func reservedBlocks() []reservedBlock {
	return []reservedBlock{
		{netip.MustParsePrefix("100.64.0.0/10"), true}, // carrier-grade NAT
		{netip.MustParsePrefix("198.18.0.0/15"), true}, // benchmarking
		{netip.MustParsePrefix("0.0.0.0/8"), false},
		{netip.MustParsePrefix("192.0.0.0/24"), false},
		{netip.MustParsePrefix("240.0.0.0/4"), false},
		{netip.MustParsePrefix("64:ff9b::/96"), false},   // NAT64
		{netip.MustParsePrefix("64:ff9b:1::/48"), false}, // local NAT64
		{netip.MustParsePrefix("2002::/16"), false},      // 6to4
		{netip.MustParsePrefix("2001::/32"), false},      // Teredo
		{netip.MustParsePrefix("::/96"), false},          // IPv4-compatible
		{netip.MustParsePrefix("fec0::/10"), false},      // site-local
	}
}

var (
	errNotHTTPS = errors.New("not an https URL (http is accepted on a loopback address alone)")
	errURLParts = errors.New("has a query, fragment or user part, which an issuer can't have")
)

// checkIssuer accepts what can be an issuer (OpenID Connect Discovery §3): https
// without query and fragment. It tells whether it is the exception, http on a
// loopback address.
func checkIssuer(issuer string) (plain bool, err error) {
	parsed, err := url.Parse(issuer)
	if err != nil || parsed.Host == "" || parsed.Hostname() == "" {
		return false, errNotHTTPS
	}
	if strings.ContainsAny(issuer, "?#") || parsed.User != nil {
		return false, errURLParts
	}
	if parsed.Scheme == "https" {
		return false, nil
	}
	if parsed.Scheme == "http" && isLoopback(parsed.Hostname()) {
		return true, nil
	}
	return false, errNotHTTPS
}

// checkKeysURL accepts a `jwks_uri`. Its host may differ from the issuer's (some
// providers keep the keys of all their tenants on one host): the document that
// names it came from the issuer over TLS. http is for an issuer on http alone.
func checkKeysURL(keysURL string, plainIssuer bool) error {
	parsed, err := url.Parse(keysURL)
	if err != nil || parsed.Hostname() == "" || parsed.User != nil {
		return errNotHTTPS
	}
	if parsed.Scheme == "https" || plainIssuer && parsed.Scheme == "http" && isLoopback(parsed.Hostname()) {
		return nil
	}
	return errNotHTTPS
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
