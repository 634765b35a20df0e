package redact

import (
	"encoding/binary"

	"github.com/daypass/daypass/issuers"
)

const (
	// shapePrefix is the length of what stands before a generated token's body:
	// "dp", the kind's letter, "_".
	shapePrefix = 4
	shapeBody   = issuers.GeneratedLength - shapePrefix
	// shapeStride is such that every body holds eight bytes at one of the places that
	// are looked at.
	shapeStride = shapeBody - 8 + 1
)

// scanShape finds the broker's own tokens that end in new bytes, which begin at
// fresh, and gives the position from which bytes could still become one.
func scanShape(t *window, fresh int, found func(start, end int64)) int64 {
	first := max(fresh-issuers.GeneratedLength+1, 0) + shapePrefix // no body begins before it
	for q := first + shapeStride - 1; q+8 <= len(t.text); q += shapeStride {
		if !wordy(t.text[q:]) {
			continue
		}
		if q+16 <= len(t.text) && !wordy(t.text[q+8:]) && !wordy(t.text[q-8:]) {
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

// wordy says that the first eight bytes may all be letters and digits: none is
// among what mostly stands between words, which is less than "0".
func wordy(text []byte) bool {
	const high, zero = 0x8080808080808080, 0x3030303030303030
	x := binary.LittleEndian.Uint64(text)
	return (x-zero|x)&high == 0
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
