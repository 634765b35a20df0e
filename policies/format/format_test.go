package format_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/daypass/daypass/policies/format"
	"github.com/daypass/daypass/policies/strictyaml"
)

const untidy = `# yaml-language-server: $schema=./policy.schema.json
# What this file is for.

# Who answers.
owner:   a@example.com # the team
policy: payments
environment: production
jobs: # the jobs
- provider: github

  # which one
  name: release
  claims:
      repository_id: "1"   # an id
      ref: [refs/heads/main,
            {glob: refs/tags/v*}]  # lists


      # lint:allow GH-013 until=2027-01-31 reason=why
      event_name: push
  condition: >-
       int(claims.run_attempt) <= 3
         && claims.ref == "refs/heads/main"
  # at the end of the job
# behind the jobs
tests:
    -   name: "main: may # deploy"
        at: 2026-11-23T10:00:00Z
        job:
            claims: {ref: refs/heads/main}
            provider: github
        deny:
            - db
        # the last word
grants:
  - ttl:
      15m
    issuer: db
    name: db
    redact:
    - pattern: 'x # y'

    -
      pattern: |2
         z
    role: deployer
    with:
      b:
        - 1

        -
          - 2
          - c: 3
            a: plain text
              on two lines
      a: "in quotes
         too"
# the end
`

const tidy = `# yaml-language-server: $schema=./policy.schema.json
# What this file is for.

policy: payments
# Who answers.
owner: a@example.com # the team
environment: production

jobs: # the jobs
  # which one
  - name: release
    provider: github
    claims:
      repository_id: "1"   # an id
      ref: [refs/heads/main,
            {glob: refs/tags/v*}]  # lists

      # lint:allow GH-013 until=2027-01-31 reason=why
      event_name: push
    condition: >-
      int(claims.run_attempt) <= 3
        && claims.ref == "refs/heads/main"
    # at the end of the job

grants:
  - name: db
    issuer: db
    role: deployer
    ttl: 15m
    redact:
      - pattern: 'x # y'

      - pattern: |2
           z
    with:
      b:
        - 1

        - - 2
          - c: 3
            a: plain text
              on two lines
      a: "in quotes
         too"

# behind the jobs
tests:
  - name: "main: may # deploy"
    at: 2026-11-23T10:00:00Z
    job:
      provider: github
      claims: {ref: refs/heads/main}
    deny:
      - db
    # the last word
# the end
`

func TestFormat(t *testing.T) {
	got, err := format.Format("p.yaml", []byte(untidy))
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != tidy {
		t.Errorf("got\n%s", got)
	}
	again, err := format.Format("p.yaml", got)
	if err != nil || string(again) != tidy {
		t.Errorf("once more: %v\n%s", err, again)
	}
}

func TestExamplesAreLaidOut(t *testing.T) {
	files, err := filepath.Glob("../examples/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		got, err := format.Format(file, data)
		if err != nil || string(got) != string(data) {
			t.Errorf("%s: %v\n%s", file, err, got)
		}
	}
}

func TestRefuses(t *testing.T) {
	var mistakes format.Mistakes
	if _, err := format.Format("p.yaml", []byte("policy: a\npolicy: b\n")); !errors.As(err, &mistakes) || !strings.Contains(err.Error(), "p.yaml:2:1") {
		t.Errorf("a file with mistakes: %v", err)
	}
}

// page writes a policy with every liberty that YAML leaves.
type page struct {
	*rapid.T
	strings.Builder

	comments int
}

func (p *page) maybe(label string) bool { return rapid.IntRange(0, 4).Draw(p.T, label) == 0 }

func (p *page) comment() string {
	p.comments++
	return fmt.Sprintf("# comment %d: it's \"here\"", p.comments)
}

func (p *page) line(indent int, text string) {
	for p.maybe("blank") {
		p.WriteString("\n")
	}
	if p.maybe("comment") {
		p.WriteString(strings.Repeat(" ", indent) + p.comment() + "\n")
		if p.maybe("blank behind") {
			p.WriteString("\n")
		}
	}
	p.WriteString(strings.Repeat(" ", indent) + text)
	if p.maybe("trailing") && !strings.HasSuffix(text, "\n") {
		p.WriteString(strings.Repeat(" ", rapid.IntRange(1, 3).Draw(p.T, "space")) + p.comment())
	}
	p.WriteString("\n")
}

// scalar is a value, for a key at this column.
func (p *page) scalar(indent int) string {
	pad := strings.Repeat(" ", indent+rapid.IntRange(1, 4).Draw(p.T, "deeper"))
	return rapid.SampledFrom([]string{
		"plain", "plain text", `"double # quoted: \" \\"`, "'single # it''s'", "a:b#c", "[a, 'b # c', {d: e}]", "{a: 'x: y', b: [c]}", "true", "17",
		"[a,\n" + pad + "b, # " + "inside\n" + pad + "c]", "two\n" + pad + "lines", "\"two\n" + pad + "lines # no comment\"",
		"|\n" + pad + "text # no comment\n" + pad + "  more\n\n" + pad + "end\n", ">-\n" + pad + "folded\n" + pad + "text\n",
		"|-\n" + pad + "# no comment\n" + pad + "  x\n",
	}).Draw(p.T, "scalar")
}

// entries writes the keys of a mapping in any order; each writes its value.
func (p *page) entries(indent int, dash bool, keys []string, write func(key string, indent int)) {
	for i, key := range rapid.Permutation(keys).Draw(p.T, "order") {
		if i == 0 && dash {
			p.WriteString(strings.Repeat(" ", indent-2) + "- ")
			at := p.Len()
			write(key, indent)
			text := p.String()
			rest := strings.TrimLeft(text[at:], " ")
			p.Reset()
			p.WriteString(text[:at] + rest)
			continue
		}
		write(key, indent)
	}
}

func (p *page) policy() string {
	step := rapid.IntRange(1, 4).Draw(p.T, "step")
	list := rapid.SampledFrom([]int{0, step}).Draw(p.T, "list")
	texts := func(key string, indent int) { // keys of texts
		p.WriteString(strings.Repeat(" ", indent) + key + ": " + rapid.SampledFrom([]string{"plain", `"quoted"`, "'it''s'"}).Draw(p.T, "text") + "\n")
	}
	anything := func(indent int) {
		for i := range rapid.IntRange(1, 4).Draw(p.T, "keys") {
			p.line(indent, fmt.Sprintf("key%d: %s", i, p.scalar(indent)))
		}
	}
	job := func(key string, indent int) {
		switch key {
		case "claims":
			p.WriteString(strings.Repeat(" ", indent) + "claims:\n")
			anything(indent + step)
		case "condition":
			p.WriteString(strings.Repeat(" ", indent) + "condition: >-\n" + strings.Repeat(" ", indent+step) + "true\n")
		default:
			texts(key, indent)
		}
	}
	grant := func(key string, indent int) {
		switch key {
		case "with":
			p.WriteString(strings.Repeat(" ", indent) + "with:\n")
			anything(indent + step)
		case "max_active":
			p.WriteString(strings.Repeat(" ", indent) + "max_active: 3\n")
		case "jobs":
			p.WriteString(strings.Repeat(" ", indent) + "jobs:\n")
			p.line(indent+list, "- a")
			p.line(indent+list, "-   b")
		default:
			texts(key, indent)
		}
	}
	p.entries(0, false, []string{"policy", "owner", "environment", "jobs", "grants"}, func(key string, indent int) {
		switch key {
		case "jobs", "grants":
			p.line(indent, key+":")
			for range rapid.IntRange(1, 2).Draw(p.T, "items") {
				if p.maybe("item comment") {
					p.WriteString(strings.Repeat(" ", list) + p.comment() + "\n")
				}
				if key == "jobs" {
					p.entries(list+2, true, []string{"name", "provider", "claims", "condition"}, job)
				} else {
					p.entries(list+2, true, []string{"name", "issuer", "jobs", "with", "max_active"}, grant)
				}
			}
		default:
			p.line(indent, key+": value")
		}
	})
	if p.maybe("end") {
		p.WriteString(p.comment() + "\n")
	}
	return p.String()
}

func TestFormatKeepsMeaningAndComments(t *testing.T) {
	done, refused := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		text := (&page{T: t}).policy()
		got, err := format.Format("p.yaml", []byte(text))
		var mistakes format.Mistakes
		switch {
		case errors.As(err, &mistakes):
			t.Fatalf("the test's own file is wrong: %v\n%s", err, text)
		case err != nil:
			refused++
			t.Logf("%v\n%s", err, text)
			return
		}
		done++
		again, err := format.Format("p.yaml", got)
		if err != nil || string(again) != string(got) {
			t.Fatalf("not stable: %v\n%s\nthen\n%s", err, got, again)
		}
		if a, b := texts([]byte(text)), texts(got); !slices.Equal(a, b) {
			t.Fatalf("comments %v, then %v", a, b)
		}
	})
	if refused*20 > done {
		t.Errorf("%d files are laid out, %d are refused", done, refused)
	}
}

func texts(data []byte) []string {
	var list []string
	for _, c := range strictyaml.Comments(data) {
		list = append(list, c.Text)
	}
	slices.Sort(list)
	return list
}
