package redact

import "encoding/binary"

const (
	// MaxBreak is how many bytes in a row may stand within a value without being of
	// it: line ends, and the escape sequences of a terminal.
	MaxBreak = 64
	// MinPiece is how many bytes of a value stand at least between two line ends
	// within it. No terminal is narrower; encoders break lines after 64 or 76.
	MinPiece = 20
)

// values is what is known of all needles.
type values struct {
	trie   *trie
	filter *filter
}

// window is a piece of a stream: text, whose first byte has the position base.
type window struct {
	text []byte
	base int64
}

func lineEnd(b byte) bool { return b == '\n' || b == '\r' }

// cursor is a state of the automaton in a stream.
type cursor struct {
	node  int32
	gap   int     // how many bytes since the last one that was looked at
	piece int     // how many were since the last line end, or since reset
	at    []int64 // the positions of the last bytes that were, depth of node or more
	steps int64   // how many were in all
}

func (c *cursor) reset() { c.node, c.gap, c.piece, c.at = 0, 0, 0, c.at[:0] }

// start is the position where the current prefix of a needle begins.
func (c *cursor) start(t *trie) int64 { return c.at[len(c.at)-int(t.depth[c.node])] }

// step looks at a byte.
func (c *cursor) step(t *trie, b byte, position int64, found func(start, end int64)) {
	c.gap = 0
	c.piece++
	c.steps++
	c.node = t.step(c.node, b)
	c.at = append(c.at, position)
	if n := t.match[c.node]; n > 0 {
		found(c.at[len(c.at)-int(n)], position+1)
	}
	// Moving what is needed only when it is the smaller part keeps that linear.
	if depth := int(t.depth[c.node]); len(c.at) >= 2*depth+64 {
		c.at = c.at[:copy(c.at, c.at[len(c.at)-depth:])]
	}
}

// skip passes over a byte that stands between others; after too many, none of the
// ones before count.
func (c *cursor) skip() {
	if c.gap++; c.gap > MaxBreak {
		c.node = 0
	}
}

// skipLine passes over a line end. What has begun before the last one goes no
// further when the line between them is short.
func (c *cursor) skipLine(t *trie) {
	if c.piece > 0 && c.piece < MinPiece {
		for int(t.depth[c.node]) > c.piece {
			c.node = t.fail[c.node]
		}
	}
	c.piece = 0
	c.skip()
}

// settle leaves the node from which bytes could still become a match.
func (c *cursor) settle(t *trie) { c.node = t.live(c.node) }

// scanner finds needles in a stream, line ends left out.
//
// It is in one of two states. Mostly it looks at a block here and there, and knows
// that no match begins before from. Once a block may be one of a needle, it is
// deep: it goes through the automaton, beginning where that needle would, until
// what is left is shorter than a block.
type scanner struct {
	*values
	found func(start, end int64)

	deep  bool
	place int64 // of the next byte for the automaton when deep, else of the next block
	from  int64
	until int64 // the block that was found ends here
	cursor
}

// rest leaves the automaton: no match begins before from.
func (s *scanner) rest(from int64) {
	s.deep = false
	s.from, s.place = from, from+int64(s.filter.stride)-1
}

// dive enters the automaton.
func (s *scanner) dive(place, until int64) {
	s.deep = true
	s.place, s.until = place, until
	s.reset()
}

// advance looks at a window up to limit.
func (s *scanner) advance(t *window, limit int) {
	for {
		if s.deep && !s.descend(t, limit) || !s.skim(t, limit) {
			return
		}
	}
}

// descend goes on through the automaton, and says whether it has left it.
func (s *scanner) descend(t *window, limit int) bool {
	for i := int(s.place - t.base); i < limit; i++ {
		b, position := t.text[i], t.base+int64(i)
		if lineEnd(b) {
			s.skipLine(s.trie)
			continue
		}
		s.step(s.trie, b, position, s.found)
		if depth := int(s.trie.depth[s.node]); depth < s.filter.width && position >= s.until {
			s.rest(position + 1)
			if depth > 0 {
				s.rest(s.start(s.trie))
			}
			return true
		}
	}
	s.place = t.base + int64(limit)
	return false
}

// skim looks at every stride-th block that begins before limit, and says whether
// one may be a needle's.
func (s *scanner) skim(t *window, limit int) bool {
	f := s.filter
	for q := int(s.place - t.base); ; q += f.stride {
		q = f.skim(t.text, q, limit)
		if q >= limit || q+f.width > len(t.text) {
			s.place = t.base + int64(q)
			return false
		}
		var x uint64
		if q+8 <= len(t.text) {
			x = binary.LittleEndian.Uint64(t.text[q:])
		} else {
			var last [8]byte
			copy(last[:], t.text[q:])
			if x = binary.LittleEndian.Uint64(last[:]); !f.maybe(x) {
				continue
			}
		}
		if f.back(x) >= 0 {
			// A needle may have begun before the one that this block is of, if any, and have
			// its whole piece behind it: go back to where all that began before was looked at.
			start := t.retreat(q, int(s.from-t.base), f.span)
			s.dive(t.base+int64(start), t.base+int64(q+f.width)-1)
			return true
		}
	}
}

// finish ends a window. It gives the position from which bytes could still become
// part of a match; the next window holds them too.
func (s *scanner) finish(t *window) int64 {
	end := t.base + int64(len(t.text))
	if !s.deep {
		start, long := s.tail(t, int(s.from-t.base), len(t.text))
		if !long {
			s.rest(t.base + int64(start))
			return s.from
		}
		s.dive(t.base+int64(start), end)
		s.descend(t, len(t.text))
	}
	s.settle(s.trie)
	switch depth := int(s.trie.depth[s.node]); {
	case depth == 0:
		s.rest(end)
		return end
	case depth < s.filter.width:
		s.rest(s.start(s.trie))
		return s.from
	}
	return s.start(s.trie)
}

// tail is where the longest suffix of the text before end begins that begins a
// needle, or end. When it may be long, the automaton must tell.
func (s *scanner) tail(t *window, floor, end int) (start int, long bool) {
	f := s.filter
	var (
		x         uint64
		at        [8]int
		n         int
		gap, gaps int
	)
	for i := end - 1; i >= floor && n < f.width && gap <= MaxBreak; i-- {
		b := t.text[i]
		if lineEnd(b) {
			if gap == 0 {
				gaps++
			}
			if gap++; gaps > 1 {
				break // less than MinPiece bytes after another one
			}
			continue
		}
		gap = 0
		x = x<<8 | uint64(b)
		at[n] = i
		n++
	}
	if n == f.width && f.maybe(x) {
		if f.back(x) >= 0 {
			return t.retreat(at[n-1], floor, f.span), true //nolint:gosec // width is 4 at least
		}
	}
	for length := min(n, f.width-1); length > 0; length-- {
		if y := x >> (8 * (n - length)); f.head(y, length) && s.trie.begins(y, length) {
			return at[length-1], false
		}
	}
	return end, false
}

// skim gives the first place from q on, in steps of stride, at which a block may be
// one of a needle; or one that isn't before limit, or too near to the end for
// eight bytes to be read. Four at a time take less than one after the other, since
// the processor needn't guess four branches.
func (f *filter) skim(text []byte, q, limit int) int {
	words, stride, cut, shift := f.words, f.stride, f.cut&63, f.shift&63
	limit = min(limit, len(text)-7)
	for ; q+3*stride < limit; q += 4 * stride {
		a := binary.LittleEndian.Uint64(text[q:]) << cut
		b := binary.LittleEndian.Uint64(text[q+stride:]) << cut
		c := binary.LittleEndian.Uint64(text[q+2*stride:]) << cut
		d := binary.LittleEndian.Uint64(text[q+3*stride:]) << cut
		if (look(words, shift, a)|look(words, shift, b)|look(words, shift, c)|look(words, shift, d))&1 != 0 {
			break
		}
	}
	for ; q < limit; q += stride {
		if look(words, shift, binary.LittleEndian.Uint64(text[q:])<<cut)&1 != 0 {
			break
		}
	}
	return q
}

// begins says that so many bytes begin a needle.
func (t *trie) begins(x uint64, length int) bool {
	at := int32(0)
	for range length {
		if at = t.child(at, byte(x)); at == 0 {
			return false
		}
		x >>= 8
	}
	return true
}

// retreat is the place so many bytes before i, line ends not counted, or floor.
func (t *window) retreat(i, floor, bytes int) int {
	for i > floor && bytes > 0 {
		if i--; !lineEnd(t.text[i]) {
			bytes--
		}
	}
	return i
}
