package sealing_test

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/sealing"
)

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	pool, good := newPool(t), newHSM(t)
	for name, config := range map[string]sealing.Config{
		"no pool":         {Sealer: good, Installation: installationID, Now: time.Now},
		"no sealing key":  {Pool: pool, Installation: installationID, Now: time.Now},
		"no installation": {Pool: pool, Sealer: good, Now: time.Now},
		"no clock":        {Pool: pool, Sealer: good, Installation: installationID},
		"kept too long":   {Pool: pool, Sealer: good, Installation: installationID, Now: time.Now, CacheLife: 13 * time.Hour},
		"too many seals":  {Pool: pool, Sealer: good, Installation: installationID, Now: time.Now, SealsPerKey: 1<<32 + 1},
		"a cache of none": {Pool: pool, Sealer: good, Installation: installationID, Now: time.Now, CacheSize: -1},
	} {
		if s, err := sealing.New(config); err == nil || s != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTampering changes a sealed value in each byte, and its place in each field.
func TestTampering(t *testing.T) {
	t.Parallel()
	s := newSealer(t, sealing.Config{Pool: newPool(t), Sealer: newHSM(t)})
	rapid.Check(t, func(rt *rapid.T) {
		text := rapid.StringN(1, 6, 12)
		place := keys.RowID{
			Installation: installationID, Tenant: "main", Table: text.Draw(rt, "table"), Column: text.Draw(rt, "column"),
			Row: text.Draw(rt, "row"), Version: text.Draw(rt, "version"), Purpose: purpose,
		}
		plaintext := rapid.SliceOfN(rapid.Byte(), 0, 48).Draw(rt, "plaintext")
		sealed, err := s.Seal(t.Context(), place, plaintext)
		if err != nil {
			rt.Fatal(err)
		}
		if got, err := s.Open(t.Context(), place, sealed); err != nil || !bytes.Equal(got, plaintext) {
			rt.Fatalf("opened %x, %v", got, err)
		}
		refuse := func(what string, place keys.RowID, sealed []byte) {
			if got, err := s.Open(t.Context(), place, sealed); !errors.Is(err, keys.ErrOpen) || got != nil {
				rt.Fatalf("%s: opened %x, %v", what, got, err)
			}
		}
		flip := rapid.ByteRange(1, 255).Draw(rt, "flip")
		for i := range sealed {
			tampered := bytes.Clone(sealed)
			tampered[i] ^= flip
			refuse(fmt.Sprintf("byte %d changed", i), place, tampered)
			refuse(fmt.Sprintf("cut to %d bytes", i), place, sealed[:i])
		}
		refuse("longer", place, append(bytes.Clone(sealed), 0))
		for i := range reflect.TypeFor[keys.RowID]().NumField() {
			name := reflect.TypeFor[keys.RowID]().Field(i).Name
			moved := place
			field := reflect.ValueOf(&moved).Elem().Field(i)
			field.SetString(field.String() + "x")
			refuse("another "+name, moved, sealed)
			field.SetString("")
			refuse("no "+name, moved, sealed)
			if sealed, err := s.Seal(t.Context(), moved, plaintext); err == nil || sealed != nil {
				rt.Fatalf("sealed without %s", name)
			}
		}
	})
}

// TestTamperingWithDataKeys changes what is stored of a data key: nothing that it
// sealed opens any more, and nothing opens as something else.
func TestTamperingWithDataKeys(t *testing.T) {
	t.Parallel()
	pool, good := newPool(t), newHSM(t)
	s := newSealer(t, sealing.Config{Pool: pool, Sealer: good})
	sealed := seal(t, s, "a", "secret")
	other, err := s.Seal(t.Context(), keys.RowID{Installation: installationID, Tenant: "other", Table: "leases", Column: "handle", Row: "a", Version: "1", Purpose: purpose}, []byte("other"))
	if err != nil {
		t.Fatal(err)
	}
	id, _ := keys.DataKeyOf(sealed)
	otherID, _ := keys.DataKeyOf(other)
	var wrapped, otherWrapped []byte
	for id, into := range map[string]*[]byte{id: &wrapped, otherID: &otherWrapped} {
		if err := pool.QueryRow(t.Context(), `SELECT wrapped FROM data_keys WHERE id = $1`, id).Scan(into); err != nil {
			t.Fatal(err)
		}
	}
	mustFail := func(what string) {
		t.Helper()
		fresh := newSealer(t, sealing.Config{Pool: pool, Sealer: good})
		if got, err := fresh.Open(t.Context(), row("a"), sealed); !errors.Is(err, keys.ErrOpen) || got != nil {
			t.Errorf("%s: opened %q, %v", what, got, err)
		}
	}
	for i := range wrapped {
		tampered := bytes.Clone(wrapped)
		tampered[i] ^= 0x41
		exec(t, pool, `UPDATE data_keys SET wrapped = $2 WHERE id = $1`, id, tampered)
		mustFail(fmt.Sprintf("byte %d of the data key changed", i))
	}
	exec(t, pool, `UPDATE data_keys SET wrapped = $2 WHERE id = $1`, id, otherWrapped)
	mustFail("another tenant's data key in its place")
	exec(t, pool, `UPDATE data_keys SET wrapped = $2, retired_at = now(), tenant = 'other' WHERE id = $1`, id, wrapped)
	mustFail("the data key said to be another tenant's")
	exec(t, pool, `UPDATE data_keys SET tenant = 'main', purpose = 'something' WHERE id = $1`, id)
	mustFail("the data key said to be for something else")
	exec(t, pool, `UPDATE data_keys SET purpose = $2 WHERE id = $1`, id, purpose)
	mustOpen(t, newSealer(t, sealing.Config{Pool: pool, Sealer: good}), "a", sealed, "secret")

	elsewhere := newSealer(t, sealing.Config{Pool: pool, Sealer: good, Installation: "ba9876543210"})
	moved := row("a")
	moved.Installation = "ba9876543210"
	if got, err := elsewhere.Open(t.Context(), moved, sealed); !errors.Is(err, keys.ErrOpen) || got != nil {
		t.Errorf("another installation opened %q, %v", got, err)
	}
	exec(t, pool, `DELETE FROM data_keys`)
	mustFail("no data key")
}

// TestRollBack puts an older version of a row in the place of a newer one.
func TestRollBack(t *testing.T) {
	t.Parallel()
	s := newSealer(t, sealing.Config{Pool: newPool(t), Sealer: newHSM(t)})
	old := seal(t, s, "a", "the old password")
	second := row("a")
	second.Version = "2"
	if got, err := s.Open(t.Context(), second, old); !errors.Is(err, keys.ErrOpen) || got != nil {
		t.Errorf("an older version opened as the newer one: %q, %v", got, err)
	}
}

func TestRowsFromBeforeDataKeys(t *testing.T) {
	t.Parallel()
	root, err := keys.NewRoot()
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := keys.NewRoot()
	if err != nil {
		t.Fatal(err)
	}
	old, err := root.RowSealer().Seal(t.Context(), row("a"), []byte("from before"))
	if err != nil {
		t.Fatal(err)
	}
	pool := newPool(t)
	s := newSealer(t, sealing.Config{Pool: pool, Sealer: newHSM(t), Former: []*keys.RowSealer{stranger.RowSealer(), root.RowSealer()}})
	mustOpen(t, s, "a", old, "from before")
	if got, err := s.Open(t.Context(), row("b"), old); !errors.Is(err, keys.ErrOpen) || got != nil {
		t.Errorf("it opened elsewhere: %q, %v", got, err)
	}
	again, err := s.Reseal(t.Context(), []sealing.Value{{Row: row("a"), Sealed: old}, {Row: row("b"), Sealed: seal(t, s, "b", "now")}})
	if err != nil {
		t.Fatal(err)
	}
	withoutRoot := newSealer(t, sealing.Config{Pool: pool, Sealer: newHSM(t)})
	if _, err := withoutRoot.Open(t.Context(), row("a"), old); !errors.Is(err, keys.ErrOpen) {
		t.Errorf("without the root: %v", err)
	}
	if _, ok := keys.DataKeyOf(again[0]); !ok {
		t.Error("what was sealed anew has no data key")
	}
	mustOpen(t, s, "a", again[0], "from before")
	mustOpen(t, s, "b", again[1], "now")
	if _, err := s.Reseal(t.Context(), []sealing.Value{{Row: row("b"), Sealed: old}}); !errors.Is(err, keys.ErrOpen) {
		t.Errorf("a moved value was sealed anew: %v", err)
	}
}

func TestReseal(t *testing.T) {
	t.Parallel()
	pool, good := newPool(t), newHSM(t)
	s := newSealer(t, sealing.Config{Pool: pool, Sealer: good})
	sealed := seal(t, s, "a", "long lived")
	same, err := s.Reseal(t.Context(), []sealing.Value{{Row: row("a"), Sealed: sealed}})
	if err != nil || &same[0][0] != &sealed[0] {
		t.Fatalf("what is under the current data key was sealed anew: %v", err)
	}
	exec(t, pool, `UPDATE data_keys SET retired_at = now()`)
	fresh := newSealer(t, sealing.Config{Pool: pool, Sealer: good})
	newer, err := fresh.Reseal(t.Context(), []sealing.Value{{Row: row("a"), Sealed: sealed}})
	if err != nil {
		t.Fatal(err)
	}
	before, _ := keys.DataKeyOf(sealed)
	if after, _ := keys.DataKeyOf(newer[0]); after == before {
		t.Error("it is under the former data key still")
	}
	mustOpen(t, fresh, "a", newer[0], "long lived")
	mustOpen(t, fresh, "a", sealed, "long lived") // as long as it stands there
}

// TestOneDataKeyForAll lets many brokers make the next data key at one moment.
func TestOneDataKeyForAll(t *testing.T) {
	t.Parallel()
	pool, good := newPool(t), newHSM(t)
	for round := range 3 {
		const brokers = 6
		var sealers [brokers]*sealing.Sealer
		for i := range brokers {
			sealers[i] = newSealer(t, sealing.Config{Pool: pool, Sealer: good})
		}
		var sealed [brokers][]byte
		var running sync.WaitGroup
		for i := range brokers {
			running.Go(func() {
				var err error
				if sealed[i], err = sealers[i].Seal(t.Context(), row("a"), []byte("x")); err != nil {
					t.Error(err)
				}
			})
		}
		running.Wait()
		first, _ := keys.DataKeyOf(sealed[0])
		for i := range brokers {
			if id, ok := keys.DataKeyOf(sealed[i]); !ok || id != first {
				t.Errorf("broker %d sealed by %s, the first by %s", i, id, first)
			}
			mustOpen(t, sealers[(i+1)%brokers], "a", sealed[i], "x")
		}
		if n := count(t, pool, `SELECT count(*) FROM data_keys`); n != round+1 {
			t.Errorf("%d data keys in round %d", n, round)
		}
		exec(t, pool, `UPDATE data_keys SET created_at = created_at - interval '24 hours' WHERE retired_at IS NULL`)
	}
	if n := count(t, pool, `SELECT count(*) FROM data_keys WHERE retired_at IS NOT NULL`); n != 2 {
		t.Errorf("%d data keys are retired", n)
	}
}

// TestSealsAreCounted over all brokers, also those that died with a block in hand.
func TestSealsAreCounted(t *testing.T) {
	t.Parallel()
	pool, good := newPool(t), newHSM(t)
	const most = 64
	perKey := map[string]int{}
	for range 5 { // brokers, each of which dies
		s := newSealer(t, sealing.Config{Pool: pool, Sealer: good, SealsPerKey: most})
		for range 50 {
			id, _ := keys.DataKeyOf(seal(t, s, "a", "x"))
			perKey[id]++
		}
		s.Close()
	}
	for id, n := range perKey {
		if n > most {
			t.Errorf("data key %s sealed %d values, more than %d", id, n, most)
		}
	}
	if len(perKey) < 5*50/most || len(perKey) > 10 {
		t.Errorf("%d data keys for %d values", len(perKey), 5*50)
	}
	if n := count(t, pool, `SELECT count(*) FROM data_keys WHERE seals > $1`, most); n != 0 {
		t.Errorf("%d data keys have more seals on record than they may make", n)
	}
}

func TestRotatesByAge(t *testing.T) {
	t.Parallel()
	pool, good, clock := newPool(t), newHSM(t), newClock()
	s := newSealer(t, sealing.Config{Pool: pool, Sealer: good, Now: clock.Now})
	first, _ := keys.DataKeyOf(seal(t, s, "a", "x"))
	// A day passes for the database and for the broker, in steps that its cache survives.
	exec(t, pool, `UPDATE data_keys SET created_at = created_at - interval '24 hours'`)
	clock.move(31 * time.Minute) // its key is to be opened anew, and is found to be too old
	if id, _ := keys.DataKeyOf(seal(t, s, "a", "x")); id != first {
		t.Error("somebody waited for the next data key")
	}
	eventually(t, "the next data key", func() bool {
		id, _ := keys.DataKeyOf(seal(t, s, "a", "x"))
		return id != first
	})
}
