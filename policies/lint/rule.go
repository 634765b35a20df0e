package lint

import (
	"slices"
	"strings"
)

// Rule is one thing that the linter looks for.
type Rule struct {
	ID       string
	Severity Severity // of its gravest finding
	Title    string   // what it detects, in one line
	Why      string   // what happens otherwise
	Fix      string   // what to do, in general; findings have hints of their own
	Source   string   // where that was learned
	Unseen   string   // what of it can't be told from files; "" nothing
	// Held says which part of the loader refuses such a file, so that it is never a
	// Finding; "" for a rule that Check or CheckProviders looks for.
	Held string
	// Providers says that it judges the server's configuration, by CheckProviders.
	Providers bool
	// Bad is a policy (for Providers, a piece of configuration) that trips this rule
	// and no other; Good is the same, mended.
	Bad, Good string

	types     []string // of providers whose job entries it judges; nil: all
	entry     func(*entry)
	policy    func(*policy)
	provider  func(*provider)
	inWaivers bool // found while waivers are read, and so can't be waived
}

// Unchecked is a rule that nothing here looks for.
type Unchecked struct{ ID, Title, Why string }

// NotChecked lists what the linter knows of and doesn't look for, and why.
func NotChecked() []Unchecked {
	return []Unchecked{
		{"GEN-013", "JWKS URL derived or pinned although discovery gives another", "The configuration has no such setting: where an issuer's keys are is always taken from its discovery document, so that GitHub's enterprise issuers, whose keys stand at the root host, are right as they are."},
		{"GEN-019", "a rule permits editing of the policy repository itself", "Nothing says which repository holds the policies, nor what an issued credential may write to. Keep the policies where no credential of this broker can push, and let a second person review each change."},
	}
}

// Rules lists all rules, in the order of their ids.
func Rules() []Rule {
	list := table()
	rules := make([]Rule, len(list))
	for i, r := range list {
		rules[i] = *r
	}
	slices.SortFunc(rules, func(a, b Rule) int { return strings.Compare(a.ID, b.ID) })
	return rules
}

// Lookup finds a rule by its id.
func Lookup(id string) (Rule, bool) {
	for _, r := range table() {
		if r.ID == id {
			return *r, true
		}
	}
	return Rule{}, false
}

// table is all rules.
func table() []*Rule {
	return slices.Concat(genericRules(), patternRules(), claimRules(), setRules(), heldRules(), providerRules(),
		githubRules(), githubSubRules(), gitlabRules(), buildkiteRules(), circleciRules(), otherRules(), waiverRules())
}

// onePolicy is an example: a policy with one job entry. claims are its lines, and
// more what stands behind the grants.
func onePolicy(environment, provider, claims string, more ...string) string {
	var b strings.Builder
	b.WriteString("policy: example\nowner: team@example.com\nenvironment: " + environment + "\njobs:\n  - name: deploy\n    provider: " + provider + "\n    claims:\n")
	for line := range strings.Lines(claims) {
		b.WriteString("      " + line)
	}
	b.WriteString("\ngrants:\n  - {name: db, jobs: [deploy], issuer: db}\n")
	for _, text := range more {
		b.WriteString(text)
	}
	return b.String()
}
