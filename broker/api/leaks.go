package api

import "time"

// Paths of finding what leaked. The other ones take what the secret scanning of
// GitHub and GitLab reports, in their own formats.
const (
	PathLeaks            = "/v1/leaks"
	PathLeaksGitHub      = "/v1/leaks/github"
	PathLeaksGitLabTypes = "/v1/leaks/gitlab/revocable_token_types"
	PathLeaksGitLab      = "/v1/leaks/gitlab/revoke_tokens"
)

// The kinds of a Leak that is no lease's.
const (
	KindSessionToken = "session_token"
	KindAdminToken   = "admin_token"
	KindUnknownToken = "unknown_token" // of the broker's own shape, and not on record here
)

// LeaksResponse answers POST /v1/leaks: which leases' secrets stand in a text.
type LeaksResponse struct {
	Leaks []Leak `json:"leaks"` // by offset
	Bytes int64  `json:"bytes"` // how much of the text was read
	// Truncated says that there were more than an answer holds; those that were
	// found are told, and with ?revoke=true those are revoked.
	Truncated bool `json:"truncated,omitempty"`
}

// Leak is one secret found in a text: whose it is and where it stands, never the
// value.
type Leak struct {
	LeaseID   string     `json:"lease_id,omitempty"` // empty for a token that is no lease's
	SessionID string     `json:"session_id,omitempty"`
	AdminID   string     `json:"admin_id,omitempty"` // of an admin token
	Grant     string     `json:"grant,omitempty"`
	Kind      string     `json:"kind"`            // the lease's; session_token, admin_token or unknown_token otherwise
	Field     string     `json:"field,omitempty"` // the name in the credential's values
	Provider  string     `json:"provider,omitempty"`
	Subject   string     `json:"subject,omitempty"` // the job token's sub
	Run       string     `json:"run,omitempty"`     // where the provider shows the job
	IssuedAt  *time.Time `json:"issued_at,omitempty"`
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	State     string     `json:"state,omitempty"`
	Live      bool       `json:"live"`           // it still works somewhere
	Offset    int64      `json:"offset"`         // in bytes, of the first one that belongs to it
	Length    int        `json:"length"`         // in bytes, as it stands in the text
	Form      string     `json:"form,omitempty"` // how it was written: empty as it is, else base64, hex, url …
	Revoked   bool       `json:"revoked,omitempty"`
	// Leases counts those that got this value, where it is more than one: a static
	// secret. LeaseID is the last of them, and Revoked says that all were.
	Leases int `json:"leases,omitempty"`
}
