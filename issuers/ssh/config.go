package ssh

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/daypass/daypass/issuers"
)

// Config describes an authority for SSH.
type Config struct {
	// Signer is the authority's key: ES256, ES384, EdDSA or RS256. Required.
	Signer issuers.Signer
	// Roles is what grants may name. Required: without one nobody gets anything.
	Roles map[string]Role
	// DefaultTTL is for grants that say none. Zero: 5 minutes, since a certificate
	// can't be called back from a server that doesn't read the revocation list.
	DefaultTTL time.Duration
	// RevokedAuthorities are public keys of authorities, each a line as in a .pub file,
	// whose certificates are all refused by who reads the revocation list: those that
	// somebody else may have signed with. Empty: none.
	RevokedAuthorities []string
}

// The types of a Role.
const (
	TypeUser = "user" // for logging in
	TypeHost = "host" // for a server, to prove its name to clients
)

// Whose key a role certifies.
const (
	KeyRequired = "required" // one that the job has: it sends the public part
	KeyMade     = "made"     // one that is made for each lease, in memory, and handed out
)

// Role bounds the certificates of the grants that name it. What isn't listed
// stands in none of them.
type Role struct {
	// Type is TypeUser or TypeHost. Required.
	Type string
	// Principals are those that a grant may name: users of the servers, or names of
	// hosts. One * at an entry's start or end stands for one or more letters, digits,
	// _ and -. Required.
	Principals []string
	// DefaultPrincipals are for grants that name none. Empty: grants have to.
	DefaultPrincipals []string
	// PublicKey is KeyRequired or KeyMade. Empty: KeyRequired.
	PublicKey string
	// KeyTypes are those of a job's key, as ssh-keygen calls them. Empty: ed25519,
	// ecdsa and rsa. The others are ed25519-sk and ecdsa-sk.
	KeyTypes []string
	// ForceCommands are the commands that a certificate can be good for. One is in
	// every certificate; of several a grant names one. Empty: any command.
	ForceCommands []string
	// SourceAddresses are the networks that a certificate is good from. A grant may
	// narrow them. Empty: any.
	SourceAddresses []string
	// VerifyRequired wants a touch with a PIN or finger of keys that can ask for it.
	VerifyRequired bool
	// Extensions are what a session may do besides running a command, such as
	// permit-pty. Empty: nothing.
	Extensions []string
	// MaxTTL is the longest life of a certificate. Zero: 24 hours.
	MaxTTL time.Duration
	// DefaultTTL is for this role's grants that say none. Zero: Config's.
	DefaultTTL time.Duration
	// Env maps a value's name to an environment variable. Nil: certificate →
	// DAYPASS_SSH_CERT, private_key → DAYPASS_SSH_KEY.
	Env map[string]string

	networks []netip.Prefix // SourceAddresses, read
}

const (
	defaultTTL = 5 * time.Minute
	maxTTL     = 24 * time.Hour
)

// Bounds on what people write: more is a mistake.
const (
	maxPrincipals = 64
	maxPrincipal  = 128
	maxNetworks   = 64
	maxCommands   = 64
	maxCommand    = 1024
)

func extensions() []string {
	return []string{"no-touch-required", "permit-X11-forwarding", "permit-agent-forwarding", "permit-port-forwarding", "permit-pty", "permit-user-rc"}
}

func (c Config) withDefaults() (Config, error) {
	if c.Signer == nil {
		return c, errors.New("no key: an authority certifies with one of its own")
	}
	if len(c.Roles) == 0 {
		return c, errors.New("no roles: they say what may be certified")
	}
	if c.DefaultTTL <= 0 {
		c.DefaultTTL = defaultTTL
	}
	roles := make(map[string]Role, len(c.Roles))
	for _, name := range slices.Sorted(maps.Keys(c.Roles)) {
		role, err := c.Roles[name].withDefaults(c)
		if err != nil {
			return c, fmt.Errorf("role %q: %w", name, err)
		}
		roles[name] = role
	}
	c.Roles = roles
	return c, nil
}

func (r Role) withDefaults(c Config) (Role, error) {
	if r.PublicKey == "" {
		r.PublicKey = KeyRequired
	}
	if len(r.KeyTypes) == 0 {
		r.KeyTypes = defaultKeyTypes()
	}
	if r.MaxTTL <= 0 {
		r.MaxTTL = maxTTL
	}
	if r.DefaultTTL <= 0 {
		r.DefaultTTL = min(c.DefaultTTL, r.MaxTTL)
	}
	if r.Env == nil {
		r.Env = map[string]string{valueCertificate: "DAYPASS_SSH_CERT"}
		if r.PublicKey == KeyMade {
			r.Env[valuePrivateKey] = "DAYPASS_SSH_KEY"
		}
	}
	var err error
	if r.networks, err = readNetworks(r.SourceAddresses); err != nil {
		return r, err
	}
	for _, check := range []func() error{r.checkPrincipals, r.checkKeys, r.checkOptions, r.checkLife, r.checkEnv} {
		if err := check(); err != nil {
			return r, err
		}
	}
	return r, nil
}

func (r Role) checkPrincipals() error {
	if r.Type != TypeUser && r.Type != TypeHost {
		return fmt.Errorf("type is user or host, not %q", r.Type)
	}
	if len(r.Principals) == 0 || len(r.Principals) > maxPrincipals {
		return fmt.Errorf("principals: 1 to %d are needed, not %d: a certificate without one would be good for all", maxPrincipals, len(r.Principals))
	}
	for _, entry := range r.Principals {
		before, after, wild := strings.Cut(entry, "*")
		if wild && (before == "") == (after == "") || r.checkPrincipal(strings.Replace(entry, "*", "x", 1)) != nil {
			return fmt.Errorf("principals: %q: a name, or one * at the start or the end of it", entry)
		}
	}
	return r.checkAllowed(r.DefaultPrincipals)
}

func (r Role) checkKeys() error {
	if r.PublicKey != KeyRequired && r.PublicKey != KeyMade {
		return fmt.Errorf("public_key is required or made, not %q", r.PublicKey)
	}
	if r.Type == TypeHost && r.PublicKey == KeyMade {
		return errors.New("public_key: a host keeps its own key: it can't be made here")
	}
	for _, kind := range r.KeyTypes {
		if !slices.Contains(keyTypes(), kind) {
			return fmt.Errorf("key_types: there is no %q: use %s", kind, strings.Join(keyTypes(), ", "))
		}
	}
	return nil
}

func (r Role) checkOptions() error {
	if r.Type == TypeHost && (len(r.ForceCommands) > 0 || len(r.SourceAddresses) > 0 || len(r.Extensions) > 0 || r.VerifyRequired) {
		return errors.New("a host's certificate has no commands, source addresses, extensions or verify_required")
	}
	for _, name := range r.Extensions {
		if !slices.Contains(extensions(), name) {
			return fmt.Errorf("extensions: there is no %q: use %s", name, strings.Join(extensions(), ", "))
		}
	}
	if r.PublicKey == KeyMade && r.VerifyRequired {
		return errors.New("verify_required: a key that is made here has nobody to verify")
	}
	if len(r.ForceCommands) > maxCommands {
		return fmt.Errorf("force_commands: %d are too many, %d is the limit", len(r.ForceCommands), maxCommands)
	}
	for _, command := range r.ForceCommands {
		if command == "" || len(command) > maxCommand || strings.ContainsFunc(command, func(c rune) bool { return c < ' ' || c == 0x7f }) {
			return fmt.Errorf("force_commands: %q: one line of 1 to %d bytes", command, maxCommand)
		}
	}
	return nil
}

func (r Role) checkLife() error {
	if r.MaxTTL > maxTTL || r.DefaultTTL > r.MaxTTL {
		return fmt.Errorf("max_ttl %s is at most %s, and default_ttl %s at most that", r.MaxTTL, maxTTL, r.DefaultTTL)
	}
	return nil
}

func (r Role) checkEnv() error {
	seen := map[string]string{}
	for _, value := range slices.Sorted(maps.Keys(r.Env)) {
		if value != valueCertificate && (value != valuePrivateKey || r.PublicKey != KeyMade) {
			return fmt.Errorf("env: there is no value %q", value)
		}
		name := r.Env[value]
		if err := issuers.CheckEnvName(name); err != nil {
			return fmt.Errorf("env of %q: %w", value, err)
		}
		if other := seen[name]; other != "" {
			return fmt.Errorf("env: %s and %s would both be %s", other, value, name)
		}
		seen[name] = value
	}
	return nil
}

// checkPrincipal refuses what a server could read as anything but one name: a
// host's wildcards are heeded by clients, and blanks and commas part names.
func (r Role) checkPrincipal(name string) error {
	if name == "" || len(name) > maxPrincipal || name[0] == '-' {
		return fmt.Errorf("principal %q: 1 to %d characters, of which the first is no -", name, maxPrincipal)
	}
	if bad := strings.IndexFunc(name, func(c rune) bool { return !wordRune(c) && !strings.ContainsRune(".@:+=/", c) }); bad >= 0 {
		return fmt.Errorf("principal %q: letters, digits and . @ : + = / _ - can stand in one", name)
	}
	if r.Type == TypeHost && name != strings.ToLower(name) {
		return fmt.Errorf("principal %q: clients ask for a host in small letters", name)
	}
	return nil
}

func (r Role) checkAllowed(principals []string) error {
	for i, name := range principals {
		if err := r.checkPrincipal(name); err != nil {
			return err
		}
		if !slices.ContainsFunc(r.Principals, func(entry string) bool { return allows(entry, name) }) {
			return fmt.Errorf("principal %q is not among those that the role allows in the server's configuration", name)
		}
		if slices.Contains(principals[:i], name) {
			return fmt.Errorf("principal %q stands twice", name)
		}
	}
	return nil
}

// allows compares a whole name with an entry. The one * stands for a word, so
// that *.example.com lets neither evil.com.example.com nor example.com in.
func allows(entry, name string) bool {
	before, after, wild := strings.Cut(entry, "*")
	if !wild {
		return entry == name
	}
	if len(name) <= len(before)+len(after) || !strings.HasPrefix(name, before) || !strings.HasSuffix(name, after) {
		return false
	}
	return !strings.ContainsFunc(name[len(before):len(name)-len(after)], func(c rune) bool { return !wordRune(c) })
}

func wordRune(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}

// readNetworks reads addresses and networks. sshd refuses a whole certificate for
// one that it can't read, so they are strict.
func readNetworks(texts []string) ([]netip.Prefix, error) {
	if len(texts) > maxNetworks {
		return nil, fmt.Errorf("source addresses: %d are too many, %d is the limit", len(texts), maxNetworks)
	}
	networks := make([]netip.Prefix, 0, len(texts))
	for _, text := range texts {
		network, err := readNetwork(text)
		if err != nil {
			return nil, err
		}
		networks = append(networks, network)
	}
	return networks, nil
}

func readNetwork(text string) (netip.Prefix, error) {
	network, err := netip.ParsePrefix(text)
	if err != nil {
		address, err := netip.ParseAddr(text)
		if err != nil || address.Zone() != "" {
			return network, fmt.Errorf("source address %q: write 10.0.0.5 or 10.0.0.0/24", text)
		}
		network = netip.PrefixFrom(address, address.BitLen())
	}
	switch {
	case network.Addr().Is4In6():
		return network, fmt.Errorf("source address %q: write it as IPv4", text)
	case network != network.Masked():
		return network, fmt.Errorf("source address %q: the network is %s", text, network.Masked())
	case network.Bits() == 0:
		return network, fmt.Errorf("source address %q is everybody: leave it out", text)
	}
	return network, nil
}
