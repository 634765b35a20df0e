package lint

import (
	"slices"
	"strconv"
	"strings"

	"github.com/daypass/daypass/policies/catalogue"
	"github.com/daypass/daypass/policies/document"
	"github.com/daypass/daypass/policies/strictyaml"
)

func claimRules() []*Rule { return []*Rule{gen009(), gen010()} }

func gen009() *Rule {
	return &Rule{
		ID: "GEN-009", Severity: Error, Title: "a value of a type that the provider never sends",
		Why:    "A match is exact on type and value: 123 is not \"123\", true is not \"true\", and a scalar never matches a list. Such a line matches nobody.",
		Fix:    "Write the value in the type that the token has it in: quote it, take the quotes away, or write {contains: …} for a list.",
		Source: "octo-sts trust_policy.go; OpenBao claims.go, which cuts numbers above 2^53 short",
		Unseen: "What conditions compare: a comparison of two types refuses when it is made.",
		Bad:    onePolicy("test", "github", "repository_id: 123\nevent_name: push"),
		Good:   onePolicy("test", "github", somePush),
		entry: func(e *entry) {
			for i := range e.own {
				for n := range e.own[i].items {
					e.checkKind(&e.own[i], &e.own[i].items[n])
				}
			}
		},
		policy: func(p *policy) {
			p.eachTestClaim(func(_ *catalogue.Provider, c *catalogue.Claim, name string, v strictyaml.Value) {
				if c != nil && !sends(c, v.Raw) {
					p.add(Error, v.Pos, rewrite(c, v.Raw), "claim %s: %s", name, mismatch(c, v.Raw))
				}
			})
		},
	}
}

// checkKind compares an item with what the provider sends.
func (e *entry) checkKind(l *line, i *item) {
	if _, isFraction := i.raw.(float64); l.known == nil || i.raw == nil || isFraction || gitlabBool(e, l, i) {
		return // not known, refused by the loader, or GL-004's
	}
	isList := l.known.Kind == catalogue.List
	switch {
	case i.form == contains && isList, i.form == contains && l.path == "aud":
		_, isText := i.raw.(string)
		if !isText {
			e.add(Error, i.at, rewrite(l.known, i.raw), "claim %s: the list holds texts alone", shown(l.path))
		}
	case i.form == contains:
		e.add(Error, i.at, "write the value itself, without contains", "claim %s: this provider sends it as a %s, never as a list", shown(l.path), l.known.Kind)
	case l.path == "aud":
	case i.form != exact && l.known.Kind != catalogue.Text:
		e.add(Error, i.at, "list the values", "claim %s: patterns fit texts alone, and this provider sends it as a %s", shown(l.path), l.known.Kind)
	case i.form == exact && !sends(l.known, i.raw):
		e.add(Error, i.at, rewrite(l.known, i.raw), "claim %s: %s", shown(l.path), mismatch(l.known, i.raw))
	}
}

// sends says whether the provider sends the claim in the type of that value.
func sends(c *catalogue.Claim, raw any) bool {
	switch raw.(type) {
	case string:
		return c.Kind == catalogue.Text
	case int64:
		return c.Kind == catalogue.Number
	case bool:
		return c.Kind == catalogue.Bool
	case []strictyaml.Value:
		return c.Kind == catalogue.List || c.Kind == catalogue.Objects || c.Name == "aud"
	case map[string]strictyaml.Value:
		return c.Kind == catalogue.Object
	default:
		return true // a fraction, which the loader refuses where it is matched
	}
}

func mismatch(c *catalogue.Claim, raw any) string {
	what := "list"
	switch raw.(type) {
	case string:
		what = "text"
	case int64:
		what = "number"
	case bool:
		what = "truth value"
	case map[string]strictyaml.Value:
		what = "mapping"
	}
	return "this provider sends it as a " + string(c.Kind) + ", never as a " + what
}

// rewrite is the hint that writes a value in the type of the claim.
func rewrite(c *catalogue.Claim, raw any) string {
	text := ""
	switch v := raw.(type) {
	case string:
		text = v
	case int64:
		text = strconv.FormatInt(v, 10)
	case bool:
		text = strconv.FormatBool(v)
	default:
		return ""
	}
	switch c.Kind {
	case catalogue.Text:
		return "quote it: " + strconv.Quote(text)
	case catalogue.List:
		if _, isText := raw.(string); !isText {
			return "quote it: " + strconv.Quote(text)
		}
		return "write {contains: " + text + "}"
	case catalogue.Number, catalogue.Bool:
		return "write it without quotes"
	default:
		return ""
	}
}

func gen010() *Rule {
	return &Rule{
		ID: "GEN-010", Severity: Error, Title: "a claim, or a value of one, that the provider never sends",
		Why:    "A line about a claim that no token has matches nobody, and a test with one proves nothing. Most are misspelt.",
		Fix:    "Write the claim as the provider does; docs/policies.md and the hint say how.",
		Source: "the catalogue of providers",
		Unseen: "Providers whose claims no list can name: Jenkins, SPIFFE, other OIDC issuers. Fields of objects that a condition names.",
		Bad:    onePolicy("test", "github", somePush+"\nref_type: brunch"),
		Good:   onePolicy("test", "github", somePush+"\nref_type: branch"),
		entry:  checkKnown,
		policy: func(p *policy) {
			p.eachTestClaim(func(known *catalogue.Provider, c *catalogue.Claim, name string, v strictyaml.Value) {
				switch text, isText := v.Raw.(string); {
				case !known.Knows(name):
					p.unknown(known, v.Pos, name, "")
				case isText:
					p.checkValue(c, v.Pos, name, text)
				}
			})
			p.eachGrant(p.checkTemplates)
		},
	}
}

func checkKnown(e *entry) {
	if e.known == nil {
		return
	}
	for i := range e.own {
		l := &e.own[i]
		if l.known == nil && !e.known.Knows(l.path) {
			e.unknown(e.known, l.at, l.path, "")
			continue
		}
		for _, item := range l.items {
			if item.form == exact {
				e.checkValue(l.known, item.at, l.path, item.text())
			}
		}
	}
	for _, name := range e.spoken {
		if !e.known.Knows(name) {
			e.unknown(e.known, e.condition(), name, "condition: ")
		}
	}
}

func (j *judge) unknown(known *catalogue.Provider, at strictyaml.Pos, path, where string) {
	hint := ""
	if best := known.Suggest(path); best != "" {
		hint = "did you mean " + shown(best) + "?"
	}
	j.add(Error, at, hint, "%sclaim %s: %s never sends it", where, shown(path), known.Title)
}

// checkValue looks whether a claim ever has that value.
func (j *judge) checkValue(c *catalogue.Claim, at strictyaml.Pos, path, text string) {
	if c != nil && c.Values != nil && text != "" && !slices.Contains(c.Values, text) {
		j.add(Error, at, strictyaml.Suggest(text, c.Values), "claim %s is never %s", shown(path), quoted(text))
	}
}

// eachTestClaim calls the function for every claim of every test whose provider is
// known; the claim may be nil.
func (p *policy) eachTestClaim(visit func(known *catalogue.Provider, c *catalogue.Claim, name string, v strictyaml.Value)) {
	for i := range p.doc.Tests {
		t := &p.doc.Tests[i]
		known, ok := catalogue.Lookup(p.configured(t.Job.Provider).Type)
		if t.At.Line == 0 || !ok {
			continue
		}
		p.blocks = blocks{t.At.Line}
		for name, v := range t.Job.Claims {
			c, _ := known.Claim(name)
			visit(known, c, name, v)
		}
	}
}

// checkTemplates looks for claims in templates that a job of the grant never has,
// so that it could never get the grant.
func (p *policy) checkTemplates(g *document.Grant) {
	if len(g.With) == 0 {
		return
	}
	jobs := p.jobsOf(g)
	var look func(v strictyaml.Value)
	look = func(v strictyaml.Value) {
		switch raw := v.Raw.(type) {
		case string:
			for _, name := range templateClaims(raw) {
				for _, e := range jobs {
					if e.known != nil && !e.known.Knows(name) {
						p.unknown(e.known, v.Pos, name, "template: ")
						break
					}
				}
			}
		case []strictyaml.Value:
			for _, item := range raw {
				look(item)
			}
		case map[string]strictyaml.Value:
			for _, item := range raw {
				look(item)
			}
		}
	}
	for _, v := range g.With {
		look(v)
	}
}

// templateClaims are the claims that the templates of a text name. The loader
// refuses what has another form.
func templateClaims(text string) []string {
	var names []string
	for {
		_, rest, found := strings.Cut(text, "{{")
		if !found {
			return names
		}
		inner, after, closed := strings.Cut(rest, "}}")
		if !closed {
			return names
		}
		if name, ok := strings.CutPrefix(strings.Trim(inner, " "), "claims."); ok && name != "" {
			names = append(names, name)
		}
		text = after
	}
}
