package leaks

// wideIn looks at what UTF-16 in a layer decodes to: characters with a zero byte
// between each two. In which order the two bytes stand can't always be told: what
// is found goes from the first character to the last, without a zero around them.
func (s *scanner) wideIn(l *layer, depth int) {
	g := &s.levels[depth]
	g.reset()
	text := l.text
	done := 0
	for i := 0; i+1 < len(text); i += s.least {
		if (text[i] == 0) == (text[i+1] == 0) {
			continue
		}
		first := i
		if text[i] == 0 {
			first++
		}
		last := first
		for first-2 >= done && text[first-2] != 0 && text[first-1] == 0 {
			first -= 2
		}
		for last+2 < len(text) && text[last+2] != 0 && text[last+1] == 0 {
			last += 2
		}
		done = last + 1
		if (last-first)/2+1 >= s.least {
			g.wide(text, first, last)
		}
		i = max(i, last+1-s.least)
	}
	if len(g.text) > 0 {
		s.look(&layer{parent: l, form: "utf-16", text: g.text, units: 2, bytes: 1, spare: 1, breaks: g.breaks}, 0, len(g.text), depth+1)
	}
}

// wide adds the characters from first to last, every second byte.
func (g *scratch) wide(text []byte, first, last int) {
	g.breaks = append(g.breaks, brk{unit: 2 * len(g.text), at: first, width: 1})
	for i := first; i <= last; i += 2 {
		g.text = append(g.text, text[i])
	}
	g.apart(2*len(g.text), last+1)
	g.text = append(g.text, 0)
}
