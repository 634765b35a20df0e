// Package leaks finds credentials in a stream of bytes: the broker's own tokens,
// which anybody can tell from noise, and values of other shapes, of which no
// more than eight bytes are known.
//
// A token of the broker's has a shape and a checksum (package issuers), so it is
// found without knowing it, and however many there are costs nothing. Of another
// value ("anchor") the caller gives a window of eight bytes, where it stands in
// the value, and how long the value is. Wherever those eight bytes stand, the
// finder hands out the bytes that would be the value, and the caller says
// whether they are by a keyed hash that it keeps. Who steals the anchors has
// eight bytes of each value and not the value.
//
// With [Config.Encoded] a text is also decoded, wherever a part of it could be
// an encoding: base64 (standard and URL, at every alignment, wrapped), hex,
// UTF-16, and escapes (percent, \u, \x, HTML, ANSI codes in between). What comes
// out is looked at like the text itself, up to [MaxDepth] encodings deep: the
// token in a docker config, in a Kubernetes secret, is found too.
//
// A stream is cut into blocks at fixed offsets, with what stands around them, so
// what is found depends on the bytes alone, never on how they were split over
// calls of Write. Time is linear in the length of the stream, and memory is
// about a megabyte a stream, whatever is written to it.
//
// The package is pure: it asks nobody and keeps nothing. Both the broker and the
// client are built from it.
package leaks

import (
	"cmp"
	"errors"
	"io"
	"slices"
)

const (
	// MaxValue is the longest value, in bytes, that an anchor can stand for.
	MaxValue = 8 << 10
	// MaxDepth is how many encodings may lie around a value.
	MaxDepth = 3

	// Each block is looked at with what stands around it: a match reaches no
	// farther than this from the byte that it is told by. That is a token in its
	// longest spelling, or the longest value in base64, wrapped.
	block       = 128 << 10
	nearTokens  = 1 << 10
	nearAnchors = 16 << 10
)

// ErrClosed is the error of a Write after Close.
var ErrClosed = errors.New("the stream is closed")

// Config says what to look for.
type Config struct {
	// Tokens finds what has the shape of the broker's own tokens and a checksum
	// that holds, issued by this broker or not.
	Tokens bool
	// Encoded looks into encodings too.
	Encoded bool
	// Anchors are the values of other shapes; they may change while streams run.
	// None when nil.
	Anchors *Anchors
}

// Finder knows what to look for. It is safe for concurrent use: one serves any
// number of streams.
type Finder struct {
	config Config
	block  int
}

// New prepares a finder.
func New(config Config) *Finder { return &Finder{config, block} }

// near is how much of what stands around a block belongs to its window.
func (f *Finder) near() int {
	if f.config.Anchors != nil {
		return nearAnchors
	}
	return nearTokens
}

// Hit is one thing that was found.
type Hit struct {
	// Offset is where it begins in the stream, in bytes, and Length how many bytes
	// it covers there, as it is written.
	Offset int64
	Length int
	// Form is how it was written: empty as it is, else "base64", "hex", "utf-16",
	// "url", "backslash", "html", "ansi" or "wrapped", the outermost first where
	// there are several: "base64+utf-16".
	Form string
	// Value is what stands there, decoded. It is valid until the call that got the
	// hit returns. A token's checksum holds; an anchor's value is a candidate that
	// the caller has to check.
	Value []byte
	// Token is the letter of the kind of a token (issuers.SessionToken …), 0 for
	// an anchor's value.
	Token byte
	// Ref is the anchor's.
	Ref uint64
}

// same says whether two hits are one thing, found in two ways.
func (h Hit) same(o Hit) bool {
	return h.Offset == o.Offset && h.Length == o.Length && h.Token == o.Token && h.Ref == o.Ref
}

// Stream looks at one stream of bytes. It is not safe for concurrent use.
type Stream struct {
	found       func(Hit) error
	block, near int
	err         error // the first one; nothing is looked at after it

	buf  []byte // the bytes from base on
	base int64
	next int // in buf: the first byte that no block had
	scan scanner
}

// Stream begins a stream. What is found is told to found, about in the order in
// which it stands there; an error of found ends the stream. The caller closes it
// when all is written.
func (f *Finder) Stream(found func(Hit) error) *Stream {
	near := f.near()
	return &Stream{
		found: found, block: f.block, near: near, buf: make([]byte, 0, f.block+2*near),
		scan: scanner{tokens: f.config.Tokens, encoded: f.config.Encoded, anchors: f.config.Anchors},
	}
}

// Write takes bytes. It returns the error of found where there was one; that
// error then stays.
func (s *Stream) Write(p []byte) (int, error) {
	n := 0
	for n < len(p) && s.err == nil {
		room := s.room()
		k := copy(room, p[n:])
		s.took(k)
		n += k
	}
	return n, s.err
}

// ReadFrom implements [io.ReaderFrom]: it saves a copy.
func (s *Stream) ReadFrom(r io.Reader) (int64, error) {
	total := int64(0)
	for s.err == nil {
		k, err := r.Read(s.room())
		total += int64(k)
		s.took(k)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return total, cmp.Or(s.err, err)
		}
	}
	return total, s.err
}

// room is where the next bytes go, up to the end of the window of the block at hand.
func (s *Stream) room() []byte { return s.buf[len(s.buf) : s.next+s.block+s.near] }

// took notes that n bytes were put there.
func (s *Stream) took(n int) {
	s.buf = s.buf[:len(s.buf)+n]
	if len(s.buf) < s.next+s.block+s.near {
		return
	}
	s.look(s.next + s.block)
	keep := max(s.next-s.near, 0)
	s.buf = s.buf[:copy(s.buf, s.buf[keep:])]
	s.base += int64(keep)
	s.next -= keep
}

// Close looks at what is left, and ends the stream.
func (s *Stream) Close() error {
	switch {
	case errors.Is(s.err, ErrClosed):
		return nil
	case s.err != nil:
		return s.err
	}
	s.look(len(s.buf))
	if s.err != nil {
		return s.err
	}
	s.base, s.err, s.buf, s.next = s.Bytes(), ErrClosed, s.buf[:0], 0
	return nil
}

// Reset begins another stream, with what this one has allocated.
func (s *Stream) Reset() {
	s.buf, s.base, s.next, s.err, s.scan.dropped = s.buf[:0], 0, 0, nil, 0
}

// Bytes is how many bytes were written.
func (s *Stream) Bytes() int64 { return s.base + int64(len(s.buf)) }

// Dropped is how many candidates for values were not handed out, since a text
// was full of one anchor's bytes: see [Anchors].
func (s *Stream) Dropped() int { return s.scan.dropped }

// look looks at the block from next to end, and tells what stands there.
func (s *Stream) look(end int) {
	hits := s.scan.window(s.buf, s.next, end)
	s.next = end
	slices.SortStableFunc(hits, func(a, b Hit) int { return cmp.Compare(a.Offset, b.Offset) })
	for i, hit := range hits {
		if slices.ContainsFunc(hits[max(0, i-MaxDepth):i], hit.same) {
			continue // as base64, and as base64 with escapes around it
		}
		hit.Offset += s.base
		if s.err = s.found(hit); s.err != nil {
			return
		}
	}
}
