package condition

import (
	"strings"
	"testing"
)

func TestExplain(t *testing.T) {
	for _, tc := range []struct {
		text string
		want []string // text of each term, ✓ or ✗, reason
	}{
		{`claims.actor_id == "7"`, []string{`claims.actor_id == "7" ✓`}},
		{`claims.actor_id == "8"`, []string{`claims.actor_id == "8" ✗`}},
		{`claims.actor_id == "7" && claims.number > 9 && claims.yes == true`, []string{`claims.actor_id == "7" ✓`, `claims.number > 9 ✗`, `claims.yes == true ✓`}},
		{`claims.absent == "x" && claims.actor_id == "7"`, []string{`claims.absent == "x" ✗ condition: the token has no claim absent`, `claims.actor_id == "7" ✓`}},
		{`(claims.actor_id == "8" || claims.absent == "x") && claims.yes == true`, []string{`claims.actor_id == "8" || claims.absent == "x" ✗ condition: the token has no claim absent`, `claims.yes == true ✓`}},
		{`has(claims.absent) && claims.absent == "x"`, []string{`has(claims.absent) ✗`, `claims.absent == "x" ✗ condition: the token has no claim absent`}},
		{`claims.groups.exists(g, g == "b") && int(claims.run_attempt) <= 1`, []string{`claims.groups.exists(g, g == "b") ✓`, `int(claims.run_attempt) <= 1 ✗`}},
		{`int(claims.ref) == 1`, []string{`int(claims.ref) == 1 ✗ `}},
	} {
		compiler, err := NewCompiler()
		if err != nil {
			t.Fatal(err)
		}
		c, problems := compiler.Compile(tc.text)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		parts, err := c.Explain(testClaims(), Request{Time: noon})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range parts {
			mark := " ✗"
			if p.OK {
				mark = " ✓"
			}
			got = append(got, strings.TrimSpace(p.Text+mark+" "+p.Why))
		}
		if len(got) != len(tc.want) {
			t.Errorf("%s: %q, want %q", tc.text, got, tc.want)
			continue
		}
		for i := range got {
			if !strings.HasPrefix(got[i], tc.want[i]) {
				t.Errorf("%s: %q, want %q", tc.text, got[i], tc.want[i])
			}
		}
	}
}
