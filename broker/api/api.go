// Package api holds what is visible on the wire: the requests and answers of
// the native HTTP API, its error codes and its paths. It imports the standard
// library only, so that a client needs nothing else.
package api

import "time"

// Paths of the native API.
const (
	PathExchange        = "/v1/exchange"
	PathSession         = "/v1/session"
	PathSessionRevoke   = "/v1/session/revoke"
	PathLeases          = "/v1/leases"
	PathAudit           = "/v1/audit"
	PathAuditCheckpoint = "/v1/audit/checkpoint"
	PathAuditExport     = "/v1/audit/export"
	PathRedactionRules  = "/v1/redaction/rules"
	PathPoliciesReload  = "/v1/policies/reload"
	PathPoliciesExplain = "/v1/policies/explain"
	PathDecisions       = "/v1/decisions"
	PathSwitches        = "/v1/switches"
	PathBrokers         = "/v1/brokers"
	PathLive            = "/livez"
	PathReady           = "/readyz"
	PathMetrics         = "/metrics"
	PathIssuers         = "/v1/issuers" // documents of issuers: /v1/issuers/{name}/{document}
	PathDiscovery       = "/.well-known/openid-configuration"
	PathJWKS            = "/.well-known/jwks.json"
	PathOpenAPI         = "/openapi.json" // the document of all these calls
)

// HeaderDPoP holds a proof that the sender has a key (RFC 9449). With an exchange, what
// is issued is bound to that key.
const HeaderDPoP = "DPoP"

// HeaderPrefer with PreferRevocationToken (RFC 7240) asks an exchange for a revocation
// token beside the session token; HeaderPreferenceApplied says that it is there. A
// broker that doesn't know the preference leaves it aside.
const (
	HeaderPrefer            = "Prefer"
	HeaderPreferenceApplied = "Preference-Applied"
	PreferRevocationToken   = "revocation-token"
)

// Limits of the native API, in bytes.
const (
	MaxBody  = 64 << 10 // JSON and form bodies; more is 413
	MaxToken = 16 << 10 // bearer tokens; more is 401 malformed
)

// HeaderIdempotencyKey names an exchange, so that it can be tried again: when the
// same bearer token comes with the same key within two minutes of the last try,
// what that try issued is taken back, and the answer brings new credentials. The
// same key with other grants is 400 invalid_request. The key is up to the client:
// 1 to MaxIdempotencyKey printable ASCII characters.
const (
	HeaderIdempotencyKey = "Idempotency-Key"
	MaxIdempotencyKey    = 128
)

// MaxGrants is how many grants one exchange may name.
const MaxGrants = 16

// ExchangeRequest is the body of POST /v1/exchange.
type ExchangeRequest struct {
	Grants []GrantRequest `json:"grants"`
}

// GrantRequest names one grant. On the wire a bare string is short for {"name": …}.
type GrantRequest struct {
	Name string `json:"name"`          // POLICY/GRANT
	TTL  string `json:"ttl,omitempty"` // "10m"; never exceeds the policy's
	// CSR is a PKCS#10 request in PEM, and PublicKey an OpenSSH public key: for
	// grants whose certificate is to be for a key that the job has, and keeps.
	CSR       string `json:"csr,omitempty"`
	PublicKey string `json:"public_key,omitempty"`
}

// ExchangeResponse answers POST /v1/exchange.
type ExchangeResponse struct {
	Session     Session      `json:"session"`
	Credentials []Credential `json:"credentials"`
	Redaction   Redaction    `json:"redaction"`
}

// Session is what one job token opened.
type Session struct {
	ID        string `json:"id"`
	Token     string `json:"token,omitempty"`      // only in the answer of an exchange
	TokenType string `json:"token_type,omitempty"` // DPoP, where the token is bound to the key of the request
	// RevocationToken gives back what Token obtained (POST /v1/session/revoke), and is
	// good for nothing else: for whoever only tidies up. It stands beside Token, for those
	// who ask for it (HeaderPrefer); an older broker gives none.
	RevocationToken string    `json:"revocation_token,omitempty"`
	ExpiresAt       time.Time `json:"expires_at"`
}

// Credential is one minted credential with its values.
type Credential struct {
	Grant      string            `json:"grant"`
	LeaseID    string            `json:"lease_id"`
	Issuer     string            `json:"issuer"`
	Kind       string            `json:"kind"`
	Revocation string            `json:"revocation"` // immediate, introspection, expiry
	ExpiresAt  time.Time         `json:"expires_at"`
	Renewable  bool              `json:"renewable"`
	Values     map[string]string `json:"values"`
	Secret     []string          `json:"secret"` // names in Values that must not be shown
	Env        map[string]string `json:"env"`
	TokenType  string            `json:"token_type,omitempty"` // DPoP, where its token is bound to the key of the request
}

// Redaction says what, besides the values themselves, must not appear in a log.
type Redaction struct {
	Patterns []string `json:"patterns"` // RE2
}

// Lease is the record of one credential: never its values.
type Lease struct {
	ID                  string     `json:"id"`
	State               string     `json:"state"` // issuing, active, revoking, revoked, expired, forgotten
	Policy              string     `json:"policy"`
	Grant               string     `json:"grant"`
	Issuer              string     `json:"issuer"`
	Kind                string     `json:"kind"`
	Target              string     `json:"target,omitempty"`
	Revocation          string     `json:"revocation"`
	Session             string     `json:"session"`
	Provider            string     `json:"provider"`
	Subject             string     `json:"subject"` // the job token's sub
	IssuedAt            time.Time  `json:"issued_at"`
	ExpiresAt           time.Time  `json:"expires_at"`
	EndedAt             *time.Time `json:"ended_at,omitempty"`
	Renewable           bool       `json:"renewable"`
	MaxExpiresAt        *time.Time `json:"max_expires_at,omitempty"` // the latest end that renewals can reach
	ValidElsewhereUntil *time.Time `json:"valid_elsewhere_until,omitempty"`
	PolicyDigest        string     `json:"policy_digest"`
	SigningKey          string     `json:"signing_key,omitempty"` // kid of the key that signed it
	Stuck               bool       `json:"stuck,omitempty"`
	Attempts            int        `json:"attempts,omitempty"`   // of revoking it
	LastError           string     `json:"last_error,omitempty"` // of the last attempt
}

// LeaseList answers GET /v1/leases, newest first.
type LeaseList struct {
	Leases []Lease `json:"leases"`
	Next   string  `json:"next,omitempty"` // cursor of the next page
}

// SessionInfo answers GET /v1/session: what the caller's session token obtained.
type SessionInfo struct {
	Session Session `json:"session"`
	Leases  []Lease `json:"leases"`
}

// RenewRequest is the optional body of POST /v1/leases/{id}/renew.
type RenewRequest struct {
	TTL string `json:"ttl,omitempty"` // from now; the grant's own ttl when empty
}

// RevokeRequest is the optional body of a revocation.
type RevokeRequest struct {
	Reason string `json:"reason,omitempty"`
	Job    bool   `json:"job,omitempty"` // of one lease, by an operator: all that its job holds, and its sessions
}

// RevokeResponse answers a revocation: 200 with state revoked (or expired)
// when all was taken back within five seconds, 202 with revoking otherwise.
type RevokeResponse struct {
	State               string     `json:"state"`
	ValidElsewhereUntil *time.Time `json:"valid_elsewhere_until,omitempty"`
	Leases              []Lease    `json:"leases,omitempty"` // of POST /v1/session/revoke, and of a job
}

// Event is one entry of the audit log.
type Event struct {
	ID      string         `json:"id"`
	At      time.Time      `json:"at"`
	Type    string         `json:"type"`    // lease.issued, lease.revoked, session.opened …
	Subject string         `json:"subject"` // id of the lease, session or token that it is about
	Count   int            `json:"count"`   // first, second … event of that subject
	Actor   string         `json:"actor"`
	Data    map[string]any `json:"data,omitempty"`
	Leaf    string         `json:"leaf"`   // hex SHA-256 leaf hash (RFC 6962 §2.1) of the stored body
	MAC     string         `json:"mac"`    // hex HMAC by a key outside the database
	KeyID   string         `json:"key_id"` // which key
}

// EventList answers GET /v1/audit, newest first.
type EventList struct {
	Events []Event `json:"events"`
	Next   string  `json:"next,omitempty"`
}
