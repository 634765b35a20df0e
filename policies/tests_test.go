package policies

import (
	"strings"
	"testing"
	"testing/fstest"
)

// withTests is the policy `two` and tests of it.
func withTests(tests string) string { return two + "tests:\n" + tests }

func TestTestsPass(t *testing.T) {
	timed := strings.Replace(withTests(`  - name: in the morning
    at: "2026-11-23T10:00:00Z"
    job: {provider: github, claims: {repository_id: "1", repository_owner_id: "2", ref: refs/heads/main, run_attempt: "1", actor: me}}
    allow: [db, jwt]
    deny: [never]
  - name: at night
    at: 2026-11-23T03:00:00Z
    job: {provider: github, claims: {repository_id: "1", repository_owner_id: "2", ref: refs/heads/main, run_attempt: "1", actor: me}}
    deny: [db, jwt, never]
  - name: a pull request needs no time
    job: {provider: github, claims: {repository_id: "1", repository_owner_id: "2", ref: refs/pull/7/merge}}
    deny: [db, jwt]
  - name: a number, a truth value
    job: {provider: oidc, claims: {sub: x, level: 3, admin: true, groups: [a, {b: c}]}}
    allow: [db]
    deny: [jwt]
  - name: a text is no number
    job: {provider: oidc, claims: {sub: x, level: "3", admin: true}}
    deny: [db]
  - name: no claims at all
    job: {provider: gitlab, claims: {}}
    deny: [db]
`), "< 3 &&", "< 3 && request.time.getHours() > 6 &&", 1)
	mustLoad(t, timed)

	// The same without a configuration: the verdicts are no others.
	if _, err := Load(t.Context(), Source{FS: fstest.MapFS{"a.yaml": {Data: []byte(timed)}}}, Config{}); err != nil {
		t.Error(err)
	}
}

// A failing test keeps the whole set from loading, with its place and the reason.
func TestTestsFail(t *testing.T) {
	const ours = `repository_id: "1", repository_owner_id: "2", ref: refs/heads/main`
	for _, tc := range []struct{ test, want string }{
		{`{name: a, job: {provider: github, claims: {` + ours + `, run_attempt: "3"}}, allow: [db]}`, "job release: condition: false; job other: another provider"},
		{`{name: a, job: {provider: github, claims: {` + ours + `}}, allow: [db]}`, "the token has no claim run_attempt"},
		{`{name: a, job: {provider: github, claims: {` + ours + `, run_attempt: "1"}}, allow: [jwt]}`, "template with claim actor: the token has no such claim"},
		{`{name: a, job: {provider: github, claims: {` + ours + `, run_attempt: "1"}}, deny: [db]}`, `test "a": db should be denied, and job release lets it through`},
		{`{name: a, job: {provider: oidc, claims: {sub: x, level: 3, admin: true}}, deny: [jwt, db]}`, `test "a": db should be denied, and job other lets it through`},
	} {
		set, err := loadText(t, minimal, withTests("  - "+tc.test+"\n"))
		if set != nil || err == nil || !strings.HasPrefix(err.Error(), "f1.yaml:17:5: ") || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.test, err, tc.want)
		}
	}
}

func TestTestsAskForTheTime(t *testing.T) {
	for condition, timed := range map[string]bool{
		`claims.x == "1"`: false, `request.time > timestamp("2020-01-01T00:00:00Z")`: true,
		`claims.x == "1" && ["a"].all(a, request.time.getHours() < 25)`: true, `.request.time.getHours() < 25`: true,
		`claims.x == "1" && request.ttl == duration("0s")`: false, `claims.x != "request.time"`: false,
	} {
		text := strings.Replace(minimal, `github, claims: {repository_id: "1"}`, `oidc, claims: {sub: "1"}, condition: '`+condition+`'`, 1) + `tests:
  - {name: a, job: {provider: oidc, claims: {sub: "1", x: "1"}}, allow: [g]}
`
		_, err := loadText(t, text)
		if asked := err != nil && strings.Contains(err.Error(), "has to say when"); asked != timed || !asked && err != nil {
			t.Errorf("%s: %v", condition, err)
		}
	}
}
