package keyring_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/keyring"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/leases"
)

// TestLife of two keys, from one step to the next.
func TestLife(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.open()
	w.wantStates("signing")
	first := r.Signer().KeyID()
	if got := kids(t, r); !slices.Equal(got, []string{first}) {
		t.Errorf("the JWKS holds %q", got)
	}
	w.run(r)
	w.pass(month-keys.RotationLead-time.Minute, 0)
	w.run(r)
	w.pass(time.Minute, 0)
	w.run(r, "planned", "published")
	w.wantStates("signing published")
	if r.Signer().KeyID() != first || len(kids(t, r)) != 2 {
		t.Errorf("%s signs, and %q verify", r.Signer().KeyID(), kids(t, r))
	}
	w.pass(keys.RotationLead-time.Minute, 0)
	w.run(r)
	if kid := w.signed(r, 2*time.Hour); kid != first {
		t.Errorf("%s signs before its time", kid)
	}
	w.pass(time.Minute, 0)
	w.run(r, "promoted")
	w.wantStates("retiring signing")
	second := r.Signer().KeyID()
	if second == first || len(kids(t, r)) != 2 {
		t.Errorf("%s signs, and %q verify", second, kids(t, r))
	}
	w.pass(2*time.Hour, 0) // its token has run out just now
	w.run(r)
	w.pass(time.Hour+5*time.Minute, 0)
	w.run(r, "retired", "destroyed")
	w.wantStates("retired signing")
	if got := kids(t, r); !slices.Equal(got, []string{second}) {
		t.Errorf("the JWKS holds %q", got)
	}
	if held, err := w.store.List(t.Context()); err != nil || len(held) != 1 || held[0].Label != "signing-2" {
		t.Errorf("the HSM holds %v, %v", held, err)
	}
	w.run(r)
}

// TestNoSchedule: without one nothing changes by itself, and by hand it does.
func TestNoSchedule(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.open(func(c *keyring.Config) { c.RotateEvery = 0; c.Pair.Algorithm = keys.ES384 })
	w.pass(10*month, 0)
	w.run(r)
	next, err := r.Rotate(t.Context(), "os user ana", false)
	if err != nil || next.State != keyring.Published || next.Algorithm != keys.ES384 {
		t.Fatalf("%+v %v", next, err)
	}
	again, err := r.Rotate(t.Context(), "os user ana", false)
	if err != nil || again.KeyID != next.KeyID {
		t.Errorf("a second call made another key: %+v %v", again, err)
	}
	now, err := r.Rotate(t.Context(), "os user ana", true)
	if err != nil || now.KeyID != next.KeyID || now.State != keyring.Signing {
		t.Errorf("%+v %v", now, err)
	}
	if got := r.Algorithms(); !slices.Equal(got, []string{keys.ES384}) {
		t.Errorf("algorithms %q", got)
	}
	if actor := w.text(`SELECT body::json->>'actor' FROM audit_events WHERE type = 'signing_key.signing'`); actor != "os user ana" {
		t.Errorf("%s did it", actor)
	}
}

// TestStale: a broker that can't read the keys goes on for a while, and then
// neither signs nor publishes.
func TestStale(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.open()
	w.pass(keyring.MaxStale-time.Second, 0)
	if err := keys.SelfTest(r.Signer()); err != nil || r.Check() != nil {
		t.Errorf("too soon: %v, %v", err, r.Check())
	}
	w.pass(2*time.Second, 0)
	if err := keys.SelfTest(r.Signer()); !errors.Is(err, leases.ErrUnavailable) {
		t.Errorf("it signed: %v", err)
	}
	if _, err := r.JWKS(); !errors.Is(err, leases.ErrUnavailable) || r.Check() == nil {
		t.Errorf("it published: %v, %v", err, r.Check())
	}
	if err := r.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := keys.SelfTest(r.Signer()); err != nil {
		t.Error(err)
	}
}

// TestForeignKey: what only the table says is not believed, and nothing that the
// HSM held before is taken for one of ours.
func TestForeignKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if _, err := w.store.MakeSigner(t.Context(), keys.Pair{Label: "signing-2"}); err != nil {
		t.Fatal(err)
	}
	r := w.open()
	first := kids(t, r)
	w.exec(`
INSERT INTO signing_keys (tenant, number, label, kid, algorithm, bits, public_key, state, created_at, published_at, signs_from, events)
VALUES ('main', 7, 'elsewhere', 'kid-of-somebody', 'ES256', 0, '', 'published', now(), now(), now() - interval '1 day', 0)`)
	if _, err := r.RunOnce(t.Context()); err == nil || !strings.Contains(err.Error(), "is not promoted") {
		t.Errorf("what doesn't open was to be promoted: %v", err)
	}
	if got := kids(t, r); !slices.Equal(got, first) {
		t.Errorf("the JWKS holds %q", got)
	}
	w.exec(`DELETE FROM signing_keys WHERE number = 7`)
	w.pass(month, 0)
	w.run(r, "planned", "published")
	if label := w.text(`SELECT label FROM signing_keys WHERE state = 'published'`); label != "signing-3" {
		t.Errorf("the next key is %s", label)
	}
	// A label that leads to another key than the one on record.
	w.exec(`UPDATE signing_keys SET label = 'signing-2' WHERE label = 'signing-3'`)
	if other := w.open(); len(kids(t, other)) != 1 {
		t.Errorf("another key was taken for the one on record: %q", kids(t, other))
	}
}

// TestSignerIsGone: a broker that can't open the key that signs doesn't start,
// and one that runs says no rather than publish a set without it.
func TestSignerIsGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.open()
	next, err := r.Rotate(t.Context(), "ana", true)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := keyring.Open(t.Context(), w.config(func(c *keyring.Config) { c.Store = &away{w.store, "signing-2"} }))
	if err == nil || !strings.Contains(err.Error(), next.KeyID) || elsewhere != nil {
		t.Errorf("it started: %v", err)
	}
	// A command opens the ring all the same, and lets another one sign.
	repairing := w.open(func(c *keyring.Config) { c.Store, c.Repair = &away{w.store, "signing-2"}, true })
	if err := keys.SelfTest(repairing.Signer()); err == nil {
		t.Error("it signs with a key that is away")
	}
	if repaired, err := repairing.Rotate(t.Context(), "ana", true); err != nil || repaired.Label != "signing-3" || repairing.Refresh(t.Context()) != nil || repairing.Check() != nil {
		t.Errorf("%+v %v", repaired, err)
	}
	blind := w.open(func(c *keyring.Config) { c.Store = &away{w.store, "signing-4"} })
	last, err := r.Rotate(t.Context(), "ana", true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := blind.RunOnce(t.Context()); err != nil {
		t.Error(err)
	}
	if err := keys.SelfTest(blind.Signer()); !errors.Is(err, keyring.ErrNoSigner) {
		t.Errorf("it signs: %v", err)
	}
	if _, err := blind.JWKS(); !errors.Is(err, leases.ErrUnavailable) {
		t.Errorf("it publishes a set without %s: %v", last.KeyID, err)
	}
}

// TestClocks: one clock gone wrong holds rotation up, and doesn't hurry it.
func TestClocks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.open()
	w.pass(month-keys.RotationLead, 0)
	w.run(r, "planned", "published")
	w.pass(0, month) // the database's clock alone
	if _, err := r.RunOnce(t.Context()); err == nil || !strings.Contains(err.Error(), "apart") {
		t.Errorf("it believed the database's clock: %v", err)
	}
	w.pass(0, 0)
	fast := w.open(func(c *keyring.Config) { c.Now = func() time.Time { return w.now().Add(month) } })
	w.run(fast) // the broker's clock alone
	w.wantStates("signing published")

	// Both, by an hour: back undoes nothing, and forward takes an hour of the lead.
	w.pass(-time.Hour, 0)
	w.run(r)
	w.wantStates("signing published")
	w.pass(2*time.Hour, 0)
	w.run(r)
	w.wantStates("signing published")
	w.pass(keys.RotationLead-time.Hour, 0)
	w.run(r, "promoted")
	w.pass(-time.Hour, 0)
	w.run(r)
	w.wantStates("retiring signing")
}
