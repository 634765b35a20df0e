package policies

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/daypass/daypass/policies/catalogue"
	"github.com/daypass/daypass/policies/condition"
)

// Explanation is one decision with everything that had a say in it. It holds what
// the policy asks for and what the token says: it is for those who may see both.
type Explanation struct {
	Grant   string `json:"grant"`
	Digest  string `json:"digest"` // of the set that decided
	Allowed bool   `json:"allowed"`
	Job     string `json:"job,omitempty"` // that let it through
	// Reason is why nothing was allowed, where that isn't in Jobs: no such grant.
	Reason string `json:"reason,omitempty"`
	TTL    string `json:"ttl,omitempty"` // of an allowed one; empty: the issuer's default
	// Jobs are the job entries of the grant: the one that lets it through first,
	// then the closest miss.
	Jobs []JobVerdict `json:"jobs"`
	// Others is how many job entries are left out, behind maxExplained.
	Others int `json:"others,omitempty"`
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

// The limits of an explanation.
const (
	maxExplained = 50  // job entries
	maxShown     = 200 // bytes of a value
)

// Explain decides as Decide does and says how it came about.
func (s *Set) Explain(id Identity, req Request, now time.Time) (*Explanation, error) {
	e := &Explanation{Grant: req.Grant, Digest: s.digest, Jobs: []JobVerdict{}}
	got, refusal := s.Decide(id, req, now)
	if refusal == nil {
		e.Allowed, e.Job = true, got.Job
		if got.TTL > 0 {
			e.TTL = got.TTL.String()
		}
	}
	g, ok := s.grants[req.Grant]
	if !ok {
		e.Reason = "there is no such grant"
		return e, nil
	}
	for _, j := range g.jobs {
		verdict, err := g.explain(j, &id, req, now)
		if err != nil {
			return nil, fmt.Errorf("explaining job %s of %s: %w", j.name, req.Grant, err)
		}
		e.Jobs = append(e.Jobs, *verdict)
	}
	slices.SortStableFunc(e.Jobs, func(a, b JobVerdict) int {
		return cmp.Or(cmp.Compare(rank(&a), rank(&b)), cmp.Compare(a.Missed, b.Missed))
	})
	if len(e.Jobs) > maxExplained {
		e.Others = len(e.Jobs) - maxExplained
		e.Jobs = e.Jobs[:maxExplained]
	}
	return e, nil
}

// rank puts what lets the job through before all others, and another provider's
// entries, which were never meant for it, behind.
func rank(v *JobVerdict) int {
	switch {
	case v.Allowed:
		return 0
	case v.Clauses[0].OK:
		return 1
	default:
		return 2
	}
}

func (g *grant) explain(j *job, id *Identity, req Request, now time.Time) (*JobVerdict, error) {
	v := &JobVerdict{Job: j.name}
	v.add(Clause{Kind: "provider", Want: j.provider, Got: id.Provider, OK: j.provider == id.Provider})
	for i := range j.claims {
		v.add(j.claims[i].explain(id.Claims))
	}
	if !j.until.IsZero() {
		v.add(Clause{Kind: "until", Want: "before " + j.until.Format(time.RFC3339), Got: now.UTC().Format(time.RFC3339), OK: !j.ended(now)})
	}
	if j.condition != nil {
		parts, err := j.condition.Explain(id.Claims, req.seen(now))
		if err != nil {
			return nil, err
		}
		for _, p := range parts {
			v.add(Clause{Kind: "condition", Want: p.Text, OK: p.OK, Why: p.Why})
		}
	}
	if _, err := g.parameters.fill(id.Claims); err != nil {
		v.add(Clause{Kind: "template", Name: strings.Join(g.parameters.unfit(id.Claims), ", "), Why: err.Error()})
	}
	if g.untilToken {
		v.add(Clause{Kind: "ttl", Want: "a job token that has not ended", Got: shownTime(id.Expiry), OK: now.Before(id.Expiry)})
	}
	v.Allowed = v.Missed == 0
	return v, nil
}

func (v *JobVerdict) add(c Clause) {
	if !c.OK {
		v.Missed++
	}
	v.Clauses = append(v.Clauses, c)
}

func shownTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// explain judges one claim.
func (c *claim) explain(claims map[string]any) Clause {
	value := condition.Canonical(catalogue.Value(claims, c.path))
	clause := Clause{Kind: "claim", Name: c.shown(), Want: c.wanted(), Got: shownValue(value), OK: c.matches(claims)}
	if clause.OK {
		return clause
	}
	if nameFits, found := c.conflict(claims); found {
		clause.Why = "the name was renamed: the id is right, the name is another"
		if nameFits {
			clause.Why = "the name is right, but its id is another's: it was taken over, or made anew"
		}
		return clause
	}
	clause.Why = c.why(value)
	return clause
}

// why tells apart what looks alike: absent, of another type, or simply different.
func (c *claim) why(value any) string {
	if value == nil {
		return "the token has no such claim"
	}
	_, isList := value.([]any)
	_, isText := value.(string)
	switch {
	case isList && len(c.elements) == 0:
		return "the claim is a list: write {contains: …}"
	case !isList && len(c.elements) > 0 && len(c.values)+len(c.patterns)+len(c.pairs) == 0:
		return "the claim is no list"
	case !isText && len(c.patterns) > 0 && len(c.values) == 0:
		return "a pattern fits texts alone"
	}
	for _, want := range c.values {
		if fmt.Sprint(want) == fmt.Sprint(value) {
			return "the same characters, but of another type"
		}
		if a, ok := want.(string); ok && isText && strings.EqualFold(a, value.(string)) {
			return "differs in upper and lower case alone"
		}
	}
	return ""
}

// wanted is the claim as the policy has it.
func (c *claim) wanted() string {
	var list []string
	for _, v := range c.values {
		list = append(list, shownValue(v))
	}
	for _, p := range c.patterns {
		list = append(list, fmt.Sprintf("{%s: %s}", p.Kind(), p))
	}
	for _, e := range c.elements {
		list = append(list, fmt.Sprintf("{contains: %s}", shownValue(e)))
	}
	for _, p := range c.pairs {
		list = append(list, fmt.Sprintf("{name: %s, id: %s}", strconv.Quote(p.name), strconv.Quote(p.id)))
	}
	if len(list) == 1 {
		return list[0]
	}
	return "any of " + strings.Join(list, ", ")
}

// shownValue writes a value as JSON does, so that "true" and true differ; empty
// for what is absent.
func shownValue(value any) string {
	if value == nil {
		return ""
	}
	written, err := json.Marshal(value)
	if err != nil {
		return "(can't be shown)"
	}
	if len(written) > maxShown {
		cut := written[:maxShown]
		for len(cut) > 0 && !utf8.Valid(cut) {
			cut = cut[:len(cut)-1]
		}
		return string(cut) + "…"
	}
	return string(written)
}
