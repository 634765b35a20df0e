// Package policies reads the files that say which jobs may have which grants,
// and decides.
//
// A policy file names jobs (a provider and what its token must claim) and grants
// (an issuer, a role, for how long). The files of a directory are loaded as one
// [Set], or not at all: [Load] returns every mistake of every file, each with its
// line. A set never changes; a reload makes another one.
//
// [Set.Decide] takes the identity that a verified token proves and the grant that
// it asks for. It is pure: no clock, no network, no memory of earlier decisions.
// Deny is the default, and nothing is allowed by a claim that is missing: claims
// are compared by type and value, and a condition (CEL) that speaks of a claim
// which the token doesn't have refuses. Patterns are written as such and anchored
// at both ends. A policy's own tests run whenever it is loaded.
//
// A policy alone opens nothing: the server's configuration says which policies
// and environments may use a role, and is asked when the policy loads
// ([IssuerChecker]).
//
// A key of the format that this version doesn't enforce yet is a mistake, never
// ignored.
package policies

import (
	"crypto/sha256"
	"encoding/json"
	"net/netip"
	"time"

	"github.com/daypass/daypass/policies/condition"
	"github.com/daypass/daypass/policies/lint"
)

// Identity is who asks: what a verified job token says. Decide reads it only.
type Identity struct {
	Provider     string         // the provider's name in the server's configuration
	ProviderType string         // its type there: github, gitlab, buildkite …
	Subject      string         // `sub`; not used to decide
	Claims       map[string]any // all claims; numbers as int64 or float64
	Expiry       time.Time      // `exp`; zero where it isn't known
}

// Request is what is asked for.
type Request struct {
	Grant string        // POLICY/GRANT
	TTL   time.Duration // how long it should live; 0 when the job doesn't say
	IP    netip.Addr    // who sent it; the zero Addr where it isn't known
}

// Grant is what a job may have.
type Grant struct {
	Policy      string // the policy's name
	Name        string // the grant's name within it
	Environment string // the policy's environment
	Job         string // the job entry that matched; "exception 1" for one of those
	Issuer      string
	Role        string          // "" where the issuer's kind has none
	Parameters  json.RawMessage // the grant's `with`, templates filled; nil when there is none
	// TTL is how long the credential lives: the policy's, or what was asked for
	// where that is less. 0 when the policy says nothing: the issuer's default
	// holds then, and AskedTTL where that is less.
	TTL time.Duration
	// AskedTTL is Request.TTL; 0 when nothing was asked.
	AskedTTL time.Duration
	// MaxTTL bounds the credential's life with all renewals. 0: it can't be renewed.
	MaxTTL time.Duration
	// Until is when the credential has to be gone, whatever TTL and MaxTTL say:
	// where an exception ends, or the job's token. Zero: nothing sets such an end.
	Until time.Time
	// MaxActive is how many leases of this grant may be issuing or active at
	// once. 0: any number.
	MaxActive int
	// MaxActivePerJob is the same for each job. 0: any number.
	MaxActivePerJob int
	// Broad says that a session token of any grant may ask for this one.
	Broad  bool
	Redact []string          // RE2 patterns of what must not appear in the job's log
	Env    map[string]string // value name → environment variable, where the grant renames
	Digest string            // the set that allowed it
}

// The codes of a Denial, as the API shows them.
const (
	CodeNotAllowed  = "not_allowed"
	CodeNoSuchGrant = "no_such_grant"
)

// ConditionClaim stands in Denial.Claims where all claims matched and the
// condition didn't hold.
const ConditionClaim = "condition"

// ExceptionClaim stands there where an exception that would have matched is over.
const ExceptionClaim = "exception"

// Denial is the error of a refusal.
type Denial struct {
	// Code is CodeNotAllowed, or CodeNoSuchGrant for a job that may use some
	// grant of that policy.
	Code  string
	Grant string // as it was asked for
	// Claims names the claims that did not match, for a token whose ids of
	// repository or organisation are those of a job entry. It is nil for
	// everybody else, so that they all get one and the same answer, whether the
	// grant exists or not.
	Claims []string
	// Detail is the full reason, for logs alone: never send it to the job.
	Detail string
	// Ours says that the token's ids are those of a job entry of the grant.
	Ours bool
	// Conflicts are pairs of name and id of which the token has one half alone: a
	// rename, or a takeover.
	Conflicts []Conflict
}

// Conflict is a pair of name and id of which a token has one half.
type Conflict struct {
	Job   string // the job entry
	Claim string // of the name
	// NameFits says which half fits: the name (somebody else may have taken it), or
	// the id (whatever it names was renamed).
	NameFits bool
}

// Error is the same for everybody who may not know more.
func (d *Denial) Error() string { return d.Code + ": " + d.Grant }

// Set is all policies of one directory, compiled. It never changes and is safe
// for concurrent use.
type Set struct {
	digest   string
	policies map[string]*policy
	grants   map[string]*grant // by POLICY/GRANT
	skipped  []string
	findings []lint.Finding
}

type policy struct {
	name        string
	owner       string
	description string
	environment string
	broad       bool
	jobs        []*job
	grants      []*grant
	tests       int
	uncovered   []Uncovered
	sum         [sha256.Size]byte // of its file: another sum may be another meaning
}

type job struct {
	name      string
	provider  string
	claims    []claim              // in the order of their names
	condition *condition.Condition // nil when there is none
	tenants   []tenant             // by which it is known whose job this is
	until     time.Time            // of an exception; zero: it doesn't end
}

type grant struct {
	policy          *policy
	name            string
	jobs            []*job // exceptions behind the others
	index           *index // nil where there are few jobs
	issuer          string
	role            string
	ttl, maxTTL     time.Duration
	untilToken      bool // ttl: until job token expires
	maxActive       int
	maxActivePerJob int
	redact          []string
	env             map[string]string
	parameters      parameters
}

// Digest is the SHA-256 of all files with their names, in hex. It names the set:
// every lease and audit event records the digest that allowed it.
func (s *Set) Digest() string { return s.digest }

// Skipped says in words which checks were left out, because the Config that the
// set was loaded with knew no providers or no issuers.
func (s *Set) Skipped() []string { return s.skipped }

// Findings is what the linter has to say, but for errors, with which no set loads.
func (s *Set) Findings() []lint.Finding { return s.findings }

// GrantInfo is one grant of a set, as lists show it.
type GrantInfo struct {
	Name        string // POLICY/GRANT
	Owner       string
	Description string // the policy's
	Environment string
	Issuer      string
	Role        string
	MaxActive   int
	Redact      []string
}
