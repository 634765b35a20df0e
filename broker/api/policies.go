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

// Paths of what is asked about decisions.
const (
	PathPoliciesExplain = "/v1/policies/explain"
	PathDecisions       = "/v1/decisions"
)

// ExplainRequest is the body of POST /v1/policies/explain: the id of a request
// whose decision was recorded, or a job token and a grant, or the claims of one.
type ExplainRequest struct {
	RequestID string `json:"request_id,omitempty"` // alone

	Token    string `json:"token,omitempty"`    // a job token, with Grant
	Provider string `json:"provider,omitempty"` // by its name in the server's configuration, with Claims
	Claims   Claims `json:"claims,omitempty"`

	Grant string    `json:"grant,omitempty"` // POLICY/GRANT
	TTL   string    `json:"ttl,omitempty"`   // that is asked for: "10m"
	IP    string    `json:"ip,omitempty"`    // of who asks
	At    time.Time `json:"at,omitzero"`     // when; now when zero
}

// Explanation answers it: one decision with everything that had a say in it. It
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

// Recorded is how it was decided then.
type Recorded struct {
	Allowed bool   `json:"allowed"`
	Digest  string `json:"digest"`
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

// DecisionList answers GET /v1/decisions, newest first.
type DecisionList struct {
	Decisions []Decision `json:"decisions"`
	Next      string     `json:"next,omitempty"` // cursor of the next page
}

// Decision is the record of one: all that is needed to decide it again.
type Decision struct {
	ID             string    `json:"id"`
	At             time.Time `json:"at"`
	RequestID      string    `json:"request_id"`
	Provider       string    `json:"provider"`
	ProviderType   string    `json:"provider_type"`
	Subject        string    `json:"subject"`
	Claims         Claims    `json:"claims"`
	Grant          string    `json:"grant"`         // POLICY/GRANT
	TTL            string    `json:"ttl,omitempty"` // that was asked for
	IP             string    `json:"ip,omitempty"`
	TokenExpiresAt time.Time `json:"token_expires_at,omitzero"`
	Allowed        bool      `json:"allowed"`
	Job            string    `json:"job,omitempty"` // the job entry that let it through
	Digest         string    `json:"digest"`
	Detail         string    `json:"detail,omitempty"` // why it was refused
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
