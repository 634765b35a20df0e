// Package outbound makes the clients with which the broker asks others: providers
// for their keys, and what rotates a secret. Each may reach public addresses, and
// private ones only where the configuration says so; no redirect is followed, and
// nothing an answerer does takes time without bound.
package outbound

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"syscall"
	"time"
)

// ErrAddress says that a name resolved to an address that is not to be reached.
var ErrAddress = errors.New("address is not public\n" +
	"hint: for a host in your own network set allow_private_address")

// Reach says which addresses besides the public ones a client may connect to.
type Reach struct {
	Private  bool // private and loopback ones: a host in our own network
	Loopback bool // loopback ones alone: a demo provider on http
}

// New makes a client whose requests take no longer than timeout; nil roots are the
// system's authorities. The address is checked when the connection is made, after
// resolution, so that a name that resolves elsewhere the second time gains nothing.
// There is no proxy, not even one from the environment: the check would see the
// proxy's address only.
func New(may Reach, roots *x509.CertPool, timeout time.Duration) *http.Client {
	dialer := &net.Dialer{
		Timeout: timeout,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			return may.Check(address)
		},
	}
	return &http.Client{
		Timeout:       timeout,
		CheckRedirect: NoRedirect,
		Transport: &http.Transport{
			Proxy:                  nil,
			DialContext:            dialer.DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
			TLSHandshakeTimeout:    timeout,
			ResponseHeaderTimeout:  timeout,
			MaxResponseHeaderBytes: 64 << 10,
			MaxConnsPerHost:        2,
			IdleConnTimeout:        30 * time.Second,
			ForceAttemptHTTP2:      true,
		},
	}
}

// NoRedirect hands a redirect back as the answer that it is, which its reader then
// refuses for not being a success.
func NoRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Check returns ErrAddress for a host and port that are out of reach.
func (may Reach) Check(address string) error {
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("reading the resolved address: %w", err)
	}
	if !may.allows(target.Addr().Unmap()) {
		return ErrAddress
	}
	return nil
}

// allows takes an address without IPv4-in-IPv6 mapping. Link-local addresses, where
// clouds keep their metadata services, are out of reach in every configuration.
func (may Reach) allows(ip netip.Addr) bool {
	switch {
	case ip.IsUnspecified(), ip.IsMulticast(), ip.IsLinkLocalUnicast():
		return false
	case ip.IsLoopback():
		return may.Loopback || may.Private
	case ip.IsPrivate():
		return may.Private
	}
	for _, block := range reservedBlocks() {
		if block.prefix.Contains(ip) {
			return block.private && may.Private
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

// Roots reads the authorities of a PEM file.
func Roots(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fmt.Errorf("reading authorities: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("reading authorities: no certificate in %s", file)
	}
	return roots, nil
}
