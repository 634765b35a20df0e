//go:build !packed

package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the outputs into the documentation")

// TestDocumentedCommands runs what docs/policy-tools.md shows after "$ ", one
// after the other in one folder, and wants the output that stands below.
func TestDocumentedCommands(t *testing.T) {
	page, err := filepath.Abs("../../docs/policy-tools.md")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	claims := `{"iss":"https://token.actions.githubusercontent.com","sub":"repo:acme/payments:ref:refs/heads/fix","repository_id":"123456789",` +
		`"repository_owner_id":"987654","event_name":"push","ref":"refs/heads/fix","runner_environment":"github-hosted","exp":4102444800}`
	decision := `{"id":"dec_1","at":"2026-11-23T10:00:00Z","request_id":"req_01","provider":"github","provider_type":"github","subject":"repo:acme/payments:ref:refs/heads/main",` +
		`"grant":"payments/deploy-db","allowed":true,"job":"release","digest":"…","claims":` + strings.ReplaceAll(claims, "heads/fix", "heads/main") + `}`
	if !json.Valid([]byte(decision)) {
		t.Fatal("the test's decision is no JSON")
	}
	for name, content := range map[string]string{"job.jwt": unsigned(claims), "decisions.json": `{"decisions":[` + decision + `]}`} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	shown, commands := runPage(t, string(text), true)
	if commands < 8 {
		t.Errorf("only %d commands", commands)
	}
	if *update {
		if err := os.WriteFile(page, []byte(shown), 0o600); err != nil {
			t.Fatal(err)
		}
	} else if shown != string(text) {
		t.Errorf("the outputs are others now (hint: go test ./cmd/daypass -run Documented -update):\n%s", lineDiff("policy-tools.md", string(text), shown))
	}
}

// TestReadmeFromNothing follows the README's chapter on policies, word by word: from
// an empty folder to a tested policy, and to why another branch is denied.
func TestReadmeFromNothing(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, chapter, found := strings.Cut(string(text), "## For those who write policies\n")
	chapter, _, ends := strings.Cut(chapter, "\n## ")
	if !found || !ends {
		t.Fatal("the README has no such chapter")
	}
	t.Chdir(t.TempDir())
	if err := os.Mkdir("policies", 0o700); err != nil { // as the first line there does
		t.Fatal(err)
	}
	shown, commands := runPage(t, chapter, false)
	if commands != 4 {
		t.Errorf("%d commands", commands)
	}
	if shown != chapter {
		t.Errorf("the outputs are others:\n%s", lineDiff("README.md", chapter, shown))
	}
	written, err := os.ReadFile("policies/payments.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines("policy: payments\nenvironment: production\n") {
		if !strings.Contains(string(written), line) {
			t.Errorf("the policy has no line %q", line)
		}
	}
}

// runPage runs the commands of a page, and returns it with the outputs of now:
// standard output, and standard error where all is wanted.
func runPage(t *testing.T, page string, all bool) (shown string, commands int) {
	t.Helper()
	var out strings.Builder
	lines := strings.SplitAfter(page, "\n")
	for i := 0; i < len(lines); i++ {
		out.WriteString(lines[i])
		command, ok := strings.CutPrefix(lines[i], "$ daypass ")
		if !ok {
			continue
		}
		for strings.HasSuffix(strings.TrimSpace(command), `\`) {
			i++
			out.WriteString(lines[i])
			command = strings.TrimSuffix(strings.TrimSpace(command), `\`) + " " + strings.TrimSpace(lines[i])
		}
		commands++
		nobody, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		var errors io.Writer = &said
		if !all {
			errors = io.Discard
		}
		(&program{stdin: nobody, stdout: &said, stderr: errors}).main(t.Context(), strings.Fields(command))
		if err := nobody.Close(); err != nil {
			t.Error(err)
		}
		out.Write(said.Bytes())
		for i+1 < len(lines) && lines[i+1] != "```\n" && !strings.HasPrefix(lines[i+1], "$ ") {
			i++ // what was shown
		}
	}
	return out.String(), commands
}
