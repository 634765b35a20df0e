package jose

import (
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds how deep objects and arrays may nest; real job tokens reach 4.
const maxDepth = 16

// ObjectError is a violation of RFC 8259, or of what we ask beyond it. It holds a
// place and no content, so it can stand in any log.
type ObjectError struct {
	what string
	at   int
}

// Error implements error.
func (e *ObjectError) Error() string {
	return e.what + " at byte " + strconv.Itoa(e.at)
}

// ParseObject reads one JSON object, strictly: what two decoders could read
// differently is refused, since the one that checks and the one that decides
// must see the same thing. Refused are duplicate names at any depth, invalid
// UTF-8, U+0000, lone surrogates, trailing data, and more than 16 levels.
//
// Values are string, bool, nil, map[string]any, []any, int64 for numbers written
// without fraction and exponent, float64 for the others. An integer that doesn't
// fit int64 is refused: as a float it would be equal to its neighbours.
//
// Strings are parts of s, not copies of it.
func ParseObject(s string) (map[string]any, error) {
	if !utf8.ValidString(s) {
		return nil, &ObjectError{"invalid UTF-8", 0}
	}
	p := parser{s: s}
	p.space()
	if p.peek() != '{' {
		return nil, p.fail("no JSON object")
	}
	object, err := p.object()
	if err != nil {
		return nil, err
	}
	p.space()
	if p.i != len(p.s) {
		return nil, p.fail("data after the JSON object")
	}
	return object, nil
}

// parser walks s once, without backtracking.
type parser struct {
	s     string
	i     int
	depth int
}

func (p *parser) fail(what string) error { return &ObjectError{what, p.i} }

// peek returns the next byte, or 0 at the end: a raw U+0000 is nowhere legal, so
// the two need no telling apart.
func (p *parser) peek() byte {
	if p.i < len(p.s) {
		return p.s[p.i]
	}
	return 0
}

func (p *parser) space() {
	for p.i < len(p.s) {
		switch p.s[p.i] {
		case ' ', '\t', '\n', '\r':
			p.i++
		default:
			return
		}
	}
}

func (p *parser) value() (any, error) {
	switch c := p.peek(); c {
	case '{':
		return p.object()
	case '[':
		return p.array()
	case '"':
		return p.string()
	case 't':
		return true, p.literal("true")
	case 'f':
		return false, p.literal("false")
	case 'n':
		return nil, p.literal("null")
	default:
		if c == '-' || isDigit(c) {
			return p.number()
		}
		return nil, p.fail("no JSON value")
	}
}

func (p *parser) literal(word string) error {
	if !strings.HasPrefix(p.s[p.i:], word) {
		return p.fail("no JSON value")
	}
	p.i += len(word)
	return nil
}

// enter goes one level down, past the opening bracket.
func (p *parser) enter() error {
	if p.depth == maxDepth {
		return p.fail("nested too deep")
	}
	p.depth++
	p.i++
	p.space()
	return nil
}

// more reads what follows a member: a comma (true) or the closing bracket.
func (p *parser) more(closing byte) (bool, error) {
	p.space()
	switch p.peek() {
	case ',':
		p.i++
		p.space()
		return true, nil
	case closing:
		p.i++
		p.depth--
		return false, nil
	default:
		return false, p.fail("no comma or closing bracket")
	}
}

func (p *parser) object() (map[string]any, error) {
	size := 4
	if p.depth == 0 {
		size = min(len(p.s)/32, 48) // about one member per 32 bytes in real tokens
	}
	if err := p.enter(); err != nil {
		return nil, err
	}
	object := make(map[string]any, size)
	if p.peek() == '}' {
		p.i++
		p.depth--
		return object, nil
	}
	for {
		start := p.i
		if p.peek() != '"' {
			return nil, p.fail("no member name")
		}
		name, err := p.string()
		if err != nil {
			return nil, err
		}
		p.space()
		if p.peek() != ':' {
			return nil, p.fail("no colon after a member name")
		}
		p.i++
		p.space()
		value, err := p.value()
		if err != nil {
			return nil, err
		}
		members := len(object)
		if object[name] = value; len(object) == members {
			return nil, &ObjectError{"duplicate name", start}
		}
		if more, err := p.more('}'); !more {
			return object, err
		}
	}
}

func (p *parser) array() ([]any, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	array := []any{}
	if p.peek() == ']' {
		p.i++
		p.depth--
		return array, nil
	}
	for {
		value, err := p.value()
		if err != nil {
			return nil, err
		}
		array = append(array, value)
		if more, err := p.more(']'); !more {
			return array, err
		}
	}
}

func (p *parser) string() (string, error) {
	s, start := p.s, p.i+1 // past the opening quote
	for i := start; i < len(s); i++ {
		c := s[i]
		if c != '"' && c != '\\' && c >= ' ' {
			continue
		}
		p.i = i
		switch c {
		case '"':
			p.i++
			return s[start:i], nil
		case '\\':
			return p.escaped(start)
		default:
			return "", p.fail("control character in a string")
		}
	}
	p.i = len(s)
	return "", p.fail("unfinished string")
}

// escaped goes on with a string whose first escape stands at p.i.
func (p *parser) escaped(start int) (string, error) {
	var text strings.Builder
	text.WriteString(p.s[start:p.i])
	for p.i < len(p.s) {
		c := p.s[p.i]
		switch {
		case c == '"':
			p.i++
			return text.String(), nil
		case c == '\\':
			r, err := p.escape()
			if err != nil {
				return "", err
			}
			text.WriteRune(r)
			continue
		case c < ' ':
			return "", p.fail("control character in a string")
		}
		text.WriteByte(c)
		p.i++
	}
	return "", p.fail("unfinished string")
}

// escape reads one escape sequence, a surrogate pair counting as one.
func (p *parser) escape() (rune, error) {
	p.i++ // the backslash
	c := p.peek()
	p.i++
	switch c {
	case '"', '\\', '/':
		return rune(c), nil
	case 'b':
		return '\b', nil
	case 'f':
		return '\f', nil
	case 'n':
		return '\n', nil
	case 'r':
		return '\r', nil
	case 't':
		return '\t', nil
	case 'u':
	default:
		return 0, p.fail("unknown escape")
	}
	r, err := p.hex()
	switch {
	case err != nil:
		return 0, err
	case r == 0:
		return 0, p.fail("U+0000 in a string")
	case !utf16.IsSurrogate(r):
		return r, nil
	}
	if !strings.HasPrefix(p.s[p.i:], `\u`) {
		return 0, p.fail("lone surrogate")
	}
	p.i += 2
	low, err := p.hex()
	if err != nil {
		return 0, err
	}
	if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
		return 0, p.fail("lone surrogate")
	}
	return r, nil
}

func (p *parser) hex() (rune, error) {
	if len(p.s)-p.i < 4 {
		return 0, p.fail("unfinished escape")
	}
	var r rune
	for range 4 {
		c := p.s[p.i]
		switch {
		case isDigit(c):
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, p.fail("unknown escape")
		}
		r = r<<4 | rune(c)
		p.i++
	}
	return r, nil
}

func (p *parser) number() (any, error) {
	start := p.i
	if p.peek() == '-' {
		p.i++
	}
	if p.peek() == '0' { // no leading zeros
		p.i++
	} else if !p.digits() {
		return nil, p.fail("no digit in a number")
	}
	whole := true
	if p.peek() == '.' {
		whole = false
		p.i++
		if !p.digits() {
			return nil, p.fail("no digit in a number")
		}
	}
	if c := p.peek(); c == 'e' || c == 'E' {
		whole = false
		p.i++
		if c := p.peek(); c == '+' || c == '-' {
			p.i++
		}
		if !p.digits() {
			return nil, p.fail("no digit in a number")
		}
	}
	if whole {
		n, err := strconv.ParseInt(p.s[start:p.i], 10, 64)
		if err != nil {
			return nil, p.fail("integer beyond 64 bits")
		}
		return n, nil
	}
	f, err := strconv.ParseFloat(p.s[start:p.i], 64)
	if err != nil {
		return nil, p.fail("number out of range")
	}
	return f, nil
}

// digits reads one or more digits.
func (p *parser) digits() bool {
	start := p.i
	for isDigit(p.peek()) {
		p.i++
	}
	return p.i > start
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
