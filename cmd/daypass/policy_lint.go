//go:build !packed

package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/daypass/daypass/policies/lint"
	"github.com/daypass/daypass/policies/report"
	"github.com/daypass/daypass/policies/strictyaml"
)

func (p *program) policyLintCommand() *cobra.Command {
	var (
		configFile, explain string
		rules, strict       bool
	)
	out := choice{value: "text", words: []string{"text", "json", "sarif", "github"}}
	cmd := &cobra.Command{
		Use:   "lint [PATH...]",
		Short: "Find what is wrong with policies, or dangerous",
		Long: `Lint loads policies as a server does and prints all that is wrong with them and all
that the linter finds, each with its place, the rule's id and a hint. PATH is a folder
or a file; the current folder when there is none. It needs no server and no network.

With --config it also checks issuers, roles, providers and environments, and says
without it what it left out. Exit code 1 means errors: these policies wouldn't load.`,
		Example: `  daypass policy lint policies/
  daypass policy lint --config daypass.yaml --strict policies/
  daypass policy lint --output github policies/       # in GitHub Actions: beside the lines
  daypass policy lint --output sarif policies/ > daypass.sarif
  daypass policy lint --explain TEST`,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case rules && explain != "":
				return usage("--rules and --explain go alone")
			case rules:
				return p.listRules(out.value)
			case explain != "":
				return p.explainRule(explain, out.value)
			}
			l, err := p.loadPolicies(cmd.Context(), args, configFile)
			if err != nil {
				return err
			}
			l.lintProviders(p.now())
			if err := p.printFindings(l, out.value); err != nil {
				return fmt.Errorf("printing findings: %w", err)
			}
			errors, warnings := report.Count(l.findings)
			if errors > 0 || strict && warnings > 0 {
				return &exit{exitFailed, nil}
			}
			return nil
		},
	}
	configFlag(cmd, &configFile)
	flags := cmd.Flags()
	flags.VarP(&out, "output", "o", "how to print findings")
	flags.BoolVar(&strict, "strict", false, "fail on warnings too")
	flags.BoolVar(&rules, "rules", false, "list the rules instead")
	flags.StringVar(&explain, "explain", "", "explain the rule of this id instead")
	return cmd
}

// lintProviders adds what is wrong with the providers of the configuration.
func (l *loadedPolicies) lintProviders(now time.Time) {
	if l.config == nil {
		return
	}
	at := func(provider, key string) strictyaml.Pos {
		for i := range l.config.Providers {
			if l.config.Providers[i].Name == provider {
				return l.config.Providers[i].At.Of(key)
			}
		}
		return l.config.At.Pos
	}
	l.findings = append(l.findings, lint.CheckProviders(lint.Context{Providers: l.config.PolicyProviders(), Now: now}, at)...)
}

func (p *program) printFindings(l *loadedPolicies, out string) error {
	switch out {
	case "json":
		return report.JSON(p.stdout, report.Of(l.findings, l.skipped))
	case "sarif":
		return report.SARIF(p.stdout, l.findings, version)
	case "github":
		return report.GitHub(p.stdout, l.findings)
	}
	p.skipping(l.skipped)
	if err := report.Text(cleaner{p.stdout}, l.findings); err != nil {
		return err
	}
	errors, warnings := report.Count(l.findings)
	if infos := len(l.findings) - errors - warnings; errors+warnings+infos > 0 {
		p.say("%s, %s, %s", plural(errors, "error"), plural(warnings, "warning"), plural(infos, "note"))
	}
	return nil
}

// ruleJSON is a rule, as JSON has it.
type ruleJSON struct {
	ID       string        `json:"id"`
	Severity lint.Severity `json:"severity"`
	Title    string        `json:"title"`
	Why      string        `json:"why"`
	Fix      string        `json:"fix,omitempty"`
	Source   string        `json:"source,omitempty"`
}

func ruleOf(r lint.Rule) ruleJSON { return ruleJSON{r.ID, r.Severity, r.Title, r.Why, r.Fix, r.Source} }

func (p *program) listRules(out string) error {
	rules := report.Rules()
	if out == "json" {
		list := make([]ruleJSON, len(rules))
		for i, r := range rules {
			list[i] = ruleOf(r)
		}
		return p.printJSON(map[string]any{"rules": list})
	}
	return p.table(func(w io.Writer) {
		row(w, "ID", "SEVERITY", "FINDS")
		for _, r := range rules {
			row(w, r.ID, string(r.Severity), r.Title)
		}
	})
}

func (p *program) explainRule(id, out string) error {
	r, ok := report.Lookup(id)
	if !ok {
		return usage("there is no rule %q (hint: daypass policy lint --rules)", id)
	}
	if out == "json" {
		return p.printJSON(ruleOf(r))
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s (%s): %s\n", r.ID, r.Severity, r.Title)
	for _, part := range []struct{ head, body string }{{"Why", r.Why}, {"Fix", r.Fix}, {"Source", r.Source}} {
		if part.body != "" {
			text.WriteString("\n" + part.head + ": " + part.body + "\n")
		}
	}
	_, err := io.WriteString(p.stdout, text.String())
	return err
}
