package broker_test

import (
	"testing"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/issuers"
)

// FuzzSplitToken: whatever a caller sends, a token is taken for one kind at most, and a
// revocation token for none but by the call that takes it.
func FuzzSplitToken(f *testing.F) {
	for _, kind := range []byte{issuers.SessionToken, issuers.AdminToken, issuers.VaultToken, issuers.RevocationToken, issuers.Password} {
		token := issuers.Generate(kind).Reveal()
		f.Add(token)
		f.Add(token[:len(token)-1])
		f.Add("dpr_" + token[4:])
	}
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add("dpr_")
	f.Fuzz(func(t *testing.T, raw string) {
		revocation, ok := broker.ParseRevocationToken(raw)
		kind, generated := issuers.IsGenerated(raw)
		if want := generated && kind == issuers.RevocationToken; ok != want || ok && string(revocation) != raw {
			t.Fatalf("%q: %v, want %v", raw, ok, want)
		}
		parsed, err := broker.ParseToken(raw)
		if (parsed == nil) != (err != nil) {
			t.Fatalf("%q: %v and %v", raw, parsed, err)
		}
		if ok && err == nil {
			t.Fatalf("%q is a revocation token and a %T", raw, parsed)
		}
		if _, job := parsed.(broker.JobToken); job && generated {
			t.Fatalf("%q is a secret of the broker's and went for a job token", raw)
		}
	})
}

// A session token is made of its revocation token and a key: with another key it is
// another one, as of every other revocation token.
func TestSessionTokenOf(t *testing.T) {
	t.Parallel()
	sums := func() *keys.Hasher {
		root, err := keys.NewRoot()
		if err != nil {
			t.Fatal(err)
		}
		return root.Hasher(keys.SessionTokens)
	}
	one, other := sums(), sums()
	first, second := issuers.Generate(issuers.RevocationToken).Reveal(), issuers.Generate(issuers.RevocationToken).Reveal()
	seen := map[string]bool{first[4:31]: true, second[4:31]: true}
	for _, made := range []issuers.Secret{leases.SessionTokenOf(first, one), leases.SessionTokenOf(second, one), leases.SessionTokenOf(first, other)} {
		if kind, ok := issuers.IsGenerated(made.Reveal()); !ok || kind != issuers.SessionToken || seen[made.Reveal()[4:31]] {
			t.Errorf("kind %q, %v, or it came before", kind, ok)
		}
		seen[made.Reveal()[4:31]] = true
	}
	if once, twice := leases.SessionTokenOf(first, one), leases.SessionTokenOf(first, one); once.Reveal() != twice.Reveal() {
		t.Error("one revocation token has two session tokens")
	}
}
