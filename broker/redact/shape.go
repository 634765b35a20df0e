package redact

import (
	"bytes"

	"github.com/daypass/daypass/issuers"
)

// shapePrefix is the length of what stands before a generated token's body: "dp",
// the kind's letter, "_". No other "_" is in a token, so it is what to look for.
const shapePrefix = 4

// scanShape finds the broker's own tokens that end in new bytes, which begin at
// fresh, and gives the position from which bytes could still become one.
func scanShape(t *window, fresh int, found func(start, end int64)) int64 {
	i := max(fresh-issuers.GeneratedLength, 0)
	for {
		k := bytes.IndexByte(t.text[i:], '_')
		if k < 0 {
			return t.base + int64(shapeTail(t.text))
		}
		i += k + 1
		if i < shapePrefix || !shapeBegins(t.text[i-shapePrefix:i]) {
			continue
		}
		start := i - shapePrefix
		token := t.text[start:min(start+issuers.GeneratedLength, len(t.text))]
		switch body := token[shapePrefix:]; {
		case bodyLength(body) < len(body), start+issuers.GeneratedLength <= fresh: // the latter was looked at before
		case len(token) < issuers.GeneratedLength:
			return t.base + int64(start)
		default:
			if _, ok := issuers.IsGenerated(string(token)); ok {
				found(t.base+int64(start), t.base+int64(start+len(token)))
			}
		}
	}
}

func shapeBegins(b []byte) bool {
	return b[0] == 'd' && b[1] == 'p' && b[2] >= 'a' && b[2] <= 'z' && b[3] == '_'
}

// bodyLength is how many letters and digits a text begins with.
func bodyLength(b []byte) int {
	n := 0
	for n < len(b) && alphanumeric(b[n]) {
		n++
	}
	return n
}

// shapeTail is where a token begins that has no "_" yet, or the end.
func shapeTail(text []byte) int {
	n := len(text)
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
