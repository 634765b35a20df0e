package keys_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/daypass/daypass/broker/keys"
)

// glass is a Sealer that keeps the key in sight, to make roots that are known.
type glass struct{ key []byte }

func (g *glass) Seal(_ context.Context, plaintext, _ []byte) ([]byte, error) {
	g.key = bytes.Clone(plaintext)
	return []byte("sealed"), nil
}

func (g *glass) Open(context.Context, []byte, []byte) ([]byte, error) { return bytes.Clone(g.key), nil }
func (g *glass) KeyID() string                                        { return "glass" }

// newRoot makes a root, and tells its key.
func newRoot(t testing.TB) (*keys.Root, []byte) {
	t.Helper()
	root, err := keys.NewRoot()
	if err != nil {
		t.Fatal(err)
	}
	var g glass
	if _, err := root.Wrap(t.Context(), &g, ""); err != nil {
		t.Fatal(err)
	}
	return root, g.key
}

func fixedRoot(t testing.TB, key []byte) *keys.Root {
	t.Helper()
	root, err := keys.OpenRoot(t.Context(), &glass{key: key}, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func TestRootWrapsAndOpens(t *testing.T) {
	sealer := newSealer(t, "seal")
	root, key := newRoot(t)
	if len(key) != 32 {
		t.Fatalf("a root of %d bytes", len(key))
	}
	if _, other := newRoot(t); bytes.Equal(other, key) {
		t.Fatal("two roots are one")
	}
	wrapped, err := root.Wrap(t.Context(), sealer, "one")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(wrapped, key) {
		t.Fatal("the wrapped root is in the clear")
	}
	opened, err := keys.OpenRoot(t.Context(), sealer, "one", wrapped)
	if err != nil {
		t.Fatal(err)
	}
	if opened.Hasher(keys.AuditMACs).Sum("d", nil) != root.Hasher(keys.AuditMACs).Sum("d", nil) {
		t.Error("another root came out")
	}
	for name, open := range map[string]func() (*keys.Root, error){
		"wrong installation": func() (*keys.Root, error) { return keys.OpenRoot(t.Context(), sealer, "two", wrapped) },
		"no installation":    func() (*keys.Root, error) { return keys.OpenRoot(t.Context(), sealer, "", wrapped) },
		"another key":        func() (*keys.Root, error) { return keys.OpenRoot(t.Context(), newSealer(t, "other"), "one", wrapped) },
		"cut off":            func() (*keys.Root, error) { return keys.OpenRoot(t.Context(), sealer, "one", wrapped[:len(wrapped)-1]) },
		"nothing":            func() (*keys.Root, error) { return keys.OpenRoot(t.Context(), sealer, "one", nil) },
		"too short inside":   func() (*keys.Root, error) { return keys.OpenRoot(t.Context(), &glass{key: key[:31]}, "one", nil) },
	} {
		if root, err := open(); !errors.Is(err, keys.ErrOpen) || root != nil {
			t.Errorf("%s: %v, %v", name, root, err)
		}
	}
}

// TestDerivedValuesStay pins what is stored in databases: a change here makes
// every installation's hashes and seals void.
func TestDerivedValuesStay(t *testing.T) {
	root := fixedRoot(t, bytes.Repeat([]byte{7}, 32))
	hasher := root.Hasher(keys.SessionTokens)
	sum := hasher.Sum("domain", []byte("data"))
	got := fmt.Sprintf("%s %x %s", hasher.KeyID(), sum, root.RowSealer().KeyID())
	if want := "28b5acc85a2a 003d10745d7efca6d3ff39fb643ee08c2a6d7b2690b433bed244db59f118f9d9 39e9fe3c218e"; got != want {
		t.Errorf("derived %s, want %s", got, want)
	}
	sealed, err := hex.DecodeString("01000102030405060708090a0badca50caebf543e61cac5ef2f3dad3b48d946a3a")
	if err != nil {
		t.Fatal(err)
	}
	opened, err := root.RowSealer().Open(t.Context(), keys.RowID{Installation: "i", Tenant: "t", Table: "ta", Column: "c", Row: "r", Version: "1", Purpose: "p"}, sealed)
	if err != nil || string(opened) != "kept" {
		t.Errorf("a stored value opens as %q, %v", opened, err)
	}
}

func TestHasherSeparates(t *testing.T) {
	root, key := newRoot(t)
	uses := []keys.Use{keys.SessionTokens, keys.AdminTokens, keys.Fingerprints, keys.Anchors, keys.AuditMACs, keys.RowSeals}
	seen := map[string]string{}
	put := func(value, what string) {
		t.Helper()
		if before, ok := seen[value]; ok {
			t.Errorf("%s is the same as %s", what, before)
		}
		seen[value] = what
	}
	other, _ := newRoot(t)
	for _, use := range uses {
		h := root.Hasher(use)
		put(h.KeyID(), "key id of "+string(use))
		put(other.Hasher(use).KeyID(), "key id of another root's "+string(use))
		put(fmt.Sprintf("%x", h.Sum("d", []byte("x"))), "sum of "+string(use))
		put(fmt.Sprintf("%x", other.Hasher(use).Sum("d", []byte("x"))), "sum of another root's "+string(use))
		if again := fixedRoot(t, key).Hasher(use); again.KeyID() != h.KeyID() || again.Sum("d", []byte("x")) != h.Sum("d", []byte("x")) {
			t.Errorf("%s: the same root gives another hasher", use)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		h := root.Hasher(keys.Fingerprints)
		domain, data := rapid.String().Draw(t, "domain"), rapid.SliceOf(rapid.Byte()).Draw(t, "data")
		otherDomain, otherData := rapid.String().Draw(t, "otherDomain"), rapid.SliceOf(rapid.Byte()).Draw(t, "otherData")
		same := domain == otherDomain && bytes.Equal(data, otherData)
		if (h.Sum(domain, data) == h.Sum(otherDomain, otherData)) != same {
			t.Fatal("sums are equal where they must differ, or differ where they must be equal")
		}
		// The end of the domain can't pass for the beginning of the data.
		joined := domain + string(data)
		cut := rapid.IntRange(0, len(joined)).Draw(t, "cut")
		if cut != len(domain) && h.Sum(joined[:cut], []byte(joined[cut:])) == h.Sum(domain, data) {
			t.Fatalf("domain and data can be shifted by %d", cut-len(domain))
		}
	})
}

func TestHasherIsSafeForConcurrentUse(t *testing.T) {
	root, _ := newRoot(t)
	h := root.Hasher(keys.SessionTokens)
	want := make([][32]byte, 32)
	for i := range want {
		want[i] = h.Sum("d", []byte{byte(i)})
	}
	var group sync.WaitGroup
	for i := range want {
		group.Go(func() {
			for range 100 {
				if h.Sum("d", []byte{byte(i)}) != want[i] {
					t.Error("a sum changed under concurrent use")
				}
			}
		})
	}
	group.Wait()
}

func drawRow(t *rapid.T) keys.RowID {
	text := rapid.StringN(1, 6, 12)
	return keys.RowID{
		Installation: text.Draw(t, "installation"), Tenant: text.Draw(t, "tenant"), Table: text.Draw(t, "table"), Column: text.Draw(t, "column"),
		Row: text.Draw(t, "row"), Version: text.Draw(t, "version"), Purpose: text.Draw(t, "purpose"),
	}
}

func TestRowSealer(t *testing.T) {
	root, key := newRoot(t)
	other, _ := newRoot(t)
	sealer, again := root.RowSealer(), fixedRoot(t, key).RowSealer()
	if sealer.KeyID() != again.KeyID() || sealer.KeyID() == other.RowSealer().KeyID() || len(sealer.KeyID()) != 12 {
		t.Errorf("key ids %s, %s, %s", sealer.KeyID(), again.KeyID(), other.RowSealer().KeyID())
	}
	rapid.Check(t, func(t *rapid.T) {
		row, plaintext := drawRow(t), rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(t, "plaintext")
		sealed, err := sealer.Seal(t.Context(), row, plaintext)
		if err != nil {
			t.Fatal(err)
		}
		if opened, err := again.Open(t.Context(), row, sealed); err != nil || !bytes.Equal(opened, plaintext) {
			t.Fatalf("opened %x, %v", opened, err)
		}
		if twice, err := sealer.Seal(t.Context(), row, plaintext); err != nil || bytes.Equal(twice, sealed) {
			t.Fatalf("sealing twice gives the same: %v", err)
		}
		refuse := func(what string, s *keys.RowSealer, row keys.RowID, sealed []byte) {
			if opened, err := s.Open(t.Context(), row, sealed); !errors.Is(err, keys.ErrOpen) || opened != nil {
				t.Fatalf("%s: opened %x, %v", what, opened, err)
			}
		}
		for i := range sealed {
			tampered := bytes.Clone(sealed)
			tampered[i] ^= rapid.ByteRange(1, 255).Draw(t, "flip")
			refuse(fmt.Sprintf("byte %d changed", i), sealer, row, tampered)
			refuse(fmt.Sprintf("cut to %d bytes", i), sealer, row, sealed[:i])
		}
		refuse("longer", sealer, row, append(bytes.Clone(sealed), 0))
		refuse("another root", other.RowSealer(), row, sealed)
		fields := reflect.TypeFor[keys.RowID]().NumField()
		for i := range fields {
			changed := row
			field := reflect.ValueOf(&changed).Elem().Field(i)
			field.SetString(field.String() + "x")
			empty := row
			reflect.ValueOf(&empty).Elem().Field(i).SetString("")
			refuse("no "+reflect.TypeFor[keys.RowID]().Field(i).Name, sealer, empty, sealed)
			if sealed, err := sealer.Seal(t.Context(), empty, plaintext); err == nil || sealed != nil {
				t.Fatal("sealed for a place that isn't whole")
			}
			refuse("another "+reflect.TypeFor[keys.RowID]().Field(i).Name, sealer, changed, sealed)
			// What one field loses another gains: all of it joined reads the same.
			shifted := row
			from, to := reflect.ValueOf(&shifted).Elem().Field(i), reflect.ValueOf(&shifted).Elem().Field((i+1)%fields)
			if text := from.String(); text != "" {
				to.SetString(text + to.String())
				from.SetString("")
				refuse("a field shifted", sealer, shifted, sealed)
			}
		}
	})
}
