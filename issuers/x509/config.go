package x509

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/daypass/daypass/issuers"
)

// Config describes an authority and what it certifies.
type Config struct {
	// Signer is the authority's key. Nil: the issuer describes itself and checks
	// parameters, and issues nothing.
	Signer issuers.Signer
	// ChainFile holds the authority's certificate and those above it in PEM, each
	// signed by the next; with the root at its end or without. It is read again
	// when it changes. Required.
	ChainFile string
	// PublicURL is where everybody reads the issuer's documents, without a slash at
	// its end: it stands in every certificate. Required.
	PublicURL string
	// Roles is what grants may name. At least one.
	Roles map[string]Role
	// DefaultTTL is for grants that say none. Zero: 5 minutes, since a certificate
	// can't be called back.
	DefaultTTL time.Duration
	// Now is the time. Required.
	Now func() time.Time
	// Logger is told of a chain file that can't be used. Nil: nobody is.
	Logger *slog.Logger
}

// What a certificate is for.
const (
	UsageClient = "client" // extended key usage clientAuth
	UsageServer = "server" // serverAuth
	UsageBoth   = "both"
)

// Whether a job sends a request (PKCS#10) for a key of its own.
const (
	CSRRequired = "required"
	CSROptional = "optional" // without one a key is made in memory
	CSRNever    = "never"    // a key is always made
)

// Kinds of keys.
const (
	KeyP256    = "p256"
	KeyP384    = "p384"
	KeyEd25519 = "ed25519"
	KeyRSA     = "rsa" // 2048 to 4096 bits
)

// Role is one profile of certificate. What it doesn't list, no certificate has.
type Role struct {
	// Usage is UsageClient, UsageServer or UsageBoth. Required.
	Usage string
	// DNSNames is what a grant's dns_names may be: a name, or *.NAME for one label
	// in front of it.
	DNSNames []string
	// IPNetworks is where a grant's ip_addresses may be in: 10.1.0.0/16, or one address.
	IPNetworks []string
	// URIs is what a grant's uris may be: a URI, or one that ends in /* for one
	// segment more or in /** for any number of them.
	URIs []string
	// CommonNames is what a grant's common_name may be besides one of its other names.
	CommonNames []string
	// Organization and OrganizationalUnit stand in the subject as they are.
	Organization, OrganizationalUnit []string
	// CSR is CSRRequired, CSROptional or CSRNever. Empty: CSROptional.
	CSR string
	// AcceptedKeys is what the key of a CSR may be. Empty: all four kinds.
	AcceptedKeys []string
	// MadeKey is what a key made here is: any kind but KeyRSA. Empty: KeyP256.
	MadeKey string
	// MaxTTL is the longest life. Zero: 1 hour.
	MaxTTL time.Duration
	// DefaultTTL is for this role's grants that say none. Zero: Config's, or MaxTTL
	// where that is shorter.
	DefaultTTL time.Duration
	// Env maps a value's name to an environment variable. Nil: certificate →
	// DAYPASS_CERT, private_key → DAYPASS_KEY, ca → DAYPASS_CA.
	Env map[string]string
}

const (
	defaultTTL    = 5 * time.Minute
	defaultMaxTTL = time.Hour
	maxAttributes = 8  // of one kind in a subject
	maxAttribute  = 64 // bytes: the shortest upper bound of RFC 5280, appendix A
)

// role is a Role as it is asked at issue.
type role struct {
	Role
	networks []netip.Prefix
}

func (c Config) withDefaults() (Config, map[string]*role, error) {
	u, err := url.Parse(c.PublicURL)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || u.RawQuery != "" || u.Fragment != "" || u.User != nil || strings.HasSuffix(c.PublicURL, "/") {
		return c, nil, fmt.Errorf("public URL %q: a URL is needed, without query, fragment, user or a slash at its end", c.PublicURL)
	}
	switch {
	case c.ChainFile == "":
		return c, nil, errors.New("no chain file: it holds the authority's certificate")
	case len(c.Roles) == 0:
		return c, nil, errors.New("no roles: they say what may stand in a certificate")
	case c.Now == nil:
		return c, nil, errors.New("no clock")
	}
	if c.DefaultTTL <= 0 {
		c.DefaultTTL = defaultTTL
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	roles := make(map[string]*role, len(c.Roles))
	for _, name := range slices.Sorted(maps.Keys(c.Roles)) {
		if roles[name], err = c.Roles[name].compile(c.DefaultTTL); err != nil {
			return c, nil, fmt.Errorf("role %q: %w", name, err)
		}
	}
	return c, roles, nil
}

// Check says what is wrong with a role.
func (r Role) Check() error {
	_, err := r.compile(defaultTTL)
	return err
}

func (r Role) compile(ttl time.Duration) (*role, error) {
	if r.CSR == "" {
		r.CSR = CSROptional
	}
	if r.MadeKey == "" {
		r.MadeKey = KeyP256
	}
	kinds := []string{KeyP256, KeyP384, KeyEd25519, KeyRSA}
	if len(r.AcceptedKeys) == 0 {
		r.AcceptedKeys = kinds
	}
	if r.MaxTTL <= 0 {
		r.MaxTTL = defaultMaxTTL
	}
	if r.DefaultTTL <= 0 {
		r.DefaultTTL = min(ttl, r.MaxTTL)
	}
	switch {
	case !slices.Contains([]string{UsageClient, UsageServer, UsageBoth}, r.Usage):
		return nil, fmt.Errorf("usage can't be %q: use client, server or both", r.Usage)
	case !slices.Contains([]string{CSRRequired, CSROptional, CSRNever}, r.CSR):
		return nil, fmt.Errorf("csr can't be %q: use required, optional or never", r.CSR)
	case !slices.Contains(kinds[:3], r.MadeKey):
		return nil, fmt.Errorf("made_key can't be %q: use p256, p384 or ed25519", r.MadeKey)
	case r.DefaultTTL > r.MaxTTL:
		return nil, fmt.Errorf("default_ttl is %s, and max_ttl %s", r.DefaultTTL, r.MaxTTL)
	}
	for _, kind := range r.AcceptedKeys {
		if !slices.Contains(kinds, kind) {
			return nil, fmt.Errorf("accepted_keys: there is no %q: use p256, p384, ed25519, rsa", kind)
		}
	}
	compiled := &role{Role: r}
	if err := compiled.compileNames(); err != nil {
		return nil, err
	}
	return compiled, compiled.compileEnv()
}

func (r *role) compileNames() error {
	if len(r.DNSNames)+len(r.IPNetworks)+len(r.URIs)+len(r.CommonNames) == 0 {
		return errors.New("no dns_names, ip_networks, uris or common_names: a certificate says whose it is")
	}
	for _, pattern := range r.DNSNames {
		if !isDNSName(strings.TrimPrefix(pattern, "*.")) {
			return fmt.Errorf("dns_names: %q is neither a name in small letters nor one with *. in front", pattern)
		}
	}
	for _, text := range r.IPNetworks {
		network, err := parseNetwork(text)
		if err != nil {
			return err
		}
		r.networks = append(r.networks, network)
	}
	for _, pattern := range r.URIs {
		if _, err := parseURI(strings.TrimSuffix(strings.TrimSuffix(pattern, "/**"), "/*")); err != nil {
			return fmt.Errorf("uris: %w, with /* or /** behind it or without", err)
		}
	}
	for what, list := range map[string][]string{"common_names": r.CommonNames, "organization": r.Organization, "organizational_unit": r.OrganizationalUnit} {
		for _, text := range list {
			if !isAttribute(text) {
				return fmt.Errorf("%s: %q: 1 to %d printable bytes", what, text, maxAttribute)
			}
		}
		if what != "common_names" && len(list) > maxAttributes {
			return fmt.Errorf("%s: at most %d", what, maxAttributes)
		}
	}
	return nil
}

func (r *role) compileEnv() error {
	values := []string{valueCertificate, valueCA, valueSerial}
	if r.CSR != CSRRequired {
		values = append(values, valueKey)
	}
	if r.Env == nil {
		r.Env = map[string]string{valueCertificate: "DAYPASS_CERT", valueCA: "DAYPASS_CA"}
		if r.CSR != CSRRequired {
			r.Env[valueKey] = "DAYPASS_KEY"
		}
	}
	for _, value := range slices.Sorted(maps.Keys(r.Env)) {
		if !slices.Contains(values, value) {
			return fmt.Errorf("env: there is no value %q: this role has %s", value, strings.Join(values, ", "))
		}
		if err := issuers.CheckEnvName(r.Env[value]); err != nil {
			return fmt.Errorf("env of %q: %w", value, err)
		}
	}
	return nil
}

func (r *role) usages() []x509.ExtKeyUsage {
	switch r.Usage {
	case UsageClient:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	case UsageServer:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
}
