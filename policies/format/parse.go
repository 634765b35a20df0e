package format

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// block is a mapping or a list in block style.
type block struct {
	list    bool
	entries []*entry // at least one
	after   []string // comments behind the last; "" for a blank line
}

// entry is one key with its value, or one item of a list.
type entry struct {
	blank  bool     // a blank line stands before it and its comments
	before []string // comments; "" for a blank line between them
	key    string   // as it is written; "" of an item
	name   string   // the same without quotes
	value  *leaf    // or:
	child  *block
	behind string // a comment behind the key of a child
}

// leaf is a value that isn't a block: its text is never looked into.
type leaf struct {
	first string   // what stands behind the key, a comment included
	rest  []string // further lines
	shift int      // how far those stand behind the entry's own column
}

// parser reads lines.
type parser struct {
	lines []string
	next  int
}

func blank(line string) bool { return strings.TrimSpace(line) == "" }

func indentOf(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }

func isComment(line string) bool { return strings.HasPrefix(strings.TrimLeft(line, " "), "#") }

func isItem(text string) bool { return text == "-" || strings.HasPrefix(text, "- ") }

// header takes the comments that speak of the whole file: those above a blank
// line or above ---, and what editors look for in the first line.
func (p *parser) header() []string {
	end, closed := 0, false
	for i, line := range p.lines {
		text := strings.TrimRight(line, " ")
		switch {
		case text == "---" || strings.HasPrefix(text, "--- #"):
			end, closed = i+1, false
		case blank(line):
			if slices.ContainsFunc(p.lines[:i], func(l string) bool { return !blank(l) }) {
				end, closed = i, true
			}
		case strings.HasPrefix(text, "# yaml-language-server:") && end == i:
			end, closed = i+1, false
		case !isComment(line):
			return p.take(end, closed)
		}
	}
	return p.take(end, closed)
}

// take takes the first lines; closed says that a blank one follows them.
func (p *parser) take(end int, closed bool) []string {
	p.next = end
	header := tidy(p.lines[:end])
	if closed && len(header) > 0 {
		header = append(header, "")
	}
	return header
}

// tidy trims lines and leaves one blank between two others, and none at the ends.
func tidy(lines []string) []string {
	var list []string
	for _, line := range lines {
		text := strings.TrimSpace(line)
		if text == "" && (len(list) == 0 || list[len(list)-1] == "") {
			continue
		}
		list = append(list, text)
	}
	if len(list) > 0 && list[len(list)-1] == "" {
		list = list[:len(list)-1]
	}
	return list
}

// skip passes blank lines and comments, and returns where the next line with
// something else is.
func (p *parser) skip(from int) int {
	for from < len(p.lines) && (blank(p.lines[from]) || isComment(p.lines[from])) {
		from++
	}
	return from
}

// block reads the block whose entries begin at this column.
func (p *parser) block(indent int) (*block, error) {
	b := &block{}
	for {
		begin := p.next
		at := p.skip(begin)
		ends := at == len(p.lines) || indentOf(p.lines[at]) < indent
		if !ends {
			line := p.lines[at]
			item := isItem(strings.TrimRight(line[indentOf(line):], " "))
			if len(b.entries) == 0 {
				b.list = item
			}
			switch {
			case indentOf(line) > indent:
				return nil, fmt.Errorf("line %d stands further right than what it belongs to", at+1)
			case b.list && !item:
				ends = true
			case item && !b.list:
				return nil, fmt.Errorf("line %d is an item among keys", at+1)
			}
		}
		if ends {
			p.end(b, indent, begin, at)
			if len(b.entries) == 0 {
				return nil, fmt.Errorf("nothing stands before line %d", at+1)
			}
			return b, nil
		}
		e := &entry{before: tidy(p.lines[begin:at])}
		e.blank = len(b.entries) > 0 && at > begin && blank(p.lines[begin])
		if len(e.before) > 0 && at > begin && blank(p.lines[at-1]) {
			e.before = append(e.before, "")
		}
		p.next = at
		if err := p.entry(b, e, indent); err != nil {
			return nil, err
		}
		b.entries = append(b.entries, e)
	}
}

// end gives the comments behind the last entry to the block, as far as they stand
// no further left than it; what follows is of the blocks around it.
func (p *parser) end(b *block, indent, begin, at int) {
	stop, last := begin, begin
	for stop < at && (blank(p.lines[stop]) || indentOf(p.lines[stop]) >= indent) {
		stop++
		if !blank(p.lines[stop-1]) {
			last = stop
		}
	}
	zeroIndented := b.list && at < len(p.lines) && indentOf(p.lines[at]) == indent
	if zeroIndented { // a list under a key at the same column: its comments are the next key's
		return
	}
	if len(tidy(p.lines[begin:last])) > 0 {
		if blank(p.lines[begin]) {
			b.after = append(b.after, "")
		}
		b.after = append(b.after, tidy(p.lines[begin:last])...)
		p.next = last
	}
	if at == len(p.lines) && indent == 0 {
		p.next = at
	}
}

// keyForm is a key with its colon: in quotes, or plain up to the first colon that
// a space or the end of the line follows.
var keyForm = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^\s"'{}\[\]#&*!|>%@` + "`" + `,?-](?:[^:#]|:[^\s]|[^\s]#)*?|-[^\s](?:[^:#]|:[^\s]|[^\s]#)*?)\s*:(?:\s|$)`)
})

// entry reads what stands in an entry's line and belongs to it.
func (p *parser) entry(b *block, e *entry, indent int) error {
	at := p.next
	line := p.lines[at]
	if b.list {
		rest := strings.TrimLeft(line[indent+1:], " ")
		column := len(line) - len(rest)
		switch {
		case strings.TrimSpace(rest) == "" || strings.HasPrefix(rest, "#"):
			if rest = strings.TrimSpace(rest); rest != "" {
				e.before = append(e.before, rest)
			}
			p.next++
			return p.below(e, indent, indent+1)
		case isItem(strings.TrimRight(rest, " ")) || keyForm().MatchString(rest):
			p.lines[at] = strings.Repeat(" ", column) + rest
			child, err := p.block(column)
			e.child = child
			return err
		}
		return p.leaf(e, rest, indent)
	}
	m := keyForm().FindStringSubmatch(line[indent:])
	if m == nil {
		return fmt.Errorf("line %d is no key with a value", at+1)
	}
	e.key, e.name = m[1], strings.Trim(m[1], `"'`)
	rest := strings.TrimLeft(line[indent+len(m[0]):], " ")
	if strings.TrimSpace(rest) != "" && !strings.HasPrefix(rest, "#") {
		return p.leaf(e, rest, indent)
	}
	e.behind = strings.TrimRight(line[indent+len(strings.TrimRight(m[0], " ")):], " ")
	p.next++
	return p.below(e, indent, indent)
}

// below reads a value that stands below its key or dash; list is the column from
// which on it may be a list.
func (p *parser) below(e *entry, indent, list int) error {
	at := p.skip(p.next)
	if at == len(p.lines) {
		return fmt.Errorf("no value before line %d", at+1)
	}
	line := p.lines[at]
	column := indentOf(line)
	text := line[column:]
	item := isItem(strings.TrimRight(text, " "))
	switch {
	case column > indent && keyForm().MatchString(text), item && column >= list:
		child, err := p.block(column)
		e.child = child
		return err
	case column <= indent:
		return fmt.Errorf("no value before line %d", at+1)
	}
	// A value on a line of its own goes behind its key; comments between go above.
	if behind := strings.TrimSpace(e.behind); behind != "" {
		e.before = append(e.before, behind)
	}
	e.before = append(e.before, slices.DeleteFunc(tidy(p.lines[p.next:at]), blank)...)
	e.behind = ""
	p.next = at
	return p.leaf(e, text, indent)
}
