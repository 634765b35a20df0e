package leaks

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"sync"
)

// Window is how many bytes of a value an anchor holds.
const Window = 8

// ErrAnchor says that an anchor can't be one.
var ErrAnchor = errors.New("unusable anchor")

// Anchor is what is known of a value: eight bytes of it.
type Anchor struct {
	Window [Window]byte
	// Offset is where the window begins in the value, Length how long the value
	// is, both in bytes; at most [MaxValue].
	Offset, Length int
	// Ref is the caller's, handed out with each hit.
	Ref uint64
}

// Anchors are the values of other shapes that a finder looks for. They may be
// added and removed while streams run; a stream sees the change with its next
// block. They are kept under a key of the process's own.
//
// Eight random bytes don't stand in a text by chance. Who knows a value may write
// its eight bytes many times over, and each would be a candidate for the caller
// to hash; so of each block no more candidates are handed out than eight times
// its length in bytes, and [Stream.Dropped] counts the others.
type Anchors struct {
	key, inverse uint64 // odd, so that multiplying by one undoes what the other did

	mu       sync.RWMutex
	blocks   []uint64         // a bit for each four bytes of a window
	windows  []uint64         // a bit for each window, for what passes the first
	shift    uint             // from a hash to its word in them
	heads    map[uint64]int32 // hash → the first of entries with it
	entries  []entry
	free     int32 // head of the list of unused entries
	live     int
	removed  int // since the filters were made
	shortest int // no value is shorter
}

type entry struct {
	offset, length int32
	next           int32 // of the same window, or unused; none below 0
	ref            uint64
}

const none int32 = -1

const (
	// part is how many bytes of a window are looked at first.
	part = 4
	// The filters have at least this many bits for each anchor, which has five parts:
	// at most one in ten places passes the first by chance, and more bits would cost
	// more in misses of the cache.
	bitsEach  = 100
	minFilter = 15 // log2 of bits
	maxFilter = 24
	bitAt     = 24 // of a hash: which bit of a word
)

// NewAnchors makes an empty set.
func NewAnchors() *Anchors {
	var key [8]byte
	rand.Read(key[:]) // never fails: it ends the program instead
	a := &Anchors{key: binary.LittleEndian.Uint64(key[:]) | 1, heads: map[uint64]int32{}, free: none, shortest: MaxValue}
	a.inverse = a.key
	for a.inverse*a.key != 1 {
		a.inverse *= 2 - a.inverse*a.key // Newton: each step doubles the bits that are right
	}
	a.resize()
	return a
}

// Len is how many anchors there are.
func (a *Anchors) Len() int {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.live
}

// Add adds anchors. One that is there already is added once more. Errors wrap
// [ErrAnchor]; nothing is added then.
func (a *Anchors) Add(anchors ...Anchor) error {
	for i, anchor := range anchors {
		if anchor.Offset < 0 || anchor.Length > MaxValue || anchor.Offset+Window > anchor.Length {
			return fmt.Errorf("%w: the window of number %d lies outside its value, or the value is longer than %d bytes", ErrAnchor, i, MaxValue)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, anchor := range anchors {
		a.add(anchor)
	}
	if a.live*bitsEach > len(a.blocks)*64 {
		a.resize()
	}
	return nil
}

func (a *Anchors) add(anchor Anchor) {
	hash := a.hash(anchor.Window[:])
	head, ok := a.heads[hash]
	if !ok {
		head = none
	}
	at := a.free
	if at == none {
		at = int32(len(a.entries)) //nolint:gosec // memory ends before the numbers do
		a.entries = append(a.entries, entry{})
	} else {
		a.free = a.entries[at].next
	}
	a.entries[at] = entry{offset: int32(anchor.Offset), length: int32(anchor.Length), next: head, ref: anchor.Ref} //nolint:gosec // at most MaxValue
	a.heads[hash] = at
	a.set(hash)
	a.live++
	a.shortest = min(a.shortest, anchor.Length)
}

// Remove removes anchors, each once. One that isn't there is left aside.
func (a *Anchors) Remove(anchors ...Anchor) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, anchor := range anchors {
		a.remove(anchor)
	}
	if a.removed > a.live+1<<10 {
		a.resize()
	}
}

func (a *Anchors) remove(anchor Anchor) {
	hash := a.hash(anchor.Window[:])
	before := none
	at, ok := a.heads[hash]
	if !ok {
		return
	}
	for ; at != none; before, at = at, a.entries[at].next {
		e := a.entries[at]
		if int(e.offset) != anchor.Offset || int(e.length) != anchor.Length || e.ref != anchor.Ref {
			continue
		}
		switch {
		case before != none:
			a.entries[before].next = e.next
		case e.next != none:
			a.heads[hash] = e.next
		default:
			delete(a.heads, hash)
		}
		a.entries[at] = entry{next: a.free}
		a.free = at
		a.live--
		a.removed++
		return
	}
}

func (a *Anchors) hash(window []byte) uint64 {
	return binary.LittleEndian.Uint64(window) * a.key
}

// set puts a window, by its hash, into the filters.
func (a *Anchors) set(hash uint64) {
	var window [Window]byte
	binary.LittleEndian.PutUint64(window[:], hash*a.inverse)
	for i := range Window - part + 1 {
		h := uint64(binary.LittleEndian.Uint32(window[i:])) * a.key
		a.blocks[h>>a.shift] |= 1 << (h >> bitAt & 63)
	}
	a.windows[hash>>a.shift] |= 1 << (hash >> bitAt & 63)
}

// resize makes the filters anew, for twice as many as there are.
func (a *Anchors) resize() {
	size := uint(min(max(bits.Len(uint(2*a.live*bitsEach)), minFilter), maxFilter))
	a.blocks, a.windows, a.shift, a.removed = make([]uint64, 1<<(size-6)), make([]uint64, 1<<(size-6)), 64-size+6, 0
	for hash := range a.heads {
		a.set(hash)
	}
}

// anchorsIn finds the windows that begin in text[lo:hi]. Where the last four bytes
// of a window stand in no anchor, at none of the five places where they could, no
// anchor covers them, and the next five windows are passed by: of most texts one
// look-up in five bytes is all. The caller holds the lock.
func (s *scanner) anchorsIn(l *layer, lo, hi int) {
	a, text := s.anchors, l.text
	key, shift, blocks := a.key, a.shift&63, a.blocks
	end := min(hi, len(text)-Window+1)
	for i := lo; i < end; {
		h := uint64(binary.LittleEndian.Uint32(text[i+Window-part:])) * key
		if blocks[h>>shift]>>(h>>bitAt&63)&1 == 0 {
			i += Window - part + 1
			continue
		}
		s.candidates(l, i)
		i++
	}
}

// candidates hands out what would be the values of the anchors at text[at:].
func (s *scanner) candidates(l *layer, at int) {
	a := s.anchors
	hash := a.hash(l.text[at : at+Window])
	if a.windows[hash>>a.shift]>>(hash>>bitAt&63)&1 == 0 {
		return
	}
	next, ok := a.heads[hash]
	if !ok {
		return
	}
	for next != none {
		e := s.anchors.entries[next]
		next = e.next
		from := at - int(e.offset)
		to := from + int(e.length)
		if from < 0 || to > len(l.text) {
			continue
		}
		s.hit(l, found{pivot: at, from: from, to: to, ref: e.ref}, l.text[from:to])
	}
}
