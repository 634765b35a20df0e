package policies

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// tree writes an explanation in short.
func tree(e *Explanation) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v %s%s\n", e.Allowed, e.Job, e.Reason)
	for _, j := range e.Jobs {
		fmt.Fprintf(&b, "%s %v %d\n", j.Job, j.Allowed, j.Missed)
		for _, c := range j.Clauses {
			if !c.OK {
				fmt.Fprintf(&b, "  %s %s want %s got %s: %s\n", c.Kind, c.Name, c.Want, c.Got, c.Why)
			}
		}
	}
	return b.String()
}

func TestExplain(t *testing.T) {
	set := mustLoad(t, two)
	for _, tc := range []struct {
		name, grant string
		id          Identity
		want        string
	}{
		{"allowed", "pay/db", github(), "true release\nrelease true 0\nother false 4\n  provider  want oidc got github: \n" +
			"  claim admin want true got : the token has no such claim\n  claim level want 3 got : the token has no such claim\n  claim sub want \"x\" got : the token has no such claim\n"},
		{"the closest miss first", "pay/db", Identity{Provider: "oidc", ProviderType: "oidc", Claims: map[string]any{"sub": "X", "level": "3", "admin": true}}, "false \nother false 2\n" +
			"  claim level want 3 got \"3\": the same characters, but of another type\n  claim sub want \"x\" got \"X\": differs in upper and lower case alone\n" +
			"release false 5\n  provider  want github got oidc: \n  claim ref want any of \"refs/heads/main\", \"refs/heads/next\" got : the token has no such claim\n" +
			"  claim repository_id want \"1\" got : the token has no such claim\n  claim repository_owner_id want \"2\" got : the token has no such claim\n" +
			"  condition  want int(claims.run_attempt) < 3 got : condition: the token has no claim run_attempt\n"},
		{"a condition", "pay/never", github("run_attempt=7"), "false \nrelease false 2\n  condition  want int(claims.run_attempt) < 3 got : \n  condition  want request.grant != \"pay/never\" got : \n"},
		{"a template", "pay/jwt", github("actor"), "false \nrelease false 1\n  template actor want  got : template with claim actor: the token has no such claim\n"},
		{"no grant", "pay/none", github(), "false there is no such grant\n"},
	} {
		e, err := set.Explain(tc.id, Request{Grant: tc.grant}, noon)
		if err != nil {
			t.Fatal(err)
		}
		if got := tree(e); got != tc.want {
			t.Errorf("%s:\n%s\nwant\n%s", tc.name, got, tc.want)
		}
	}
}

// TestExplainAgreesWithDecide: the tree never says other than the decision.
func TestExplainAgreesWithDecide(t *testing.T) {
	set := mustLoad(t, two)
	rapid.Check(t, func(t *rapid.T) {
		claims := map[string]any{}
		for name, values := range map[string][]any{
			"repository_id": {"1", "9", int64(1), nil}, "repository_owner_id": {"2", "9"}, "ref": {"refs/heads/main", "refs/heads/evil", []any{"refs/heads/main"}},
			"run_attempt": {"1", "3", "x", nil}, "actor": {"me", "", "a\nb", nil}, "sub": {"x", "y"}, "level": {int64(3), "3"}, "admin": {true, "true"},
		} {
			if v := rapid.SampledFrom(values).Draw(t, name); v != nil {
				claims[name] = v
			}
		}
		id := Identity{Provider: rapid.SampledFrom([]string{"github", "oidc", "gitlab"}).Draw(t, "provider"), Claims: claims}
		req := Request{Grant: rapid.SampledFrom([]string{"pay/db", "pay/jwt", "pay/never", "pay/none"}).Draw(t, "grant"), TTL: time.Minute}
		got, refusal := set.Decide(id, req, noon)
		e, err := set.Explain(id, req, noon)
		if err != nil {
			t.Fatal(err)
		}
		if e.Allowed != (refusal == nil) || e.Allowed && e.Job != got.Job {
			t.Fatalf("%v and %v\n%s", got, refusal, tree(e))
		}
		if e.Allowed != (len(e.Jobs) > 0 && e.Jobs[0].Allowed) {
			t.Fatalf("the tree says otherwise:\n%s", tree(e))
		}
	})
}
