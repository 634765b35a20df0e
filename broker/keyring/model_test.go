package keyring_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/daypass/daypass/broker/keyring"
	"github.com/daypass/daypass/broker/keys"
)

// fleet is three brokers, a verifier and what was signed, as time goes by.
type fleet struct {
	w     *world
	rings [3]*keyring.Ring // nil: crashed, and not started again
	// shift is how far the clocks of all machines are ahead of the time.
	shift time.Duration

	published map[string]time.Duration // key → when it was first on record: each broker that works has it within seconds
	signed    map[string]bool          // keys that signed
	tokens    []token
	caches    []cache
}

// token is something signed: when it runs out, for a verifier whose clock is right.
type token struct {
	kid     string
	expires time.Duration
}

// cache is what a verifier got from some broker.
type cache struct {
	at   time.Duration
	kids []string
}

// elapsed is the time, as it really goes by, since the fleet began.
func (f *fleet) elapsed() time.Duration { return time.Duration(f.w.passed.Load()) - f.shift }

// pass lets time go by; clocks are ahead by shift afterwards.
func (f *fleet) pass(d, shift time.Duration) {
	f.w.pass(d+shift-f.shift, 0)
	f.shift = shift
}

func (f *fleet) ring(t *rapid.T) int { return rapid.IntRange(0, len(f.rings)-1).Draw(t, "broker") }

// start starts a broker, if it isn't there.
func (f *fleet) start(t *rapid.T, i int) {
	if f.rings[i] != nil {
		return
	}
	r, err := keyring.Open(f.w.t.Context(), f.w.config())
	if err != nil {
		t.Fatal(err)
	}
	f.rings[i] = r
}

// checkpoints are where a broker may crash, in the order of the steps.
var checkpoints = slices.Concat(lives["rotation"].steps[1:], lives["revocation"].steps)

// crash lets a broker die at some step of its turn.
func (f *fleet) crash(t *rapid.T) {
	i, at := f.ring(t), rapid.SampledFrom(checkpoints).Draw(t, "step")
	r, err := keyring.Open(f.w.t.Context(), f.w.config(func(c *keyring.Config) { c.Checkpoint = crashing(at) }))
	if err != nil {
		t.Fatal(err)
	}
	f.rings[i] = nil
	crashed := survive(func() {
		if _, err := r.RunOnce(f.w.t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	if !crashed {
		f.start(t, i) // one that doesn't crash later
	}
}

// sign lets a broker sign a token, if it can.
func (f *fleet) sign(t *rapid.T, i int) {
	r := f.rings[i]
	if r == nil {
		return
	}
	signer := r.Signer()
	if keys.SelfTest(signer) != nil {
		return // it knows too little
	}
	kid, ttl := signer.KeyID(), time.Duration(rapid.IntRange(1, 24*60).Draw(t, "minutes"))*time.Minute
	if own := kidsOfRing(t, r); !slices.Contains(own, kid) {
		t.Fatalf("it signed with %s, which its own key set lacks: %q", kid, own)
	}
	at, known := f.published[kid]
	if lead := f.elapsed() - at; known && at > 0 && !f.signed[kid] && lead < 24*time.Hour {
		t.Fatalf("%s signs %s after it was published", kid, lead)
	}
	f.signed[kid] = true
	f.w.lease(kid, ttl)
	// It says when it ends by clocks that are ahead: as late as that for one that is right.
	f.tokens = append(f.tokens, token{kid: kid, expires: f.elapsed() + f.shift + ttl})
}

func kidsOfRing(t *rapid.T, r *keyring.Ring) []string {
	body, err := r.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	return kidsOf(t, body)
}

// check is what holds after each step.
func (f *fleet) check(t *rapid.T) {
	now := f.elapsed()
	if n := f.w.text(`SELECT count(*)::text FROM signing_keys WHERE state = 'signing'`); n != "1" {
		t.Fatalf("%s keys sign: %s", n, f.w.states())
	}
	var sets [][]string
	for _, r := range f.rings {
		if r == nil || r.Check() != nil {
			continue
		}
		set := kidsOfRing(t, r)
		sets = append(sets, set)
	}
	for kid := range strings.FieldsSeq(f.w.text(`SELECT coalesce(string_agg(kid, ' '), '') FROM signing_keys`)) {
		if _, known := f.published[kid]; !known {
			f.published[kid] = now
		}
	}
	f.caches = slices.DeleteFunc(f.caches, func(c cache) bool { return now-c.at > keys.JWKSMaxAge })
	for _, c := range f.caches {
		sets = append(sets, c.kids)
	}
	f.tokens = slices.DeleteFunc(f.tokens, func(k token) bool { return k.expires <= now })
	for _, k := range f.tokens {
		for _, set := range sets {
			if !slices.Contains(set, k.kid) {
				t.Fatalf("what %s signed is valid for %s yet, and somebody's key set lacks it: %q; the keys are %s", k.kid, k.expires-now, set, f.w.states())
			}
		}
	}
	if len(sets) > 0 {
		f.caches = append(f.caches, cache{now, sets[0]})
	}
}

// TestModel: three brokers that rotate, crash, start again and notice things late,
// on clocks that step by up to an hour, in any order. Every key set that a
// verifier can hold verifies everything that is still valid; no key signs before
// it was published for a day; there is always one that signs.
func TestModel(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rapid.Check(t, func(t *rapid.T) {
		w.exec(`TRUNCATE signing_keys, leases, audit_events`)
		for _, held := range must(w.store.List(w.t.Context())) {
			if err := w.store.Destroy(w.t.Context(), held.Label); err != nil {
				t.Fatal(err)
			}
		}
		w.passed.Store(0)
		w.pass(0, 0)
		f := &fleet{w: w, published: map[string]time.Duration{}, signed: map[string]bool{}}
		for i := range f.rings {
			f.start(t, i)
		}
		t.Repeat(map[string]func(*rapid.T){
			"":        f.check,
			"seconds": func(t *rapid.T) { f.pass(time.Duration(rapid.IntRange(1, 900).Draw(t, "s"))*time.Second, f.shift) },
			"hours":   func(t *rapid.T) { f.pass(time.Duration(rapid.IntRange(1, 30).Draw(t, "h"))*time.Hour, f.shift) },
			"until something is due": func(t *rapid.T) {
				f.pass(rapid.SampledFrom([]time.Duration{month - keys.RotationLead, keys.RotationLead, keys.RotationLead - 90*time.Minute, keys.RotationLead - time.Minute}).Draw(t, "d"), f.shift)
			},
			"clocks step": func(t *rapid.T) {
				f.pass(0, time.Duration(rapid.IntRange(0, 60).Draw(t, "minutes"))*time.Minute)
				// A process measures how old its knowledge is by time that goes by, not by the
				// clock; the test's clock is both, so brokers look again.
				for _, r := range f.rings {
					if r != nil {
						if err := r.Refresh(w.t.Context()); err != nil {
							t.Fatal(err)
						}
					}
				}
			},
			"turn": func(t *rapid.T) {
				if r := f.rings[f.ring(t)]; r != nil {
					if _, err := r.RunOnce(w.t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			},
			"look": func(t *rapid.T) {
				if r := f.rings[f.ring(t)]; r != nil {
					if err := r.Refresh(w.t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			},
			"crash": f.crash,
			"start": func(t *rapid.T) { f.start(t, f.ring(t)) },
			"sign":  func(t *rapid.T) { f.sign(t, f.ring(t)) },
			// What a random walk hardly comes to: a key is made, and tried about when its time comes.
			"rotation": func(t *rapid.T) {
				i := f.ring(t)
				r := f.rings[i]
				if r == nil {
					return
				}
				if _, err := r.Rotate(w.t.Context(), "ana", false); err != nil {
					t.Fatal(err)
				}
				f.check(t)
				before := time.Duration(rapid.IntRange(-60, 180).Draw(t, "minutes before its time")) * time.Minute
				f.pass(keys.RotationLead-before, f.shift)
				if _, err := r.RunOnce(w.t.Context()); err != nil {
					t.Fatal(err)
				}
				f.sign(t, i)
			},
		})
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
