package leaks

import "bytes"

// Kinds of escapes.
const (
	literal uint8 = iota
	percent
	backslash
	entity
	ansi
	apart // no escape: from here on stands what doesn't belong to what stands before
)

func spelling(kind uint8) string {
	return [...]string{literal: "", percent: "url", backslash: "backslash", entity: "html", ansi: "ansi", apart: ""}[kind]
}

const (
	// So far from an escape a value may reach that has no other: a token, or the
	// value of an anchor.
	reachTokens  = tokenLength + maxEscape
	reachAnchors = 512
	// maxEscape is the longest escape, in bytes.
	maxEscape = 32
	// A line end or a quote in a value is an escape of interest where so many
	// characters of base64 stand beside it: else they stand in every line of JSON.
	beside = 8
)

// escapesIn looks at what escapes in a layer decode to, together with what stands
// around them in the line.
func (s *scanner) escapesIn(l *layer, depth int) {
	g := &s.levels[depth]
	g.reset()
	text := l.text
	reach := reachTokens
	if s.anchors != nil {
		reach = reachAnchors
	}
	var next [len(introducers)]int
	for i := range next {
		next[i] = indexFrom(text, 0, introducers[i])
	}
	var r region
	for {
		first := 0
		for i := range next {
			if next[i] < next[first] {
				first = i
			}
		}
		at := next[first]
		if at == len(text) {
			break
		}
		next[first] = indexFrom(text, at+1, introducers[first])
		if !s.telling(text, at) {
			continue
		}
		if at >= r.to {
			g.unescape(text, r.from, r.to)
			r.begin(text, at, reach)
		}
		r.extend(text, at+reach)
	}
	g.unescape(text, r.from, r.to)
	if len(g.text) > 0 {
		s.look(&layer{parent: l, text: g.text, units: 1, bytes: 1, breaks: g.breaks}, 0, len(g.text), depth+1)
	}
}

// region is what stands around escapes: text[from:to], of one line. A line end in
// a value with escapes would be one.
type region struct {
	from, to int
	whole    bool // to is the line's end
}

func (r *region) begin(text []byte, at, reach int) {
	from := max(at-reach, r.to)
	*r = region{from: from + bytes.LastIndexByte(text[from:at], '\n') + 1, to: at}
}

// extend takes what stands before a place, up to the line's end.
func (r *region) extend(text []byte, to int) {
	if to = min(to, len(text)); r.whole || to <= r.to {
		return
	}
	if n := bytes.IndexByte(text[r.to:to], '\n'); n >= 0 {
		to, r.whole = r.to+n, true
	}
	r.to = to
}

const introducers = "%\\&\x1b"

// indexFrom is the place of the next b, or the text's end.
func indexFrom(text []byte, from int, b byte) int {
	if i := bytes.IndexByte(text[from:], b); i >= 0 {
		return from + i
	}
	return len(text)
}

// telling says whether an escape stands at text[at:] that a value could have.
func (s *scanner) telling(text []byte, at int) bool {
	b, width, kind := unescape(text, at)
	switch {
	case kind == literal:
		return false
	case kind == ansi:
		for width > 0 && at+width < len(text) && text[at+width] == esc {
			_, w, k := unescape(text, at+width)
			if k != ansi {
				break
			}
			width += w
		}
		return at > 0 && at+width < len(text) && inToken(text[at-1]) && inToken(text[at+width])
	case kind == backslash && width == 2, kind == entity && text[at+1] != '#':
		if b == '\\' || b == '&' {
			return at+width < len(text) && (text[at+width] == 'u' || text[at+width] == 'x' || text[at+width] == '#' || text[at+width] == b)
		}
		return s.anchors != nil && besideBase64(text, at, at+width)
	}
	return s.anchors != nil || inToken(b) || classes[b]&introducer != 0
}

func inToken(b byte) bool { return classes[b]&base62 != 0 || b == '_' }

// besideBase64 says whether base64 ends at text[:before] or begins at text[after:].
func besideBase64(text []byte, before, after int) bool {
	n := 0
	for n < beside && before-n > 0 && classes[text[before-n-1]]&base64Class != 0 {
		n++
	}
	if n == beside {
		return true
	}
	n = 0
	for n < beside && after+n < len(text) && classes[text[after+n]]&base64Class != 0 {
		n++
	}
	return n == beside
}

// unescape adds what text[from:to] decodes to.
func (g *scratch) unescape(text []byte, from, to int) {
	if from == to {
		return
	}
	g.breaks = append(g.breaks, brk{unit: len(g.text), at: from, width: 1})
	for i := from; i < to; {
		if classes[text[i]]&introducer == 0 {
			g.text = append(g.text, text[i])
			i++
			continue
		}
		b, width, kind := unescape(text, i)
		switch kind {
		case literal:
			g.text = append(g.text, text[i])
			i++
			continue
		case ansi:
			g.breaks = append(g.breaks, brk{unit: len(g.text), at: i + width, width: 1, kind: kind})
		default:
			g.breaks = append(g.breaks, brk{unit: len(g.text), at: i, width: width, kind: kind})
			g.text = append(g.text, b)
		}
		i += width
	}
	g.apart(len(g.text), to)
	g.text = append(g.text, 0)
}

// unescape reads the escape at text[i:]: the byte that it stands for (none for an
// ANSI code), its length, and its kind, which is literal where there is none.
func unescape(text []byte, i int) (b byte, width int, kind uint8) {
	text = text[i:min(i+maxEscape, len(text))]
	switch text[0] {
	case '%':
		if b, ok := number(text[1:], 2, 16); ok {
			return b, 3, percent
		}
	case '\\':
		if b, width = unescapeBackslash(text); width > 0 {
			return b, width, backslash
		}
	case '&':
		if b, width = unescapeEntity(text); width > 0 {
			return b, width, entity
		}
	case esc:
		if width = ansiCode(text); width > 0 {
			return 0, width, ansi
		}
	}
	return 0, 0, literal
}

// number reads n digits, of a byte of ASCII or of any byte where they are two.
func number(text []byte, n, base int) (byte, bool) {
	if len(text) < n {
		return 0, false
	}
	value := 0
	for _, c := range text[:n] {
		if classes[c]&hexClass == 0 || int(nibbles[c]) >= base || value > 0xff {
			return 0, false
		}
		value = value*base + int(nibbles[c])
	}
	return byte(value), value <= 0xff
}

func unescapeBackslash(text []byte) (b byte, width int) {
	if len(text) < 2 {
		return 0, 0
	}
	ok := false
	switch c := text[1]; c {
	case 'u':
		b, ok = number(text[2:], 4, 16)
		width = 6
	case 'x':
		b, ok = number(text[2:], 2, 16)
		width = 4
	case '0', '1', '2', '3':
		b, ok = number(text[1:], 3, 8)
		width = 4
	case 'n', 'r', 't':
		return map[byte]byte{'n': '\n', 'r': '\r', 't': '\t'}[c], 2
	case '"', '\'', '\\', '/':
		return c, 2
	}
	if !ok {
		return 0, 0
	}
	return b, width
}

// unescapeEntity reads &#100; &#x64; and the entities that XML has, and HTML's for "_".
func unescapeEntity(text []byte) (b byte, width int) {
	end := bytes.IndexByte(text, ';')
	if end < 3 {
		return 0, 0
	}
	name := text[1:end]
	if name[0] != '#' {
		switch string(name) {
		case "amp":
			b = '&'
		case "lt":
			b = '<'
		case "gt":
			b = '>'
		case "quot":
			b = '"'
		case "apos":
			b = '\''
		case "lowbar":
			b = '_'
		default:
			return 0, 0
		}
		return b, end + 1
	}
	digits, base := name[1:], 10
	if digits[0] == 'x' || digits[0] == 'X' {
		digits, base = digits[1:], 16
	}
	b, ok := number(digits, len(digits), base)
	if !ok || len(digits) == 0 {
		return 0, 0
	}
	return b, end + 1
}

// ansiCode is the length of a control sequence (ECMA-48 §5.4).
func ansiCode(text []byte) int {
	if len(text) < 3 || text[1] != '[' {
		return 0
	}
	i := 2
	for i < len(text) && text[i] >= 0x20 && text[i] <= 0x3f {
		i++
	}
	if i < len(text) && text[i] >= 0x40 && text[i] <= 0x7e {
		return i + 1
	}
	return 0
}
