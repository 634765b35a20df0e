package keys_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/daypass/daypass/broker/keys"
)

func somewhere() keys.DataKeyPlace {
	return keys.DataKeyPlace{Installation: "i", ID: "0123456789abcdef", Tenant: "t", Purpose: "p"}
}

func TestDataKey(t *testing.T) {
	sealer, other := newSealer(t, "seal"), newSealer(t, "other")
	place := somewhere()
	place.ID = keys.NewDataKeyID()
	if place.ID == keys.NewDataKeyID() {
		t.Fatal("two data keys have one id")
	}
	key, wrapped, err := keys.MakeDataKey(t.Context(), sealer, place)
	if err != nil || key.ID() != place.ID {
		t.Fatal(err)
	}
	row := keys.RowID{Installation: "i", Tenant: "t", Table: "ta", Column: "c", Row: "r", Version: "1", Purpose: "p"}
	sealed, err := key.Seal(row, []byte("kept"))
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := keys.DataKeyOf(sealed); !ok || id != place.ID {
		t.Errorf("the sealed value names data key %q, %v", id, ok)
	}
	again, err := keys.RewrapDataKey(t.Context(), sealer, other, place, wrapped)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := keys.OpenDataKey(t.Context(), other, place, again)
	if err != nil {
		t.Fatal(err)
	}
	if plaintext, err := opened.Open(row, sealed); err != nil || string(plaintext) != "kept" {
		t.Errorf("opened %q, %v", plaintext, err)
	}
	if text := fmt.Sprintf("%v %+v %#v %s", key, *key, key, struct{ K *keys.DataKey }{key}); strings.Count(text, "[redacted]") != 4 {
		t.Errorf("it prints as %s", text)
	}
	if _, err := keys.OpenDataKey(t.Context(), sealer, place, again); !errors.Is(err, keys.ErrOpen) {
		t.Errorf("by the former sealing key: %v", err)
	}
	if _, err := keys.RewrapDataKey(t.Context(), other, sealer, place, wrapped); !errors.Is(err, keys.ErrOpen) {
		t.Errorf("wrapped anew by a key that can't open it: %v", err)
	}
	if _, _, err := keys.MakeDataKey(t.Context(), sealer, keys.DataKeyPlace{Installation: "i", ID: "../x", Tenant: "t", Purpose: "p"}); err == nil {
		t.Error("a data key with an id that is none")
	}
	if _, err := keys.OpenDataKey(t.Context(), &glass{key: []byte("short")}, place, nil); !errors.Is(err, keys.ErrOpen) {
		t.Errorf("a short key: %v", err)
	}
}

// TestWrappedDataKeysAreBound changes a wrapped data key in each byte, and its
// place in each field.
func TestWrappedDataKeysAreBound(t *testing.T) {
	sealer := newSealer(t, "seal")
	_, wrapped, err := keys.MakeDataKey(t.Context(), sealer, somewhere())
	if err != nil {
		t.Fatal(err)
	}
	refuse := func(to interface{ Errorf(string, ...any) }, what string, place keys.DataKeyPlace, wrapped []byte) {
		if key, err := keys.OpenDataKey(t.Context(), sealer, place, wrapped); err == nil || key != nil {
			to.Errorf("%s: it opened", what)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		i := rapid.IntRange(0, len(wrapped)-1).Draw(rt, "byte")
		tampered := bytes.Clone(wrapped)
		tampered[i] ^= rapid.ByteRange(1, 255).Draw(rt, "flip")
		refuse(rt, fmt.Sprintf("byte %d changed", i), somewhere(), tampered)
		refuse(rt, "cut off", somewhere(), wrapped[:i])
	})
	for i := range reflect.TypeFor[keys.DataKeyPlace]().NumField() {
		for _, value := range []string{"", "0123456789abcde0", "x"} {
			place := somewhere()
			reflect.ValueOf(&place).Elem().Field(i).SetString(value)
			refuse(t, "another "+reflect.TypeFor[keys.DataKeyPlace]().Field(i).Name, place, wrapped)
		}
	}
	if _, err := keys.OpenDataKey(t.Context(), sealer, somewhere(), wrapped); err != nil {
		t.Error(err)
	}
}

// TestDataKeySealsStay pins what is stored in databases.
func TestDataKeySealsStay(t *testing.T) {
	key, err := keys.OpenDataKey(t.Context(), &glass{key: bytes.Repeat([]byte{7}, 32)}, somewhere(), nil)
	if err != nil {
		t.Fatal(err)
	}
	row := keys.RowID{Installation: "i", Tenant: "t", Table: "ta", Column: "c", Row: "r", Version: "1", Purpose: "p"}
	sealed, err := hex.DecodeString("030123456789abcdef000102030405060708090a0b73e499043544ef2b0fe7192b8a9fc49de652639a")
	if err != nil {
		t.Fatal(err)
	}
	opened, err := key.Open(row, sealed)
	if err != nil || string(opened) != "kept" {
		t.Errorf("a stored value opens as %q, %v", opened, err)
	}
}

func TestSealerOf(t *testing.T) {
	current, former, stranger := newSealer(t, "current"), newSealer(t, "former"), newSealer(t, "stranger")
	both := keys.AlsoOpen(current, former)
	if both.KeyID() != current.KeyID() || len(keys.AllSealers(both)) != 2 || len(keys.AllSealers(current)) != 1 {
		t.Errorf("it is %s, of %d", both.KeyID(), len(keys.AllSealers(both)))
	}
	sealed, err := both.Seal(t.Context(), []byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := current.Open(t.Context(), sealed, nil); err != nil {
		t.Errorf("it doesn't seal by the current key: %v", err)
	}
	for _, s := range []keys.Sealer{current, former} {
		if found, err := keys.SealerOf(both, s.KeyID()); err != nil || found.KeyID() != s.KeyID() {
			t.Errorf("%s: %v", s.KeyID(), err)
		}
	}
	_, err = keys.SealerOf(both, stranger.KeyID())
	if !errors.Is(err, keys.ErrNoKey) || !strings.Contains(err.Error(), stranger.KeyID()) || !strings.Contains(err.Error(), "hint:") {
		t.Errorf("a stranger: %v", err)
	}
}
