package keyring_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/keyring"
	"github.com/daypass/daypass/broker/keys"
)

func revoke(t *testing.T, r *keyring.Ring, key string) *keyring.Revocation {
	t.Helper()
	out, err := r.RevokeKey(t.Context(), keyring.Revoke{Key: key, Actor: "os user ana", Reason: "it was seen elsewhere"})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestRevokeSigner: the key is out at once, another one signs, and all that it
// signed has ended.
func TestRevokeSigner(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r, other := w.open(), w.open()
	first := w.signed(r, 5*time.Minute)
	const many = 600 // more than fit in one batch
	for range many - 1 {
		w.lease(first, 10*time.Hour)
	}
	ended := w.lease(first, time.Hour)
	w.exec(`UPDATE leases SET state = 'expired', ended_at = now(), due_at = NULL, events = 2 WHERE id = $1`, ended)
	out := revoke(t, r, first)
	if out.Leases != many || out.Key != first || out.Replacement != r.Signer().KeyID() || out.Undestroyed != "" {
		t.Errorf("%+v", out)
	}
	// A broker may be cut off, and a verifier may have asked it just before it stops.
	if until := out.Until.Sub(w.now()); until > keyring.MaxStale+keys.JWKSMaxAge || until < keyring.MaxStale {
		t.Errorf("until %s from now", until)
	}
	w.wantStates("revoked signing")
	if got := kids(t, r); !slices.Equal(got, []string{out.Replacement}) {
		t.Errorf("the JWKS holds %q", got)
	}
	if n := w.text(`SELECT count(*)::text FROM leases l JOIN audit_events e ON e.subject = l.id AND e.count = 2
WHERE l.state = 'expired' AND e.type = 'lease.expired' AND e.body LIKE '%its signing key was revoked: it was seen elsewhere%' AND e.body LIKE '%os user ana%'`); n != "600" {
		t.Errorf("%s leases have ended with their event", n)
	}
	if held, err := w.store.List(t.Context()); err != nil || len(held) != 1 {
		t.Errorf("the HSM holds %v, %v", held, err)
	}
	// The other broker had not noticed, and put one more on record.
	late := w.lease(first, time.Hour)
	w.run(other, "swept")
	if state := w.text(`SELECT state FROM leases WHERE id = $1`, late); state != "expired" {
		t.Errorf("the late one is %s", state)
	}
	if got := kids(t, other); !slices.Equal(got, []string{out.Replacement}) {
		t.Errorf("the other broker's JWKS holds %q", got)
	}
	// Once more: nothing is left to do, and it says the same.
	if again := revoke(t, r, first); again.Leases != 0 || again.Replacement != "" {
		t.Errorf("%+v", again)
	}
	w.pass(26*time.Hour, 0)
	w.run(r)
}

// TestRevokeOthers: keys that don't sign need no replacement, and one that
// has to be found at its label is found.
func TestRevokeOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.open()
	first := w.signed(r, 3*time.Minute)
	second, err := r.Rotate(t.Context(), "ana", true)
	if err != nil {
		t.Fatal(err)
	}
	third, err := r.Rotate(t.Context(), "ana", false)
	if err != nil {
		t.Fatal(err)
	}
	if out := revoke(t, r, third.KeyID); out.Leases != 0 || out.Replacement != "" || out.LastEnd != nil {
		t.Errorf("one that never signed: %+v", out)
	}
	out := revoke(t, r, "signing")
	if out.Key != first || out.Leases != 1 || out.Replacement != "" {
		t.Errorf("one that signs no longer: %+v", out)
	}
	// What it signed runs out before, and what a thief signs with it need not.
	if until := out.Until.Sub(w.now()); until < keyring.MaxStale || out.LastEnd == nil || out.LastEnd.Sub(w.now()) > 3*time.Minute {
		t.Errorf("until %s from now, and the last of ours until %s", until, out.LastEnd)
	}
	w.wantStates("revoked signing revoked")
	if got := kids(t, r); !slices.Equal(got, []string{second.KeyID}) {
		t.Errorf("the JWKS holds %q", got)
	}
	var no *keyring.RefusedError
	if _, err := r.RevokeKey(t.Context(), keyring.Revoke{Key: "nobody"}); !errors.As(err, &no) {
		t.Errorf("an unknown key: %v", err)
	}
}

// TestRevokeWithoutReplacement: where none can be made, the key stays unless it
// is said twice; then nothing is signed, and the next one signs as soon as it can.
func TestRevokeWithoutReplacement(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	full := true
	w.store.Fail = func(method, label string) error {
		if full && method == "MakeSigner" && label != "signing" {
			return errAway
		}
		return nil
	}
	r := w.open()
	first := r.Signer().KeyID()
	_, err := r.RevokeKey(t.Context(), keyring.Revoke{Key: first, Actor: "ana", Reason: "seen"})
	if !errors.Is(err, errAway) || !strings.Contains(err.Error(), "NOT revoked") {
		t.Errorf("%v", err)
	}
	w.wantStates("signing making")
	out, err := r.RevokeKey(t.Context(), keyring.Revoke{Key: first, Actor: "ana", Reason: "seen", WithoutReplacement: true})
	if err != nil || out.Replacement != "" {
		t.Errorf("%+v %v", out, err)
	}
	w.wantStates("revoked making")
	if err := keys.SelfTest(r.Signer()); !errors.Is(err, keyring.ErrNoSigner) {
		t.Errorf("it signs: %v", err)
	}
	if got := kids(t, r); len(got) != 0 {
		t.Errorf("the JWKS holds %q", got)
	}
	if again := w.open(); again.Check() == nil {
		t.Error("a broker that starts now says that it signs")
	}
	if _, err := r.RunOnce(t.Context()); !errors.Is(err, errAway) {
		t.Errorf("%v", err)
	}
	full = false
	w.run(r, "published", "promoted")
	holds(w, r)
}

// TestRetireByHand refuses what would break a verifier, and says when it won't.
func TestRetireByHand(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.open()
	first := w.signed(r, 5*time.Hour)
	refused := func(key, why string) {
		t.Helper()
		var no *keyring.RefusedError
		if _, err := r.Retire(t.Context(), "ana", key); !errors.As(err, &no) || !strings.Contains(no.Text, why) {
			t.Errorf("retiring %s: %v", key, err)
		}
	}
	refused(first, "is the one that signs")
	refused("nobody", "there is no signing key")
	if _, err := r.Rotate(t.Context(), "ana", true); err != nil {
		t.Fatal(err)
	}
	refused(first, "has to verify what it signed until "+w.now().Add(5*time.Hour+time.Hour+5*time.Minute).UTC().Format("2006-01-02T15"))
	w.pass(6*time.Hour+6*time.Minute, 0)
	k, err := r.Retire(t.Context(), "ana", first)
	if err != nil || k.State != keyring.Retired || k.Reason != "retired by hand" {
		t.Errorf("%+v %v", k, err)
	}
	refused(first, "has ended already")
	// One that was never used, and one that was never made.
	next, err := r.Rotate(t.Context(), "ana", false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Retire(t.Context(), "ana", next.KeyID); err != nil {
		t.Error(err)
	}
	w.store.Fail = func(method, _ string) error {
		if method == "MakeSigner" {
			return errAway
		}
		return nil
	}
	if _, err := r.Rotate(t.Context(), "ana", false); !errors.Is(err, errAway) {
		t.Errorf("%v", err)
	}
	if _, err := r.Retire(t.Context(), "ana", "signing-4"); err != nil {
		t.Error(err)
	}
	w.wantStates("retired signing retired retired")
	list, err := r.List(t.Context())
	if err != nil || len(list) != 4 || list[0].Label != "signing-4" || list[2].Next != "next key is published" || list[2].NextAt.Before(w.now()) {
		t.Errorf("%+v %v", list, err)
	}
}
