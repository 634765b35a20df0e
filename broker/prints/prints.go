// Package prints makes what is remembered of a secret value, and knows the value
// again by it.
//
// Of every value with at least [MinBits] random bits a fingerprint is kept: its
// HMAC-SHA-256 under a key that isn't in the database. By it a whole value is
// recognised, and nothing else.
//
// A value of the broker's own shape is found in a text by that shape, and then
// looked up. Of any other value nobody can say where in a text it begins: so eight
// of its bytes are kept besides, its anchor, with their place in the value. A text
// is searched for the anchors of all values at once; where one stands, the value is
// cut out around it, and its fingerprint decides.
//
// What a stolen table gives away: nothing, since both are keyed, by keys that serve
// nothing else. What it gives away together with the key of anchors: eight bytes of
// each value, and never more. The place is derived from the fingerprint, so a value
// that was given out a thousand times has one anchor and not a thousand. It lies in
// the random part, as far as that can be told: the signature of a JWT, the body of a
// PEM block, else the last three quarters.
package prints

import (
	"bytes"
	"encoding/binary"
	"strings"

	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/issuers"
)

const (
	// MinBits is how much of a value nobody must be able to guess before anything of
	// it is kept: the hash of another one could be tried out by whoever has its key.
	MinBits = 128
	// Window is how many bytes an anchor holds.
	Window = 8
	// MaxValue is the longest value, in bytes, that gets an anchor.
	MaxValue = 8 << 10
	// distinct is how many different bytes an anchor has at least: a run of one letter
	// stands in many texts.
	distinct = 5

	fingerprintDomain = "redaction value"
	anchorDomain      = "redaction anchor"

	// Scheme says how a fingerprint is made, for the rows that hold one.
	Scheme = "whole value " + keys.SchemeHMAC
)

// Printer makes fingerprints and anchors. Safe for concurrent use.
type Printer struct{ fingerprints, anchors *keys.Hasher }

// New takes the hashers of [keys.Fingerprints] and [keys.Anchors], of one root.
func New(root *keys.Root) *Printer {
	return &Printer{fingerprints: root.Hasher(keys.Fingerprints), anchors: root.Hasher(keys.Anchors)}
}

// KeyID names the key of fingerprints; that of anchors is of the same root.
func (p *Printer) KeyID() string { return p.fingerprints.KeyID() }

// Sum is the fingerprint of a value.
func (p *Printer) Sum(value []byte) [32]byte { return p.fingerprints.Sum(fingerprintDomain, value) }

// Of is what is kept of a value; false where nothing is.
func (p *Printer) Of(v *issuers.Value) (leases.Fingerprint, bool) {
	if !v.Sensitive || v.RandomBits < MinBits {
		return leases.Fingerprint{}, false
	}
	value := []byte(v.Value.Reveal())
	kept := leases.Fingerprint{Sum: p.Sum(value), Field: v.Name, KeyID: p.KeyID(), Scheme: Scheme}
	kept.Anchor = p.seal(value, &kept.Sum)
	return kept, true
}

// Anchor is where eight bytes of a value stand in it.
type Anchor struct {
	Window [Window]byte
	Offset int // in the value, in bytes
	Length int // of the value, in bytes
	// Spaced says that the value holds white space: it may go on over several lines.
	Spaced bool
}

// The first byte of a sealed anchor. Then come its offset and the value's length,
// four bytes each, and the window, encrypted.
const (
	formatSolid  = 1
	formatSpaced = 2
	sealedSize   = 1 + 4 + 4 + Window
)

// seal makes the anchor of a value; nil where it needs none, or has no bytes that
// are fit for one.
//
// The window is encrypted by a keystream that is the HMAC of the fingerprint: no two
// values have the same one. That somebody may flip its bits in the database does no
// harm: whatever an anchor finds, the fingerprint decides.
func (p *Printer) seal(value []byte, sum *[32]byte) []byte {
	if len(value) > MaxValue || holdsGenerated(value) {
		return nil
	}
	stream := p.anchors.Sum(anchorDomain, sum[:])
	offset, ok := choose(value, binary.BigEndian.Uint64(stream[Window:]))
	if !ok {
		return nil
	}
	sealed := make([]byte, 0, sealedSize)
	sealed = append(sealed, formatSolid)
	if bytes.ContainsFunc(value, isSpace) {
		sealed[0] = formatSpaced
	}
	sealed = binary.BigEndian.AppendUint32(sealed, uint32(offset))     //nolint:gosec // MaxValue at the most
	sealed = binary.BigEndian.AppendUint32(sealed, uint32(len(value))) //nolint:gosec // MaxValue at the most
	for i, b := range value[offset : offset+Window] {
		sealed = append(sealed, b^stream[i])
	}
	return sealed
}

// Open reads the anchor that stands beside a fingerprint; false for what isn't one.
func (p *Printer) Open(sum *[32]byte, sealed []byte) (Anchor, bool) {
	if len(sealed) != sealedSize || sealed[0] != formatSolid && sealed[0] != formatSpaced {
		return Anchor{}, false
	}
	a := Anchor{
		Offset: int(binary.BigEndian.Uint32(sealed[1:])), Length: int(binary.BigEndian.Uint32(sealed[5:])), Spaced: sealed[0] == formatSpaced,
	}
	if a.Length > MaxValue || a.Offset+Window > a.Length {
		return Anchor{}, false
	}
	stream := p.anchors.Sum(anchorDomain, sum[:])
	for i, b := range sealed[9:] {
		a.Window[i] = b ^ stream[i]
	}
	return a, true
}

// choose is the place of a value's anchor: that of its fit places which the number
// falls on.
func choose(value []byte, number uint64) (offset int, ok bool) {
	first, end := randomPart(value)
	for ; ; first, end = 0, len(value) {
		var fits []int
		for at := first; at+Window <= end; at++ {
			if fit(value[at : at+Window]) {
				fits = append(fits, at)
			}
		}
		if len(fits) > 0 {
			return fits[number%uint64(len(fits))], true
		}
		if first == 0 && end == len(value) {
			return 0, false
		}
	}
}

// randomPart is where in a value its random bits are, as far as that can be told.
func randomPart(value []byte) (first, end int) {
	if bytes.HasPrefix(value, []byte("eyJ")) && bytes.Count(value, []byte(".")) == 2 {
		return bytes.LastIndexByte(value, '.') + 1, len(value)
	}
	if _, body, found := bytes.Cut(value, []byte("-----\n")); found && bytes.HasPrefix(value, []byte("-----BEGIN ")) {
		if footer := bytes.Index(body, []byte("-----END ")); footer >= 0 {
			begin := len(value) - len(body)
			// What comes first in a key says its type, and is the same in all of them.
			return begin + footer/4, begin + footer
		}
	}
	return len(value) / 4, len(value)
}

func fit(window []byte) bool {
	var seen [256]bool
	different := 0
	for _, b := range window {
		if isSpace(rune(b)) {
			return false
		}
		if !seen[b] {
			seen[b], different = true, different+1
		}
	}
	return different >= distinct
}

func isSpace(r rune) bool { return r <= ' ' }

// holdsGenerated says whether something of the broker's own shape stands in a value:
// by that it is found.
func holdsGenerated(value []byte) bool {
	text := string(value)
	for at := strings.Index(text, "dp"); at >= 0 && at+issuers.GeneratedLength <= len(text); {
		if _, ok := issuers.IsGenerated(text[at : at+issuers.GeneratedLength]); ok {
			return true
		}
		next := strings.Index(text[at+1:], "dp")
		if next < 0 {
			return false
		}
		at += 1 + next
	}
	return false
}
