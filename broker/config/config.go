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
	"time"

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
	Retention         Retention        `yaml:"retention"`
	OAuth             OAuth            `yaml:"oauth"`
	ResourceServers   []ResourceServer `yaml:"resource_servers"`
	Reconcile         Reconcile        `yaml:"reconcile"`
	Redaction         Redaction        `yaml:"redaction"`
	Leaks             Leaks            `yaml:"leaks"`
	Revoker           Revoker          `yaml:"revoker"`
	Secrets           Secrets          `yaml:"secrets"` // static ones
	Vault             Vault            `yaml:"vault"`   // absent: no façade for Vault's clients
	Log               Log              `yaml:"log"`
	Audit             Audit            `yaml:"audit"`

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

	MaxConnections int `yaml:"max_connections"` // 0: 24, or what the URL or the number of CPUs says beyond it
	// The same database past a pooler that gives each transaction another session;
	// absent: URL leads there itself.
	DirectURLFile string         `yaml:"direct_url_file"`
	RawDirectURL  string         `yaml:"direct_url"` // ${NAME}; empty once it is read
	DirectURL     issuers.Secret `yaml:"-"`          // from the environment; zero where DirectURLFile is set
}

// Pooled says that URL may lead through a pooler.
func (d Database) Pooled() bool { return d.DirectURLFile != "" || !d.DirectURL.IsZero() }

// Revoker says when people are told of a revocation.
type Revoker struct {
	At    strictyaml.Where    `yaml:"-"`
	Grace strictyaml.Duration `yaml:"grace"` // how long one may take before it is stuck; absent: 10m
}

// Keys are the broker's keys.
type Keys struct {
	At      strictyaml.Where `yaml:"-"`
	Signing Key              `yaml:"signing"` // signs JWTs
	Sealing Key              `yaml:"sealing"` // wraps what is secret at rest
	Opening []Key            `yaml:"opening"` // also open what is sealed: former sealing keys, and the next one while a fleet changes over
	Audit   *Key             `yaml:"audit"`   // signs checkpoints of the audit log; absent: none is signed
}

// The types of a Key.
const (
	KeyPKCS11   = "pkcs11"
	KeySoftware = "software"
)

// How a sealing key that is made can be backed up.
const (
	BackupNone    = "none"    // by the vendor's own cloning alone
	BackupWrapped = "wrapped" // it may leave its token under a trusted wrapping key
)

// Key says where one key is.
type Key struct {
	At          strictyaml.Where `yaml:"-"`
	Type        string           `yaml:"type"`         // KeyPKCS11 or KeySoftware
	URI         string           `yaml:"uri"`          // pkcs11: RFC 7512, in place of module, token, label and pin_file
	Module      string           `yaml:"module"`       // pkcs11: path of the module
	Token       string           `yaml:"token"`        // pkcs11: the token's label
	Isolate     bool             `yaml:"isolate"`      // pkcs11: the module runs in a process of its own
	IsolateEnv  []string         `yaml:"isolate_env"`  // names of environment variables that this process gets too
	Label       string           `yaml:"label"`        // the key's; absent: daypass-signing, daypass-sealing, daypass-audit
	Backup      string           `yaml:"backup"`       // pkcs11, of a key that seals: BackupNone (when absent) or BackupWrapped
	Dir         string           `yaml:"dir"`          // software: the folder of the keys
	PINFile     string           `yaml:"pin_file"`     // holds the PIN
	RawPIN      string           `yaml:"pin"`          // ${NAME}; empty once it is read
	PIN         issuers.Secret   `yaml:"-"`            // from the environment; zero where PINFile is set
	Algorithm   string           `yaml:"algorithm"`    // of a key that signs: ES256, ES384, RS256, PS256, EdDSA; absent: ES256
	Bits        int              `yaml:"bits"`         // of an RSA key that is made: 2048, 3072, 4096; absent: 3072
	Rotation    string           `yaml:"rotate_every"` // of keys.signing: 30d, or never; absent: 30d
	RotateEvery time.Duration    `yaml:"-"`            // Rotation, read; 0: never by itself

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
	IssuerX509     = "x509"
	IssuerSealed   = "sealed"
	IssuerSSH      = "ssh"
	IssuerAPIToken = "apitoken"
)

// Issuer is one thing that mints credentials. Which fields it may have depends
// on its type.
type Issuer struct {
	At             strictyaml.Where    `yaml:"-"`
	Name           string              `yaml:"name,required"`
	Type           string              `yaml:"type,required"` // one of IssuerTypes
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
	// ChainFile holds the authority's certificate and those above it, in PEM: x509.
	// It is read again when it changes.
	ChainFile string `yaml:"chain_file"`
	// RevokedAuthorities are public keys, each a line, whose certificates are all
	// refused by who reads the revocation list: ssh.
	RevokedAuthorities []string `yaml:"revoked_authorities"`
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

	// jwt, apitoken
	Audiences   []string            `yaml:"audiences"`
	DefaultTTL  strictyaml.Duration `yaml:"default_ttl"`
	Profile     string              `yaml:"profile"`      // one of jwt.Profiles; absent: at+jwt
	SessionTags bool                `yaml:"session_tags"` // its policies may choose claims that give rights

	// x509: see x509.Role of package issuers/x509
	Usage              string              `yaml:"usage"`
	DNSNames           []string            `yaml:"dns_names"`
	IPNetworks         []string            `yaml:"ip_networks"`
	URIs               []string            `yaml:"uris"`
	CommonNames        []string            `yaml:"common_names"`
	Organization       []string            `yaml:"organization"`
	OrganizationalUnit []string            `yaml:"organizational_unit"`
	CSR                string              `yaml:"csr"`           // absent: optional
	AcceptedKeys       []string            `yaml:"accepted_keys"` // absent: p256, p384, ed25519, rsa
	MadeKey            string              `yaml:"made_key"`      // absent: p256
	MaxTTL             strictyaml.Duration `yaml:"max_ttl"`       // ssh too; absent: 1h, for ssh 24h

	// sealed
	Secret  string   `yaml:"secret"`  // its name
	Version string   `yaml:"version"` // VersionCurrent (when absent) or VersionPending
	Fields  []string `yaml:"fields"`  // absent: value
	Visible []string `yaml:"visible"` // fields that need no masking

	// ssh
	Type              string   `yaml:"type"`               // user or host
	Principals        []string `yaml:"principals"`         // whom a grant may name
	DefaultPrincipals []string `yaml:"default_principals"` // where it names none
	PublicKey         string   `yaml:"public_key"`         // required (when absent) or made
	KeyTypes          []string `yaml:"key_types"`          // absent: ed25519, ecdsa, rsa
	ForceCommands     []string `yaml:"force_commands"`
	SourceAddresses   []string `yaml:"source_addresses"`
	VerifyRequired    bool     `yaml:"verify_required"`
	Extensions        []string `yaml:"extensions"`

	// apitoken
	Scopes []string `yaml:"scopes"` // what a token may do at its audiences
	DPoP   string   `yaml:"dpop"`   // DPoPOptional (when absent) or DPoPRequired
}

// Whether the tokens of a role are bound to a key of the job's (RFC 9449).
const (
	DPoPOptional = "optional" // where the job proves to have one
	DPoPRequired = "required" // there are no others
)

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

// Audit says what becomes of the audit log's checkpoints.
type Audit struct {
	At             strictyaml.Where `yaml:"-"`
	CheckpointFile string           `yaml:"checkpoint_file"` // each is appended to it; absent: they are in the database and the log alone
}

// Log says how much is logged.
type Log struct {
	At    strictyaml.Where `yaml:"-"`
	Level string           `yaml:"level"` // debug, info, warn, error; absent: info
}

// ProviderTypes lists the types of providers: those of the catalogue.
func ProviderTypes() []string { return catalogue.Types() }
