package lint

import "strings"

// heldRules are those that the loader holds: such a file is refused before the
// linter could say anything.
func heldRules() []*Rule { return []*Rule{gen005(), gen011(), gen020(), gen021()} }

func gen005() *Rule {
	return &Rule{
		ID: "GEN-005", Severity: Error, Title: "a regular expression that isn't anchored at both ends as a group",
		Why:    "`^a|b$` matches `aEVIL` and `EVILb`. And `x)|(`, put between ^(?: and )$, closes the group.",
		Fix:    "Nothing in `claims`: every pattern there matches the whole of a claim or nothing. In a condition write matches('^(?:…)$').",
		Source: "octo-sts trust_policy.go, org_trusted_issuers.go",
		Held:   "package pattern anchors patterns of claims in one place, and refuses what doesn't compile alone; package condition refuses matches() without both anchors",
		Bad:    onePolicy("test", "github", somePush+"\nref: {regex: 'x)|('}"),
		Good:   onePolicy("test", "github", somePush+"\nref: {regex: 'refs/heads/a|refs/heads/b'}"),
	}
}

func gen011() *Rule {
	return &Rule{
		ID: "GEN-011", Severity: Error, Title: "a negative match on a claim that can be absent",
		Why:    "Absence would pass: CircleCI's vcs-ref isn't in every token, and a token without it is not equal to what was forbidden.",
		Fix:    "Say what is allowed. Where a negation is needed, the claim has to be there: a condition that names an absent claim refuses.",
		Source: "CircleCI docs (`vcs-ref` absent for custom webhooks)",
		Held:   "`claims` has no negation; package condition refuses has() anywhere but in has(x) && …, and a token without a claim that is named",
		Bad:    withCondition(`!has(claims.head_ref)`),
		Good:   withCondition(`claims.ref != "refs/heads/main"`),
	}
}

// withCondition is an example with a condition.
func withCondition(text string) string {
	return strings.Replace(onePolicy("test", "github", somePush), "    claims:", "    condition: '"+text+"'\n    claims:", 1)
}

func gen020() *Rule {
	exception := "exceptions:\n  - grant: db\n    jobs: [{provider: github, claims: {repository_id: \"7\", event_name: push}}]\n    reason: one-off migration\n"
	return &Rule{
		ID: "GEN-020", Severity: Error, Title: "an exception without owner, reason or end",
		Why:    "Nobody could review it, and it would stay for ever.",
		Fix:    "Write owner, reason and until: an exception ends by itself.",
		Source: "access reviews",
		Held:   "package document: the three keys are required",
		Bad:    onePolicy("test", "github", somePush, exception),
		Good:   onePolicy("test", "github", somePush, exception+"    owner: oncall@example.com\n    until: 2027-01-31\n"),
	}
}

func gen021() *Rule {
	return &Rule{
		ID: "GEN-021", Severity: Error, Title: "a claim set into a role, a name or a path without escaping",
		Why:    "Whoever chooses the claim would choose the role: OpenBao had to refuse `/`, `+`, `*` and `,` in its identity templates.",
		Fix:    "Templates stand in `with` alone; what comes out travels to the issuer as a JSON text, and can't become structure.",
		Source: "OpenBao changelog 2.6.0, GHSA-59w7-v8rr-pr4p",
		Held:   "the loader refuses {{ in every other place, and control characters in what is filled in; issuers escape for their own target",
		Bad:    strings.Replace(onePolicy("test", "github", somePush), "issuer: db", `issuer: db, role: "{{ claims.ref }}"`, 1),
		Good:   strings.Replace(onePolicy("test", "github", somePush), "issuer: db", `issuer: db, with: {audience: "{{ claims.ref }}"}`, 1),
	}
}
