package format

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
)

var scalarHeader = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[|>](?:([1-9])[-+]?|[-+]([1-9])?)?(?:\s+#.*)?\s*$`)
})

// leaf reads a value that begins in the line at p.next with this text.
func (p *parser) leaf(e *entry, text string, indent int) error {
	switch text[0] {
	case '|', '>':
		return p.scalar(e, text, indent)
	case '"', '\'', '[', '{':
		return p.enclosed(e, text)
	default:
		return p.plain(e, text, indent)
	}
}

// scalar reads a text block: | or >.
func (p *parser) scalar(e *entry, text string, indent int) error {
	m := scalarHeader().FindStringSubmatch(text)
	if m == nil {
		return fmt.Errorf("line %d: not the head of a block of text", p.next+1)
	}
	head, _, _ := strings.Cut(text, "#")
	e.value = &leaf{first: strings.TrimRight(text, " "), shift: 2}
	column := -1
	if digit := m[1] + m[2]; digit != "" {
		e.value.shift = int(digit[0] - '0')
		column = indent + e.value.shift
	}
	p.next++
	end := p.next
	for i := p.next; i < len(p.lines); i++ {
		line := p.lines[i]
		if blank(line) {
			continue
		}
		if column < 0 {
			if indentOf(line) <= indent {
				break
			}
			column = indentOf(line)
		}
		if indentOf(line) < column {
			break
		}
		end = i + 1
	}
	if strings.Contains(head, "+") { // the blank lines at its end are its own
		for end < len(p.lines) && blank(p.lines[end]) {
			end++
		}
		if end == len(p.lines) {
			return errors.New("a text that keeps its blank lines ends the file")
		}
	}
	for _, line := range p.lines[p.next:end] {
		e.value.rest = append(e.value.rest, line[min(max(column, 0), len(line)):])
	}
	p.next = end
	return nil
}

// enclosed reads quotes or brackets, on one line or several.
func (p *parser) enclosed(e *entry, text string) error {
	s := scanner{}
	e.value = &leaf{first: strings.TrimRight(text, " ")}
	first := p.lines[p.next]
	column := indentOf(first)
	done, err := s.line(text)
	for err == nil && !done {
		p.next++
		if p.next == len(p.lines) {
			return errors.New("quotes or brackets don't end")
		}
		line := p.lines[p.next]
		if s.quote == 0 && blank(line) {
			continue
		}
		e.value.rest = append(e.value.rest, line)
		done, err = s.line(line)
	}
	if err != nil {
		return fmt.Errorf("line %d: %w", p.next+1, err)
	}
	p.next++
	// The lines keep their distance from the first, but stand behind the entry's column.
	for i, line := range e.value.rest {
		e.value.rest[i] = strings.Repeat(" ", max(indentOf(line)-column-2, 0)) + strings.TrimLeft(line, " ")
		if blank(line) {
			e.value.rest[i] = ""
		}
	}
	e.value.shift = 2
	return nil
}

// scanner looks for the end of quotes and brackets.
type scanner struct {
	quote byte // within which it is; 0: none
	depth int
}

// line reads one line and says whether all that was open is closed; behind that
// only a comment may stand.
func (s *scanner) line(text string) (bool, error) {
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case s.quote == '"' && c == '\\':
			i++
		case s.quote == '\'' && c == '\'' && i+1 < len(text) && text[i+1] == '\'':
			i++
		case s.quote != 0:
			if c == s.quote {
				s.quote = 0
			}
		case c == '#' && (i == 0 || text[i-1] == ' '):
			return false, nil // the rest of the line is a comment
		case (c == '"' || c == '\'') && s.opens(text, i):
			s.quote = c
		case c == '[' || c == '{':
			s.depth++
		case c == ']' || c == '}':
			s.depth--
		}
		if s.quote == 0 && s.depth == 0 {
			rest := strings.TrimSpace(text[i+1:])
			if rest != "" && (!strings.HasPrefix(rest, "#") || text[i+1] != ' ') {
				return false, errors.New("something stands behind quotes or brackets")
			}
			return true, nil
		}
	}
	return false, nil
}

// opens says whether a quote begins a text, and doesn't stand within a plain one.
func (*scanner) opens(text string, i int) bool {
	before := strings.TrimRight(text[:i], " ")
	return before == "" || strings.ContainsRune("[{,:", rune(before[len(before)-1]))
}

// plain reads a text without quotes, on one line or several.
func (p *parser) plain(e *entry, text string, indent int) error {
	e.value = &leaf{first: strings.TrimRight(text, " "), shift: 2}
	p.next++
	if strings.Contains(text, " #") {
		return nil
	}
	for {
		at := p.next
		for at < len(p.lines) && blank(p.lines[at]) {
			at++
		}
		if at == len(p.lines) || indentOf(p.lines[at]) <= indent || isComment(p.lines[at]) {
			return nil
		}
		for ; p.next < at; p.next++ {
			e.value.rest = append(e.value.rest, "")
		}
		line := strings.TrimSpace(p.lines[at])
		e.value.rest = append(e.value.rest, line)
		p.next = at + 1
		if strings.Contains(line, " #") {
			return nil
		}
	}
}
