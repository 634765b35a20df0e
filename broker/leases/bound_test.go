package leases_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/issuers"
)

// TestBound: a token that is bound to a key says so where it is looked up, also beside
// others in one batch; and whoever has none sends the statements of before.
func TestBound(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s, record := f.traced(t)
	key := bytes.Repeat([]byte{7}, 32)
	take := func(thumbprint []byte, n byte) (*leases.Reservation, int) {
		t.Helper()
		r := f.reservation(f.job(), "deploy-api", "other-api")
		r.Token.Thumbprint = thumbprint
		for i := range r.Leases {
			l := &r.Leases[i]
			l.Kind, l.Revocation, l.Issued = "apitoken", issuers.Introspection, true
			l.Fingerprints = []leases.Fingerprint{{Sum: [32]byte{n, byte(i)}, Field: "token", KeyID: "k", Scheme: "s"}}
		}
		record.sent = nil
		if err := s.Reserve(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		said := slices.ContainsFunc(record.sent, func(s statement) bool { return strings.Contains(s.sql, "dpop_jkt") })
		if said != (thumbprint != nil) {
			t.Errorf("bound %t, and the key is spoken of: %t", thumbprint != nil, said)
		}
		return r, len(record.sent)
	}
	bearer, before := take(nil, 1)
	bound, with := take(key, 2)
	if before != with {
		t.Errorf("%d statements without a key, %d with one", before, with)
	}
	for n, r := range map[byte]*leases.Reservation{1: bearer, 2: bound} {
		held, err := f.FindToken(t.Context(), r.Token.Hash)
		if err != nil || !bytes.Equal(held.Thumbprint, r.Token.Thumbprint) {
			t.Errorf("the session token is bound to %x (%v), want %x", held.Thumbprint, err, r.Token.Thumbprint)
		}
		for i := range byte(2) {
			l, err := f.FindPrinted(t.Context(), [32]byte{n, i}, "token", []string{"apitoken"})
			if err != nil || !bytes.Equal(l.Thumbprint, r.Token.Thumbprint) {
				t.Errorf("the API token is bound to %x (%v), want %x", l.Thumbprint, err, r.Token.Thumbprint)
			}
		}
	}
	short := f.reservation(f.job(), "deploy-api")
	short.Token.Thumbprint = key[:31]
	if err := f.Reserve(t.Context(), short); err == nil {
		t.Error("a thumbprint of 31 bytes was taken")
	}
}
