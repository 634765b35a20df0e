package lint

import (
	"fmt"
	"io"
	"strings"
)

const docsHead = `# What the linter looks for

Policies are judged whenever they are loaded, and providers whenever the server's configuration is read. An **error** refuses to load, a **warning** and an
**info** are said and no more. Where it can be known, a finding says how to mend it. This page is made of the rules themselves; what stands under "not seen" is
what can't be told from files.

A *production grant* is one of a policy whose environment is production: nothing else is known of a grant. A claim that a ` + "`condition`" + ` speaks of counts as
pinned. A pattern that fits texts which can't be listed pins no id. Without a server's configuration, a provider whose name is a type (` + "`github`" + `) is taken to
be of it, and rules about the configuration are left out.

## Waivers

` + "```yaml" + `
jobs:
  # lint:allow GH-013 until=2027-01-31 reason=our runners live for one job
  - name: release
` + "```" + `

A waiver is for one rule. It waives what stands in its own line; where it has a line of its own, what stands in the next line that is neither empty nor a comment;
and where a job entry, a grant, an exception or a test begins in that line, what stands within it. It needs a reason and an end: at 00:00 UTC of that day it waives
nothing more, and is an error. Rules that the loader holds, and those about the server's configuration, can't be waived.
`

// WriteDocs writes docs/lint.md.
func WriteDocs(w io.Writer) {
	var b strings.Builder
	b.WriteString(docsHead)
	family := ""
	for _, r := range Rules() {
		if name, _, _ := strings.Cut(r.ID, "-"); name != family {
			family = name
			fmt.Fprintf(&b, "\n## %s\n", familyTitle(name))
		}
		fmt.Fprintf(&b, "\n### %s (%s): %s\n\n%s\n\n*Mend it:* %s\n", r.ID, r.Severity, r.Title, r.Why, r.Fix)
		if r.Unseen != "" {
			fmt.Fprintf(&b, "\n*Not seen:* %s\n", r.Unseen)
		}
		if r.Held != "" {
			fmt.Fprintf(&b, "\n*Held by the loader:* %s.\n", r.Held)
		}
		if r.Providers {
			b.WriteString("\n*Judges* the server's configuration.\n")
		}
		fmt.Fprintf(&b, "\n*Source:* %s.\n", r.Source)
	}
	b.WriteString("\n## Not checked\n")
	for _, r := range NotChecked() {
		fmt.Fprintf(&b, "\n### %s: %s\n\n%s\n", r.ID, r.Title, r.Why)
	}
	_, _ = io.WriteString(w, b.String()) // whoever gave the writer knows whether it failed
}

func familyTitle(family string) string {
	switch family {
	case "AD":
		return "Azure DevOps"
	case "BB":
		return "Bitbucket"
	case "BK":
		return "Buildkite"
	case "CC":
		return "CircleCI"
	case "GEN":
		return "All providers"
	case "GH":
		return "GitHub"
	case "GL":
		return "GitLab"
	case "JK":
		return "Jenkins"
	case "K8":
		return "Kubernetes"
	case "TF":
		return "HCP Terraform"
	default:
		return "Waivers themselves"
	}
}
