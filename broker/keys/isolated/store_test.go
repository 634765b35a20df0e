package isolated

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/keys/pkcs11"
	"github.com/daypass/daypass/issuers"
)

// TestStore: through a child, a store is what it is without one.
func TestStore(t *testing.T) {
	config, _, _ := hosted(t, "software", t.TempDir())
	s := openTest(t, config)
	ctx := t.Context()
	for _, algorithm := range keys.Algorithms() {
		pair := keys.Pair{Label: strings.ToLower(algorithm), Algorithm: algorithm, Bits: 2048}
		if _, err := s.OpenSigner(ctx, pair); !errors.Is(err, keys.ErrNoKey) || !strings.Contains(err.Error(), "hint: ") {
			t.Errorf("%s: a missing key: %v", algorithm, err)
		}
		made, err := s.MakeSigner(ctx, pair)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.MakeSigner(ctx, pair); !errors.Is(err, keys.ErrKeyExists) {
			t.Errorf("%s: a second key: %v", algorithm, err)
		}
		opened, err := s.OpenSigner(ctx, pair)
		if err != nil || opened.KeyID() != made.KeyID() || opened.Algorithm() != algorithm {
			t.Fatalf("%s: opened another: %v", algorithm, err)
		}
		if err := keys.SelfTest(opened); err != nil {
			t.Error(err)
		}
		if err := s.Destroy(ctx, pair.Label); err != nil {
			t.Error(err)
		}
	}
	if err := s.Destroy(ctx, "es256"); !errors.Is(err, keys.ErrNoKey) {
		t.Errorf("destroyed twice: %v", err)
	}
	if _, err := s.OpenSealer(ctx, "sealing"); !errors.Is(err, keys.ErrNoKey) {
		t.Errorf("a missing sealing key: %v", err)
	}
	sealing(t, s, "sealing")
	made, err := s.MakeSigner(ctx, keys.Pair{Label: "es384", Algorithm: keys.ES384})
	if err != nil {
		t.Fatal(err)
	}
	list, err := s.List(ctx)
	if err != nil || len(list) != 2 || !slices.Contains(list, keys.Info{Label: "es384", Algorithm: keys.ES384, KeyID: made.KeyID()}) {
		t.Errorf("listed %v, %v", list, err)
	}
}

func sealing(t *testing.T, s *Store, label string) {
	t.Helper()
	ctx := t.Context()
	made, err := s.MakeSealer(ctx, label)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := s.OpenSealer(ctx, label)
	if err != nil || opened.KeyID() != made.KeyID() || made.KeyID() == "" {
		t.Fatalf("opened another: %v", err)
	}
	sealed, err := made.Seal(ctx, []byte("value"), []byte("place"))
	if err != nil {
		t.Fatal(err)
	}
	if value, err := opened.Open(ctx, sealed, []byte("place")); err != nil || string(value) != "value" {
		t.Errorf("opened %q, %v", value, err)
	}
	if _, err := opened.Open(ctx, sealed, []byte("elsewhere")); !errors.Is(err, keys.ErrOpen) {
		t.Errorf("opened elsewhere: %v", err)
	}
	for i := range sealed {
		changed := slices.Clone(sealed)
		changed[i] ^= 1
		if _, err := opened.Open(ctx, changed, []byte("place")); !errors.Is(err, keys.ErrOpen) {
			t.Errorf("opened with byte %d changed: %v", i, err)
		}
	}
	if _, err := made.Seal(ctx, make([]byte, maxFrame), nil); err == nil || !strings.Contains(err.Error(), "is larger than") {
		t.Errorf("sealed too much: %v", err)
	}
	if _, err := made.Seal(ctx, nil, nil); err != nil {
		t.Errorf("after it: %v", err)
	}
}

// choosing is a store that has other keys for each CKA_ID.
type choosing struct{ keys.Store }

type chosen struct {
	keys.Store
	id string
}

func (c choosing) WithID(id []byte) keys.Store { return chosen{c.Store, string(id)} }

func (c chosen) OpenSigner(ctx context.Context, pair keys.Pair) (keys.Signer, error) {
	pair.Label += "-" + c.id
	return c.Store.OpenSigner(ctx, pair)
}

func (c chosen) MakeSigner(ctx context.Context, pair keys.Pair) (keys.Signer, error) {
	pair.Label += "-" + c.id
	return c.Store.MakeSigner(ctx, pair)
}

// TestWithID: the CKA_ID goes along, also to a child that was started later.
func TestWithID(t *testing.T) {
	config, _, _ := hosted(t, "choosing", t.TempDir())
	s := openTest(t, config)
	pair := keys.Pair{Label: "same"}
	first, err := s.WithID([]byte("1")).MakeSigner(t.Context(), pair)
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.WithID([]byte("2")).MakeSigner(t.Context(), pair)
	if err != nil || second.KeyID() == first.KeyID() {
		t.Fatalf("the same key: %v", err)
	}
	kill(t, s)
	if err := errors.Join(keys.SelfTest(second), keys.SelfTest(first)); err != nil {
		t.Error(err)
	}
	if again, err := s.WithID([]byte("2")).OpenSigner(t.Context(), pair); err != nil || again.KeyID() != second.KeyID() {
		t.Errorf("opened another: %v", err)
	}
	plain, _, _ := hosted(t, "software", t.TempDir())
	if _, err := openTest(t, plain).WithID([]byte("1")).MakeSealer(t.Context(), "x"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("of a store that can't choose: %v", err)
	}
}

// TestSoftHSM: the same over a real module.
func TestSoftHSM(t *testing.T) {
	config, _, _ := hosted(t, "softhsm", t.TempDir())
	s := openTest(t, config)
	label := "softhsm-" + rand.Text()[:8]
	made, err := s.MakeSigner(t.Context(), keys.Pair{Label: label})
	if err != nil {
		t.Fatal(err)
	}
	if made.Algorithm() != keys.ES256 {
		t.Errorf("made a key for %s", made.Algorithm())
	}
	sum := sha256.Sum256([]byte("message"))
	var signing sync.WaitGroup
	for range 1000 {
		signing.Go(func() {
			signature, err := made.SignContext(t.Context(), sum[:], crypto.SHA256)
			if err != nil || !ecdsa.VerifyASN1(made.Public().(*ecdsa.PublicKey), sum[:], signature) {
				t.Errorf("signature %x: %v", signature, err)
			}
		})
	}
	signing.Wait()
	if _, err := made.SignContext(t.Context(), sum[:5], crypto.SHA256); err == nil {
		t.Error("signed a digest that is none")
	}
	sealing(t, s, "seal-"+label)
}

func TestSoftHSMErrors(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Hello)
		want   error
	}{
		"module": {func(h *Hello) { h.Module = "/nonexistent.so" }, pkcs11.ErrNoModule},
		"token":  {func(h *Hello) { h.TokenLabel = "absent" }, pkcs11.ErrNoToken},
		"PIN":    {func(h *Hello) { h.PIN = issuers.NewSecret("another-pin") }, pkcs11.ErrPIN},
	} {
		config, _, log := hosted(t, "softhsm", t.TempDir())
		c.change(&config.Hello)
		s, err := Open(t.Context(), config)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), "hint: ") {
			t.Errorf("%s: %v", name, err)
		}
		if s != nil || strings.Contains(log.String()+fmt.Sprint(err), "another-pin") {
			t.Errorf("%s: %v, %v\n%s", name, s, err, log)
		}
	}
}

// TestOptions: what a signature is made with arrives whole, or isn't sent.
func TestOptions(t *testing.T) {
	for _, opts := range []crypto.SignerOpts{
		crypto.SHA256, crypto.SHA384, crypto.Hash(0),
		&rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256},
		&rsa.PSSOptions{SaltLength: 20, Hash: crypto.SHA512},
	} {
		packed, err := packOptions(opts)
		if err != nil || !reflect.DeepEqual(packed.unpack(), opts) {
			t.Errorf("%#v became %#v, %v", opts, packed.unpack(), err)
		}
	}
	if packed, err := packOptions(&ed25519.Options{}); err != nil || packed.unpack() != crypto.Hash(0) {
		t.Errorf("plain Ed25519 became %v, %v", packed, err)
	}
	for _, opts := range []crypto.SignerOpts{nil, odd{}, &ed25519.Options{Context: "x"}, crypto.Hash(300), &rsa.PSSOptions{SaltLength: -7}} {
		if packed, err := packOptions(opts); err == nil {
			t.Errorf("%#v became %v", opts, packed)
		}
	}
}

type odd struct{ crypto.Hash }

// TestErrorsKeepTheirIdentity over the wire.
func TestErrorsKeepTheirIdentity(t *testing.T) {
	for _, sentinel := range sentinels() {
		var sent answer
		sent.setError(fmt.Errorf("on the way: %w", sentinel))
		sent.verb = verbSign
		got, err := decodeAnswer(must(sent.encode())[lengthSize:])
		if err != nil || !errors.Is(got.err(), sentinel) || got.err().Error() != "on the way: "+sentinel.Error() {
			t.Errorf("%v became %v, %v", sentinel, got.err(), err)
		}
	}
	var both answer
	both.setError(errors.Join(keys.ErrOpen, context.Canceled))
	if err := both.err(); !errors.Is(err, keys.ErrOpen) || !errors.Is(err, context.Canceled) || errors.Is(err, keys.ErrNoKey) {
		t.Errorf("two became %v", err)
	}
	if err := away(errEnded); !errors.Is(err, issuers.ErrUnavailable) || !errors.Is(err, ErrUnavailable) {
		t.Errorf("%v is not unavailable", err)
	}
	if len(sentinels()) > 32 {
		t.Error("there are more sentinels than bits")
	}
}
