package format

import "strings"

// writer writes lines.
type writer struct {
	lines []string
	lead  string // what the next line begins with, in place of as many spaces: "  - "
}

func (w *writer) line(indent int, text string) {
	lead := strings.Repeat(" ", indent)
	if w.lead != "" {
		lead, w.lead = w.lead, ""
	}
	if text == "" {
		lead = ""
	}
	w.lines = append(w.lines, lead+text)
}

// block writes a block whose entries begin at this column.
func (w *writer) block(b *block, indent int) {
	for _, e := range b.entries {
		if e.blank && w.lead == "" {
			w.line(0, "")
		}
		for _, comment := range e.before {
			w.line(indent, comment)
		}
		w.entry(b, e, indent)
	}
	for _, comment := range b.after {
		w.line(indent, comment)
	}
}

func (w *writer) entry(b *block, e *entry, indent int) {
	head := e.key + ":"
	if b.list {
		head = "-"
	}
	switch {
	case e.value != nil:
		w.line(indent, head+" "+e.value.first)
		w.rest(e.value, indent)
	case b.list:
		first := e.child.entries[0]
		if len(first.before) > 0 { // comments between a dash and its first key go above the dash
			for _, comment := range first.before {
				if comment != "" {
					w.line(indent, comment)
				}
			}
			first.before = nil
		}
		lead := strings.Repeat(" ", indent)
		if w.lead != "" {
			lead = w.lead
		}
		w.lead = lead + "- "
		w.block(e.child, indent+2)
	default:
		w.line(indent, head+e.behind)
		w.block(e.child, indent+2)
	}
}

func (w *writer) rest(l *leaf, indent int) {
	for _, line := range l.rest {
		if line == "" {
			w.lines = append(w.lines, "")
			continue
		}
		w.lines = append(w.lines, strings.Repeat(" ", indent+l.shift)+line)
	}
}
