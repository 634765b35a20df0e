package lint

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/daypass/daypass/policies/document"
	"github.com/daypass/daypass/policies/strictyaml"
)

func setRules() []*Rule { return []*Rule{gen014(), gen015()} }

// elsewhere is a job entry of another policy.
type elsewhere struct {
	policy string
	at     strictyaml.Pos
}

func gen014() *Rule {
	return &Rule{
		ID: "GEN-014", Severity: Warning, Title: "the same job stands in two policies",
		Why:    "A job of that entry may have the grants of both, and whoever reviews one file doesn't see the other.",
		Fix:    "Put the grants into one policy, or make one of the entries narrower.",
		Source: "dodo docs: each JWT matches one mapping only",
		Unseen: "Entries whose claims overlap without being the same: nearly all entries of one repository do.",
		Bad:    onePolicy("test", "github", somePush) + "---\n" + strings.Replace(onePolicy("staging", "github", somePush), "policy: example", "policy: other", 1),
		Good:   onePolicy("test", "github", somePush) + "---\n" + strings.Replace(onePolicy("staging", "github", somePush+"\nref: refs/heads/main"), "policy: example", "policy: other", 1),
		entry: func(e *entry) {
			if len(e.own) == 0 {
				return
			}
			key := e.key()
			first, found := e.places[key]
			if !found {
				e.places[key] = elsewhere{e.doc.Name, e.job.At.Pos}
				return
			}
			if first.policy != e.doc.Name {
				e.add(Warning, e.claims(), "put the grants into one policy, or narrow one of the entries", "the same job stands in policy %s, at %s: it may have the grants of both", first.policy, first.at)
			}
		},
	}
}

// key is the same for entries that match the same tokens by the same text.
func (e *entry) key() string {
	key := make([]byte, 0, 256)
	key = strconv.AppendQuote(key, e.job.Provider)
	key = strconv.AppendQuote(key, e.job.Condition)
	for i := range e.own {
		l := &e.own[i]
		key = strconv.AppendQuote(append(key, '\n'), l.path)
		if len(l.items) == 1 {
			key = l.items[0].appendTo(key)
			continue
		}
		values := make([]string, len(l.items))
		for n := range l.items {
			values[n] = string(l.items[n].appendTo(nil))
		}
		slices.Sort(values)
		for _, value := range values {
			key = append(key, value...)
		}
	}
	return string(key)
}

func (i *item) appendTo(key []byte) []byte {
	key = append(key, ' ', byte('0'+i.form))
	switch raw := i.raw.(type) {
	case string:
		return strconv.AppendQuote(key, raw)
	case int64:
		return strconv.AppendInt(key, raw, 10)
	default:
		return fmt.Append(key, raw)
	}
}

// maxCompared is how many job entries of one grant are compared with one another.
const maxCompared = 64

func gen015() *Rule {
	return &Rule{
		ID: "GEN-015", Severity: Info, Title: "a job entry that adds nothing: another of the same grant takes all its tokens",
		Why:    "Nobody misses it, nobody dares to remove it, and when the other entry is narrowed it keeps the door open.",
		Fix:    "Remove it, or narrow the entry that takes its tokens.",
		Source: "Astrix; PyPI's security model on offboarding",
		Unseen: "What patterns and conditions have in common: an entry that takes another's tokens has no condition and the same or fewer lines, each with the same or more values. Of a grant with more than 64 entries the first 64 are compared. Entries that no job has used for long: that takes the record of decisions.",
		Bad:    twoJobs(somePush, somePush+"\nref: refs/heads/main"),
		Good:   twoJobs(somePush+"\nref: refs/heads/next", somePush+"\nref: refs/heads/main"),
		policy: func(p *policy) { p.eachGrant(p.checkShadows) },
	}
}

// twoJobs is an example of a grant with two job entries.
func twoJobs(first, second string) string {
	text := onePolicy("test", "github", first)
	text = strings.Replace(text, "\ngrants:", "\n  - name: other\n    provider: github\n    claims:\n      "+strings.ReplaceAll(second, "\n", "\n      ")+"\ngrants:", 1)
	return strings.Replace(text, "[deploy]", "[deploy, other]", 1)
}

func (p *policy) checkShadows(g *document.Grant) {
	jobs := p.jobsOf(g)
	jobs = jobs[:min(len(jobs), maxCompared)]
	for n, e := range jobs {
		for m, other := range jobs {
			if n == m || !other.takesAll(e) || m > n && e.takesAll(other) {
				continue // of two that are the same, the second adds nothing
			}
			p.blocks = blocks{e.job.At.Line}
			p.add(Info, e.job.At.Pos, "remove it, or narrow the other", "for %s this entry adds nothing: the one at line %d takes all its tokens", g.Name, other.job.At.Line)
			break
		}
	}
}

// takesAll says whether the entry certainly matches every token that another does.
func (e *entry) takesAll(other *entry) bool {
	if e.job.Provider != other.job.Provider || e.job.Condition != "" || e.exception != nil && other.exception == nil || len(e.own) == 0 {
		return false
	}
	for i := range e.own {
		narrow := other.says(e.own[i].path)
		if narrow == nil {
			return false
		}
		for _, narrow := range narrow.items {
			if !slices.ContainsFunc(e.own[i].items, func(wide item) bool {
				return wide.form == narrow.form && wide.raw == narrow.raw && wide.pair == narrow.pair
			}) {
				return false
			}
		}
	}
	return true
}
