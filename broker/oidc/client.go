package oidc

import (
	"errors"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// fetchTimeout bounds one fetch of a provider's keys, discovery included.
const fetchTimeout = 5 * time.Second

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
