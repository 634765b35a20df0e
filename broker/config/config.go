// Package config reads the server's configuration: one YAML file, of which
// scalars can also be set by environment variables. Everything that is wrong is
// reported at once, with line, column and a hint; nothing is guessed, and a key
// that this version doesn't enforce is a mistake.
//
// A setting such as database.url_file has the environment variable
// DAYPASSD_DATABASE__URL_FILE: two underscores stand for a dot. What is part of a
// list or a mapping by name (providers, issuers) has none. The variable wins over
// the file.
//
// Secrets don't stand in the file: they are read from a file of their own
// (`…_file`) or from the environment (`${NAME}`).
//
// The structs here are plain: which package gets which part of them is the
// business of the program that starts the server.
package config

import (
	"net/netip"

	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/policies/catalogue"
	"github.com/daypass/daypass/policies/strictyaml"
)

// Config is the whole configuration, with defaults filled in.
type Config struct {
	At                strictyaml.Where `yaml:"-"`
	Listen            string           `yaml:"listen"`              // host:port; required
	AdminListen       string           `yaml:"admin_listen"`        // host:port; empty: livez, readyz and metrics are served on Listen
	TLS               TLS              `yaml:"tls"`                 // absent: plain HTTP, on loopback or with InsecureHTTP alone
	InsecureHTTP      bool             `yaml:"insecure_http"`       // plain HTTP on any address: something in front ends TLS
	ExternalURL       string           `yaml:"external_url"`        // required; the `iss` of minted JWTs, without a slash at its end
	Database          Database         `yaml:"database"`            // required
	Keys              Keys             `yaml:"keys"`                // required
	AllowSoftwareKeys bool             `yaml:"allow_software_keys"` // keys in files, without an HSM: for trials
	Providers         []Provider       `yaml:"providers"`
	Issuers           []Issuer         `yaml:"issuers"`
	Policies          Policies         `yaml:"policies"`        // required
	Environments      []string         `yaml:"environments"`    // absent: development, test, staging, production
	TrustedProxies    []string         `yaml:"trusted_proxies"` // addresses or networks whose X-Forwarded-For is believed
	Limits            Limits           `yaml:"limits"`
	Log               Log              `yaml:"log"`

	Admins *strictyaml.Value `yaml:"admins"` // refused: not enforced by this version

	// ProxyNetworks is TrustedProxies, read.
	ProxyNetworks []netip.Prefix `yaml:"-"`
	// Warnings is what is not wrong but hardly meant.
	Warnings []strictyaml.Mistake `yaml:"-"`
}

// TLS names the server's certificate. Both files are read again when they change.
type TLS struct {
	At       strictyaml.Where `yaml:"-"`
	CertFile string           `yaml:"cert_file"` // PEM, the chain included
	KeyFile  string           `yaml:"key_file"`  // PEM
}

// Enabled says that the server speaks TLS itself.
func (t TLS) Enabled() bool { return t.CertFile != "" }

// Database is the broker's own.
type Database struct {
	At      strictyaml.Where `yaml:"-"`
	URLFile string           `yaml:"url_file"` // holds a postgres:// URL
	RawURL  string           `yaml:"url"`      // ${NAME}; empty once it is read
	URL     issuers.Secret   `yaml:"-"`        // from the environment; zero where URLFile is set
}

// Keys are the broker's keys.
type Keys struct {
	At      strictyaml.Where  `yaml:"-"`
	Signing Key               `yaml:"signing"` // signs JWTs
	Sealing Key               `yaml:"sealing"` // wraps what is secret at rest
	Audit   *strictyaml.Value `yaml:"audit"`   // refused: not enforced by this version
}

// The types of a Key.
const (
	KeyPKCS11   = "pkcs11"
	KeySoftware = "software"
)

// Key says where one key is.
type Key struct {
	At          strictyaml.Where  `yaml:"-"`
	Type        string            `yaml:"type"`      // KeyPKCS11 or KeySoftware
	URI         string            `yaml:"uri"`       // pkcs11: RFC 7512, in place of module, token, label and pin_file
	Module      string            `yaml:"module"`    // pkcs11: path of the module
	Token       string            `yaml:"token"`     // pkcs11: the token's label
	Label       string            `yaml:"label"`     // the key's; absent: daypass-signing, daypass-sealing
	Dir         string            `yaml:"dir"`       // software: the folder of the keys
	PINFile     string            `yaml:"pin_file"`  // holds the PIN
	RawPIN      string            `yaml:"pin"`       // ${NAME}; empty once it is read
	PIN         issuers.Secret    `yaml:"-"`         // from the environment; zero where PINFile is set
	Algorithm   string            `yaml:"algorithm"` // of a key that signs: ES256, ES384, RS256, PS256, EdDSA; absent: ES256
	Bits        int               `yaml:"bits"`      // of an RSA key that is made: 2048, 3072, 4096; absent: 3072
	RotateEvery *strictyaml.Value `yaml:"rotate_every"`

	// What a URI says besides Module, Token, Label and PINFile, which it fills in.
	Serial, Manufacturer, Model string `yaml:"-"` // of the token; empty: any
	SlotID                      *uint  `yaml:"-"` // nil: any
	ID                          []byte `yaml:"-"` // CKA_ID of the key; nil: any
}

// Provider is one provider of job tokens.
type Provider struct {
	At                  strictyaml.Where    `yaml:"-"`
	Name                string              `yaml:"name,required"`
	Type                string              `yaml:"type,required"` // one of ProviderTypes
	Issuer              string              `yaml:"issuer,required"`
	Audience            string              `yaml:"audience,required"`
	AudienceAlone       bool                `yaml:"audience_alone"` // tokens for other audiences too are refused
	Algorithms          []string            `yaml:"algorithms"`     // absent: all that the provider declares
	MaxTokenAge         strictyaml.Duration `yaml:"max_token_age"`  // absent: 24h, and tokens may lack iat
	SessionTTL          strictyaml.Duration `yaml:"session_ttl"`    // absent: 1h; at most 24h
	CAFile              string              `yaml:"ca_file"`        // absent: the system's authorities
	AllowPrivateAddress bool                `yaml:"allow_private_address"`
	Replay              string              `yaml:"replay"` // ReplaySession (when absent) or ReplayOnce
}

// The kinds of an Issuer.
const (
	IssuerPostgres = "postgres"
	IssuerJWT      = "jwt"
)

// Issuer is one thing that mints credentials. Which fields it may have depends
// on its type.
type Issuer struct {
	At             strictyaml.Where    `yaml:"-"`
	Name           string              `yaml:"name,required"`
	Type           string              `yaml:"type,required"` // IssuerPostgres or IssuerJWT
	Target         Target              `yaml:"target"`        // postgres
	Admin          Admin               `yaml:"admin"`         // postgres
	Schema         string              `yaml:"schema"`        // postgres: where the set-up's functions stand; absent: daypass
	MaxConnections int                 `yaml:"max_connections"`
	DefaultTTL     strictyaml.Duration `yaml:"default_ttl"` // for grants that say none; absent: the kind's own
	Roles          map[string]Role     `yaml:"roles"`
	UsedBy         []Use               `yaml:"used_by"` // jwt without roles: who may use it
	// Key is the authority's of an issuer that certifies. What it doesn't say of where
	// it is, it has from keys.signing.
	Key *Key `yaml:"key"`
}

// Target is a PostgreSQL server.
type Target struct {
	At         strictyaml.Where `yaml:"-"`
	Host       string           `yaml:"host"`
	Port       int              `yaml:"port"` // absent: 5432
	Database   string           `yaml:"database"`
	Databases  []string         `yaml:"databases"`
	SSLMode    string           `yaml:"sslmode"` // absent: verify-full
	CAFile     string           `yaml:"ca_file"`
	PublicHost string           `yaml:"public_host"` // what jobs are told, where that differs
	PublicPort int              `yaml:"public_port"`
}

// Admin is the broker's account on a target.
type Admin struct {
	At           strictyaml.Where `yaml:"-"`
	User         string           `yaml:"user"`
	PasswordFile string           `yaml:"password_file"`
	RawPassword  string           `yaml:"password"` // ${NAME}; empty once it is read
	Password     issuers.Secret   `yaml:"-"`        // from the environment; zero where PasswordFile is set
}

// Role is what a grant may name of an issuer.
type Role struct {
	At     strictyaml.Where  `yaml:"-"`
	Env    map[string]string `yaml:"env"`     // value name → environment variable; absent: the kind's own
	UsedBy []Use             `yaml:"used_by"` // who may use it; absent: nobody

	// postgres
	MemberOf        []string `yaml:"member_of"`
	Owner           string   `yaml:"owner"`
	Allow           []string `yaml:"allow"`
	SCRAMIterations int      `yaml:"scram_iterations"` // absent: 4096
	ConnectionLimit int      `yaml:"connection_limit"` // absent: 20

	// jwt
	Audiences  []string            `yaml:"audiences"`
	DefaultTTL strictyaml.Duration `yaml:"default_ttl"`
}

// Use names a policy and an environment that may use a role.
type Use struct {
	At          strictyaml.Where `yaml:"-"`
	Policy      string           `yaml:"policy,required"`
	Environment string           `yaml:"environment,required"`
}

// What becomes of leases that a new set of policies doesn't allow.
const (
	OnPolicyChangeKeep   = "keep"   // they live to their end, and can't be renewed
	OnPolicyChangeRevoke = "revoke" // they are taken back
)

// Policies says where the policy files are, and how changes of them come into force.
type Policies struct {
	At             strictyaml.Where `yaml:"-"`
	Dir            string           `yaml:"dir"`
	Watch          bool             `yaml:"watch"`            // absent: true
	OnPolicyChange string           `yaml:"on_policy_change"` // absent: OnPolicyChangeKeep
}

// Log says how much is logged.
type Log struct {
	At    strictyaml.Where `yaml:"-"`
	Level string           `yaml:"level"` // debug, info, warn, error; absent: info
}

// ProviderTypes lists the types of providers: those of the catalogue.
func ProviderTypes() []string { return catalogue.Types() }
