package policies

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/daypass/daypass/policies/condition"
)

// maxReasons is how many job entries the detail of a denial speaks of.
const maxReasons = 20

// Decide says whether the identity may have the grant. The error is a *[Denial],
// and nothing else. What the Grant refers to belongs to the set: don't change it.
func (s *Set) Decide(id Identity, req Request, now time.Time) (*Grant, error) {
	g, ok := s.grants[req.Grant]
	if !ok {
		return nil, s.unknown(&id, req, now)
	}
	denial := &Denial{Code: CodeNotAllowed, Grant: req.Grant}
	var reasons []string
	jobs := g.candidates(&id)
	for _, j := range jobs {
		missing, err := j.admit(&id, req, now)
		if err == nil {
			return s.allow(g, j, &id, req, now)
		}
		if len(reasons) < maxReasons {
			reasons = append(reasons, fmt.Sprintf("job %s: %v", j.name, err))
		}
		if j.ours(&id) && (denial.Claims == nil || distance(missing) < distance(denial.Claims)) {
			denial.Claims, denial.Ours = missing, true
		}
		denial.Conflicts = append(denial.Conflicts, j.conflicts(&id)...)
	}
	if others := len(g.jobs) - len(reasons); others > 0 {
		reasons = append(reasons, fmt.Sprintf("%d other job entries", others))
	}
	denial.Detail = strings.Join(reasons, "; ")
	return nil, denial
}

// distance orders misses: the fewer claims, the closer, and closest where all
// claims match and only the condition or the end stands against it.
func distance(missing []string) int {
	if len(missing) == 1 && (missing[0] == ConditionClaim || missing[0] == ExceptionClaim) {
		return 0
	}
	return len(missing)
}

// unknown refuses a grant that doesn't exist. Only a job that may use some grant
// of that policy is told so.
func (s *Set) unknown(id *Identity, req Request, now time.Time) *Denial {
	denial := &Denial{Code: CodeNotAllowed, Grant: req.Grant, Detail: "no such grant"}
	name, _, _ := strings.Cut(req.Grant, "/")
	p, ok := s.policies[name]
	if !ok {
		return denial
	}
	for _, g := range p.grants {
		other := req
		other.Grant = p.name + "/" + g.name
		for _, j := range g.candidates(id) {
			if _, err := j.admit(id, other, now); err == nil {
				denial.Code, denial.Ours = CodeNoSuchGrant, true
				return denial
			}
		}
	}
	return denial
}

var errOtherProvider = errors.New("another provider")

// admit says whether the token is this job's: nil, or the reason why not with
// the names of the claims that don't match.
func (j *job) admit(id *Identity, req Request, now time.Time) ([]string, error) {
	if j.provider != id.Provider {
		return nil, errOtherProvider
	}
	var missing []string
	for i := range j.claims {
		if c := &j.claims[i]; !c.matches(id.Claims) {
			missing = append(missing, c.shown())
		}
	}
	if len(missing) > 0 {
		return missing, fmt.Errorf("claims don't match: %s", strings.Join(missing, ", "))
	}
	if j.ended(now) {
		return []string{ExceptionClaim}, fmt.Errorf("the exception ended at %s", j.until.Format(time.RFC3339))
	}
	if j.condition == nil {
		return nil, nil
	}
	if err := j.condition.Allow(id.Claims, req.seen(now)); err != nil {
		return []string{ConditionClaim}, err
	}
	return nil, nil
}

// seen is what a condition sees of the request.
func (r *Request) seen(now time.Time) condition.Request {
	return condition.Request{Grant: r.Grant, TTL: r.TTL, Time: now, IP: r.IP}
}

// ended says whether this is an exception that is over.
func (j *job) ended(now time.Time) bool { return !j.until.IsZero() && !now.Before(j.until) }

// conflicts are the pairs of which the token has one half.
func (j *job) conflicts(id *Identity) []Conflict {
	if j.provider != id.Provider {
		return nil
	}
	var list []Conflict
	for i := range j.claims {
		if nameFits, found := j.claims[i].conflict(id.Claims); found {
			list = append(list, Conflict{Job: j.name, Claim: j.claims[i].shown(), NameFits: nameFits})
		}
	}
	return list
}

func (s *Set) allow(g *grant, j *job, id *Identity, req Request, now time.Time) (*Grant, error) {
	refuse := func(claims []string, format string, args ...any) (*Grant, error) {
		denial := &Denial{Code: CodeNotAllowed, Grant: req.Grant, Detail: fmt.Sprintf("job "+j.name+": "+format, args...)}
		if denial.Ours = j.ours(id); denial.Ours {
			denial.Claims = claims
		}
		return nil, denial
	}
	parameters, err := g.parameters.fill(id.Claims)
	if err != nil {
		return refuse(g.parameters.unfit(id.Claims), "filling parameters: %v", err)
	}
	ttl, until := g.ttl, j.until
	if g.untilToken {
		if id.Expiry.IsZero() || !now.Before(id.Expiry) {
			return refuse([]string{"exp"}, "the grant ends with the job's token, whose end has come or is not known")
		}
		ttl = id.Expiry.Sub(now)
		if until.IsZero() || id.Expiry.Before(until) {
			until = id.Expiry
		}
	}
	if req.TTL > 0 && req.TTL < ttl {
		ttl = req.TTL
	}
	return &Grant{
		Policy: g.policy.name, Name: g.name, Environment: g.policy.environment, Job: j.name,
		Issuer: g.issuer, Role: g.role, Parameters: parameters,
		TTL: ttl, AskedTTL: max(req.TTL, 0), MaxTTL: g.maxTTL, Until: until,
		MaxActive: g.maxActive, MaxActivePerJob: g.maxActivePerJob, Broad: g.policy.broad,
		Redact: g.redact, Env: g.env, Digest: s.digest,
	}, nil
}

// Grants lists all grants in the order of their names.
func (s *Set) Grants() []GrantInfo {
	list := make([]GrantInfo, 0, len(s.grants))
	for _, name := range slices.Sorted(maps.Keys(s.grants)) {
		g := s.grants[name]
		list = append(list, GrantInfo{
			Name: name, Owner: g.policy.owner, Description: g.policy.description, Environment: g.policy.environment,
			Issuer: g.issuer, Role: g.role, MaxActive: g.maxActive, Redact: slices.Clone(g.redact),
		})
	}
	return list
}
