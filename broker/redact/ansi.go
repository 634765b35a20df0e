package redact

import "bytes"

const escape = 0x1b

// Where a byte stands in an escape sequence (ECMA-48): ESC, any number of
// intermediate bytes and a final one; after ESC [ parameters stand before it.
const (
	ground = iota
	escaped
	intermediate
	control
)

// overlay finds needles that escape sequences of a terminal interrupt: it is the
// automaton on the stream without them. It is on from a sequence until the needle
// that may have begun before it is complete or isn't one; what has begun after it
// the scanner finds by itself.
type overlay struct {
	*values
	found func(start, end int64)

	on    bool
	place int64
	after int64 // the last sequence ends here
	state int
	cursor
}

// scan looks at a window, whose bytes from fresh on are new, for both: the scanner
// goes ahead to each sequence, and its state there is what the overlay begins with.
func (o *overlay) scan(s *scanner, t *window, fresh int) {
	for i := fresh; ; i = int(o.place - t.base) {
		if o.on {
			if !o.advance(t) {
				break
			}
			continue
		}
		k := bytes.IndexByte(t.text[i:], escape)
		if k < 0 {
			break
		}
		s.advance(t, i+k)
		o.begin(s, t, i+k)
	}
	s.advance(t, len(t.text))
}

// begin turns the overlay on at a sequence.
func (o *overlay) begin(s *scanner, t *window, at int) {
	o.on, o.state, o.place = true, ground, t.base+int64(at)
	o.reset()
	if s.deep {
		node := s.node
		for node != 0 && s.at[len(s.at)-int(o.trie.depth[node])] < o.after {
			node = o.trie.fail[node]
		}
		o.node, o.gap, o.piece = node, s.gap, s.piece
		o.at = append(o.at, s.at[len(s.at)-int(o.trie.depth[node]):]...)
		return
	}
	floor := int(max(s.from, o.after) - t.base)
	start, _ := s.tail(t, floor, at)
	for i := start; i < at; i++ {
		o.take(t.text[i], t.base+int64(i))
	}
}

// take looks at a byte that is of no sequence.
func (o *overlay) take(b byte, position int64) {
	if lineEnd(b) {
		o.skipLine(o.trie)
		return
	}
	o.step(o.trie, b, position, o.found)
}

// advance looks at a window until the overlay is off, and says whether it is.
func (o *overlay) advance(t *window) bool {
	for i := int(o.place - t.base); i < len(t.text); i++ {
		b, position := t.text[i], t.base+int64(i)
		if o.sequence(b) {
			o.skip()
			o.after = position + 1
		} else {
			o.take(b, position)
		}
		if o.state == ground && (o.node == 0 || o.start(o.trie) >= o.after) {
			o.on, o.place = false, position+1
			return true
		}
	}
	o.place = t.base + int64(len(t.text))
	return false
}

// sequence says whether the next byte is of an escape sequence.
func (o *overlay) sequence(b byte) bool {
	switch {
	case b == escape:
		o.state = escaped
	case o.state == ground:
		return false
	case o.state == escaped && b == '[':
		o.state = control
	case b >= ' ' && b < '0', o.state == control && b >= '0' && b < '@':
		if o.state == escaped {
			o.state = intermediate
		}
	case b >= '0' && b < 0x7f:
		o.state = ground
		return true
	default: // no byte of a sequence: it ends here
		o.state = ground
		return false
	}
	return true
}

// finish gives the position from which bytes could still become part of a match.
func (o *overlay) finish(t *window) int64 {
	if o.on {
		if o.settle(o.trie); o.node != 0 {
			return o.start(o.trie)
		}
	}
	return t.base + int64(len(t.text))
}
