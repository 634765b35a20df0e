//go:build !packed

package main

import (
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/daypass/daypass/policies/lint"
	"github.com/daypass/daypass/policies/report"
)

// testResult is what `policy test` found.
type testResult struct {
	Policies  int              `json:"policies"`
	Tests     int              `json:"tests"`
	Passed    bool             `json:"passed"`
	Failures  []report.Finding `json:"failures"`
	Uncovered []uncovered      `json:"uncovered,omitempty"`
	Skipped   []string         `json:"skipped"`
}

// uncovered is a job or grant that no test expects to be allowed.
type uncovered struct {
	Policy string `json:"policy"`
	Kind   string `json:"kind"` // job or grant
	Name   string `json:"name"`
	File   string `json:"file"`
	Line   int    `json:"line"`
	Col    int    `json:"col"`
}

func (p *program) policyTestCommand() *cobra.Command {
	var (
		configFile        string
		coverage, require bool
	)
	cmd := &cobra.Command{
		Use:   "test [PATH...]",
		Short: "Run the tests that policies carry",
		Long: `Test loads policies, which runs the tests that stand in them, and says how many passed
or which failed and why. --coverage names the jobs and grants that no test expects to
be allowed; --require-coverage fails when there are any.`,
		Example: `  daypass policy test policies/
  daypass policy test --coverage policies/payments.yaml`,
		RunE: func(cmd *cobra.Command, args []string) error { return nil },
	}
	configFlag(cmd, &configFile)
	out := outputFlag(cmd)
	cmd.Flags().BoolVar(&coverage, "coverage", false, "name jobs and grants that no test reaches")
	cmd.Flags().BoolVar(&require, "require-coverage", false, "the same, and fail when there are any")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		l, err := p.loadPolicies(cmd.Context(), args, configFile)
		if err != nil {
			return err
		}
		result := l.tested(coverage || require)
		if *out == outputJSON {
			err = p.printJSON(result)
		} else {
			p.skipping(l.skipped)
			err = p.printTested(result)
		}
		switch {
		case err != nil:
			return fmt.Errorf("printing results: %w", err)
		case !result.Passed, require && len(result.Uncovered) > 0:
			return &exit{exitFailed, nil}
		}
		return nil
	}
	return cmd
}

func (l *loadedPolicies) tested(coverage bool) testResult {
	bad := slices.DeleteFunc(slices.Clone(l.findings), func(f lint.Finding) bool { return f.Severity != lint.Error })
	list := report.Of(bad, l.skipped)
	result := testResult{Passed: l.set != nil, Failures: list.Findings, Skipped: list.Skipped}
	if l.set == nil {
		return result
	}
	result.Policies = l.set.Policies()
	tests, missed := l.set.Tested()
	result.Tests = tests
	if !coverage {
		return result
	}
	for _, u := range missed {
		result.Uncovered = append(result.Uncovered, uncovered{u.Policy, u.Kind, u.Name, l.sources.name(u.At.File), u.At.Line, u.At.Col})
	}
	return result
}

func (p *program) printTested(r testResult) error {
	w := cleaner{p.stdout}
	for _, f := range r.Failures {
		hint := ""
		if f.Hint != "" {
			hint = " (hint: " + f.Hint + ")"
		}
		if _, err := fmt.Fprintf(w, "%s:%d:%d: [%s] %s%s\n", f.File, f.Line, f.Col, f.Rule, f.Text, hint); err != nil {
			return err
		}
	}
	for _, u := range r.Uncovered {
		if _, err := fmt.Fprintf(w, "%s:%d:%d: no test of %s expects %s %s to be allowed\n", u.File, u.Line, u.Col, u.Policy, u.Kind, u.Name); err != nil {
			return err
		}
	}
	last := fmt.Sprintf("ok: %s of %s passed\n", plural(r.Tests, "test"), plural(r.Policies, "policy"))
	if !r.Passed {
		last = fmt.Sprintf("failed: %s\n", plural(len(r.Failures), "error"))
	}
	_, err := io.WriteString(p.stdout, last)
	return err
}
