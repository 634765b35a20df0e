package redact

// trie is an Aho–Corasick automaton over bytes. A node stands for a prefix of
// some value; a stream's node is the longest suffix of it that is such a prefix.
type trie struct {
	nodes []node
	root  [256]int32 // the root's edges; 0 is the root itself
}

type node struct {
	edges []edge // most nodes have one
	fail  int32  // the longest proper suffix that is a node too
	depth int32  // length of the prefix
	match int32  // length of the longest value that ends here, 0 for none
	live  int32  // length of the longest suffix that a further byte could extend
}

type edge struct {
	b  byte
	to int32
}

func newTrie() *trie { return &trie{nodes: make([]node, 1)} }

// add enters a value. No value may be added after link.
func (t *trie) add(value string) {
	at := int32(0)
	for i := range len(value) {
		b := value[i]
		to := t.child(at, b)
		if to == 0 {
			to = int32(len(t.nodes)) //nolint:gosec // values are a few KiB each
			t.nodes = append(t.nodes, node{depth: t.nodes[at].depth + 1})
			if at == 0 {
				t.root[b] = to
			} else {
				t.nodes[at].edges = append(t.nodes[at].edges, edge{b, to})
			}
		}
		at = to
	}
	t.nodes[at].match = t.nodes[at].depth
}

// link computes, in order of depth, where to go on from when a byte doesn't fit.
func (t *trie) link() {
	var queue []int32
	for _, to := range t.root {
		if to != 0 {
			queue = append(queue, to)
		}
	}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		n := &t.nodes[at]
		suffix := &t.nodes[n.fail]
		if n.match == 0 {
			n.match = suffix.match // shorter values that end here lie within the longest
		}
		if len(n.edges) > 0 {
			n.live = n.depth
		} else {
			n.live = suffix.live
		}
		for _, e := range n.edges {
			t.nodes[e.to].fail = t.step(n.fail, e.b)
			queue = append(queue, e.to)
		}
	}
}

// child is the node that a byte leads to, without going back; 0 for none.
func (t *trie) child(at int32, b byte) int32 {
	if at == 0 {
		return t.root[b]
	}
	for _, e := range t.nodes[at].edges {
		if e.b == b {
			return e.to
		}
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
		at = t.nodes[at].fail
	}
}
