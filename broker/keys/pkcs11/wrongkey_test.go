package pkcs11

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/issuers"
)

// A library that mixes its handles up, or signs with what it likes, is found out
// before the first signature of a session leaves.
func TestWrongKeyIsFoundOut(t *testing.T) {
	token, f := openFaulty(t, nil)
	s, err := getSigner(t.Context(), token, "sign")
	if err != nil {
		t.Fatal(err)
	}
	mixed, err := getSigner(t.Context(), token, "sign-other")
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	fresh := func() {
		rawPooled(t, token, func(ctx *p11.Ctx, s *session) { _ = ctx.CloseSession(s.handle) })
		for s := range drained(token) {
			token.put(s)
		}
	}
	digest, opts := keys.Digest(keys.ES256, nil)
	for name, signed := range map[string]func([]byte) []byte{
		"another's key": func([]byte) []byte {
			r, s, err := ecdsa.Sign(rand.Reader, stranger, digest)
			if err != nil {
				return nil
			}
			return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
		},
		"short":   func(b []byte) []byte { return b[1:] },
		"empty":   func([]byte) []byte { return nil },
		"zeros":   func(b []byte) []byte { return make([]byte, len(b)) },
		"flipped": func(b []byte) []byte { b[40] ^= 1; return b },
	} {
		fresh()
		f.signed = signed
		if signature, err := s.SignContext(t.Context(), digest, opts); !errors.Is(err, keys.ErrWrongKey) || signature != nil {
			t.Errorf("%s: %x, %v", name, signature, err)
		}
		f.signed = nil
		if err := keys.SelfTest(s); err != nil {
			t.Errorf("%s: afterwards: %v", name, err)
		}
	}
	// A handle of another key that is there.
	fresh()
	var other p11.ObjectHandle
	rawPooled(t, token, func(_ *p11.Ctx, open *session) {
		other, err = token.handle(open, mixed.(*signer).private)
	})
	if err != nil {
		t.Fatal(err)
	}
	f.handle = func(p11.ObjectHandle) p11.ObjectHandle { return other }
	if signature, err := s.SignContext(t.Context(), digest, opts); !errors.Is(err, keys.ErrWrongKey) || signature != nil {
		t.Errorf("another handle: %x, %v", signature, err)
	}
	f.handle = nil
}

// drained takes what is free in the pool, so that the next operation opens anew.
func drained(token *Token) map[*session]bool {
	all := map[*session]bool{}
	for {
		select {
		case s := <-token.free:
			token.discard(s)
			token.rights <- struct{}{}
		default:
			return all
		}
	}
}

func TestTokensAreTold(t *testing.T) {
	token := openTest(t, testConfig())
	found, err := token.module.tokens(token.calls)
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range found {
		if one.info.Label != testLabel {
			continue
		}
		slot := one.slot
		for name, config := range map[string]Config{
			"serial": {Serial: one.info.SerialNumber}, "both": {TokenLabel: testLabel, Serial: one.info.SerialNumber},
			"all": {TokenLabel: testLabel, Serial: one.info.SerialNumber, Manufacturer: one.info.ManufacturerID, Model: one.info.Model, SlotID: &slot},
		} {
			config.Module, config.PIN = testModule, issuers.NewSecret(testPIN)
			if slotOf(openTest(t, config)) != slot {
				t.Errorf("%s: another token", name)
			}
		}
		elsewhere := slot + 1
		for name, config := range map[string]Config{
			"serial": {TokenLabel: testLabel, Serial: "0"}, "manufacturer": {TokenLabel: testLabel, Manufacturer: "x"}, "model": {TokenLabel: testLabel, Model: "x"},
			"slot": {TokenLabel: testLabel, SlotID: &elsewhere},
		} {
			config.Module, config.PIN = testModule, issuers.NewSecret(testPIN)
			if other, err := Open(t.Context(), config); !errors.Is(err, ErrNoToken) {
				t.Errorf("%s doesn't fit: %v, %v", name, other, err)
			}
		}
		return
	}
	t.Error("the token isn't there")
}
