package pkcs11

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/issuers"
)

// pairs are one key of each algorithm, and RSA of every size.
func pairs() []keys.Pair {
	return []keys.Pair{
		{Label: "all-es256", Algorithm: keys.ES256},
		{Label: "all-es384", Algorithm: keys.ES384},
		{Label: "all-eddsa", Algorithm: keys.EdDSA},
		{Label: "all-rs256", Algorithm: keys.RS256, Bits: 2048},
		{Label: "all-ps256", Algorithm: keys.PS256}, // 3072
		{Label: "all-rs256-4096", Algorithm: keys.RS256, Bits: 4096},
	}
}

// getAll gives a signer of each algorithm that this SoftHSM can do. What it can't do
// must be said.
func getAll(t *testing.T, token *Token, pairs ...keys.Pair) map[keys.Pair]*signer {
	t.Helper()
	all := map[keys.Pair]*signer{}
	for _, pair := range pairs {
		s, err := getPair(t.Context(), token, pair)
		if pair.Algorithm == keys.EdDSA && !has(t, token, ckmEdDSA) {
			if !errors.Is(err, ErrAlgorithm) || !strings.Contains(err.Error(), "hint: ") {
				t.Errorf("a token without Ed25519 says: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", pair.Label, err)
		}
		all[pair] = s.(*signer)
	}
	return all
}

func has(t *testing.T, token *Token, mechanism uint) bool {
	t.Helper()
	list, err := token.module.ctx.GetMechanismList(slotOf(token))
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(list, func(m *p11.Mechanism) bool { return m.Mechanism == mechanism })
}

func TestAlgorithms(t *testing.T) {
	token := openTest(t, testConfig())
	for pair, s := range getAll(t, token, pairs()...) {
		if s.Algorithm() != pair.Algorithm || keys.AlgorithmOf(s.Public()) == "" {
			t.Errorf("%s: algorithm %s", pair.Label, s.Algorithm())
		}
		if id, err := keys.KeyID(s.Public()); err != nil || id != s.KeyID() {
			t.Errorf("%s: KeyID = %q, thumbprint %q (%v)", pair.Label, s.KeyID(), id, err)
		}
		if key, ok := s.Public().(*rsa.PublicKey); ok && pair.Bits != 0 && key.Size()*8 != pair.Bits {
			t.Errorf("%s: %d bits", pair.Label, key.Size()*8)
		}
		for i := range 20 {
			digest, opts := keys.Digest(pair.Algorithm, []byte{byte(i)})
			signature, err := s.Sign(nil, digest, opts)
			if err != nil || !keys.Verifies(s.Public(), digest, opts, signature) {
				t.Fatalf("%s: signature %x doesn't verify: %v", pair.Label, signature, err)
			}
		}
		digest, opts := keys.Digest(pair.Algorithm, []byte("message"))
		if _, err := s.Sign(nil, digest, crypto.SHA512); err == nil {
			t.Errorf("%s: signed as SHA-512", pair.Label)
		}
		if _, err := s.Sign(nil, digest, nil); err == nil {
			t.Errorf("%s: signed without options", pair.Label)
		}
		bound, err := issuers.BindSigner(t.Context(), s).Sign(nil, digest, opts)
		if err != nil || !keys.Verifies(s.Public(), digest, opts, bound) {
			t.Errorf("%s: bound to a context: %v", pair.Label, err)
		}
		if _, err := token.MakeSigner(t.Context(), pair); !errors.Is(err, keys.ErrKeyExists) {
			t.Errorf("%s: made twice: %v", pair.Label, err)
		}
	}
	if _, err := token.MakeSealer(t.Context(), "seal"); err != nil && !errors.Is(err, keys.ErrKeyExists) {
		t.Error(err)
	}
	if _, err := token.MakeSealer(t.Context(), "seal"); !errors.Is(err, keys.ErrKeyExists) {
		t.Errorf("a sealing key was made twice: %v", err)
	}
	for _, pair := range []keys.Pair{{Label: "x", Algorithm: keys.RS256, Bits: 1024}, {Label: "x", Algorithm: "HS256"}, {}} {
		if _, err := token.MakeSigner(t.Context(), pair); err == nil {
			t.Errorf("%+v was made", pair)
		}
	}
	for pair, as := range map[string]string{"all-es256": keys.ES384, "all-es384": keys.EdDSA, "all-rs256": keys.ES256} {
		if _, err := token.OpenSigner(t.Context(), keys.Pair{Label: pair, Algorithm: as}); err == nil || !strings.Contains(err.Error(), "hint: ") {
			t.Errorf("%s opened for %s: %v", pair, as, err)
		}
	}
	// One RSA key signs by both.
	both, err := token.OpenSigner(t.Context(), keys.Pair{Label: "all-rs256", Algorithm: keys.PS256})
	if err != nil || keys.SelfTest(both) != nil {
		t.Errorf("an RSA key as PS256: %v", err)
	}
}

// No call of PKCS#11 gets a private value out of the token, whatever it is asked for.
func TestPrivateKeysAreNotReadable(t *testing.T) {
	token := openTest(t, testConfig())
	secrets := map[string]uint{
		"CKA_VALUE": p11.CKA_VALUE, "CKA_PRIVATE_EXPONENT": p11.CKA_PRIVATE_EXPONENT, "CKA_PRIME_1": p11.CKA_PRIME_1, "CKA_PRIME_2": p11.CKA_PRIME_2,
		"CKA_EXPONENT_1": p11.CKA_EXPONENT_1, "CKA_EXPONENT_2": p11.CKA_EXPONENT_2, "CKA_COEFFICIENT": p11.CKA_COEFFICIENT,
	}
	for pair, s := range getAll(t, token, pairs()...) {
		raw(t, token, func(ctx *p11.Ctx, open *session) {
			h, err := token.findOne(open, s.private.objectName)
			if err != nil {
				t.Error(err)
				return
			}
			if err := token.mustHave(open, pair.Label, h, append(s.how.privateMust(), must("CKA_PRIVATE (true)", p11.CKA_PRIVATE, true), must("CKA_LOCAL (true)", p11.CKA_LOCAL, true))); err != nil {
				t.Error(err)
			}
			for name, kind := range secrets {
				// Which of them a key has depends on its type: the rest it doesn't know.
				value, err := token.attribute(open, h, kind)
				if err == nil && len(value) > 0 || err != nil && !isCode(err, p11.CKR_ATTRIBUTE_SENSITIVE, p11.CKR_ATTRIBUTE_TYPE_INVALID) {
					t.Errorf("%s: %s has %d bytes, %v", pair.Label, name, len(value), err)
				}
			}
			own := uint(p11.CKA_VALUE)
			if s.how.keyType == p11.CKK_RSA {
				own = p11.CKA_PRIVATE_EXPONENT
			}
			if _, err := token.attribute(open, h, own); !isCode(err, p11.CKR_ATTRIBUTE_SENSITIVE) {
				t.Errorf("%s: its own private value: %v", pair.Label, err)
			}
			refuseToLeave(t, ctx, open, h, pair.Label)
			for _, use := range []func() error{
				func() error { return ctx.DecryptInit(open.handle, mechanism(p11.CKM_RSA_PKCS, nil), h) },
				func() error { return ctx.SignRecoverInit(open.handle, mechanism(p11.CKM_RSA_PKCS, nil), h) },
			} {
				if err := use(); err == nil {
					t.Errorf("%s: it does more than sign", pair.Label)
				}
			}
		})
	}
	sealed, err := getSealer(t.Context(), token, "all-aes")
	if err != nil {
		t.Fatal(err)
	}
	raw(t, token, func(ctx *p11.Ctx, open *session) {
		h, err := token.findOne(open, sealed.(*sealer).key.objectName)
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := token.attribute(open, h, p11.CKA_VALUE); !isCode(err, p11.CKR_ATTRIBUTE_SENSITIVE) {
			t.Errorf("sealing key: CKA_VALUE: %v", err)
		}
		refuseToLeave(t, ctx, open, h, "all-aes")
	})
}

// refuseToLeave tries to wrap a key, to copy it as one that can be read, and to
// make it readable.
func refuseToLeave(t *testing.T, ctx *p11.Ctx, open *session, h p11.ObjectHandle, label string) {
	t.Helper()
	wrapping, err := ctx.GenerateKey(open.handle, mechanism(p11.CKM_AES_KEY_GEN, nil), []*p11.Attribute{
		p11.NewAttribute(p11.CKA_TOKEN, false), p11.NewAttribute(p11.CKA_VALUE_LEN, 32), p11.NewAttribute(p11.CKA_WRAP, true),
		p11.NewAttribute(p11.CKA_ENCRYPT, true), p11.NewAttribute(p11.CKA_DECRYPT, true), p11.NewAttribute(p11.CKA_SENSITIVE, false),
	})
	if err != nil {
		t.Error(err)
		return
	}
	for name, m := range map[string][]*p11.Mechanism{
		"AES key wrap": mechanism(p11.CKM_AES_KEY_WRAP, nil), "AES key wrap, padded": mechanism(p11.CKM_AES_KEY_WRAP_PAD, nil),
	} {
		if wrapped, err := ctx.WrapKey(open.handle, m, wrapping, h); !isCode(err, p11.CKR_KEY_UNEXTRACTABLE) {
			t.Errorf("%s: %s: %d bytes, %v", label, name, len(wrapped), err)
		}
	}
	readable := []*p11.Attribute{p11.NewAttribute(p11.CKA_EXTRACTABLE, true), p11.NewAttribute(p11.CKA_SENSITIVE, false)}
	if _, err := ctx.CopyObject(open.handle, h, append(readable, p11.NewAttribute(p11.CKA_TOKEN, false))); err == nil {
		t.Errorf("%s: a readable copy was made", label)
	}
	for _, a := range append(readable, p11.NewAttribute(p11.CKA_WRAP_WITH_TRUSTED, false), p11.NewAttribute(p11.CKA_NEVER_EXTRACTABLE, false)) {
		if err := ctx.SetAttributeValue(open.handle, h, []*p11.Attribute{a}); err == nil && a.Type != p11.CKA_WRAP_WITH_TRUSTED {
			t.Errorf("%s: attribute 0x%x could be set", label, a.Type)
		}
	}
}

func TestThousandSignaturesAtOnce(t *testing.T) {
	token := openTest(t, testConfig())
	s, err := getSigner(t.Context(), token, "sign")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	start := make(chan struct{})
	for i := range 1000 {
		group.Go(func() {
			digest, opts := keys.Digest(keys.ES256, fmt.Append(nil, i))
			<-start
			signature, err := s.SignContext(t.Context(), digest, opts)
			if err != nil || !keys.Verifies(s.Public(), digest, opts, signature) {
				t.Errorf("signature %d: %x, %v", i, signature, err)
			}
		})
	}
	close(start)
	group.Wait()
	if open := token.live.Load(); open < 1 || open > defaultSessions {
		t.Errorf("%d sessions are open, want at most %d", open, defaultSessions)
	}
}

func TestListAndDestroy(t *testing.T) {
	config := testConfig()
	config.TokenLabel = unique("list")
	if err := InitSoftHSM(t.Context(), softHSM(config.TokenLabel)); err != nil {
		t.Fatal(err)
	}
	token := openTest(t, config)
	if all, err := token.List(t.Context()); err != nil || len(all) != 0 {
		t.Fatalf("a new token has %v, %v", all, err)
	}
	var want []keys.Info
	for pair, s := range getAll(t, token, pairs()[:4]...) {
		want = append(want, keys.Info{Label: pair.Label, Algorithm: pair.Algorithm, KeyID: s.KeyID()})
	}
	sealer, err := token.MakeSealer(t.Context(), "all-es256") // a label of its own kind
	if err != nil {
		t.Fatal(err)
	}
	other, err := token.MakeSealer(t.Context(), "other")
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, keys.Info{Label: "all-es256", KeyID: sealer.KeyID()}, keys.Info{Label: "other", KeyID: other.KeyID()})
	// What isn't ours is no error.
	raw(t, token, func(ctx *p11.Ctx, s *session) {
		_, err := ctx.GenerateKey(s.handle, mechanism(p11.CKM_AES_KEY_GEN, nil), append(common(objectName{label: "foreign", id: "f"}, true), p11.NewAttribute(p11.CKA_VALUE_LEN, 16)))
		if err != nil {
			t.Error(err)
		}
	})
	sortInfos(want)
	if got, err := token.List(t.Context()); err != nil || !slices.Equal(got, want) {
		t.Errorf("listed %+v, %v\nwant %+v", got, err, want)
	}
	for _, label := range []string{"all-es256", "all-rs256", "other"} {
		if err := token.Destroy(t.Context(), label); err != nil {
			t.Fatal(err)
		}
		if err := token.Destroy(t.Context(), label); !errors.Is(err, keys.ErrNoKey) {
			t.Errorf("destroyed twice: %v", err)
		}
	}
	raw(t, token, func(_ *p11.Ctx, s *session) {
		for _, class := range []uint{p11.CKO_PRIVATE_KEY, p11.CKO_PUBLIC_KEY, p11.CKO_SECRET_KEY} {
			if left, err := token.find(s, objectName{class: class, label: "all-es256"}, 10); err != nil || len(left) > 0 {
				t.Errorf("class %d: %d objects left, %v", class, len(left), err)
			}
		}
	})
	if _, err := other.Seal(t.Context(), []byte("x"), nil); !errors.Is(err, keys.ErrNoKey) {
		t.Errorf("a destroyed key seals: %v", err)
	}
	if again, err := token.MakeSealer(t.Context(), "other"); err != nil || again.KeyID() == other.KeyID() {
		t.Errorf("made anew: %v", err)
	}
}

func TestKeysByID(t *testing.T) {
	token := openTest(t, testConfig())
	label := unique("by-id")
	one, two := token.WithID([]byte("one")), token.WithID([]byte("two"))
	made, err := one.MakeSigner(t.Context(), keys.Pair{Label: label})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := two.OpenSigner(t.Context(), keys.Pair{Label: label}); !errors.Is(err, keys.ErrNoKey) {
		t.Errorf("opened by another id: %v", err)
	}
	if _, err := two.MakeSigner(t.Context(), keys.Pair{Label: label}); !errors.Is(err, keys.ErrKeyExists) {
		t.Errorf("the label was taken twice: %v", err)
	}
	if err := two.Destroy(t.Context(), label); !errors.Is(err, keys.ErrNoKey) {
		t.Errorf("destroyed by another id: %v", err)
	}
	// A second key of that label, made by somebody else: the id tells them apart.
	raw(t, token, func(_ *p11.Ctx, s *session) {
		how, err := howTo(keys.ES256)
		if err == nil {
			err = token.generatePair(s, objectName{label: label, id: "two"}, how, 0)
		}
		if err != nil {
			t.Error(err)
		}
	})
	if _, err := token.OpenSigner(t.Context(), keys.Pair{Label: label}); err == nil || !strings.Contains(err.Error(), "several") {
		t.Errorf("by label alone: %v", err)
	}
	again, err := one.OpenSigner(t.Context(), keys.Pair{Label: label})
	if err != nil || again.KeyID() != made.KeyID() {
		t.Errorf("by the id: %v", err)
	}
	if other, err := two.OpenSigner(t.Context(), keys.Pair{Label: label}); err != nil || other.KeyID() == made.KeyID() {
		t.Errorf("by the other id: %v", err)
	}
	sealer, err := one.MakeSealer(t.Context(), label)
	if err != nil {
		t.Fatal(err)
	}
	if opened, err := one.OpenSealer(t.Context(), label); err != nil || opened.KeyID() != sealer.KeyID() {
		t.Errorf("sealer by id: %v", err)
	}
	if _, err := two.OpenSealer(t.Context(), label); !errors.Is(err, keys.ErrNoKey) {
		t.Errorf("sealer by another id: %v", err)
	}
}

func TestParsePoint(t *testing.T) {
	for name, encoded := range map[string]string{
		"empty":         "",
		"not DER":       "\x05\x00\x01",
		"trailing byte": "\x04\x01\x02\x00",
		"off the curve": "\x04\x41\x04" + strings.Repeat("\x01", 64),
		"compressed":    "\x04\x21\x02" + strings.Repeat("\x01", 32),
	} {
		if public, err := parsePoint(elliptic.P256(), []byte(encoded)); err == nil {
			t.Errorf("%s: %v", name, public)
		}
		if public, err := parseEd25519([]byte(encoded)); err == nil {
			t.Errorf("Ed25519, %s: %v", name, public)
		}
	}
	signer, err := getSigner(t.Context(), openTest(t, testConfig()), "sign")
	if err != nil {
		t.Fatal(err)
	}
	point, err := signer.Public().(*ecdsa.PublicKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for name, encoded := range map[string][]byte{"bare": point, "DER": append([]byte{4, 65}, point...)} {
		if public, err := parsePoint(elliptic.P256(), encoded); err != nil || !public.Equal(signer.Public()) {
			t.Errorf("%s: %v, %v", name, public, err)
		}
	}
	key := bytes.Repeat([]byte{7}, ed25519.PublicKeySize)
	for name, encoded := range map[string][]byte{"bare": key, "octets": append([]byte{4, 32}, key...), "bits": append([]byte{3, 33, 0}, key...)} {
		if public, err := parseEd25519(encoded); err != nil || !bytes.Equal(public, key) {
			t.Errorf("Ed25519, %s: %v, %v", name, public, err)
		}
	}
}

func TestMalformedSignatures(t *testing.T) {
	es, err := howTo(keys.ES256)
	if err != nil {
		t.Fatal(err)
	}
	public := &ecdsa.PublicKey{Curve: elliptic.P256()}
	order := elliptic.P256().Params().N.Bytes()
	one := append(make([]byte, 31), 1)
	for name, raw := range map[string][]byte{
		"empty": nil, "short": make([]byte, 63), "long": make([]byte, 65), "r is 0": append(make([]byte, 32), one...), "s is 0": append(bytes.Clone(one), make([]byte, 32)...),
		"r is the order": append(bytes.Clone(order), one...), "s is the order": append(bytes.Clone(one), order...),
	} {
		if signature, err := es.wellFormed(public, raw); err == nil {
			t.Errorf("%s: %x", name, signature)
		}
	}
	if signature, err := es.wellFormed(public, append(bytes.Clone(one), one...)); err != nil || !bytes.Equal(signature, []byte{0x30, 6, 2, 1, 1, 2, 1, 1}) {
		t.Errorf("r and s of 1: %x, %v", signature, err)
	}
}
