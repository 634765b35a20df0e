package clients

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/daypass/daypass/broker/brokertest"
)

// TestDoctor asks a whole broker what it would give, and nothing is issued by it.
func TestDoctor(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	doctor := programs(t) + "/daypass"
	good := newJob(t, b).onGitHub("")
	for _, step := range []struct {
		name string
		j    *job
		args []string
		code int
		want []string
	}{
		{"a grant", good, []string{"--grant", "payments/deploy-db", "--grant", "payments/sign"}, 0, []string{"payments/deploy-db would be given", "payments/sign would be given", "all is well"}},
		{"the token alone", good, nil, 0, []string{"the broker takes the token", "aud ", "iss "}},
		{"another audience", good, []string{"--audience", "https://elsewhere.example"}, 3, []string{"invalid_token audience", "have the token made for the audience"}},
		{"another branch", newJob(t, b).onGitHub("&claim.ref=refs/heads/feature"), []string{"--grant", "payments/deploy-db"}, 3, []string{`ref is "refs/heads/feature" here`, "--request req_"}},
		{"an old token", newJob(t, b).onGitHub("&ttl=-10m"), nil, 1, []string{"get a new token: this one ended", "invalid_token expired"}},
	} {
		out, code := step.j.run(doctor, append([]string{"doctor"}, step.args...)...)
		if code != step.code {
			t.Errorf("%s: exit code %d, want %d\n%s", step.name, code, step.code, out)
		}
		for _, want := range step.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %q in\n%s", step.name, want, out)
			}
		}
		if strings.Contains(out, "eyJ") {
			t.Errorf("%s: a token stands in\n%s", step.name, out)
		}
	}
	var d struct {
		OK     bool
		CI     struct{ Name string }
		Grants []struct {
			Grant   string
			Allowed bool
		}
	}
	out := good.mustRun(doctor, "doctor", "--grant", "payments/other-db", "--output", "json")
	if err := json.Unmarshal([]byte(out), &d); err != nil || !d.OK || d.CI.Name != "github" || len(d.Grants) != 1 || !d.Grants[0].Allowed {
		t.Errorf("%v\n%s", err, out)
	}
	if live := append(b.DB.Live(), b.Other.Live()...); len(live) > 0 || len(b.DB.Calls()) > 0 {
		t.Errorf("issued: %v", live)
	}
}
