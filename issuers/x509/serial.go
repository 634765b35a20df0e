package x509

import (
	"fmt"
	"math/big"
	"strings"

	"github.com/oklog/ulid/v2"
)

const leasePrefix = "lse_"

// serialOf is a lease's id as a number: the 128 bits of its ULID, of which 80 are
// random. So a serial is never given twice, stays below the 20 octets of RFC 5280
// (section 4.1.2.2), and leads back to its lease without a table.
func serialOf(lease string) (*big.Int, error) {
	text, ok := strings.CutPrefix(lease, leasePrefix)
	id, err := ulid.ParseStrict(text)
	serial := new(big.Int).SetBytes(id[:])
	if !ok || err != nil || serial.Sign() == 0 || leasePrefix+id.String() != lease {
		return nil, fmt.Errorf("%q is no lease's id", lease)
	}
	return serial, nil
}

// leaseOf turns a serial back; false for one that is no lease's.
func leaseOf(serial *big.Int) (string, bool) {
	var id ulid.ULID
	if serial == nil || serial.Sign() <= 0 || serial.BitLen() > 8*len(id) {
		return "", false
	}
	serial.FillBytes(id[:])
	return leasePrefix + id.String(), true
}
