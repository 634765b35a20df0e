package keyring_test

import (
	"slices"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/keyring"
	"github.com/daypass/daypass/broker/keys"
)

// act is one thing that a ring does, after some time.
type act struct {
	after time.Duration
	do    func(*world, *keyring.Ring) error
}

func runOnce(w *world, r *keyring.Ring) error {
	_, err := r.RunOnce(w.t.Context())
	return err
}

// revokeFirst is the emergency: the first key, whatever state it is in.
func revokeFirst(w *world, r *keyring.Ring) error {
	_, err := r.RevokeKey(w.t.Context(), keyring.Revoke{Key: "signing", Actor: "ana", Reason: "it was seen elsewhere"})
	return err
}

// lives are what a key can live through, and where it must end.
var lives = map[string]struct {
	acts  []act
	want  string
	steps []string // where a crash is tried
}{
	"rotation": {
		[]act{{0, runOnce}, {month - keys.RotationLead, runOnce}, {keys.RotationLead, runOnce}, {2 * time.Hour, runOnce}},
		"retired signing",
		[]string{
			"keys_founded", "keys_before_plan", "keys_planned", "keys_before_make", "keys_made", "keys_published", "keys_before_promote", "keys_promoted",
			"keys_before_retire", "keys_retired", "keys_before_destroy", "keys_destroyed",
		},
	},
	"revocation": {
		[]act{{0, runOnce}, {time.Minute, revokeFirst}, {time.Minute, runOnce}},
		"revoked signing",
		[]string{
			"keys_before_plan", "keys_planned", "keys_before_make", "keys_made", "keys_published", "keys_before_revoke", "keys_revoked",
			"keys_before_destroy", "keys_destroyed", "keys_swept",
		},
	},
}

// TestCrash ends a broker at each step, and another one goes on: at no time is
// there another number of keys that sign than one, none is lost, and the JWKS
// never lacks the one that signs.
func TestCrash(t *testing.T) {
	t.Parallel()
	for name, life := range lives {
		for _, at := range life.steps {
			t.Run(name+" at "+at, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				if crashes := live(w, life.acts, at); crashes != 1 {
					t.Errorf("it crashed %d times", crashes)
				}
				w.wantStates(life.want)
				held, err := w.store.List(t.Context())
				if err != nil || len(held) != 1 || held[0].KeyID != w.text(`SELECT kid FROM signing_keys WHERE state = 'signing'`) {
					t.Errorf("the HSM holds %v, %v", held, err)
				}
				if n := w.text(`SELECT count(*)::text FROM signing_keys WHERE ended_at IS NOT NULL AND destroyed_at IS NULL`); n != "0" {
					t.Errorf("%s keys are not destroyed on record", n)
				}
				if live := w.text(`SELECT count(*)::text FROM leases WHERE state = 'active' AND signing_key IN (SELECT kid FROM signing_keys WHERE state = 'revoked')`); live != "0" {
					t.Errorf("%s leases of a revoked key live", live)
				}
			})
		}
	}
}

// live lets a ring live, and die once at a step; whoever comes after it does the
// same again.
func live(w *world, acts []act, at string) (crashes int) {
	dying := func(c *keyring.Config) {
		if crashes == 0 {
			c.Checkpoint = crashing(at)
		}
	}
	var r *keyring.Ring
	begin := func() {
		for r == nil {
			if survive(func() { r = w.open(dying) }) {
				crashes++
			}
		}
	}
	for i, a := range acts {
		w.pass(a.after, 0)
		begin()
		crashed := survive(func() {
			if err := a.do(w, r); err != nil {
				w.t.Error(err)
			}
		})
		if crashed {
			crashes++
			other := w.open()
			holds(w, other)
			r = nil
			begin()
			if err := a.do(w, r); err != nil {
				w.t.Error(err)
			}
		}
		holds(w, r)
		if i == 0 {
			w.signed(r, 5*time.Minute)
		}
	}
	return crashes
}

// holds is what is true at any moment.
func holds(w *world, r *keyring.Ring) {
	w.t.Helper()
	if err := r.Refresh(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	if n := w.text(`SELECT count(*)::text FROM signing_keys WHERE state = 'signing'`); n != "1" {
		w.t.Errorf("%s keys sign: %s", n, w.states())
	}
	signer := r.Signer()
	if err := keys.SelfTest(signer); err != nil {
		w.t.Error(err)
	}
	if !slices.Contains(kids(w.t, r), signer.KeyID()) {
		w.t.Errorf("the key that signs isn't in the JWKS")
	}
}

// TestManyAtOnce: brokers that all take the same step at once take it once.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const many = 5
	made := 0
	w.store.Fail = func(method, _ string) error {
		if method == "MakeSigner" {
			made++ // the store's callers don't hold its lock: under -race two at once show
		}
		return nil
	}
	if _, err := w.store.MakeSigner(t.Context(), keys.Pair{Label: "signing"}); err != nil {
		t.Fatal(err)
	}
	opened := make(chan *keyring.Ring, many)
	together(make([]*keyring.Ring, many), func(*keyring.Ring) {
		r, err := keyring.Open(t.Context(), w.config())
		if err != nil {
			t.Error(err)
		}
		opened <- r
	})
	var rings []*keyring.Ring
	for range many {
		rings = append(rings, <-opened)
	}
	for _, phase := range []struct {
		after time.Duration
		want  string
	}{
		{0, "signing"},
		{month - keys.RotationLead, "signing published"},
		{keys.RotationLead, "retiring signing"},
		{2 * time.Hour, "retired signing"},
		{month - keys.RotationLead, "retired signing published"},
		{keys.RotationLead, "retired retiring signing"},
	} {
		w.pass(phase.after, 0)
		taken := make(chan keyring.Done, 100)
		together(rings, func(r *keyring.Ring) {
			done, err := r.RunOnce(t.Context())
			if err != nil {
				t.Error(err)
			}
			for _, d := range done {
				taken <- d
			}
		})
		close(taken)
		once := map[keyring.Done]bool{}
		for d := range taken {
			if once[d] && d.Step != "destroyed" {
				t.Errorf("%s of %s was taken twice", d.Step, d.Key)
			}
			once[d] = true
		}
		// Who came while another one was making the key has nothing to do, and that one
		// may have been asked to promote before it was published: one more turn.
		for _, r := range rings {
			w.run(r)
			holds(w, r)
		}
		w.wantStates(phase.want)
	}
	if made != 3 {
		t.Errorf("%d keys were made", made)
	}
}
