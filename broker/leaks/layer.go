package leaks

import "sort"

// layer is a text: the window itself, or what parts of another layer decode to,
// with zero bytes between what stands apart there.
type layer struct {
	parent *layer // nil for the window
	form   string // empty for escapes, whose breaks say it
	text   []byte

	// Byte j of text was decoded from the units from phase + j·units/bytes on; the
	// last few of them say nothing.
	phase, units, bytes, spare int
	breaks                     []brk
}

// brk says where a unit stands in the parent, and how many bytes it has there.
// Those behind it, up to the next break, stand behind it there, a byte each.
type brk struct {
	unit, at, width int
	kind            uint8 // of an escape, or of an ANSI code before it
}

// place is where text[from:to] stands in the window.
func (l *layer) place(from, to int) (start, end int) {
	for ; l.parent != nil; l = l.parent {
		from, to = l.first(from), l.last(to-1)
	}
	return from, to
}

// from and to are the first and the last unit that byte j was decoded from.
func (l *layer) from(j int) int { return l.phase + j*l.units/l.bytes }

func (l *layer) to(j int) int {
	return l.phase + ((j+1)*l.units+l.bytes-1)/l.bytes - 1 - l.spare
}

// first is where what byte j was decoded from begins in the parent, last where it ends.
func (l *layer) first(j int) int {
	start, _ := l.unit(l.from(j))
	return start
}

func (l *layer) last(j int) int {
	_, end := l.unit(l.to(j))
	return end
}

// unit is where unit u stands in the parent.
func (l *layer) unit(u int) (start, end int) {
	b := l.breaks[sort.Search(len(l.breaks), func(i int) bool { return l.breaks[i].unit > u })-1]
	if u == b.unit {
		return b.at, b.at + b.width
	}
	start = b.at + b.width + u - b.unit - 1
	return start, start + 1
}

// spelling is how text[from:to] is written in the parent: empty where it is
// written there as it is, or doesn't belong together.
func (l *layer) spelling(from, to int) string {
	first, last := l.from(from), l.to(to-1)
	form := l.form
	for i := sort.Search(len(l.breaks), func(i int) bool { return l.breaks[i].unit >= first }); i < len(l.breaks) && l.breaks[i].unit <= last; i++ {
		b := l.breaks[i]
		if b.kind == apart {
			return ""
		}
		if form == "" && (b.kind != ansi || b.unit > first) {
			form = spelling(b.kind)
		}
	}
	return form
}
