// Package log is the audit log as a Merkle tree (RFC 6962 §2.1): its roots,
// its signed checkpoints, its exports, and what can be proved from them. It knows
// no database and no server, so that whoever has an export, a key and an old
// checkpoint needs nothing else to verify them: the client imports it.
//
// An event's leaf hash is made from its body. The log puts leaf hashes in an order, number
// 0 first; the root over the first n of them stands for all n, and a checkpoint
// signs n and the root. A body can be dropped, and its leaf hash
// stays: the roots don't change by it.
//
// The hashes and proofs are those of golang.org/x/mod/sumdb/tlog, checkpoints are
// C2SP tlog-checkpoints, which are signed notes: other tools verify them too.
package log

import (
	"errors"
	"fmt"
	"math/bits"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// Hash is of a leaf, an inner node or a root: SHA-256.
type Hash = tlog.Hash

// LeafHash is the hash of an event's body: SHA-256 of a zero byte and the body.
func LeafHash(body []byte) Hash { return tlog.RecordHash(body) }

const originPrefix = "daypass-audit/"

// Origin names an installation's log: the first line of its checkpoints, and the
// name of the keys that sign them.
func Origin(installation string) string { return originPrefix + installation }

// installationOf is whose log an origin names; "" for what is none.
func installationOf(origin string) string {
	id, ok := strings.CutPrefix(origin, originPrefix)
	if !ok || id == "" || len(id) > 64 || strings.ContainsFunc(id, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'z') }) {
		return ""
	}
	return id
}

// Node is a complete subtree: that of the leaves from Number<<Level up to, without,
// (Number+1)<<Level.
type Node struct {
	Level  int
	Number int64
	Hash   Hash
}

// Tree grows by leaves. It holds what appending needs and nothing else: the
// complete subtrees that lie side by side under its leaves, one for each bit of
// its size. The zero value is the empty tree.
type Tree struct {
	size  int64
	stack []Hash // of the subtrees, the largest and leftmost first
}

// MaxSize is the largest size of a tree.
const MaxSize = 1 << 48

// NewTree makes a tree of a size from the hashes of its subtrees, the largest
// first: see [Subtrees].
func NewTree(size int64, subtrees []Hash) (*Tree, error) {
	if size < 0 || size > MaxSize || len(subtrees) != bits.OnesCount64(uint64(size)) {
		return nil, fmt.Errorf("making a tree: %d subtrees are not those of %d leaves", len(subtrees), size)
	}
	return &Tree{size: size, stack: append([]Hash(nil), subtrees...)}, nil
}

// Subtrees says which complete subtrees a tree of a size is made of, the largest
// first. Their hashes are not filled in.
func Subtrees(size int64) []Node {
	var nodes []Node
	for begin := int64(0); begin < size; {
		level := bits.Len64(uint64(size-begin)) - 1 //nolint:gosec // positive
		nodes = append(nodes, Node{Level: level, Number: begin >> level})
		begin += 1 << level
	}
	return nodes
}

// Size is how many leaves it has.
func (t *Tree) Size() int64 { return t.size }

// Clone is the same tree, which grows by itself.
func (t *Tree) Clone() *Tree { return &Tree{size: t.size, stack: append([]Hash(nil), t.stack...)} }

// Hashes are those of its subtrees, as [NewTree] takes them.
func (t *Tree) Hashes() []Hash { return append([]Hash(nil), t.stack...) }

// Append adds a leaf. It calls done with each subtree of more than one leaf that
// is complete by it; done may be nil.
func (t *Tree) Append(leaf Hash, done func(Node)) {
	number := t.size
	t.size++
	for level := 1; number&1 == 1; level++ {
		number >>= 1
		leaf = tlog.NodeHash(t.stack[len(t.stack)-1], leaf)
		t.stack = t.stack[:len(t.stack)-1]
		if done != nil {
			done(Node{Level: level, Number: number, Hash: leaf})
		}
	}
	t.stack = append(t.stack, leaf)
}

// Root is the hash over all leaves.
func (t *Tree) Root() Hash {
	if len(t.stack) == 0 {
		root, _ := tlog.TreeHash(0, nil) // reads nothing, and can't fail
		return root
	}
	root := t.stack[len(t.stack)-1]
	for i := len(t.stack) - 2; i >= 0; i-- {
		root = tlog.NodeHash(t.stack[i], root)
	}
	return root
}

// NodeReader gives the hashes of complete subtrees, in the order in which they
// are asked for; of level 0 those of leaves.
type NodeReader func(nodes []Node) ([]Hash, error)

// ReadHashes implements [tlog.HashReader].
func (r NodeReader) ReadHashes(indexes []int64) ([]Hash, error) {
	nodes := make([]Node, len(indexes))
	for i, index := range indexes {
		nodes[i].Level, nodes[i].Number = tlog.SplitStoredHashIndex(index)
	}
	hashes, err := r(nodes)
	if err == nil && len(hashes) != len(nodes) {
		err = errors.New("reading the audit log's nodes: some are missing")
	}
	return hashes, err
}

// CheckGrown proves from the nodes of a tree of newer's size that it begins with
// all of older: that it only grew. The error is [ErrForked] where it doesn't.
func CheckGrown(older, newer *Checkpoint, nodes NodeReader) error {
	switch {
	case older.Origin != newer.Origin:
		return fmt.Errorf("%w: a checkpoint is of %s, the log of %s", ErrForked, older.Origin, newer.Origin)
	case older.Size > newer.Size:
		return fmt.Errorf("%w: a checkpoint covers %d events, the log has %d", ErrForked, older.Size, newer.Size)
	case older.Size == 0:
		return nil
	case older.Size == newer.Size:
		if older.Root != newer.Root {
			return fmt.Errorf("%w: two roots over the same %d events", ErrForked, older.Size)
		}
		return nil
	}
	proof, err := tlog.ProveTree(newer.Size, older.Size, nodes)
	if err != nil {
		return fmt.Errorf("proving that the audit log only grew: %w", err)
	}
	if err := tlog.CheckTree(proof, newer.Size, newer.Root, older.Size, older.Root); err != nil {
		return fmt.Errorf("%w: the log doesn't begin with the %d events of a checkpoint", ErrForked, older.Size)
	}
	return nil
}

// ErrForked says that a log is not the one that a checkpoint was made of.
var ErrForked = errors.New("the audit log is not the one that was signed")
