//go:build !packed

package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/daypass/daypass/broker/api"
)

// tree prints an explanation.
type tree struct {
	strings.Builder

	colour bool
}

// mark is a verdict.
func (t *tree) mark(ok bool) string {
	switch {
	case ok && t.colour:
		return "\x1b[32m✓\x1b[0m"
	case ok:
		return "✓"
	case t.colour:
		return "\x1b[31m✗\x1b[0m"
	default:
		return "✗"
	}
}

// line writes one line; what comes from elsewhere can't break out of it.
func (t *tree) line(lead, mark, format string, args ...any) {
	if mark != "" {
		mark += " "
	}
	t.WriteString(lead + mark + clean(fmt.Sprintf(format, args...)) + "\n")
}

func (p *program) printExplanation(e *api.Explanation) error {
	t := &tree{colour: p.colours()}
	t.head(e)
	for i := range e.Jobs {
		last := i == len(e.Jobs)-1 && e.Others == 0
		t.job(&e.Jobs[i], last)
	}
	if e.Others > 0 {
		t.line("└─ ", "", "… %d more job entries, none of them closer", e.Others)
	}
	_, err := io.WriteString(p.stdout, t.String())
	return err
}

func (t *tree) head(e *api.Explanation) {
	verdict := "denied"
	if e.Allowed {
		verdict = "allowed by job " + e.Job
		if e.TTL != "" {
			verdict += ", for " + e.TTL
		}
	}
	if e.Reason != "" {
		verdict += ": " + e.Reason
	}
	t.line("", t.mark(e.Allowed), "%s: %s", e.Grant, verdict)
	if e.RequestID != "" {
		t.line("  ", "", "request %s, decided at %s", e.RequestID, stamp(e.DecidedAt))
	}
	if r := e.Recorded; r != nil {
		then, by := "denied", "by other policies than those of now"
		if r.Allowed {
			then = "allowed"
		}
		if r.Digest == e.Digest {
			by = "by the same policies"
		}
		if r.Detail != "" {
			by += ": " + r.Detail
		}
		t.line("  ", "", "then it was %s, %s", then, by)
	}
	if e.Note != "" {
		t.line("  ", "", "note: %s", e.Note)
	}
}

func (t *tree) job(j *api.JobVerdict, last bool) {
	branch, below := "├─ ", "│  "
	if last {
		branch, below = "└─ ", "   "
	}
	summary := "every clause holds"
	if !j.Allowed {
		summary = fmt.Sprintf("%d of %d clauses don't hold", j.Missed, len(j.Clauses))
		if j.Missed == 1 {
			summary = fmt.Sprintf("1 of %d clauses doesn't hold", len(j.Clauses))
		}
	}
	t.line(branch, t.mark(j.Allowed), "job %s: %s", j.Job, summary)
	for i := range j.Clauses {
		c := &j.Clauses[i]
		branch := "├─ "
		if i == len(j.Clauses)-1 {
			branch = "└─ "
		}
		t.line(below+branch, t.mark(c.OK), "%s", clauseText(c))
	}
}

func clauseText(c *api.Clause) string {
	text := c.Kind
	if c.Name != "" {
		text += " " + c.Name
	}
	switch {
	case c.OK && c.Got != "":
		text += " is " + c.Got
	case c.OK && c.Want != "":
		text += ": " + c.Want
	case c.OK:
	default:
		if c.Want != "" {
			text += ": want " + c.Want
		}
		if c.Got != "" {
			text += ", got " + c.Got
		}
		if c.Why != "" {
			text += " (" + c.Why + ")"
		}
	}
	return text
}
