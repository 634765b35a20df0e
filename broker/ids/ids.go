// Package ids makes the identifiers of sessions, leases, events and requests: a
// prefix that says of what, and a ULID, so that they sort by time.
package ids

import (
	"crypto/rand"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
)

// The prefixes.
const (
	Session    = "ses_"
	Lease      = "lse_"
	Event      = "evt_"
	AdminToken = "adm_"
	Request    = "req_"
	Root       = "rot_"
)

// New makes an identifier of something that began at a time: 48 bits of
// milliseconds and 80 random bits.
func New(prefix string, at time.Time) string {
	return prefix + ulid.MustNew(ulid.Timestamp(at), rand.Reader).String()
}

// Valid says whether s is an identifier with that prefix. What isn't one is
// never looked up.
func Valid(prefix, s string) bool {
	rest, ok := strings.CutPrefix(s, prefix)
	if !ok {
		return false
	}
	_, err := ulid.ParseStrict(rest)
	return err == nil
}
