package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/daypass/daypass/e2e/pages"
)

// elsewhere are the tests that run what this package doesn't: all examples of a
// page, or of one section of it. Of some pages it is those of one kind, which stands
// where a section would.
var elsewhere = []struct{ page, section, file, test string }{
	{"README.md", "One example", "e2e/clients/docs_test.go", "TestPages"},
	{"README.md", "For those who write policies", "cmd/daypass/policy_docs_test.go", "TestReadmeFromNothing"},
	{"clients/npm/README.md", "", "e2e/clients/action_test.go", "TestNPMExample"},
	{"docs/ci.md", "curl and a shell", "e2e/clients/docs_test.go", "TestShell"},
	{"docs/ci.md", "", "e2e/clients/docs_test.go", "TestPages"},
	{"docs/dpop.md", "console", "e2e/clients/exec_test.go", "TestExecBound"},
	{"docs/dpop.md", "sh", "broker/httpapi/dpop_docs_test.go", "documentedDPoP"},
	{"docs/exec.md", "", "e2e/clients/exec_test.go", "TestExecPage"},
	{"docs/oauth.md", "sh", "broker/httpapi/oauth_docs_test.go", "documented"},
	{"docs/oauth.md", "json", "broker/httpapi/oauth_docs_test.go", "documented"},
	{"docs/policy-tools.md", "console", "cmd/daypass/policy_docs_test.go", "TestDocumentedCommands"},
	{"docs/providers.md", "", "policies/catalogue/page_test.go", "TestExamplesOnThePage"},
	{"docs/quickstart.md", "", "e2e/quickstart_test.go", "TestQuickstart"},
}

// drawings are read by people alone: diagrams, and figures that were measured once.
var drawings = []struct{ page, section string }{
	{"README.md", "The house"},
	{"docs/architecture.md", ""}, // TestEveryPackageStandsInTheDiagram reads the first
	{"docs/benchmarks.md", ""},
	{"docs/static-secrets.md", "Versions"},
}

// maxNotRun is how many examples may be marked as such: they are to stay few.
const maxNotRun = 4

// TestExamples demands of every example of every page that something runs it, or
// checks it by its kind, or that the page says why nothing can. All commands run in
// one world: a folder with the files that the pages speak of, and one broker, whose
// configuration and policies are the pages' own.
func TestExamples(t *testing.T) {
	t.Parallel()
	all, err := pages.All("..")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, all)
	var notRun []string
	for _, e := range all {
		switch {
		case e.NotRun != "":
			notRun = append(notRun, e.Page+":"+strconv.Itoa(e.Line)+": "+e.NotRun)
		case w.claim(e) || isElsewhere(e) || isDrawing(e):
		default:
			w.byKind(e)
		}
	}
	t.Logf("not run:\n%s", strings.Join(notRun, "\n"))
	if len(notRun) > maxNotRun {
		t.Errorf("%d examples are marked as not run, at most %d may be", len(notRun), maxNotRun)
	}
	w.shellcheck()
	w.walk()
}

// TestOtherTestsOfExamples: those that this package leaves to others are there, and
// read these pages.
func TestOtherTestsOfExamples(t *testing.T) {
	for _, other := range elsewhere {
		source, err := os.ReadFile("../" + other.file)
		if err != nil {
			t.Error(err)
			continue
		}
		if !regexp.MustCompile(`(?m)^func (\(.*\) )?`+other.test+`\(t \*testing\.T\)`).Match(source) || !strings.Contains(string(source), filepath.Base(other.page)) {
			t.Errorf("%s has no %s that reads %s", other.file, other.test, other.page)
		}
	}
}

func isElsewhere(e pages.Example) bool {
	for _, other := range elsewhere {
		if other.page == e.Page && slices.Contains([]string{"", e.Section, e.Language}, other.section) {
			return true
		}
	}
	return false
}

func isDrawing(e pages.Example) bool {
	return e.Language == "" && !onlyTools(e.Text) && slices.ContainsFunc(drawings, func(d struct{ page, section string }) bool {
		return d.page == e.Page && (d.section == "" || d.section == e.Section)
	})
}

// byKind checks what needs no broker of its own.
func (w *world) byKind(e pages.Example) {
	w.f.t.Helper()
	at := e.Page + ":" + strconv.Itoa(e.Line)
	var mistake string
	switch {
	case e.Language == "yaml":
		mistake = w.checkYAML(e)
	case e.Language == "go":
		mistake = standsInATest(e)
	case (e.Language == "sh" || e.Language == "") && onlyTools(e.Text):
		mistake = checkTools(e.Text)
	default:
		mistake = "nothing runs this example (hint: a step in examples_steps_test.go, or in the page above it `<!-- not run: WHY -->`)"
	}
	if mistake != "" {
		w.f.t.Errorf("%s: %s\n%s", at, mistake, e.Text)
	}
}

var (
	toolLine  = regexp.MustCompile(`^(?:[A-Z]+=\S+ )*(make|go run|go test) ([^#]*)`)
	toolFlags = regexp.MustCompile(`-(bench|run) '?([^' ]+)'?`)
)

func onlyTools(text string) bool {
	for line := range strings.Lines(text) {
		if !toolLine.MatchString(line) {
			return false
		}
	}
	return true
}

// checkTools looks whether the targets of make, the packages, and the tests in them
// are there.
func checkTools(text string) string {
	for line := range strings.Lines(text) {
		m := toolLine.FindStringSubmatch(line)
		if m[1] == "make" {
			cmd := exec.Command("make", append([]string{"-n", "-C", ".."}, strings.Fields(m[2])...)...)
			if out, err := cmd.CombinedOutput(); err != nil {
				return string(out)
			}
			continue
		}
		folder := "../" + regexp.MustCompile(`\./\S+`).FindString(m[2])
		sources, err := filepath.Glob(folder + "/*.go")
		if err != nil || len(sources) == 0 {
			return "there is no package " + folder
		}
		var all strings.Builder
		for _, source := range sources {
			code, err := os.ReadFile(source)
			if err != nil {
				return err.Error()
			}
			all.Write(code)
		}
		for _, flag := range toolFlags.FindAllStringSubmatch(m[2], -1) {
			kind := map[string]string{"bench": "Benchmark", "run": "Test"}[flag[1]]
			name := strings.TrimPrefix(strings.Trim(flag[2], "^$"), kind)
			if m[1] == "go test" && name != "" && name != "xxx" && !strings.Contains(all.String(), "\nfunc "+kind+name) {
				return folder + " has no " + kind + name
			}
		}
	}
	return ""
}

// standsInATest looks whether each line of an example in Go stands, in this order,
// in a file that is compiled with the tests. What stands for more (…) is left out.
func standsInATest(e pages.Example) string {
	var tried []string
	for _, pattern := range []string{"../broker/*/example_test.go", "../broker/*/*/example_test.go", "../broker/vaultapi/clients_test.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			return err.Error()
		}
		tried = append(tried, files...)
	}
	for _, file := range tried {
		code, err := os.ReadFile(file)
		if err != nil {
			return err.Error()
		}
		rest, all := string(code), true
		for line := range strings.Lines(e.Text) {
			line, _, _ = strings.Cut(strings.TrimSpace(line), " // ")
			if line = strings.TrimSpace(line); line == "…" || line == "" {
				continue
			}
			_, after, found := strings.Cut(rest, line)
			rest, all = after, all && found
		}
		if all {
			return ""
		}
	}
	return "it stands, line by line, in none of " + strings.Join(tried, ", ")
}
