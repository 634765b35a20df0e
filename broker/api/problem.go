package api

import (
	"fmt"
	"strings"
)

// ProblemType is the media type of every error (RFC 9457 §3).
const ProblemType = "application/problem+json"

// Code is the stable name of an error, for programs.
type Code string

// The codes, with the status that each comes with.
const (
	CodeInvalidRequest  Code = "invalid_request"        // 400
	CodeInvalidToken    Code = "invalid_token"          // 401, with a Reason
	CodeNotAllowed      Code = "not_allowed"            // 403
	CodeNoSuchGrant     Code = "no_such_grant"          // 404
	CodeNotFound        Code = "not_found"              // 404: no such path, lease or page
	CodeMethod          Code = "method_not_allowed"     // 405
	CodeNotRenewable    Code = "not_renewable"          // 409
	CodeAlreadyRevoked  Code = "already_revoked"        // 409
	CodeNotStuck        Code = "not_stuck"              // 409
	CodeConfirmation    Code = "confirmation_required"  // 409: policies that wait for an operator
	CodeWrongState      Code = "wrong_state"            // 409: of a static secret's version
	CodeInUse           Code = "in_use"                 // 409: live leases hold what is to be destroyed
	CodeTooLarge        Code = "too_large"              // 413
	CodeUnsupportedType Code = "unsupported_media_type" // 415
	CodeInvalidPolicies Code = "invalid_policies"       // 422, with every mistake
	CodeRateLimited     Code = "rate_limited"           // 429
	CodeTooManyLeases   Code = "too_many_leases"        // 429
	CodeInternal        Code = "internal"               // 500
	CodeIssuerFailed    Code = "issuer_failed"          // 502
	CodeUnavailable     Code = "unavailable"            // 503
)

// Reason says which check of a token failed.
type Reason string

// The reasons of invalid_token.
const (
	ReasonSignature   Reason = "signature"
	ReasonIssuer      Reason = "issuer"
	ReasonAudience    Reason = "audience"
	ReasonExpired     Reason = "expired"
	ReasonNotYetValid Reason = "not_yet_valid"
	ReasonMalformed   Reason = "malformed"
	ReasonAlgorithm   Reason = "algorithm"
	ReasonReplayed    Reason = "replayed"
	ReasonProof       Reason = "proof" // of the key that a token is, or is to be, bound to (RFC 9449)
)

// Problem is the body of every error (RFC 9457 §3.1), with members of our own for programs.
type Problem struct {
	Type      string   `json:"type"`
	Title     string   `json:"title"`
	Status    int      `json:"status"`
	Detail    string   `json:"detail,omitempty"` // for people
	Code      Code     `json:"code"`
	RequestID string   `json:"request_id"`
	Reason    Reason   `json:"reason,omitempty"` // of invalid_token
	Claims    []string `json:"claims,omitempty"` // of not_allowed: names of the claims that did not match
	Grant     string   `json:"grant,omitempty"`  // which grant of a request failed

	Mistakes []Mistake `json:"mistakes,omitempty"` // of invalid_policies
	Digest   string    `json:"digest,omitempty"`   // of confirmation_required: what to confirm
	Removes  []string  `json:"removes,omitempty"`  // of confirmation_required: policies
	Leases   []string  `json:"leases,omitempty"`   // of confirmation_required: some of those that would be revoked; of in_use: some of those that hold it
	Count    int       `json:"count,omitempty"`    // how many there are
}

// Error implements error, so that a client can return a Problem as it came.
func (p *Problem) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", p.Code, p.Detail)
	if p.Reason != "" {
		fmt.Fprintf(&b, " (reason: %s)", p.Reason)
	}
	if len(p.Claims) > 0 {
		fmt.Fprintf(&b, " (claims that did not match: %s)", strings.Join(p.Claims, ", "))
	}
	if p.RequestID != "" {
		fmt.Fprintf(&b, " [request %s]", p.RequestID)
	}
	return b.String()
}
