package redact

import (
	"bytes"
	"encoding/binary"

	"github.com/daypass/daypass/issuers"
)

const (
	// shapePrefix is the length of what stands before a generated token's body:
	// "dp", the kind's letter, "_".
	shapePrefix = 4
	shapeBody   = issuers.GeneratedLength - shapePrefix
	// shapeLook is how many bytes are looked at, at every shapeStride-th place: every
	// body holds one of these places whole.
	shapeLook   = 16
	shapeStride = shapeBody - shapeLook + 1
)

// scanShape finds the broker's own tokens that end in new bytes, which begin at
// fresh, and gives the position from which bytes could still become one.
func scanShape(t *window, fresh int, found func(start, end int64)) int64 {
	first := max(fresh-issuers.GeneratedLength+1, 0) + shapePrefix // no body begins before it
	for q := first + shapeStride - 1; ; q += shapeStride {
		if q = skimWords(t.text, q); q+shapeLook > len(t.text) {
			break
		}
		if bytes.IndexByte(t.text[q-shapeStride:q], '_') < 0 {
			continue
		}
		body := t.text[:q]
		body = body[len(body)-bodyEnding(body):]
		start := q - len(body) - shapePrefix
		if start < first-shapePrefix || !shapeBegins(t.text[start:]) || start+issuers.GeneratedLength > len(t.text) {
			continue
		}
		end := start + issuers.GeneratedLength
		if bodyEnding(t.text[q:end]) < end-q {
			continue
		}
		if _, ok := issuers.IsGenerated(string(t.text[start:end])); ok {
			found(t.base+int64(start), t.base+int64(end))
		}
	}
	return t.base + int64(shapeTail(t.text))
}

// skimWords gives the first place from q on, in steps of shapeStride, at which so
// many bytes as are looked at may all be letters and digits; or one too near to the
// end to tell.
func skimWords(text []byte, q int) int {
	for ; q+shapeLook <= len(text); q += shapeStride {
		near := text[q : q+shapeLook]
		if (below(near)|below(near[8:]))&highBits == 0 {
			break
		}
	}
	return q
}

const highBits = 0x8080808080808080

// below has a high bit set if one of the first eight bytes is no letter or digit, as
// far as it is less than "0", which is most of what stands between words.
func below(text []byte) uint64 {
	x := binary.LittleEndian.Uint64(text)
	return (x - 0x3030303030303030) | x
}

// bodyEnding is how many letters and digits a text ends with; more than a token's
// body has aren't counted.
func bodyEnding(b []byte) int {
	n := 0
	for n < min(shapeBody, len(b)) && alphanumeric(b[len(b)-1-n]) {
		n++
	}
	return n
}

func shapeBegins(b []byte) bool {
	return b[0] == 'd' && b[1] == 'p' && b[2] >= 'a' && b[2] <= 'z' && b[3] == '_'
}

// shapeTail is where a token begins that isn't complete, or the end.
func shapeTail(text []byte) int {
	n := len(text)
	if start := n - bodyEnding(text) - shapePrefix; start >= 0 && start > n-issuers.GeneratedLength && shapeBegins(text[start:]) {
		return start
	}
	switch {
	case n >= 3 && text[n-3] == 'd' && text[n-2] == 'p' && text[n-1] >= 'a' && text[n-1] <= 'z':
		return n - 3
	case n >= 2 && text[n-2] == 'd' && text[n-1] == 'p':
		return n - 2
	case n >= 1 && text[n-1] == 'd':
		return n - 1
	}
	return n
}
