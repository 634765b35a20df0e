package redact

import (
	"math/bits"

	"github.com/daypass/daypass/issuers"
)

// The shape of a generated token, as a shift-and automaton: bit i of a state
// says that the last i+1 bytes fit the first i+1 places of the shape.
const (
	shapePrefix = 4 // "dp", the kind's letter, "_"
	shapeBody   = (1<<issuers.GeneratedLength - 1) &^ (1<<shapePrefix - 1)
	shapeWhole  = 1 << (issuers.GeneratedLength - 1)
)

// stepShape is the state after one more byte.
func stepShape(state uint64, b byte) uint64 {
	return (state<<1 | 1) & shapePlaces(b)
}

// shapePlaces are the places of the shape that a byte fits.
func shapePlaces(b byte) uint64 {
	var places uint64
	switch {
	case b >= 'a' && b <= 'z':
		places = shapeBody | 1<<2
	case b >= '0' && b <= '9', b >= 'A' && b <= 'Z':
		places = shapeBody
	case b == '_':
		places = 1 << 3
	}
	switch b {
	case 'd':
		places |= 1 << 0
	case 'p':
		places |= 1 << 1
	}
	return places
}

// shapeLive is the length of the longest suffix that could still become a token.
func shapeLive(state uint64) int {
	return bits.Len64(state &^ shapeWhole)
}
