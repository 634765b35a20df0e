// Package report writes what is wrong with policies in the forms that people and
// code review read: lines of text, JSON, SARIF and the commands of GitHub's
// workflows. It also knows a word about every rule, those of the linter and those
// that loading has itself.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/daypass/daypass/policies"
	"github.com/daypass/daypass/policies/lint"
)

// Rules are all rules: those of loading, then the linter's.
func Rules() []lint.Rule { return append(loading(), lint.Rules()...) }

// Lookup finds a rule by its id.
func Lookup(id string) (lint.Rule, bool) {
	rules := Rules()
	i := slices.IndexFunc(rules, func(r lint.Rule) bool { return r.ID == id })
	if i < 0 {
		return lint.Rule{}, false
	}
	return rules[i], true
}

// loading are the rules of what can be wrong before the linter judges. Their ids
// are words: each stands for many mistakes, and no waiver lifts one.
func loading() []lint.Rule {
	return []lint.Rule{
		{
			ID: policies.RuleFile, Severity: lint.Error, Title: "a file that can't be read as a policy",
			Why: "Everything below the policy folder is read, or nothing is: what is left out unseen would be a policy that somebody believes to be in force.",
			Fix: "Put plain files there, and folders rather than links to them.",
		},
		{
			ID: policies.RuleSyntax, Severity: lint.Error, Title: "a file that isn't of the form that policies have",
			Why: "The file is read strictly: unknown and missing keys, duplicates, values of another type, and whatever two readers of YAML take differently are refused, so that who reviews it sees what the program sees.",
			Fix: "The hint says what is wanted; `daypass policy schema` lets an editor say it while you type.",
		},
		{
			ID: policies.RulePolicy, Severity: lint.Error, Title: "a policy that can't be what was meant",
			Why: "The file has the right form and names something that isn't there, contradicts itself, or asks for what this version doesn't enforce: names of jobs, grants, providers, issuers and roles, limits, patterns, conditions, templates.",
			Fix: "The hint says what is known or allowed. With --config, issuers, roles and providers are the server's.",
		},
		{
			ID: policies.RuleTest, Severity: lint.Error, Title: "a test of the policy fails",
			Why: "A policy's own tests run whenever it is loaded, and one that fails keeps the whole set from coming into force.",
			Fix: "`daypass policy explain` shows clause by clause why a token is let through or not. Mend the policy or the test.",
		},
	}
}

// Text writes findings one a line: file:line:col: severity: [ID] text (hint: …).
func Text(w io.Writer, findings []lint.Finding) error {
	for _, f := range findings {
		at := f.File
		if f.Line > 0 {
			at = fmt.Sprintf("%s:%d:%d", f.File, f.Line, f.Col)
		}
		hint := ""
		if f.Hint != "" {
			hint = " (hint: " + f.Hint + ")"
		}
		line := fmt.Sprintf("%s: %s: [%s] %s%s", at, f.Severity, f.Rule, f.Text, hint)
		if _, err := io.WriteString(w, strings.NewReplacer("\n", " ", "\r", " ").Replace(line)+"\n"); err != nil {
			return err
		}
	}
	return nil
}

// Count says how many findings are errors, and how many warnings.
func Count(findings []lint.Finding) (errors, warnings int) {
	for _, f := range findings {
		switch f.Severity {
		case lint.Error:
			errors++
		case lint.Warning:
			warnings++
		default:
		}
	}
	return errors, warnings
}

// Finding is one finding, as JSON has it.
type Finding struct {
	File     string        `json:"file"`
	Line     int           `json:"line,omitempty"` // from 1; absent where the whole file is meant
	Col      int           `json:"col,omitempty"`  // in characters
	Severity lint.Severity `json:"severity"`
	Rule     string        `json:"rule"`
	Text     string        `json:"text"`
	Hint     string        `json:"hint,omitempty"`
}

// List is what JSON writes.
type List struct {
	Findings []Finding `json:"findings"`
	Errors   int       `json:"errors"`
	Warnings int       `json:"warnings"`
	Skipped  []string  `json:"skipped"` // checks that were left out, in words
}

// Of makes a List.
func Of(findings []lint.Finding, skipped []string) List {
	list := List{Findings: []Finding{}, Skipped: slices.Concat([]string{}, skipped)}
	list.Errors, list.Warnings = Count(findings)
	for _, f := range findings {
		list.Findings = append(list.Findings, Finding{f.File, f.Line, f.Col, f.Severity, f.Rule, f.Text, f.Hint})
	}
	return list
}

// JSON writes a value with two spaces of indentation.
func JSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}
