package leaks

import "sort"

// layer is a text: the window itself, or what a part of another layer decodes to.
type layer struct {
	parent *layer // nil for the window
	form   string
	text   []byte

	// Byte j of text was decoded from the units from phase + j·units/bytes on.
	phase, units, bytes int
	breaks              []brk
}

// brk says where a unit stands in the parent. Those behind it, up to the next
// break, stand behind it there, a byte each.
type brk struct{ unit, at, width int }

// place is where text[from:to] stands in the window.
func (l *layer) place(from, to int) (start, end int) {
	for ; l.parent != nil; l = l.parent {
		from, to = l.first(from), l.last(to-1)
	}
	return from, to
}

// first is where what byte j was decoded from begins in the parent.
func (l *layer) first(j int) int {
	start, _ := l.unit(l.phase + j*l.units/l.bytes)
	return start
}

// last is where it ends.
func (l *layer) last(j int) int {
	_, end := l.unit(l.phase + ((j+1)*l.units+l.bytes-1)/l.bytes - 1)
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
