//go:build !packed

package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/daypass/daypass/policies"
	"github.com/daypass/daypass/policies/compare"
	"github.com/daypass/daypass/policies/document"
	"github.com/daypass/daypass/policies/schema"
	"github.com/daypass/daypass/policies/strictyaml"
)

func (p *program) policyDiffCommand() *cobra.Command {
	var failOnWiden bool
	cmd := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Say which grants widen and which narrow",
		Long: `Diff compares two folders or files of policies and says of each grant that differs who
may have it now and who may not any more, and for how long: by claims, lists of jobs,
exceptions, lifetimes and limits. Conditions that changed are shown and never judged, and
so is a pattern that isn't provably more or less than what it replaces, an issuer, a role
or a parameter.

Exit code 0, whatever differs. With --fail-on-widen 1 when a grant widens, or changes in a
way that can't be ordered and so might.`,
		Example: `  daypass policy diff main/policies/ policies/
  git show main:policies/payments.yaml > old.yaml && daypass policy diff old.yaml policies/payments.yaml
  daypass policy diff --fail-on-widen --output json main/policies/ policies/`,
		Args: exactly(2, "OLD NEW"),
	}
	out := outputFlag(cmd)
	cmd.Flags().BoolVar(&failOnWiden, "fail-on-widen", false, "exit with 1 when a grant widens, or might")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		before, err := readDocuments(args[0])
		if err != nil {
			return err
		}
		after, err := readDocuments(args[1])
		if err != nil {
			return err
		}
		report := compare.Compare(before, after)
		if *out == outputJSON {
			err = p.printJSON(diffOf(report))
		} else {
			err = p.printDiff(report)
		}
		if err == nil && failOnWiden && report.MayWiden() {
			return &exit{exitFailed, nil}
		}
		return err
	}
	return cmd
}

// readDocuments reads policy files without compiling them.
func readDocuments(arg string) ([]*document.File, error) {
	s, err := openSources([]string{arg})
	if err != nil {
		return nil, err
	}
	defer s.close()
	files, err := s.files()
	if err != nil {
		return nil, err
	}
	var (
		list     []*document.File
		mistakes []strictyaml.Mistake
	)
	for _, f := range files {
		read, wrong := document.Read(f.name, f.data)
		list, mistakes = append(list, read), append(mistakes, wrong...)
	}
	if len(mistakes) > 0 {
		return nil, fmt.Errorf("reading policies: %w", &policies.LoadError{Mistakes: mistakes})
	}
	return list, nil
}

type (
	diffJSON struct {
		Policies []diffPolicy `json:"policies"`
		Grants   []diffGrant  `json:"grants"`
		MayWiden bool         `json:"may_widen"`
	}
	diffPolicy struct {
		Name    string       `json:"name"`
		Status  string       `json:"status"` // added, removed, changed
		Changes []diffChange `json:"changes"`
	}
	diffGrant struct {
		Name      string         `json:"name"`
		Status    string         `json:"status"`
		Effect    compare.Effect `json:"effect"` // widens, narrows, both, changed, same
		Unordered bool           `json:"unordered"`
		Changes   []diffChange   `json:"changes"`
	}
	diffChange struct {
		Effect compare.Effect `json:"effect"`
		Text   string         `json:"text"`
		File   string         `json:"file"`
		Line   int            `json:"line"`
		Col    int            `json:"col"`
	}
)

func diffOf(r *compare.Report) diffJSON {
	changes := func(list []compare.Change) []diffChange {
		made := make([]diffChange, len(list))
		for i, c := range list {
			made[i] = diffChange{c.Effect, c.Text, c.At.File, c.At.Line, c.At.Col}
		}
		return made
	}
	d := diffJSON{Policies: []diffPolicy{}, Grants: []diffGrant{}, MayWiden: r.MayWiden()}
	for _, one := range r.Policies {
		d.Policies = append(d.Policies, diffPolicy{one.Name, one.Status, changes(one.Changes)})
	}
	for i := range r.Grants {
		g := &r.Grants[i]
		d.Grants = append(d.Grants, diffGrant{g.Name, g.Status, g.Effect, g.Unordered, changes(g.Changes)})
	}
	return d
}

func (p *program) printDiff(r *compare.Report) error {
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(clean(fmt.Sprintf(format, args...)) + "\n") }
	list := func(changes []compare.Change) {
		for _, c := range changes {
			line("  %-8s %s (%s:%d)", c.Effect, c.Text, c.At.File, c.At.Line)
		}
	}
	for _, one := range r.Policies {
		line("policy %s: %s", one.Name, one.Status)
		list(one.Changes)
	}
	widen, narrow := 0, 0
	for i := range r.Grants {
		g := &r.Grants[i]
		what := string(g.Effect)
		switch g.Effect {
		case compare.Widens:
			widen++
		case compare.Narrows:
			narrow++
		case compare.Both:
			what = "widens and narrows"
			widen, narrow = widen+1, narrow+1
		default:
		}
		if g.Unordered && g.Effect != compare.Changed {
			what += ", and changes in ways that can't be ordered"
		}
		line("grant %s: %s, %s", g.Name, g.Status, what)
		list(g.Changes)
	}
	line("grants that differ: %d, of which %d widen and %d narrow", len(r.Grants), widen, narrow)
	_, err := io.WriteString(p.stdout, b.String())
	return err
}

func (p *program) policySchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Write the JSON Schema of policy files, for editors",
		Long: `Schema writes the JSON Schema (draft 2020-12) from which editors complete and check
policies while you type. A file names it in its first line:

  # yaml-language-server: $schema=./policy.schema.json`,
		Example: "  daypass policy schema > policies/policy.schema.json",
		Args:    exactly(0, "none"),
		RunE: func(*cobra.Command, []string) error {
			data, err := schema.JSON()
			if err != nil {
				return err
			}
			_, err = p.stdout.Write(data)
			return err
		},
	}
}
