package scaffold

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/daypass/daypass/policies/catalogue"
	"github.com/daypass/daypass/policies/strictyaml"
)

// text is the policy's file.
func (o *Options) text(p *catalogue.Provider, name string, claims map[string]any) string {
	var b strings.Builder
	what := o.Repository
	if what == "" {
		what = name
	}
	ttl := quoted(o.TTL)
	if _, err := strictyaml.ParseDuration(o.TTL); err == nil {
		ttl = o.TTL
	}
	if o.TTL == "" {
		ttl = "15m"
	}
	fmt.Fprintf(&b, "policy: %s\nowner: %s\ndescription: %s\nenvironment: %s\n\n", quoted(name), quoted(o.Owner), quoted("Jobs of "+what), quoted(o.Environment))
	fmt.Fprintf(&b, "jobs:\n  - name: release\n    provider: %s\n    claims: # every line must hold\n", quoted(o.Provider))
	tenants := Tenants(p)
	paths := slices.SortedFunc(maps.Keys(claims), func(x, y string) int { return strings.Compare(order(tenants, x), order(tenants, y)) })
	b.WriteString(nested(claims, paths, 6, func(path string) string {
		if len(tenants) > 0 && path == tenants[0] && o.Repository != "" {
			return " # " + oneLine(o.Repository) + ", whatever it is called later"
		}
		return ""
	}))
	fmt.Fprintf(&b, "\ngrants:\n  - name: %s\n    issuer: %s\n", quoted(o.Grant), quoted(o.Issuer))
	if o.Role != "" {
		fmt.Fprintf(&b, "    role: %s\n", quoted(o.Role))
	}
	fmt.Fprintf(&b, "    ttl: %s\n\ntests: # run whenever the policy is loaded\n", ttl)
	o.test(&b, "the job may", claims, paths, true)
	for _, path := range paths {
		if _, isText := claims[path].(string); !isText || path != paths[0] && !pinned(path) {
			continue
		}
		other := maps.Clone(claims)
		other[path] = another(p, path, claims[path])
		o.test(&b, "another "+strings.ReplaceAll(path, "|", ".")+" may not", other, paths, false)
	}
	return b.String()
}

// another is a value that the claim might have instead.
func another(p *catalogue.Provider, path string, value any) string {
	if c, known := p.Claim(path); known {
		for _, v := range c.Values {
			if v != value {
				return v
			}
		}
	}
	return "other"
}

// order puts the ids of tenants before all others, the narrowest first.
func order(tenants []string, path string) string {
	if i := slices.Index(tenants, path); i >= 0 {
		return fmt.Sprintf("0%d", i)
	}
	return "1" + path
}

// pinned are claims that say which branch a job is of.
func pinned(path string) bool {
	return slices.Contains([]string{"ref", "rpo_ref", "build_branch", "branchName", "oidc.circleci.com/vcs-ref", "terraform_run_phase"}, path)
}

func (o *Options) test(b *strings.Builder, name string, claims map[string]any, paths []string, allow bool) {
	expect := "deny"
	if allow {
		expect = "allow"
	}
	fmt.Fprintf(b, "  - name: %s\n    job:\n      provider: %s\n      claims:\n", quoted(name), quoted(o.Provider))
	b.WriteString(nested(claims, paths, 8, func(string) string { return "" }))
	fmt.Fprintf(b, "    %s: [%s]\n", expect, quoted(o.Grant))
}

// nested writes claims in block style; of a path with | between its fields, each
// field is a mapping of its own.
func nested(claims map[string]any, paths []string, indent int, comment func(path string) string) string {
	var b strings.Builder
	var open []string // fields above
	for _, path := range paths {
		fields := strings.Split(path, "|")
		same := 0
		for same < len(open) && same < len(fields)-1 && open[same] == fields[same] {
			same++
		}
		open = open[:same]
		for _, field := range fields[same : len(fields)-1] {
			b.WriteString(strings.Repeat(" ", indent+2*len(open)) + key(field) + ":\n")
			open = append(open, field)
		}
		b.WriteString(strings.Repeat(" ", indent+2*len(open)) + key(fields[len(fields)-1]) + ": " + quoted(claims[path]) + comment(path) + "\n")
	}
	return b.String()
}

// key writes the name of a claim.
func key(name string) string {
	if strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("/-_.", r)
	}) {
		return quoted(name)
	}
	return name
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
