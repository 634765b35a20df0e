package strictyaml

import (
	"strings"
	"unicode/utf8"
)

// reader reads the part of YAML that nearly every file keeps to, some ten times
// faster than a parser of all of it: blocks, brackets that close on their line,
// scalars that end on their line, and blocks of text without surprises. It has no
// opinion on anything else, be it wrong or merely rare: it gives up, and the file
// goes to [slow], which then decides. What it does read, it reads as the slow way
// does, to the column; FuzzReader holds the two against each other.
type reader struct {
	text      string
	at        int // offset of the next byte
	line      int32
	lineStart int // offset of the line's first byte
	indent    int // spaces before the line's content; -1 at the end of the file
	seen      int // an offset in this line …
	seenCol   int32
	stack     []node // items of lists and mappings that are still open
	keys      int
	maps      int // mappings in braces that are open
	keep      bool
	comments  []Comment
}

// read returns the tree of a file; false when the file has to go the slow way.
func (r *reader) read() (node, bool) {
	r.line, r.seenCol = 1, 1
	r.next()
	if r.indent == 0 && strings.HasPrefix(r.text[r.at:], "---") {
		r.at += len("---")
		if !r.endLine() {
			return node{}, false
		}
	}
	if r.indent < 0 {
		return node{}, false
	}
	root, ok := r.block(1)
	return root, ok && r.indent < 0
}

// col is the column of the next byte. Within a line it only moves on, so a long
// line is counted once.
func (r *reader) col() int32 {
	if r.seen < r.lineStart {
		r.seen, r.seenCol = r.lineStart, 1
	}
	r.seenCol += int32(utf8.RuneCountInString(r.text[r.seen:r.at])) //nolint:gosec // files are small: MaxSize
	r.seen = r.at
	return r.seenCol
}

// here is a node that begins at the next byte.
func (r *reader) here(kind nodeKind) node { return node{kind: kind, line: r.line, col: r.col()} }

// peek is the next byte: a line end at the end of the file.
func (r *reader) peek() byte { return r.ahead(0) }

func (r *reader) ahead(n int) byte {
	if r.at+n < len(r.text) {
		return r.text[r.at+n]
	}
	return '\n'
}

func (r *reader) spaces() {
	for r.at < len(r.text) && r.text[r.at] == ' ' {
		r.at++
	}
}

// next goes from the start of a line to the first character that is neither
// space nor comment, in this line or a later one.
func (r *reader) next() {
	for r.at < len(r.text) {
		r.spaces()
		if r.at == len(r.text) {
			break
		}
		switch r.text[r.at] {
		case '#':
			r.comment()
			r.newLine()
		case '\n':
			r.newLine()
		default:
			r.indent = r.at - r.lineStart
			return
		}
	}
	r.indent = -1
}

func (r *reader) newLine() {
	if r.at < len(r.text) {
		r.at++
	}
	r.line++
	r.lineStart = r.at
}

// comment goes to the end of the line.
func (r *reader) comment() {
	rest := r.text[r.at:]
	if end := strings.IndexByte(rest, '\n'); end >= 0 {
		rest = rest[:end]
	}
	if r.keep {
		r.comments = append(r.comments, Comment{Line: int(r.line), Col: int(r.col()), Text: strings.TrimSpace(rest[1:])})
	}
	r.at += len(rest)
}

// endLine makes sure that nothing but a comment follows in the line, and goes to
// the next content.
func (r *reader) endLine() bool {
	begin := r.at
	r.spaces()
	if r.peek() == '#' && (r.at > begin || r.text[r.at-1] == ' ') {
		r.comment()
	}
	if r.peek() != '\n' {
		return false
	}
	r.newLine()
	r.next()
	return true
}

// dash says whether an item of a list begins here.
func (r *reader) dash() bool {
	return r.peek() == '-' && (r.ahead(1) == ' ' || r.ahead(1) == '\n')
}

// collect gives a list or mapping what was put on the stack since it began.
func (r *reader) collect(n node, begin int) node {
	n.items = append([]node(nil), r.stack[begin:]...)
	r.stack = r.stack[:begin]
	return n
}

// block reads the list or mapping that begins here, at the first content of a
// line or behind the dash of a list.
func (r *reader) block(depth int) (node, bool) {
	if depth > MaxDepth {
		return node{}, false
	}
	indent := r.at - r.lineStart
	if r.dash() {
		return r.list(indent, depth)
	}
	return r.mapping(indent, depth)
}

func (r *reader) mapping(indent, depth int) (node, bool) {
	n, begin := r.here(mappingOf), len(r.stack)
	for {
		key, ok := r.key()
		if !ok || r.ahead(1) != ' ' && r.ahead(1) != '\n' {
			return n, false
		}
		r.at++
		r.spaces()
		var value node
		if r.peek() == '\n' || r.peek() == '#' {
			if !r.endLine() || r.indent < indent || r.indent == indent && !r.dash() {
				return n, false
			}
			value, ok = r.block(depth + 1)
		} else {
			value, ok = r.inline(indent, depth+1)
		}
		if !ok || r.indent > indent {
			return n, false
		}
		r.stack = append(r.stack, key, value)
		if r.indent < indent {
			return r.collect(n, begin), true
		}
	}
}

func (r *reader) list(indent, depth int) (node, bool) {
	n, begin := r.here(listOf), len(r.stack)
	for {
		r.at++
		r.spaces()
		var item node
		var ok bool
		switch {
		case r.peek() == '\n' || r.peek() == '#':
			if !r.endLine() || r.indent <= indent {
				return n, false
			}
			item, ok = r.block(depth + 1)
		case r.dash() || r.atKey():
			item, ok = r.block(depth + 1)
		default:
			item, ok = r.inline(indent, depth+1)
		}
		if !ok || r.indent > indent {
			return n, false
		}
		r.stack = append(r.stack, item)
		if r.indent < indent || !r.dash() {
			return r.collect(n, begin), true
		}
	}
}

// inline reads a value that begins behind its key or dash, and goes to the next content.
func (r *reader) inline(indent, depth int) (n node, ok bool) {
	switch r.peek() {
	case '|', '>':
		return r.literal(indent)
	case '[', '{':
		n, ok = r.flow(depth)
	case '"', '\'':
		n, ok = r.quoted()
	default:
		n, ok = r.plain()
	}
	return n, ok && r.endLine()
}

// keyLength is how many of the bytes that begin here can be a key without quotes.
func (r *reader) keyLength() int {
	n := 0
	for ; r.at+n < len(r.text); n++ {
		switch c := r.text[r.at+n]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_':
		case n > 0 && (c == '-' || c == '.' || c == '/'):
		default:
			return n
		}
	}
	return n
}

// atKey says whether a key begins here, rather than a scalar.
func (r *reader) atKey() bool {
	before := *r
	_, ok := r.key()
	ok = ok && (r.ahead(1) == ' ' || r.ahead(1) == '\n')
	before.stack, before.comments = r.stack, r.comments
	*r = before
	return ok
}

// key reads a key as far as its colon.
func (r *reader) key() (n node, ok bool) {
	if c := r.peek(); c == '"' || c == '\'' {
		n, ok = r.quoted()
	} else {
		n = r.here(plainText)
		length := r.keyLength()
		n.text = r.text[r.at : r.at+length]
		r.at += length
		ok = length > 0 && !null(n.text)
	}
	r.keys++
	return n, ok && r.peek() == ':' && r.keys <= MaxKeys
}

// null says whether a plain text stands for nothing.
func null(text string) bool {
	return text == "~" || text == "null" || text == "Null" || text == "NULL"
}

// startsPlain says whether a scalar without quotes can begin here.
func (r *reader) startsPlain() bool {
	switch r.peek() {
	case '?', ':', ',', '[', ']', '{', '}', '#', '&', '*', '!', '|', '>', '\'', '"', '%', '@', '`', '<', '\n', ' ':
		return false
	case '-', '.':
		c := r.ahead(1)
		return c >= '0' && c <= '9' || c >= 'a' && c <= 'z'
	default:
		return true
	}
}

// plain reads a scalar without quotes as far as the end of its line.
func (r *reader) plain() (node, bool) {
	n, begin := r.here(plainText), r.at
	if !r.startsPlain() {
		return n, false
	}
	for ; r.peek() != '\n'; r.at++ {
		c := r.text[r.at]
		if c == ':' && (r.ahead(1) == ' ' || r.ahead(1) == '\n') {
			return n, false
		}
		if c == '#' && r.text[r.at-1] == ' ' {
			break
		}
	}
	n.text = strings.TrimRight(r.text[begin:r.at], " ")
	return n, !null(n.text)
}

// flow reads a list or mapping in brackets that closes on the same line.
func (r *reader) flow(depth int) (node, bool) {
	n, end, begin := r.here(listOf), byte(']'), len(r.stack)
	n.flow = true
	if r.peek() == '{' {
		n.kind, end = mappingOf, '}'
		r.maps++
		defer func() { r.maps-- }()
	}
	if depth > MaxDepth {
		return n, false
	}
	r.at++
	r.spaces()
	if r.peek() == end {
		r.at++
		return n, true
	}
	for {
		item, ok := r.entry(n.kind == mappingOf, depth)
		if !ok {
			return n, false
		}
		r.stack = append(r.stack, item)
		r.spaces()
		switch r.peek() {
		case ',':
			r.at++
			r.spaces()
		case end:
			r.at++
			return r.collect(n, begin), true
		default:
			return n, false
		}
	}
}

// entry reads a value in brackets, and puts its key on the stack before.
func (r *reader) entry(keyed bool, depth int) (node, bool) {
	if keyed {
		key, ok := r.key()
		if !ok || r.ahead(1) != ' ' {
			return key, false
		}
		r.stack = append(r.stack, key)
		r.at++
		r.spaces()
	}
	switch r.peek() {
	case '[', '{':
		return r.flow(depth + 1)
	case '"', '\'':
		return r.quoted()
	default:
		return r.flowPlain(keyed)
	}
}

// flowPlain reads a scalar without quotes in brackets. Readers differ over colons
// there; all take them as text behind a key, or where no brace is open.
func (r *reader) flowPlain(keyed bool) (node, bool) {
	n, begin := r.here(plainText), r.at
	if !r.startsPlain() {
		return n, false
	}
	for {
		switch c := r.peek(); c {
		case '\n', '[', '{':
			return n, false
		case '#':
			if r.text[r.at-1] == ' ' {
				return n, false
			}
		case ':':
			if !keyed && r.maps > 0 || strings.IndexByte(" \n,]}", r.ahead(1)) >= 0 {
				return n, false
			}
		case ',', ']', '}':
			n.text = strings.TrimRight(r.text[begin:r.at], " ")
			return n, !null(n.text)
		}
		r.at++
	}
}
