package redact

import (
	"encoding/binary"
	"math/bits"
)

// filter tells, from a few bytes of a text, that no needle stands around them.
//
// Of every needle its first span bytes are known here, as all blocks of width bytes
// in them. Where a needle stands in a text, line ends within it leave one piece of
// those span bytes that has at least min(span/2, MinPiece) bytes, since two pieces
// or more have one of half of it or lie around a whole line. Such a piece holds
// a whole block at every stride-th place, wherever one begins to count, so it is
// enough to look there, and not to look for line ends. Which blocks are of a needle
// is kept in a Bloom filter whose two bits lie in one word; a table then says how
// far before the block a needle may begin. Both may say yes for nothing, never no
// for something: the automaton decides.
//
// Letters are looked up in one case, as hex and escapes come in both.
type filter struct {
	span, width, stride int

	cut   uint // what is shifted out of eight bytes to leave width of them
	words []uint64
	shift uint
	slots []slot
	slide uint

	heads []uint64 // a Bloom filter of what is shorter than a block and begins a needle
	tilt  uint
}

// slot is what is known of the blocks with one hash.
type slot struct {
	tag  uint8 // of the block; anyBlock when there are several
	back uint8 // the farthest place in a needle that such a block has, + 1; 0 for none
}

const (
	anyBlock = 0
	folded   = 0x2020202020202020 // the bit that tells a small letter from a capital
	// maxSpan bounds how much of a needle is looked for by blocks: a piece of it is
	// no longer than MinPiece for sure.
	maxSpan = 2 * MinPiece
	// perBlock is how many bits of the Bloom filter there are for a block, up to twice
	// as many.
	perBlock = 8
)

func newFilter(needles []string) *filter {
	f := &filter{span: maxSpan}
	for _, needle := range needles {
		f.span = min(f.span, len(needle))
	}
	piece := (f.span + 1) / 2
	f.width = max(MinValue/2, min(piece/3, 8))
	f.stride = piece - f.width + 1
	f.cut = uint(64 - 8*f.width)

	blocks := uint(len(needles)*(f.span-f.width+1)) + 1
	f.words, f.shift = make([]uint64, ceiling(blocks*perBlock/64)), 0
	f.shift = 64 - log2(len(f.words))
	f.slots = make([]slot, ceiling(blocks*2))
	f.slide = 64 - log2(len(f.slots))
	f.heads = make([]uint64, ceiling(uint(len(needles)*f.width/4)+16))
	f.tilt = 64 - log2(len(f.heads)) - 6
	for _, needle := range needles {
		f.add(needle)
	}
	return f
}

// ceiling is the power of two that is at least n, and at least 64.
func ceiling(n uint) uint { return 1 << bits.Len(max(n, 64)-1) }

func log2(n int) uint { return uint(bits.TrailingZeros(uint(n))) }

func (f *filter) add(needle string) {
	padded := append([]byte(needle[:f.span]), 0, 0, 0, 0, 0, 0, 0, 0)
	for i := range f.span - f.width + 1 {
		h := f.hash(binary.LittleEndian.Uint64(padded[i:]))
		f.words[h>>f.shift] |= 1<<(h&63) | 1<<(h>>6&63)
		s, tag := &f.slots[h>>f.slide], tagOf(h)
		if s.back == 0 {
			s.tag = tag
		} else if s.tag != tag {
			s.tag = anyBlock
		}
		s.back = max(s.back, uint8(i+1))
	}
	var x uint64
	for i := range f.width - 1 {
		x |= uint64(needle[i]) << (8 * i)
		h := headHash(x, i+1)
		f.heads[h>>f.tilt>>6] |= 1 << (h >> f.tilt & 63)
	}
}

// hash is of the first width of eight bytes.
func (f *filter) hash(x uint64) uint64 { return hash(x << (f.cut & 63)) }

func hash(x uint64) uint64 {
	x = (x | folded) * spread
	return x ^ x>>32
}

// look has its lowest bit set if a block may be one of a needle.
func look(words []uint64, shift uint, block uint64) uint64 {
	h := hash(block)
	word := words[h>>(shift&63)]
	return word >> (h & 63) & (word >> (h >> 6 & 63))
}

// tagOf takes bits that are no part of an index and tell blocks of one slot apart.
func tagOf(h uint64) uint8 { return byte(h>>12) | 1 } //nolint:gosec // eight bits of it

// maybe says that a block may be one of a needle.
func (f *filter) maybe(x uint64) bool { return look(f.words, f.shift, x<<(f.cut&63))&1 != 0 }

// back is how far before a block a needle may begin at the most; -1 for not at all.
func (f *filter) back(x uint64) int {
	h := f.hash(x)
	s := f.slots[h>>(f.slide&63)]
	if s.back == 0 || s.tag != anyBlock && s.tag != tagOf(h) {
		return -1
	}
	return int(s.back) - 1
}

func headHash(x uint64, length int) uint64 {
	return (x | uint64(length)<<56) * spread //nolint:gosec // less than 8
}

// head says that so many bytes may begin a needle.
func (f *filter) head(x uint64, length int) bool {
	h := headHash(x, length)
	return f.heads[h>>f.tilt>>6]>>(h>>f.tilt&63)&1 != 0
}
