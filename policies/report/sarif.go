package report

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/daypass/daypass/policies/lint"
)

// The parts of SARIF 2.1.0 that GitHub's code scanning reads.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool       sarifTool     `json:"tool"`
		ColumnKind string        `json:"columnKind"`
		Results    []sarifResult `json:"results"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name    string      `json:"name"`
		Version string      `json:"version"`
		Rules   []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID               string            `json:"id"`
		ShortDescription sarifText         `json:"shortDescription"`
		FullDescription  sarifText         `json:"fullDescription"`
		Help             sarifHelp         `json:"help"`
		Default          sarifLevel        `json:"defaultConfiguration"`
		Properties       map[string]string `json:"properties"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifHelp struct {
		Text     string `json:"text"`
		Markdown string `json:"markdown"`
	}
	sarifLevel struct {
		Level string `json:"level"`
	}
	sarifResult struct {
		RuleID       string            `json:"ruleId"`
		RuleIndex    int               `json:"ruleIndex"`
		Level        string            `json:"level"`
		Message      sarifText         `json:"message"`
		Locations    []sarifLocation   `json:"locations"`
		Fingerprints map[string]string `json:"partialFingerprints"`
	}
	sarifLocation struct {
		Physical sarifPhysical `json:"physicalLocation"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   sarifRegion   `json:"region"`
	}
	sarifArtifact struct {
		URI string `json:"uri"`
	}
	sarifRegion struct {
		StartLine   int `json:"startLine"`
		StartColumn int `json:"startColumn"`
	}
)

// SARIF writes findings in the Static Analysis Results Interchange Format 2.1.0,
// as GitHub's code scanning takes it. version is this program's.
func SARIF(w io.Writer, findings []lint.Finding, version string) error {
	run := sarifRun{
		Tool:       sarifTool{Driver: sarifDriver{Name: "daypass", Version: version, Rules: []sarifRule{}}},
		ColumnKind: "unicodeCodePoints", // as strictyaml counts
		Results:    []sarifResult{},
	}
	index := map[string]int{}
	for _, r := range sarifRules(findings) {
		index[r.ID] = len(run.Tool.Driver.Rules)
		run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, r)
	}
	seen := map[string]int{}
	for _, f := range findings {
		text := f.Text
		if f.Hint != "" {
			text += " (hint: " + f.Hint + ")"
		}
		run.Results = append(run.Results, sarifResult{
			RuleID: f.Rule, RuleIndex: index[f.Rule], Level: level(f.Severity), Message: sarifText{text},
			Locations: []sarifLocation{{sarifPhysical{
				Artifact: sarifArtifact{(&url.URL{Path: filepath.ToSlash(f.File)}).EscapedPath()},
				Region:   sarifRegion{max(f.Line, 1), max(f.Col, 1)},
			}}},
			Fingerprints: map[string]string{"daypass/v1": fingerprint(f, seen)},
		})
	}
	return JSON(w, sarifLog{
		Schema:  "https://json.schemastore.org/sarif-2.1.0.json",
		Version: "2.1.0", Runs: []sarifRun{run},
	})
}

// sarifRules are all rules, and those of findings that nobody knows.
func sarifRules(findings []lint.Finding) []sarifRule {
	rules := Rules()
	for _, f := range findings {
		if !slices.ContainsFunc(rules, func(r lint.Rule) bool { return r.ID == f.Rule }) {
			rules = append(rules, lint.Rule{ID: f.Rule, Severity: f.Severity, Title: f.Rule})
		}
	}
	list := make([]sarifRule, len(rules))
	for i, r := range rules {
		full, markdown := r.Title, "**"+r.Title+"**"
		for _, part := range []string{r.Why, r.Fix} {
			if part != "" {
				full += "\n" + part
				markdown += "\n\n" + part
			}
		}
		list[i] = sarifRule{
			ID: r.ID, ShortDescription: sarifText{r.Title}, FullDescription: sarifText{full},
			Help: sarifHelp{full, markdown}, Default: sarifLevel{level(r.Severity)},
			Properties: map[string]string{"problem.severity": problemSeverity(r.Severity)},
		}
	}
	return list
}

func level(s lint.Severity) string {
	switch s {
	case lint.Error:
		return "error"
	case lint.Warning:
		return "warning"
	default:
		return "note"
	}
}

func problemSeverity(s lint.Severity) string {
	switch s {
	case lint.Error:
		return "error"
	case lint.Warning:
		return "warning"
	default:
		return "recommendation"
	}
}

// fingerprint lets a finding be known again when lines move: it is over file, rule
// and text, and counts those that are the same.
func fingerprint(f lint.Finding, seen map[string]int) string {
	key := strings.Join([]string{f.File, f.Rule, f.Text}, "\x00")
	seen[key]++
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d", key, seen[key]))
	return hex.EncodeToString(sum[:16])
}
