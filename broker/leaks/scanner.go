package leaks

// scanner looks at one window after the other. What it needs for that it keeps.
type scanner struct {
	tokens, encoded bool
	anchors         *Anchors

	lo, hi  int // the block in the window: what it owns
	least   int // the shortest value that is looked for, in bytes
	budget  int // of candidates, in bytes
	dropped int
	hits    []Hit
	values  []byte // what the hits' values lie in
	levels  [MaxDepth]scratch
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
	s.lo, s.hi, s.budget, s.least = lo, hi, 8*(hi-lo)+MaxValue, tokenLength
	if s.anchors != nil {
		s.anchors.mu.RLock()
		defer s.anchors.mu.RUnlock()
		if s.anchors.live > 0 {
			s.least = min(s.least, s.anchors.shortest)
		}
	}
	s.look(&layer{text: text}, lo, hi, 0)
	return s.hits
}

// look looks at a layer, and at what it is an encoding of.
func (s *scanner) look(l *layer, lo, hi, depth int) {
	if s.tokens {
		s.tokensIn(l, lo, hi)
	}
	if s.anchors != nil && s.anchors.live > 0 {
		s.anchorsIn(l, lo, hi)
	}
	if !s.encoded || depth == MaxDepth || len(l.text) < s.least {
		return
	}
	s.base64In(l, depth)
	s.hexIn(l, depth)
	s.wideIn(l, depth)
	s.escapesIn(l, depth)
}

// hit notes a hit, if it is this block's.
func (s *scanner) hit(l *layer, f found, value []byte) {
	form := f.form
	for at, from, to := l, f.from, f.to; at.parent != nil; from, to, at = at.first(from), at.last(to-1), at.parent {
		spelt := at.spelling(from, to)
		if spelt == "" {
			return // it was found in the parent, or is nothing
		}
		if form != "" {
			spelt += "+" + form
		}
		form = spelt
	}
	if pivot, _ := l.place(f.pivot, f.pivot+1); pivot < s.lo || pivot >= s.hi {
		return
	}
	if f.token == 0 {
		if s.budget < len(value) {
			s.dropped++
			return
		}
		s.budget -= len(value)
	}
	start, end := l.place(f.from, f.to)
	kept := len(s.values)
	s.values = append(s.values, value...) // where it grows, earlier hits keep the array that they have
	s.hits = append(s.hits, Hit{
		Offset: int64(start), Length: end - start, Form: form, Value: s.values[kept:len(s.values):len(s.values)],
		Token: f.token, Ref: f.ref,
	})
}
