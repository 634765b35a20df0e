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
	Denial     = "dec_"
	PolicyLoad = "pol_"
	Secret     = "sec_"
	SecretRead = "srd_"
	Broker     = "brk_"
	Orphan     = "orp_"
	Reconcile  = "rec_"
	Sweep      = "swp_"
	Job        = "job_"
	Leak       = "lek_"
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

// From is before every identifier of what began at a time or later, and behind
// those of what began a millisecond earlier.
func From(prefix string, at time.Time) string {
	var first ulid.ULID
	if err := first.SetTime(uint64(max(at.UnixMilli(), 0))); err != nil {
		return prefix + ulid.ULID{}.String() // of a time that no identifier has
	}
	return prefix + first.String()
}

// Time is when what a valid identifier names began, to the millisecond.
func Time(prefix, s string) time.Time {
	id, err := ulid.ParseStrict(strings.TrimPrefix(s, prefix))
	if err != nil {
		return time.Time{}
	}
	return ulid.Time(id.Time()).UTC()
}
