package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

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

// Explanation answers POST /v1/policies/explain: one decision with everything that had a say in it. It
// holds what the policy asks for and what the token says, and no token.
type Explanation struct {
	Grant   string `json:"grant"`
	Digest  string `json:"digest"` // of the set of policies that decided
	Allowed bool   `json:"allowed"`
	Job     string `json:"job,omitempty"`    // the job entry that lets it through
	Reason  string `json:"reason,omitempty"` // where that isn't in Jobs: no such grant
	TTL     string `json:"ttl,omitempty"`    // of an allowed one; empty: the issuer's default
	// Jobs are the job entries of the grant: the one that lets it through first,
	// then the closest miss.
	Jobs   []JobVerdict `json:"jobs"`
	Others int          `json:"others,omitempty"` // job entries that are left out

	// Of a recorded decision, which the set in force has decided again.
	RequestID string    `json:"request_id,omitempty"`
	DecidedAt time.Time `json:"decided_at,omitzero"`
	Recorded  *Recorded `json:"recorded,omitempty"`

	Note string `json:"note,omitempty"` // for people: what this explanation can't say
}

// Recorded is what was decided when a request came.
type Recorded struct {
	Allowed bool   `json:"allowed"`
	Digest  string `json:"digest"` // of the set that decided
	Detail  string `json:"detail,omitempty"`
}

// JobVerdict is one job entry of an Explanation.
type JobVerdict struct {
	Job     string   `json:"job"`
	Allowed bool     `json:"allowed"`
	Missed  int      `json:"missed"` // how many clauses don't hold
	Clauses []Clause `json:"clauses"`
}

// Clause is one thing that a job entry asks for.
type Clause struct {
	Kind string `json:"kind"` // provider, claim, until, condition, template, ttl
	Name string `json:"name,omitempty"`
	Want string `json:"want,omitempty"` // as the policy has it
	Got  string `json:"got,omitempty"`  // as the token has it; empty where it has none
	OK   bool   `json:"ok"`
	Why  string `json:"why,omitempty"`
}

// Decision is one decision of record with all that it was made on.
type Decision struct {
	ID             string    `json:"id"` // of the lease, or dec_…
	At             time.Time `json:"at"`
	RequestID      string    `json:"request_id,omitempty"`
	Provider       string    `json:"provider"`
	ProviderType   string    `json:"provider_type,omitempty"`
	Subject        string    `json:"subject"`
	Claims         Claims    `json:"claims"`
	Grant          string    `json:"grant"`
	TTL            string    `json:"ttl,omitempty"` // as it was asked for
	IP             string    `json:"ip,omitempty"`
	TokenExpiresAt time.Time `json:"token_expires_at"`
	Allowed        bool      `json:"allowed"`
	Job            string    `json:"job,omitempty"` // of an allowed one
	Digest         string    `json:"digest"`        // of the set that decided
	Detail         string    `json:"detail,omitempty"`
}

// DecisionList answers GET /v1/decisions, oldest first.
type DecisionList struct {
	Decisions []Decision `json:"decisions"`
	Next      string     `json:"next,omitempty"` // cursor of the next page
}

// Claims are those of a job token. Numbers are read as a verified token has them:
// int64 where they are whole, float64 otherwise.
type Claims map[string]any

// UnmarshalJSON implements json.Unmarshaler.
func (c *Claims) UnmarshalJSON(data []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var read map[string]any
	if err := decoder.Decode(&read); err != nil {
		return fmt.Errorf("reading claims: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("reading claims: more than one JSON object")
	}
	for name, value := range read {
		converted, err := number(value)
		if err != nil {
			return fmt.Errorf("reading claim %s: %w", name, err)
		}
		read[name] = converted
	}
	*c = read
	return nil
}

func number(value any) (any, error) {
	switch v := value.(type) {
	case json.Number:
		if !strings.ContainsAny(v.String(), ".eE") {
			if n, err := v.Int64(); err == nil {
				return n, nil
			}
		}
		return v.Float64()
	case map[string]any:
		for name, item := range v {
			converted, err := number(item)
			if err != nil {
				return nil, err
			}
			v[name] = converted
		}
	case []any:
		for i, item := range v {
			converted, err := number(item)
			if err != nil {
				return nil, err
			}
			v[i] = converted
		}
	}
	return value, nil
}
