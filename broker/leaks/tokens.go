package leaks

import (
	"bytes"

	"github.com/daypass/daypass/issuers"
)

// The shape of a token: "dp", the kind's letter, "_", and 33 characters in base62.
const (
	tokenLength  = issuers.GeneratedLength
	underscoreAt = 3
	bodyLength   = tokenLength - underscoreAt - 1
)

// tokensIn finds the tokens whose underscore stands in text[lo:hi]. That byte is
// rarer in logs than any other of the prefix, and no body has one: every token is
// met once, however they adjoin or overlap.
func (s *scanner) tokensIn(l *layer, lo, hi int) {
	text := l.text
	for i := lo; ; i++ {
		k := bytes.IndexByte(text[i:hi], '_')
		if k < 0 {
			return
		}
		i += k
		if i < underscoreAt || len(text)-i <= bodyLength && !s.encoded {
			continue
		}
		kind := text[i-1]
		if kind-'a' < 26 && text[i-2] == 'p' && text[i-3] == 'd' {
			s.token(l, i)
		} else if s.encoded && (kind == '\n' || text[i-2] == '\n' || text[i-3] == '\n') {
			s.wrapped(l, i)
		}
	}
}

// token looks at what stands behind an underscore that has the prefix before it.
func (s *scanner) token(l *layer, at int) {
	body := l.text[at+1:]
	n := 0
	for n < len(body) && n < bodyLength && classes[body[n]]&base62 != 0 {
		n++
	}
	if n < bodyLength {
		if s.encoded && n < len(body) && (body[n] == '\n' || body[n] == '\r') {
			s.wrapped(l, at)
		}
		return
	}
	from, to := at-underscoreAt, at+1+bodyLength
	if kind, ok := issuers.IsGenerated(string(l.text[from:to])); ok {
		s.hit(l, found{pivot: at, from: from, to: to, token: kind}, l.text[from:to])
	}
}

// maxWraps is how many line ends a terminal may put into one token.
const maxWraps = 2

// wrapped looks at an underscore in whose token a line may end: a terminal of a
// fixed width broke it.
func (s *scanner) wrapped(l *layer, at int) {
	text := l.text
	var whole [tokenLength]byte
	wraps, from := 0, at
	for i := underscoreAt - 1; i >= 0; i-- {
		from--
		if n := endBefore(text, from); n > 0 {
			from -= n
			wraps++
		}
		if from < 0 {
			return
		}
		whole[i] = text[from]
	}
	whole[underscoreAt] = '_'
	to := at + 1
	for i := underscoreAt + 1; i < len(whole); i++ {
		if n := endAt(text, to); n > 0 {
			to += n
			wraps++
		}
		if to >= len(text) || wraps > maxWraps {
			return
		}
		whole[i] = text[to]
		to++
	}
	if kind, ok := issuers.IsGenerated(string(whole[:])); ok && wraps > 0 {
		s.hit(l, found{pivot: at, from: from, to: to, token: kind, form: "wrapped"}, whole[:])
	}
}

// endAt is the length of the line end at text[i:], 0 where there is none.
func endAt(text []byte, i int) int {
	switch {
	case i < len(text) && text[i] == '\n':
		return 1
	case i+1 < len(text) && text[i] == '\r' && text[i+1] == '\n':
		return 2
	}
	return 0
}

// endBefore is the length of the line end whose last byte is text[i].
func endBefore(text []byte, i int) int {
	switch {
	case i < 0 || text[i] != '\n':
		return 0
	case i > 0 && text[i-1] == '\r':
		return 2
	}
	return 1
}
