package policies

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Decide says whether the identity may have the grant. The error is a *[Denial],
// and nothing else. What the Grant refers to belongs to the set: don't change it.
func (s *Set) Decide(id Identity, req Request, now time.Time) (*Grant, error) {
	g, ok := s.grants[req.Grant]
	if !ok {
		return nil, s.unknown(&id, req, now)
	}
	var reasons []string
	var claims []string
	for _, j := range g.jobs {
		missing, err := j.admit(&id, req, now)
		if err == nil {
			return s.allow(g, j, &id, req)
		}
		reasons = append(reasons, fmt.Sprintf("job %s: %v", j.name, err))
		if j.provider == id.Provider && j.ours(&id) && (claims == nil || len(missing) < len(claims)) {
			claims = missing
		}
	}
	return nil, &Denial{Code: CodeNotAllowed, Grant: req.Grant, Claims: claims, Detail: strings.Join(reasons, "; ")}
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
		other := Request{Grant: p.name + "/" + g.name, TTL: req.TTL}
		for _, j := range g.jobs {
			if _, err := j.admit(id, other, now); err == nil {
				denial.Code = CodeNoSuchGrant
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
			missing = append(missing, c.name)
		}
	}
	if len(missing) > 0 {
		return missing, fmt.Errorf("claims don't match: %s", strings.Join(missing, ", "))
	}
	if j.condition == nil {
		return nil, nil
	}
	if err := j.condition.allow(id.Claims, req, now); err != nil {
		return []string{ConditionClaim}, err
	}
	return nil, nil
}

func (s *Set) allow(g *grant, j *job, id *Identity, req Request) (*Grant, error) {
	parameters, err := g.parameters.fill(id.Claims)
	if err != nil {
		denial := &Denial{Code: CodeNotAllowed, Grant: req.Grant, Detail: fmt.Sprintf("job %s: filling parameters: %v", j.name, err)}
		if j.ours(id) {
			denial.Claims = g.parameters.unfit(id.Claims)
		}
		return nil, denial
	}
	ttl := g.ttl
	if req.TTL > 0 && req.TTL < ttl {
		ttl = req.TTL
	}
	return &Grant{
		Policy: g.policy.name, Name: g.name, Environment: g.policy.environment, Job: j.name,
		Issuer: g.issuer, Role: g.role, Parameters: parameters,
		TTL: ttl, AskedTTL: max(req.TTL, 0), MaxTTL: g.maxTTL, MaxActive: g.maxActive,
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
