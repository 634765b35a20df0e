package strictyaml

import "strings"

// quoted reads a scalar in quotes that ends on the same line.
func (r *reader) quoted() (node, bool) {
	n, quote := r.here(fixedText), r.peek()
	r.at++
	begin, escaped := r.at, false
	for ; ; r.at++ {
		switch c := r.peek(); {
		case c == '\n':
			return n, false
		case c == '\\' && quote == '"':
			if strings.IndexByte(`"\/nt`, r.ahead(1)) < 0 {
				return n, false
			}
			escaped = true
			r.at++
		case c != quote:
		case quote == '\'' && r.ahead(1) == '\'':
			escaped = true
			r.at++
		default:
			n.text = r.text[begin:r.at]
			if escaped {
				n.text = unescape(n.text, quote)
			}
			r.at++
			return n, true
		}
	}
}

// unescape is the text between quotes, whose escapes are known.
func unescape(text string, quote byte) string {
	if quote == '\'' {
		return strings.ReplaceAll(text, "''", "'")
	}
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c == '\\' {
			i++
			switch c = text[i]; c {
			case 'n':
				c = '\n'
			case 't':
				c = '\t'
			}
		}
		out = append(out, c)
	}
	return string(out)
}

// literal reads a block of text (|, |-, > or >-) whose lines all begin in the same
// column and end in a character that can be seen, and goes to the next content.
func (r *reader) literal(indent int) (node, bool) {
	n, folded := r.here(fixedText), r.peek() == '>'
	r.at++
	strip := r.peek() == '-'
	if strip {
		r.at++
	}
	if r.peek() != '\n' {
		return n, false
	}
	r.newLine()
	var b strings.Builder
	width, over := 0, false // over: behind a blank line, where the text may not go on
	for {
		begin := r.at
		r.spaces()
		wide := r.at - begin
		if width == 0 {
			width = wide
		}
		if r.at == len(r.text) && wide == 0 || r.peek() != '\n' && wide <= indent {
			r.at = begin
			break
		}
		if r.peek() == '\n' && wide <= width && r.at < len(r.text) {
			over = true
			r.newLine()
			continue
		}
		line, _, ended := strings.Cut(r.text[r.at:], "\n")
		if wide != width || over || !ended || line[len(line)-1] == ' ' {
			return n, false
		}
		if b.Len() > 0 {
			b.WriteByte(separator(folded))
		}
		b.WriteString(line)
		r.at += len(line)
		r.newLine()
	}
	if b.Len() == 0 {
		return n, false
	}
	if !strip {
		b.WriteByte('\n')
	}
	n.text = b.String()
	r.next()
	return n, true
}

func separator(folded bool) byte {
	if folded {
		return ' '
	}
	return '\n'
}
