package policies

import (
	"errors"
	"strings"
	"testing"
	"time"
)

const excepted = `policy: p
owner: a@example.com
environment: test
jobs: [{name: j, provider: github, claims: {repository_id: "1", ref: refs/heads/main}}]
grants:
  - {name: g, issuer: db, ttl: 1h, max_ttl: 2h, max_active: 3}
  - {name: other, issuer: db}
exceptions:
  - grant: g
    jobs:
      - {provider: github, claims: {repository_id: "1", ref: refs/heads/migrate}, condition: 'claims.run_attempt == "1"'}
    owner: oncall@example.com
    reason: one-off migration
    until: 2026-12-01
`

func TestException(t *testing.T) {
	set := mustLoad(t, excepted)
	last := time.Date(2026, 11, 30, 23, 59, 59, 0, time.UTC)
	for _, tc := range []struct {
		name  string
		id    Identity
		grant string
		at    time.Time
		job   string // "": denied
	}{
		{"the exception", github("ref=refs/heads/migrate"), "p/g", noon, "exception 1"},
		{"to its last second", github("ref=refs/heads/migrate"), "p/g", last, "exception 1"},
		{"not a second longer", github("ref=refs/heads/migrate"), "p/g", last.Add(time.Second), ""},
		{"its condition holds", github("ref=refs/heads/migrate", "run_attempt=2"), "p/g", noon, ""},
		{"no other branch", github("ref=refs/heads/x"), "p/g", noon, ""},
		{"no other grant", github("ref=refs/heads/migrate"), "p/other", noon, ""},
		{"jobs as before", github(), "p/g", noon, "j"},
		{"jobs after its end", github(), "p/g", last.Add(time.Hour), "j"},
	} {
		got, err := set.Decide(tc.id, Request{Grant: tc.grant}, tc.at)
		switch {
		case tc.job == "" && err == nil:
			t.Errorf("%s: allowed by %s", tc.name, got.Job)
		case tc.job != "" && (err != nil || got.Job != tc.job):
			t.Errorf("%s: %+v, %v", tc.name, got, err)
		}
	}
	got, err := set.Decide(github("ref=refs/heads/migrate"), Request{Grant: "p/g"}, last)
	if err != nil || !got.Until.Equal(last.Add(time.Second)) || got.TTL != time.Hour || got.MaxTTL != 2*time.Hour || got.MaxActive != 3 {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := set.Decide(github(), Request{Grant: "p/g"}, last); err != nil || !got.Until.IsZero() {
		t.Errorf("a job that is none: %+v, %v", got, err)
	}
	_, err = set.Decide(github("ref=refs/heads/migrate"), Request{Grant: "p/g"}, last.Add(time.Hour))
	var denial *Denial
	if !errors.As(err, &denial) || strings.Join(denial.Claims, " ") != ExceptionClaim || !strings.Contains(denial.Detail, "the exception ended at 2026-12-01T00:00:00Z") {
		t.Errorf("%+v", denial)
	}
}

func TestExceptionMistakes(t *testing.T) {
	for change, want := range map[string]string{
		"grant: g=>grant: gg":                      `there is no grant "gg" in this policy (hint: did you mean g?)`,
		"    owner: oncall@example.com\n=>":        "the key owner is missing",
		"reason: one-off migration=>reason: \" \"": "reason has between 1 and 1024 bytes",
		"until: 2026-12-01=>until: soon":           "a day is wanted here",
		"until: 2026-12-01=>until: 2026-13-01":     "a day is wanted here",
		"    until: 2026-12-01\n=>":                "the key until is missing",
		"provider: github, claims: {repository_id: \"1\", ref: refs/heads/migrate}=>provider: githup, claims: {repository_id: \"1\"}": `no provider "githup"`,
		"condition: 'claims.run_attempt == \"1\"'=>condition: has(claims.x)":                                                          "has is accepted only as",
		"- {provider: github,=>- {name: x, provider: github,":                                                                         "unknown key name",
	} {
		from, to, _ := strings.Cut(change, "=>")
		text := strings.Replace(excepted, from, to, 1)
		if text == excepted {
			t.Fatalf("%q changes nothing", change)
		}
		if _, err := loadText(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", change, err)
		}
	}
	// A test that an exception has a say in must say when.
	test := "tests:\n  - {name: t, job: {provider: github, claims: {repository_id: \"1\", ref: refs/heads/migrate, run_attempt: \"1\"}}, allow: [g]}\n"
	if _, err := loadText(t, excepted+test); err == nil || !strings.Contains(err.Error(), "has to say when") {
		t.Errorf("%v", err)
	}
	mustLoad(t, excepted+strings.Replace(test, "name: t,", "name: t, at: 2026-11-30T00:00:00Z,", 1))
	if _, err := loadText(t, excepted+strings.Replace(test, "name: t,", "name: t, at: 2026-12-01T00:00:00Z,", 1)); err == nil || !strings.Contains(err.Error(), "the exception ended") {
		t.Errorf("%v", err)
	}
}

func TestTTLUntilTokenExpires(t *testing.T) {
	text := strings.Replace(minimal, "issuer: db", "issuer: db, ttl: until job token expires", 1)
	set := mustLoad(t, text)
	id := github()
	id.Expiry = noon.Add(5 * time.Minute)
	for asked, want := range map[time.Duration]time.Duration{0: 5 * time.Minute, time.Minute: time.Minute, time.Hour: 5 * time.Minute} {
		if got, err := set.Decide(id, Request{Grant: "p/g", TTL: asked}, noon); err != nil || got.TTL != want || !got.Until.Equal(id.Expiry) {
			t.Errorf("asked %s: %+v, %v", asked, got, err)
		}
	}
	for _, expiry := range []time.Time{{}, noon, noon.Add(-time.Second)} {
		id.Expiry = expiry
		var denial *Denial
		if _, err := set.Decide(id, Request{Grant: "p/g"}, noon); !errors.As(err, &denial) || strings.Join(denial.Claims, " ") != "exp" {
			t.Errorf("until %s: %+v", expiry, denial)
		}
	}
	for change, want := range map[string]string{"expires, max_ttl: 1h": "max_ttl beside a ttl that ends with the job's token", "expires soon": "is not a duration"} {
		if _, err := loadText(t, strings.Replace(text, "expires", change, 1)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", change, err)
		}
	}
}

func TestSessionAndPerJobLimit(t *testing.T) {
	set := mustLoad(t, strings.Replace(minimal, "issuer: db", "issuer: db, max_active_per_job: 2", 1)+"session: broad\n")
	if got, err := set.Decide(github(), Request{Grant: "p/g"}, noon); err != nil || !got.Broad || got.MaxActivePerJob != 2 {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := mustLoad(t, minimal+"session: narrow\n").Decide(github(), Request{Grant: "p/g"}, noon); err != nil || got.Broad || got.MaxActivePerJob != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	for _, text := range []string{minimal + "session: wide\n", strings.Replace(minimal, "issuer: db", "issuer: db, max_active_per_job: 0", 1)} {
		if _, err := loadText(t, text); err == nil {
			t.Errorf("%s loads", text)
		}
	}
}
