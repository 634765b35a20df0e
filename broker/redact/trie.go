package redact

import (
	"math/bits"
	"slices"
)

// trie is an Aho–Corasick automaton over bytes. A node stands for a prefix of some
// needle; a stream's node is the longest suffix of it that is such a prefix. A node
// takes 14 bytes: most have one child, which is the node after it.
type trie struct {
	label []byte  // the byte that leads to a node
	kids  []byte  // which children a node has: chained, branched
	fail  []int32 // the longest proper suffix that is a node too
	depth []int32 // length of the prefix
	match []int32 // length of the longest needle that ends here, 0 for none

	root [256]int32 // the root's children; 0 is the root itself
	more edges      // children that aren't the node after their parent
}

const (
	chained  = 1 << iota // the node after it is a child
	branched             // more has children of it
)

// newTrie makes one for needles of so many bytes in all.
func newTrie(size int) *trie {
	size++ // the root
	return &trie{
		label: make([]byte, 1, size), kids: make([]byte, 1, size),
		fail: make([]int32, 1, size), depth: make([]int32, 1, size), match: make([]int32, 1, size),
	}
}

// add enters a needle. None may be added after link.
func (t *trie) add(needle string) {
	at := int32(0)
	for i := range len(needle) {
		b := needle[i]
		to := t.child(at, b)
		if to == 0 {
			to = t.grow(at, b)
		}
		at = to
	}
	t.match[at] = t.depth[at]
}

// grow makes a child.
func (t *trie) grow(at int32, b byte) int32 {
	to := int32(len(t.label)) //nolint:gosec // as many as all needles have bytes
	t.label = append(t.label, b)
	t.kids = append(t.kids, 0)
	t.fail = append(t.fail, 0)
	t.depth = append(t.depth, t.depth[at]+1)
	t.match = append(t.match, 0)
	switch at {
	case 0:
		t.root[b] = to
	case to - 1:
		t.kids[at] |= chained
	default:
		t.kids[at] |= branched
		t.more.add(edge{at, to, b})
	}
	return to
}

// link computes, in order of depth, where to go on from when a byte doesn't fit.
func (t *trie) link() {
	branches := slices.Clone(t.more.list)
	slices.SortFunc(branches, func(a, b edge) int { return int(a.from - b.from) })
	var level, below []int32
	for _, to := range t.root {
		if to != 0 {
			level = append(level, to)
		}
	}
	for len(level) > 0 {
		below = below[:0]
		for _, at := range level {
			if t.match[at] == 0 {
				t.match[at] = t.match[t.fail[at]] // shorter ones that end here lie within the longest
			}
			if t.kids[at]&chained != 0 {
				t.fail[at+1] = t.step(t.fail[at], t.label[at+1])
				below = append(below, at+1)
			}
			if t.kids[at]&branched == 0 {
				continue
			}
			i, _ := slices.BinarySearchFunc(branches, at, func(e edge, at int32) int { return int(e.from - at) })
			for ; i < len(branches) && branches[i].from == at; i++ {
				to := branches[i].to
				t.fail[to] = t.step(t.fail[at], branches[i].b)
				below = append(below, to)
			}
		}
		level, below = below, level
	}
}

// child is the node that a byte leads to, without going back; 0 for none.
func (t *trie) child(at int32, b byte) int32 {
	if at == 0 {
		return t.root[b]
	}
	kids := t.kids[at]
	if kids&chained != 0 && t.label[at+1] == b {
		return at + 1
	}
	if kids&branched != 0 {
		return t.more.find(at, b)
	}
	return 0
}

// step is the node after one more byte. Every step back was paid for by a step
// forth, so a stream costs linear time.
func (t *trie) step(at int32, b byte) int32 {
	for {
		if to := t.child(at, b); to != 0 || at == 0 {
			return to
		}
		at = t.fail[at]
	}
}

// live is the longest suffix of a node that a further byte could extend.
func (t *trie) live(at int32) int32 {
	for at != 0 && t.kids[at] == 0 {
		at = t.fail[at]
	}
	return at
}

// edges is a hash table with open addressing, since a map takes several times as
// long, and the first bytes of many needles branch a lot.
type edges struct {
	list  []edge
	table []int32 // index in list + 1; its length is a power of two
	shift uint
}

type edge struct {
	from, to int32
	b        byte
}

// spread is 2^64 divided by the golden ratio: the high bits of a product with it
// depend on all bits below (Knuth, 6.4).
const spread = 0x9E3779B97F4A7C15

func (e *edges) slot(from int32, b byte) uint64 {
	return (uint64(uint32(from))<<8 | uint64(b)) * spread >> e.shift //nolint:gosec // an index
}

func (e *edges) add(edge edge) {
	e.list = append(e.list, edge)
	if 2*len(e.list) > len(e.table) {
		e.table = make([]int32, max(16, 4*len(e.list)))
		if n := len(e.table); n&(n-1) != 0 {
			e.table = make([]int32, 1<<bits.Len(uint(n)))
		}
		e.shift = uint(64 - bits.TrailingZeros(uint(len(e.table))))
		for i := range e.list {
			e.enter(i)
		}
		return
	}
	e.enter(len(e.list) - 1)
}

func (e *edges) enter(i int) {
	at := e.slot(e.list[i].from, e.list[i].b)
	for e.table[at] != 0 {
		at = e.after(at)
	}
	e.table[at] = int32(i + 1) //nolint:gosec // fewer than nodes
}

// after is the slot after one.
func (e *edges) after(at uint64) uint64 {
	if at++; at == uint64(len(e.table)) {
		return 0
	}
	return at
}

func (e *edges) find(from int32, b byte) int32 {
	for at := e.slot(from, b); e.table[at] != 0; at = e.after(at) {
		if edge := &e.list[e.table[at]-1]; edge.from == from && edge.b == b {
			return edge.to
		}
	}
	return 0
}
