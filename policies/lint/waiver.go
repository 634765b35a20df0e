package lint

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/daypass/daypass/policies/document"
	"github.com/daypass/daypass/policies/strictyaml"
)

// A waiver is a comment in a policy file:
//
//	# lint:allow GH-013 until=2027-01-31 reason=our runners live for one job
//
// It waives the findings of that rule in its line or, where it stands in a line of
// its own, in the next line that is neither empty nor a comment; and where a job
// entry, a grant, an exception or a test begins in that line, those within it.
const waiverMark = "lint:allow"

// soon is how long before its end a waiver is warned of.
const soon = 14 * 24 * time.Hour

const waiverForm = "write # lint:allow GH-013 until=2027-01-31 reason=…"

func waiverRules() []*Rule { return []*Rule{wvr001(), wvr002(), wvr003(), wvr004()} }

func wvr001() *Rule {
	return &Rule{
		ID: "WVR-001", Severity: Error, Title: "a waiver that can't be read, or waives what can't be waived", inWaivers: true,
		Why:    "A waiver needs the id of one rule, a day on which it ends, and a reason: without them nobody can review it. What the loader refuses, or stands in the server's configuration, can't be waived in a policy.",
		Fix:    "Write # lint:allow ID until=YYYY-MM-DD reason=…",
		Source: "access reviews",
		Bad:    "# lint:allow GH-009 reason=the account is ours\n" + onePolicy("test", "github", somePush),
		Good:   waived("GH-009 until=2027-01-31 reason=the account is ours"),
	}
}

func wvr002() *Rule {
	return &Rule{
		ID: "WVR-002", Severity: Error, Title: "a waiver that has ended", inWaivers: true,
		Why:    "It ends at 00:00 UTC at the start of its day, and from then on waives nothing.",
		Fix:    "Mend what it waived and remove it; or decide anew, and write another day.",
		Source: "access reviews",
		Bad:    "# lint:allow GH-009 until=2026-01-31 reason=the account is ours\n" + onePolicy("test", "github", somePush),
		Good:   onePolicy("test", "github", somePush),
	}
}

func wvr003() *Rule {
	return &Rule{
		ID: "WVR-003", Severity: Warning, Title: "a waiver that waives nothing", inWaivers: true,
		Why:    "What it waived is mended or stands elsewhere, and one day it would hide something new.",
		Fix:    "Remove it.",
		Source: "access reviews",
		Bad:    "# lint:allow GH-009 until=2027-01-31 reason=the account is ours\n" + onePolicy("test", "github", somePush),
		Good:   waived("GH-009 until=2027-01-31 reason=the account is ours"),
	}
}

func wvr004() *Rule {
	return &Rule{
		ID: "WVR-004", Severity: Warning, Title: "a waiver that ends within 14 days", inWaivers: true,
		Why:    "When it has ended the set doesn't load any more, and changes of policies wait for it.",
		Fix:    "Mend what it waives.",
		Source: "access reviews",
		Bad:    waived("GH-009 until=2026-12-01 reason=the account is ours"),
		Good:   waived("GH-009 until=2027-01-31 reason=the account is ours"),
	}
}

// waived is an example with a waiver.
func waived(text string) string {
	return onePolicy("test", "github", somePush+"\n# "+waiverMark+" "+text+"\nactor: octocat")
}

// waiver is one such comment, read.
type waiver struct {
	at     strictyaml.Pos
	target int // the line that it is for
	rule   string
	until  time.Time
	used   bool
}

// waive takes out what the file's waivers waive, and adds what is wrong with them.
func (j *judge) waive(f *document.File) {
	if !bytes.Contains(f.Data, []byte(waiverMark)) {
		return
	}
	waivers := j.waivers(f)
	j.found = slices.DeleteFunc(j.found, func(found found) bool {
		gone := false
		for i := range waivers {
			if w := &waivers[i]; w.covers(&found) {
				w.used = true
				gone = gone || !w.ended(j.ctx.Now)
			}
		}
		return gone
	})
	for i := range waivers {
		w := &waivers[i]
		switch day := w.until.Format(time.DateOnly); {
		case w.ended(j.ctx.Now):
			j.report("WVR-002", Error, w.at, "mend what it waived, or decide anew", "the waiver of %s ended on %s", w.rule, day)
		case !w.used:
			j.report("WVR-003", Warning, w.at, "remove it", "the waiver of %s waives nothing", w.rule)
		case !j.ctx.Now.IsZero() && w.until.Sub(j.ctx.Now) <= soon:
			j.report("WVR-004", Warning, w.at, "mend what it waives", "the waiver of %s ends on %s, and then nothing loads", w.rule, day)
		}
	}
}

func (w *waiver) covers(f *found) bool {
	return f.Rule == w.rule && !strings.HasPrefix(f.Rule, "WVR-") && (f.Line == w.target || slices.Contains(f.blocks[:], w.target))
}

func (w *waiver) ended(now time.Time) bool { return !now.IsZero() && !now.Before(w.until) }

// report adds a finding about a waiver.
func (j *judge) report(rule string, severity Severity, at strictyaml.Pos, hint, format string, args ...any) {
	j.found = append(j.found, found{Finding: Finding{at.Mistake(hint, format, args...), rule, severity}})
}

// waivers reads the waivers of a file, and reports those that can't be read.
func (j *judge) waivers(f *document.File) []waiver {
	var list []waiver
	lines := bytes.Split(f.Data, []byte("\n"))
	for _, c := range comments(f.Data) {
		text, ok := strings.CutPrefix(c.Text, waiverMark)
		if !ok {
			continue
		}
		w := waiver{at: strictyaml.Pos{File: f.Name, Line: c.Line, Col: c.Col}, target: c.Line}
		if why := w.read(text, j.rules); why != "" {
			j.report("WVR-001", Error, w.at, waiverForm, "the waiver %s", why)
			continue
		}
		for w.target <= len(lines) && blank(lines[w.target-1]) {
			w.target++
		}
		list = append(list, w)
	}
	return list
}

// blank says whether a line holds nothing, or a comment alone.
func blank(line []byte) bool {
	line = bytes.TrimSpace(line)
	return len(line) == 0 || line[0] == '#'
}

// read reads what stands behind the mark, or says why it can't.
func (w *waiver) read(text string, rules []*Rule) string {
	head, reason, found := strings.Cut(text, "reason=")
	if !found || strings.TrimSpace(reason) == "" {
		return "gives no reason"
	}
	fields := strings.Fields(head)
	if !strings.HasPrefix(text, " ") || len(fields) == 0 {
		return "names no rule"
	}
	w.rule = fields[0]
	n := slices.IndexFunc(rules, func(r *Rule) bool { return r.ID == w.rule })
	switch {
	case n < 0:
		return fmt.Sprintf("names %s, which is no rule that is looked for", quoted(w.rule))
	case rules[n].Held != "", rules[n].Providers, rules[n].inWaivers:
		return "names " + w.rule + ", which can't be waived here"
	case len(fields) != 2 || !strings.HasPrefix(fields[1], "until="):
		return "has no until=, or more than rule, until= and reason="
	}
	until, err := time.Parse(time.DateOnly, strings.TrimPrefix(fields[1], "until="))
	if err != nil {
		return "has no day behind until="
	}
	w.until = until
	return ""
}
