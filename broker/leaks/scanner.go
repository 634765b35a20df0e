package leaks

import "strings"

// scanner looks at one window after the other. What it needs for that it keeps.
type scanner struct {
	tokens, encoded bool
	anchors         *Anchors

	lo, hi  int // the block in the window: what it owns
	budget  int // of candidates, in bytes
	dropped int
	hits    []Hit
	values  []byte // what the hits' values lie in
}

// found is a hit in a layer: text[from:to], told by the byte at pivot.
type found struct {
	pivot, from, to int
	token           byte
	ref             uint64
	form            string
}

// window looks at text[lo:hi], with what stands around it.
func (s *scanner) window(text []byte, lo, hi int) []Hit {
	clear(s.hits)
	s.hits, s.values = s.hits[:0], s.values[:0]
	s.lo, s.hi, s.budget = lo, hi, 8*(hi-lo)+MaxValue
	if s.anchors != nil {
		s.anchors.mu.RLock()
		defer s.anchors.mu.RUnlock()
	}
	top := layer{text: text}
	s.look(&top, lo, hi)
	return s.hits
}

// look looks at a layer, and at what it is an encoding of.
func (s *scanner) look(l *layer, lo, hi int) {
	if s.tokens {
		s.tokensIn(l, lo, hi)
	}
	if s.anchors != nil && s.anchors.live > 0 {
		s.anchorsIn(l, lo, hi)
	}
}

// hit notes a hit, if it is this block's, and says whether it is.
func (s *scanner) hit(l *layer, f found, value []byte) bool {
	if pivot, _ := l.place(f.pivot, f.pivot+1); pivot < s.lo || pivot >= s.hi {
		return false
	}
	form := f.form
	for at := l; at.parent != nil; at = at.parent {
		if form == "" {
			form = at.form
		} else {
			form = at.form + "+" + form
		}
	}
	start, end := l.place(f.from, f.to)
	kept := len(s.values)
	s.values = append(s.values, value...) // where it grows, earlier hits keep the array that they have
	s.hits = append(s.hits, Hit{
		Offset: int64(start), Length: end - start, Form: strings.Clone(form), Value: s.values[kept:len(s.values):len(s.values)],
		Token: f.token, Ref: f.ref,
	})
	return true
}
