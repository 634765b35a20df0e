package lint_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/daypass/daypass/policies"
	"github.com/daypass/daypass/policies/condition"
	"github.com/daypass/daypass/policies/document"
	"github.com/daypass/daypass/policies/lint"
	"github.com/daypass/daypass/policies/strictyaml"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// server is a server with one provider of each type.
func server() map[string]lint.Provider {
	providers := make(map[string]lint.Provider)
	for typ, issuer := range map[string]string{
		"github": "https://token.actions.githubusercontent.com", "gitlab": "https://gitlab.example.com", "buildkite": "https://agent.buildkite.com",
		"circleci": "https://oidc.circleci.com/org/6d3f3e0e-40b7-4d0c-9d2f-7f2f4a3e1b11", "bitbucket": "https://api.bitbucket.org/2.0/workspaces/acme/pipelines-config/identity/oidc",
		"azure": "https://login.microsoftonline.com/9e6c7a37-7fbe-4fd8-8b4b-ac5c5a6f9b5d/v2.0", "terraform": "https://app.terraform.io",
		"kubernetes": "https://k8s.example.com", "jenkins": "https://jenkins.example.com/job/payments/oidc", "spiffe": "https://spire.example.com", "oidc": "https://id.example.com",
	} {
		providers[typ] = lint.Provider{Type: typ, Issuer: issuer, Audience: "https://ci.daypass.example.com", SessionTTL: time.Hour}
	}
	return providers
}

func conditions(t testing.TB) func(string) []string {
	t.Helper()
	compiler, err := condition.NewCompiler()
	if err != nil {
		t.Fatal(err)
	}
	return func(text string) []string {
		compiled, _ := compiler.Compile(text)
		if compiled == nil {
			return nil
		}
		return compiled.Names()
	}
}

// read reads policies that stand in one text, with --- between them.
func read(t testing.TB, text string) []*document.File {
	t.Helper()
	var files []*document.File
	for i, part := range strings.Split(text, "---\n") {
		f, mistakes := document.Read(fmt.Sprintf("f%d.yaml", i), []byte(part))
		if len(mistakes) > 0 {
			t.Fatalf("%v in\n%s", mistakes, part)
		}
		files = append(files, f)
	}
	return files
}

func check(t testing.TB, text string) []lint.Finding {
	t.Helper()
	return checkAll(read(t, text), lint.Context{Providers: server(), Now: noon, Conditions: conditions(t)})
}

// configuration is what of a server's configuration examples have.
type configuration struct {
	At        strictyaml.Where `yaml:"-"`
	Providers []struct {
		At          strictyaml.Where    `yaml:"-"`
		Name        string              `yaml:"name,required"`
		Type        string              `yaml:"type,required"`
		Issuer      string              `yaml:"issuer,required"`
		Audience    string              `yaml:"audience,required"`
		MaxTokenAge strictyaml.Duration `yaml:"max_token_age"`
		Replay      string              `yaml:"replay"`
		Private     bool                `yaml:"allow_private_address"`
	} `yaml:"providers"`
}

func checkProviders(t testing.TB, text string) []lint.Finding {
	t.Helper()
	var c configuration
	if mistakes := strictyaml.Decode("f0.yaml", []byte(text), &c); len(mistakes) > 0 {
		t.Fatalf("%v in\n%s", mistakes, text)
	}
	ctx := lint.Context{Providers: make(map[string]lint.Provider)}
	places := make(map[string]strictyaml.Where)
	for _, p := range c.Providers {
		places[p.Name] = p.At
		ctx.Providers[p.Name] = lint.Provider{
			Type: p.Type, Issuer: p.Issuer, Audience: p.Audience, MaxTokenAge: p.MaxTokenAge.Std(), ReplayOnce: p.Replay == "once", Private: p.Private, SessionTTL: time.Hour,
		}
	}
	return lint.CheckProviders(ctx, func(provider, key string) strictyaml.Pos { return places[provider].Of(key) })
}

func shown(findings []lint.Finding) string {
	lines := make([]string, len(findings))
	for i, f := range findings {
		lines[i] = fmt.Sprintf("%s %s %s", f.Rule, f.Severity, f.Mistake)
	}
	return strings.Join(lines, "\n")
}

// TestRules: what a rule gives as its bad example trips it, there and with that
// severity, and no other rule; what it gives as the good one doesn't.
func TestRules(t *testing.T) {
	want := map[string]string{ // line:col severity
		"AD-001": "4:13 warning", "AD-002": "8:12 error", "AD-003": "5:15 warning",
		"BB-001": "10:12 error", "BB-002": "8:7 error",
		"BK-001": "8:7 error", "BK-002": "10:21 warning", "BK-003": "10:19 warning",
		"CC-001": "8:7 warning", "CC-002": "8:7 error", "CC-003": "8:7 warning",
		"GEN-001": "5:15 error", "GEN-002": "8:7 error", "GEN-003": "8:19 warning", "GEN-004": "8:19 error",
		"GEN-006": "8:20 error", "GEN-007": "10:19 warning", "GEN-008": "10:12 warning", "GEN-009": "8:22 error",
		"GEN-010": "10:17 error", "GEN-012": "4:13 error", "GEN-014": "8:7 warning", "GEN-015": "10:5 info",
		"GEN-016": "6:20 warning", "GEN-017": "11:49 warning", "GEN-018": "8:7 error",
		"GH-001": "8:19 error", "GH-002": "10:12 warning", "GH-003": "10:12 error", "GH-004": "8:7 error",
		"GH-005": "12:12 error", "GH-006": "8:25 error", "GH-007": "10:28 warning", "GH-008": "10:17 error",
		"GH-009": "10:14 warning", "GH-010": "12:20 info", "GH-011": "10:12 error", "GH-012": "10:19 warning",
		"GH-013": "8:7 warning", "GH-014": "10:12 error", "GH-015": "10:35 error", "GH-016": "10:19 warning",
		"GH-017": "10:13 warning", "GH-018": "12:30 warning",
		"GL-001": "8:21 error", "GL-002": "10:12 error", "GL-003": "8:7 error", "GL-004": "10:22 error",
		"GL-005": "8:7 warning", "GL-006": "10:30 error", "GL-007": "10:19 warning", "GL-008": "4:13 error",
		"GL-009": "8:7 info", "GL-010": "6:13 warning",
		"JK-001": "8:7 error", "JK-002": "4:13 warning",
		"K8-001": "5:15 error", "K8-002": "8:7 warning",
		"TF-001": "8:7 error", "TF-002": "8:7 error",
		"WVR-001": "1:1 error", "WVR-002": "1:1 error", "WVR-003": "1:1 warning", "WVR-004": "10:7 warning",
	}
	rules := lint.Rules()
	for _, rule := range rules {
		t.Run(rule.ID, func(t *testing.T) {
			if rule.Title == "" || rule.Why == "" || rule.Fix == "" || rule.Source == "" || rule.Severity == "" {
				t.Errorf("something isn't said: %+v", rule)
			}
			run := check
			switch {
			case rule.Held != "":
				testHeld(t, rule)
				return
			case rule.Providers:
				run = checkProviders
			}
			bad := run(t, rule.Bad)
			if len(bad) != 1 || bad[0].Rule != rule.ID {
				t.Fatalf("the bad example\n%s\nhas the findings\n%s", rule.Bad, shown(bad))
			}
			if got := fmt.Sprintf("%d:%d %s", bad[0].Line, bad[0].Col, bad[0].Severity); got != want[rule.ID] {
				t.Errorf("found at %q: %q, want %q: %s in\n%s", rule.ID, got, want[rule.ID], bad[0].Mistake, rule.Bad)
			}
			good := run(t, rule.Good)
			if slices.ContainsFunc(good, func(f lint.Finding) bool { return f.Rule == rule.ID || f.Severity == lint.Error }) {
				t.Errorf("the good example\n%s\nhas the findings\n%s", rule.Good, shown(good))
			}
		})
	}
	if len(want) != len(rules)-4 {
		t.Errorf("%d places for %d rules, of which four are held by the loader", len(want), len(rules))
	}
}

// testHeld: the loader refuses the bad example, and not the good one.
func testHeld(t *testing.T, rule lint.Rule) {
	t.Helper()
	load := func(text string) error {
		_, err := policies.Load(t.Context(), policies.Source{FS: fstest.MapFS{"a.yaml": {Data: []byte(text)}}}, policies.Config{Providers: server(), Now: noon})
		return err
	}
	if err := load(rule.Bad); err == nil || strings.Contains(err.Error(), "[") {
		t.Errorf("the bad example was loaded, or refused by the linter: %v", err)
	}
	if err := load(rule.Good); err != nil {
		t.Errorf("the good example: %v", err)
	}
}

// checkAll judges files as one set.
func checkAll(files []*document.File, ctx lint.Context) []lint.Finding {
	l := lint.New(ctx)
	for _, f := range files {
		l.Add(f)
	}
	return l.Findings()
}
