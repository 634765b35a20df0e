package api

import "time"

// Mistake is one thing that is wrong in a policy file.
type Mistake struct {
	File string `json:"file"` // below the policy folder
	Line int    `json:"line"` // from 1; 0 when the file as a whole is meant
	Col  int    `json:"col"`
	Text string `json:"text"`
	Hint string `json:"hint,omitempty"`
}

// Finding is one place where a rule of the linter applies. The set loads.
type Finding struct {
	Mistake

	Rule     string `json:"rule"`
	Severity string `json:"severity"` // warning, info
}

// ReloadRequest is the optional body of POST /v1/policies/reload.
type ReloadRequest struct {
	Confirm string `json:"confirm,omitempty"` // the digest that confirmation_required named
}

// ReloadResponse answers POST /v1/policies/reload.
type ReloadResponse struct {
	Digest   string    `json:"digest"`  // of the set in force
	Changed  bool      `json:"changed"` // it was another one before
	Policies int       `json:"policies"`
	Grants   int       `json:"grants"`
	Warnings []Finding `json:"warnings"`
	// LeasesNoLongerAllowed are live leases that the set would not allow, a hundred
	// at the most; Count is how many there are. They can't be renewed, and are
	// revoked where the server's configuration says so.
	LeasesNoLongerAllowed []string `json:"leases_no_longer_allowed"`
	Count                 int      `json:"count"`
}

// ExplainRequest is the body of POST /v1/policies/explain: a recorded decision
// (RequestID, with Grant where it asked for several), a job token with a grant,
// or claims of a provider with a grant.
type ExplainRequest struct {
	RequestID string         `json:"request_id,omitempty"`
	Token     string         `json:"token,omitempty"`
	Provider  string         `json:"provider,omitempty"` // by its name in the server's configuration
	Claims    map[string]any `json:"claims,omitempty"`
	Grant     string         `json:"grant,omitempty"` // POLICY/GRANT
	TTL       string         `json:"ttl,omitempty"`   // "10m"
	IP        string         `json:"ip,omitempty"`
	At        string         `json:"at,omitempty"` // RFC 3339; now when empty
}

// Recorded is what was decided when a request came.
type Recorded struct {
	Allowed bool   `json:"allowed"`
	Digest  string `json:"digest"` // of the set that decided
	Detail  string `json:"detail,omitempty"`
}

// Decision is one decision of record with all that it was made on.
type Decision struct {
	ID             string         `json:"id"` // of the lease, or dec_…
	At             time.Time      `json:"at"`
	RequestID      string         `json:"request_id,omitempty"`
	Provider       string         `json:"provider"`
	ProviderType   string         `json:"provider_type,omitempty"`
	Subject        string         `json:"subject"`
	Claims         map[string]any `json:"claims"`
	Grant          string         `json:"grant"`
	TTL            string         `json:"ttl,omitempty"` // as it was asked for
	IP             string         `json:"ip,omitempty"`
	TokenExpiresAt time.Time      `json:"token_expires_at"`
	Allowed        bool           `json:"allowed"`
	Job            string         `json:"job,omitempty"` // of an allowed one
	Digest         string         `json:"digest"`        // of the set that decided
	Detail         string         `json:"detail,omitempty"`
}

// DecisionList answers GET /v1/decisions, oldest first.
type DecisionList struct {
	Decisions []Decision `json:"decisions"`
	Next      string     `json:"next,omitempty"` // cursor of the next page
}
