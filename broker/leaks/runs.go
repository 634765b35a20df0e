package leaks

import "encoding/binary"

const (
	// A wrapped block goes on in the next line where this one is at least so long:
	// base64 is wrapped at 64 or 76, xxd -p at 60.
	wrapAt = 40
	// maxIndent is how much space may stand before the next line.
	maxIndent = 64
	// gap is how many empty units stand between what lies apart: whatever the phase,
	// they decode to at least one zero byte, which no token has.
	gap = 4
)

// scratch is what the layers of one depth are made in.
type scratch struct {
	units  []byte // what is decoded, where it isn't decoded at once
	text   []byte
	breaks []brk
}

func (g *scratch) reset() {
	g.units, g.text, g.breaks = g.units[:0], g.text[:0], g.breaks[:0]
}

// base64In looks at what base64 in a layer decodes to. Where it begins can't be
// told (a path may stand before it), so all four phases are tried.
func (s *scanner) base64In(l *layer, depth int) {
	g := &s.levels[depth]
	g.reset()
	g.gather(l.text, base64Class, min(48, s.least*4/3-1), &sextets)
	if len(g.units) == 0 {
		return
	}
	for phase := range 4 {
		g.text = decode64(g.text[:0], g.units[phase:])
		s.look(&layer{parent: l, form: "base64", text: g.text, phase: phase, units: 4, bytes: 3, breaks: g.breaks}, 0, len(g.text), depth+1)
	}
}

// hexIn does the same for hex.
func (s *scanner) hexIn(l *layer, depth int) {
	g := &s.levels[depth]
	g.reset()
	g.gather(l.text, hexClass, min(60, s.least*2), &nibbles)
	if len(g.units) == 0 {
		return
	}
	for phase := range 2 {
		g.text = g.text[:0]
		for u := g.units[phase:]; len(u) >= 2; u = u[2:] {
			g.text = append(g.text, u[0]<<4|u[1])
		}
		s.look(&layer{parent: l, form: "hex", text: g.text, phase: phase, units: 2, bytes: 1, breaks: g.breaks}, 0, len(g.text), depth+1)
	}
}

// gather collects the runs of a class that have at least so many bytes, and the
// lines that continue them, as their values in a table.
func (g *scratch) gather(text []byte, class uint8, least int, values *[256]byte) {
	for i := 0; ; {
		start, end, all := nextRun(text, i, least, class)
		if start < 0 {
			return
		}
		i = end
		if class == base64Class && all&hexClass != 0 {
			continue // nothing random looks like hex in base64
		}
		g.run(text[start:end], start, values)
		for end-start >= wrapAt {
			if start = continues(text, end, class); start < 0 {
				break
			}
			for end = start; end < len(text) && classes[text[end]]&class != 0; {
				end++
			}
			g.run(text[start:end], start, values)
			i = end
		}
		g.apart(len(g.units), end)
		g.units = append(g.units, make([]byte, gap)...)
	}
}

// run adds what stands at a place.
func (g *scratch) run(text []byte, at int, values *[256]byte) {
	g.breaks = append(g.breaks, brk{unit: len(g.units), at: at, width: 1})
	for _, b := range text {
		g.units = append(g.units, values[b])
	}
}

// apart says that what comes next belongs to nothing before it.
func (g *scratch) apart(unit, at int) {
	g.breaks = append(g.breaks, brk{unit: unit, at: at, kind: apart})
}

// nextRun finds the next run of a class that has at least so many bytes: where it
// begins and ends, and the classes that all of its bytes have. start is -1 when
// there is none. It looks at the last byte that such a run would have and goes
// back from there, so that it skips most of a text of words.
func nextRun(text []byte, from, least int, class uint8) (start, end int, all uint8) {
	for i := from; i+least <= len(text); {
		j := i + least - 1
		for j >= i && classes[text[j]]&class != 0 {
			j--
		}
		if j >= i {
			i = j + 1
			continue
		}
		all = 0xff
		for end = i; end < len(text) && classes[text[end]]&class != 0; end++ {
			all &= classes[text[end]]
		}
		return i, end, all
	}
	return -1, 0, 0
}

// continues says where the run that ends at text[i:] goes on in the next line: -1
// where it doesn't. The line end may be escaped, and the line indented or behind
// the time that a CI system puts before each line.
func continues(text []byte, i int, class uint8) int {
	n := endAt(text, i)
	if n == 0 {
		n = escapedEndAt(text, i)
	}
	if n == 0 {
		return -1
	}
	i += n
	i += stampAt(text[i:])
	for end := min(i+maxIndent, len(text)); i < end && (text[i] == ' ' || text[i] == '\t'); {
		i++
	}
	if i < len(text) && classes[text[i]]&class != 0 {
		return i
	}
	return -1
}

// escapedEndAt is the length of a line end that is written as \n or \r\n.
func escapedEndAt(text []byte, i int) int {
	n := 0
	for _, letter := range []byte("rn") {
		if i+n+1 < len(text) && text[i+n] == '\\' && text[i+n+1] == letter {
			n += 2
			if letter == 'n' {
				return n
			}
		}
	}
	return 0
}

// stampAt is the length of a time (RFC 3339) and a space at the beginning of a line.
func stampAt(line []byte) int {
	const least, most = len("2006-01-02T15:04:05Z "), len("2006-01-02T15:04:05.000000000+00:00 ")
	if len(line) < least || line[4] != '-' || line[10] != 'T' || line[13] != ':' {
		return 0
	}
	for i := least - 1; i < min(most, len(line)); i++ {
		if line[i] == ' ' {
			return i + 1
		}
	}
	return 0
}

// decode64 packs sextets.
func decode64(text, units []byte) []byte {
	text = grow(text, len(units)/4*3+8) // eight bytes are written where six are meant
	at := 0
	for ; len(units) >= 8; units = units[8:] {
		x := binary.BigEndian.Uint64(units)
		x = x&0x003f003f003f003f | x&0x3f003f003f003f00>>2
		x = x&0x00000fff00000fff | x&0x0fff00000fff0000>>4
		binary.BigEndian.PutUint64(text[at:], (x>>32<<24|x&0xffffff)<<16)
		at += 6
	}
	if len(units) >= 4 {
		x := binary.BigEndian.Uint32(units)
		text[at], text[at+1], text[at+2] = byte(x>>22&0xfc|x>>20&3), byte(x>>12&0xf0|x>>10&0xf), byte(x>>2&0xc0|x&0x3f) //nolint:gosec // six bits each
		at += 3
	}
	return text[:at]
}

// grow makes text n bytes long; what stands in it doesn't matter.
func grow(text []byte, n int) []byte {
	if cap(text) < n {
		return make([]byte, n, n+n/2)
	}
	return text[:n]
}

// What a character stands for.
var (
	sextets = func() (table [256]byte) { //nolint:gochecknoglobals // a table that doesn't change
		const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
		for i, c := range []byte(letters) {
			table[c] = byte(i)
		}
		table['+'], table['-'], table['/'], table['_'] = 62, 62, 63, 63
		return table
	}()
	nibbles = func() (table [256]byte) { //nolint:gochecknoglobals // the same
		for i := range byte(10) {
			table['0'+i] = i
		}
		for i := range byte(6) {
			table['a'+i], table['A'+i] = 10+i, 10+i
		}
		return table
	}()
)
