package report_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/daypass/daypass/policies/lint"
	"github.com/daypass/daypass/policies/report"
	"github.com/daypass/daypass/policies/strictyaml"
)

func findings() []lint.Finding {
	return []lint.Finding{
		{Mistake: strictyaml.Mistake{File: "a b/100%,x:y.yaml", Line: 3, Col: 7, Text: "50% of\nlines::error::", Hint: "do, so"}, Rule: "POLICY", Severity: lint.Error},
		{Mistake: strictyaml.Mistake{File: "b.yaml", Text: "the whole"}, Rule: "XX-001", Severity: lint.Warning},
		{Mistake: strictyaml.Mistake{File: "b.yaml", Text: "the whole"}, Rule: "XX-001", Severity: lint.Info},
	}
}

func TestText(t *testing.T) {
	var b strings.Builder
	if err := report.Text(&b, findings()[1:]); err != nil {
		t.Fatal(err)
	}
	if got, want := b.String(), "b.yaml: warning: [XX-001] the whole\nb.yaml: info: [XX-001] the whole\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestGitHubEscapes(t *testing.T) {
	var b strings.Builder
	if err := report.GitHub(&b, findings()); err != nil {
		t.Fatal(err)
	}
	const want = "::error file=a b/100%25%2Cx%3Ay.yaml,line=3,col=7,title=[POLICY]::50%25 of%0Alines::error::%0Ahint: do, so\n" +
		"::warning file=b.yaml,title=[XX-001]::the whole\n::notice file=b.yaml,title=[XX-001]::the whole\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func TestSARIF(t *testing.T) {
	var b strings.Builder
	if err := report.SARIF(&b, findings(), "v1"); err != nil {
		t.Fatal(err)
	}
	var log struct {
		Version string
		Runs    []struct {
			Tool struct {
				Driver struct {
					Rules []struct {
						ID   string
						Help struct{ Text string }
					}
				}
			}
			Results []struct {
				RuleID    string
				RuleIndex int
				Level     string
				Locations []struct {
					PhysicalLocation struct {
						ArtifactLocation struct{ URI string }
						Region           struct{ StartLine, StartColumn int }
					}
				}
				PartialFingerprints map[string]string
			}
		}
	}
	if err := json.Unmarshal([]byte(b.String()), &log); err != nil {
		t.Fatal(err)
	}
	run := log.Runs[0]
	if log.Version != "2.1.0" || len(run.Results) != 3 {
		t.Fatalf("version %s, %d results", log.Version, len(run.Results))
	}
	prints := map[string]bool{}
	for i, level := range []string{"error", "warning", "note"} {
		r := run.Results[i]
		if r.Level != level || run.Tool.Driver.Rules[r.RuleIndex].ID != r.RuleID || run.Tool.Driver.Rules[r.RuleIndex].Help.Text == "" {
			t.Errorf("result %d: %+v", i, r)
		}
		prints[r.PartialFingerprints["daypass/v1"]] = true
		if at := r.Locations[0].PhysicalLocation; at.Region.StartLine < 1 || at.Region.StartColumn < 1 {
			t.Errorf("result %d begins at %+v", i, at.Region)
		}
	}
	if got, want := run.Results[0].Locations[0].PhysicalLocation.ArtifactLocation.URI, "a%20b/100%25,x:y.yaml"; got != want {
		t.Errorf("uri %q, want %q", got, want)
	}
	if len(prints) != 3 {
		t.Errorf("%d fingerprints of 3 findings", len(prints))
	}
}

func TestEveryRuleOfLoadingIsExplained(t *testing.T) {
	for _, id := range []string{"FILE", "SYNTAX", "POLICY", "TEST"} {
		r, ok := report.Lookup(id)
		if !ok || r.Title == "" || r.Why == "" || r.Fix == "" || r.Severity != lint.Error {
			t.Errorf("%s: %+v", id, r)
		}
	}
	if _, ok := report.Lookup("NONE"); ok {
		t.Error("a rule that isn't there is found")
	}
	list := report.Of(findings(), []string{"issuers"})
	if list.Errors != 1 || list.Warnings != 1 || len(list.Findings) != 3 || len(list.Skipped) != 1 {
		t.Errorf("%+v", list)
	}
}
