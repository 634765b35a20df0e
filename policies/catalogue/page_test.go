package catalogue_test

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/daypass/daypass/policies"
	"github.com/daypass/daypass/policies/catalogue"
	"github.com/daypass/daypass/policies/lint"
)

var update = flag.Bool("update", false, "write the generated parts of docs/providers.md anew")

const page = "../../docs/providers.md"

func readPage(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestPage: the tables on the page are the catalogue.
func TestPage(t *testing.T) {
	text := readPage(t)
	made := text
	for _, typ := range catalogue.Types() {
		p, _ := catalogue.Lookup(typ)
		part := regexp.MustCompile(`(?s)<!-- catalogue: ` + typ + ` -->\n.*?<!-- end -->\n`)
		if len(part.FindAllString(made, -1)) != 1 {
			t.Errorf("%s: the page has no place for it, or two", typ)
			continue
		}
		made = part.ReplaceAllLiteralString(made, "<!-- catalogue: "+typ+" -->\n"+table(p)+"<!-- end -->\n")
	}
	if *update {
		if err := os.WriteFile(page, []byte(made), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if made != text {
		t.Errorf("docs/providers.md is not what the catalogue says\nhint: go test ./policies/catalogue -run TestPage -update")
	}
}

// table is the generated part of the page for one provider.
func table(p *catalogue.Provider) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("| | |")
	line("| --- | --- |")
	line("| `iss` | %s |", code(p.Issuers))
	if len(p.SharedIssuers) > 0 {
		line("| shared with strangers | %s |", code(p.SharedIssuers))
	}
	line("| lifetime | %s |", p.Lifetime)
	line("| `jti` | %s |", map[bool]string{true: "in every token", false: "not in every token"}[p.HasJTI])
	line("| whose job it is, from narrow to wide | %s |", orElse(code(p.Tenant), "nothing says so: an issuer is one tenant"))
	line("| which job it is, all together | %s |", orElse(code(p.JobKey), "nothing says so: each token is a job of its own"))
	line("| described at | <%s> |", p.Docs)
	line("")
	line("| claim | type | what it is | in every token | |")
	line("| --- | --- | --- | --- | --- |")
	rows(line, "", p.Claims)
	for _, prefix := range p.Prefixes {
		line("| `%s…` | text | free | no | defined by the tenant |", prefix)
	}
	if p.Open {
		line("| any other | | | no | the list is open |")
	}
	return b.String()
}

func rows(line func(string, ...any), prefix string, claims []catalogue.Claim) {
	for _, c := range claims {
		nature := string(c.Nature)
		if c.ID != "" {
			nature += ", its id is " + code([]string{c.ID})
		}
		doc := c.Doc
		if c.Values != nil {
			doc += ": " + code(c.Values)
		}
		if c.Unchecked {
			doc += " (not checked)"
		}
		path := prefix + c.Name
		line("| %s | %s | %s | %s | %s |", code([]string{path}), c.Kind, nature, map[bool]string{true: "no", false: "yes"}[c.Optional], doc)
		rows(line, path+"|", c.Fields)
	}
}

// code sets words as code, for a cell of a table.
func code(words []string) string {
	set := make([]string, len(words))
	for i, word := range words {
		set[i] = "`" + strings.ReplaceAll(word, "|", `\|`) + "`"
	}
	return strings.Join(set, ", ")
}

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}

// TestEveryClaimStandsOnThePage holds without the generator that made it.
func TestEveryClaimStandsOnThePage(t *testing.T) {
	text := readPage(t)
	for _, typ := range catalogue.Types() {
		p, _ := catalogue.Lookup(typ)
		if !strings.Contains(text, "## "+p.Title+"\n") {
			t.Errorf("%s: no chapter %q", typ, p.Title)
		}
		chapter := chapterOf(text, p.Title)
		for _, c := range p.Claims {
			if !strings.Contains(chapter, "| `"+c.Name+"` |") {
				t.Errorf("%s: the chapter lacks %s", typ, c.Name)
			}
		}
		for _, heading := range []string{"**Pin**", "**Beware**", "**Sources**", "```yaml\n"} {
			if !strings.Contains(chapter, heading) {
				t.Errorf("%s: the chapter lacks %q", typ, heading)
			}
		}
	}
}

func chapterOf(text, title string) string {
	_, rest, _ := strings.Cut(text, "\n## "+title+"\n")
	chapter, _, _ := strings.Cut(rest, "\n## ")
	return chapter
}

// TestExamplesOnThePage: each chapter's job entry loads, admits the sample that
// it is written for, and keeps out one that is like it.
func TestExamplesOnThePage(t *testing.T) {
	text := readPage(t)
	samples := catalogue.Samples()
	for typ, c := range map[string]struct{ in, out string }{
		"azure":      {"azure/pipeline", "azure/github-repository"},
		"bitbucket":  {"bitbucket/deployment", "bitbucket/branch"},
		"buildkite":  {"buildkite/with-ids", "buildkite/default"},
		"circleci":   {"circleci/v2", "circleci/custom-audience-fork"},
		"github":     {"github/push", "github/pull_request"},
		"gitlab":     {"gitlab/environment", "gitlab/tag"},
		"jenkins":    {"jenkins/default", "jenkins/folder-with-templates"},
		"kubernetes": {"kubernetes/pod-and-node", "kubernetes/secret"},
		"oidc":       {"oidc/minimal", ""},
		"spiffe":     {"spiffe/spire", "spiffe/minimal"},
		"terraform":  {"terraform/apply", "terraform/plan"},
	} {
		p, _ := catalogue.Lookup(typ)
		_, rest, _ := strings.Cut(chapterOf(text, p.Title), "```yaml\n")
		entry, _, _ := strings.Cut(rest, "```")
		set, err := policies.Load(t.Context(), policies.Source{FS: fstest.MapFS{"p.yaml": {Data: []byte(policyOf(entry))}}}, policies.Config{
			Providers: map[string]lint.Provider{typ: {Type: typ}}, Issuers: anyIssuer{},
		})
		if err != nil {
			t.Errorf("%s: %v", typ, err)
			continue
		}
		if err := decide(set, typ, samples[c.in].Claims); err != nil {
			t.Errorf("%s is kept out: %v", c.in, err)
		}
		if c.out != "" && decide(set, typ, samples[c.out].Claims) == nil {
			t.Errorf("%s is let in", c.out)
		}
	}
}

type anyIssuer struct{}

func (anyIssuer) CheckGrant(policies.GrantUse) error { return nil }

func policyOf(entry string) string {
	return "policy: p\nowner: o@example.com\ndescription: d\nenvironment: production\njobs:\n" + entry +
		"grants:\n  - {name: g, issuer: db, role: r, ttl: 5m}\n"
}

func decide(set *policies.Set, typ string, claims map[string]any) error {
	_, err := set.Decide(policies.Identity{Provider: typ, ProviderType: typ, Claims: claims}, policies.Request{Grant: "p/g"}, time.Unix(1764000000, 0))
	return err
}
