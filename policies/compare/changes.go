package compare

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/daypass/daypass/policies/catalogue"
	"github.com/daypass/daypass/policies/document"
	"github.com/daypass/daypass/policies/strictyaml"
)

// changes collects differences.
type changes struct{ list []Change }

func (c *changes) add(effect Effect, at strictyaml.Pos, format string, args ...any) {
	c.list = append(c.list, Change{effect, fmt.Sprintf(format, args...), at})
}

// head compares what stands above jobs and grants.
func (c *changes) head(before, after *document.Policy) {
	for _, f := range []struct{ key, before, after string }{
		{"owner", before.Owner, after.Owner},
		{"description", before.Description, after.Description},
		{"environment", before.Environment, after.Environment},
	} {
		if f.before != f.after {
			c.add(Changed, after.At.Of(f.key), "%s %q is %q now", f.key, f.before, f.after)
		}
	}
	if before.Session != after.Session {
		c.session(before, after)
	}
	if len(before.Tests) != len(after.Tests) {
		c.add(Same, after.At.Of("tests"), "%d tests instead of %d", len(after.Tests), len(before.Tests))
	}
}

func (c *changes) session(before, after *document.Policy) {
	at := after.At.Of("session")
	switch {
	case after.Session == "broad":
		c.add(Widens, at, "session tokens of any grant may ask for it")
	case before.Session == "broad":
		c.add(Narrows, at, "session tokens of other grants may not ask for it any more")
	default: // narrow, written or not
		c.add(Same, at, "session is narrow, as it is without saying so")
	}
}

// grant compares what a grant is, without who may have it.
func (c *changes) grant(before, after *document.Grant) {
	for _, f := range []struct{ key, before, after string }{
		{"issuer", before.Issuer, after.Issuer},
		{"role", before.Role, after.Role},
		{"with", shown(plainOf(before.With)), shown(plainOf(after.With))},
		{"env", shown(before.Env), shown(after.Env)},
		{"redact", shown(patternsOf(before)), shown(patternsOf(after))},
	} {
		if f.before != f.after {
			c.add(Changed, after.At.Of(f.key), "%s %s is %s now", f.key, orNone(f.before), orNone(f.after))
		}
	}
	c.ttl(before, after)
	c.most(after.At.Of("max_ttl"), "max_ttl", int64(before.MaxTTL), int64(after.MaxTTL), func(n int64) string {
		if n == 0 {
			return "none (it can't be renewed)"
		}
		return time.Duration(n).String()
	})
	limit := func(n int64) string {
		if n == unlimited {
			return "none"
		}
		return fmt.Sprint(n)
	}
	c.most(after.At.Of("max_active"), "max_active", atMost(before.MaxActive), atMost(after.MaxActive), limit)
	c.most(after.At.Of("max_active_per_job"), "max_active_per_job", atMost(before.MaxActivePerJob), atMost(after.MaxActivePerJob), limit)
}

const unlimited = int64(1) << 62

func atMost(n int) int64 {
	if n == 0 {
		return unlimited
	}
	return int64(n)
}

// most compares two bounds, of which the higher lets more through.
func (c *changes) most(at strictyaml.Pos, key string, before, after int64, show func(int64) string) {
	switch {
	case after > before:
		c.add(Widens, at, "%s goes up from %s to %s", key, show(before), show(after))
	case after < before:
		c.add(Narrows, at, "%s goes down from %s to %s", key, show(before), show(after))
	}
}

// ttl compares lifetimes; the issuer's default and the end of a job's token are
// not known here.
func (c *changes) ttl(before, after *document.Grant) {
	if before.TTL == after.TTL {
		return
	}
	at := after.At.Of("ttl")
	old, oldErr := strictyaml.ParseDuration(before.TTL)
	next, nextErr := strictyaml.ParseDuration(after.TTL)
	switch {
	case oldErr != nil || nextErr != nil:
		c.add(Changed, at, "ttl %s is %s now", orNone(before.TTL), orNone(after.TTL))
	case next > old:
		c.add(Widens, at, "ttl goes up from %s to %s", before.TTL, after.TTL)
	case next < old:
		c.add(Narrows, at, "ttl goes down from %s to %s", before.TTL, after.TTL)
	default:
		c.add(Same, at, "ttl %s is written %s", before.TTL, after.TTL)
	}
}

// jobs compares who may have a grant.
func (c *changes) jobs(before, after []*document.Job) {
	named := func(list []*document.Job, name string) *document.Job {
		i := slices.IndexFunc(list, func(j *document.Job) bool { return j.Name == name })
		if i < 0 {
			return nil
		}
		return list[i]
	}
	var fresh []*document.Job
	for _, j := range after {
		if named(before, j.Name) == nil {
			fresh = append(fresh, j)
		}
	}
	for _, old := range before {
		if next := named(after, old.Name); next != nil {
			c.job("job "+old.Name+": ", old, next)
			continue
		}
		if i := slices.IndexFunc(fresh, func(j *document.Job) bool { return content(j) == content(old) }); i >= 0 {
			c.add(Same, fresh[i].At.Pos, "job %s is called %s now", old.Name, fresh[i].Name)
			fresh = slices.Delete(fresh, i, i+1)
			continue
		}
		c.add(Narrows, old.At.Pos, "job %s may not have it any more", old.Name)
	}
	for _, j := range fresh {
		c.add(Widens, j.At.Pos, "job %s may have it too", j.Name)
	}
}

// content is a job entry without its name.
func content(j *document.Job) string {
	return shown([]any{j.Provider, plainOf(j.Claims), condition(j.Condition)})
}

// condition is a condition without the spaces that only lay it out, where no text
// within it could hold them.
func condition(text string) string {
	if strings.ContainsAny(text, "\"'") {
		return text
	}
	return strings.Join(strings.Fields(text), " ")
}

// job compares two entries for the same job.
func (c *changes) job(lead string, before, after *document.Job) {
	if before.Provider != after.Provider {
		c.add(Changed, after.At.Of("provider"), "%sprovider %s is %s now", lead, before.Provider, after.Provider)
	}
	known, _ := catalogue.Lookup(after.Provider)
	old, next := lines(known, "", before.Claims), lines(known, "", after.Claims)
	names := maps.Clone(old)
	maps.Copy(names, next)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		o, wasThere := old[name]
		n, isThere := next[name]
		name = strings.ReplaceAll(name, "|", ".")
		switch {
		case !wasThere:
			c.add(Narrows, n.at, "%sclaim %s must be %s", lead, name, n)
		case !isThere:
			c.add(Widens, o.at, "%sclaim %s need not be %s any more", lead, name, o)
		default:
			c.claim(lead+"claim "+name+" ", o, n)
		}
	}
	at := after.At.Of("condition")
	switch {
	case condition(before.Condition) == condition(after.Condition):
	case before.Condition == "":
		c.add(Changed, at, "%sa condition is new: %s", lead, oneLine(after.Condition))
	case after.Condition == "":
		c.add(Changed, before.At.Of("condition"), "%sthe condition is gone: %s", lead, oneLine(before.Condition))
	default:
		c.add(Changed, at, "%sthe condition was: %s; and is: %s", lead, oneLine(before.Condition), oneLine(after.Condition))
	}
}

// exceptions compares those of one grant. Two are the same when they speak of the
// same jobs.
func (c *changes) exceptions(before, after []*document.Exception) {
	key := func(e *document.Exception) string {
		parts := make([]string, len(e.Jobs))
		for i := range e.Jobs {
			parts[i] = content(e.Jobs[i].Job())
		}
		slices.Sort(parts)
		return strings.Join(parts, "\n")
	}
	rest := slices.Clone(after)
	for _, old := range before {
		i := slices.IndexFunc(rest, func(e *document.Exception) bool { return key(e) == key(old) })
		if i < 0 {
			c.add(Narrows, old.At.Pos, "the exception until %s is gone (%s)", day(old), old.Reason)
			continue
		}
		next := rest[i]
		rest = slices.Delete(rest, i, i+1)
		switch until := next.Until.Std().Compare(old.Until.Std()); {
		case until > 0:
			c.add(Widens, next.At.Of("until"), "an exception ends later: %s instead of %s (%s)", day(next), day(old), next.Reason)
		case until < 0:
			c.add(Narrows, next.At.Of("until"), "an exception ends earlier: %s instead of %s (%s)", day(next), day(old), next.Reason)
		}
		if next.Owner != old.Owner || next.Reason != old.Reason {
			c.add(Same, next.At.Pos, "an exception's owner or reason is another")
		}
	}
	for _, e := range rest {
		c.add(Widens, e.At.Pos, "%d more job entries until %s by an exception (%s)", len(e.Jobs), day(e), e.Reason)
	}
}

func day(e *document.Exception) string {
	at := e.Until.Std().UTC()
	if at.Equal(at.Truncate(24 * time.Hour)) {
		return at.Format(time.DateOnly)
	}
	return at.Format(time.RFC3339)
}

func patternsOf(g *document.Grant) []string {
	var list []string
	for _, r := range g.Redact {
		list = append(list, r.Pattern)
	}
	return list
}

func plainOf(values map[string]strictyaml.Value) map[string]any {
	if values == nil {
		return nil
	}
	plain := make(map[string]any, len(values))
	for name, v := range values {
		plain[name] = v.Plain()
	}
	return plain
}

// shown writes a value as JSON does, with keys in order; "" for nothing.
func shown(v any) string {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return fmt.Sprint(v)
	}
	if text := strings.TrimSpace(b.String()); text != "null" {
		return text
	}
	return ""
}

func orNone(text string) string {
	if text == "" {
		return "(none)"
	}
	return text
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
