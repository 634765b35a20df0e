package pkcs11

import (
	"errors"
	"strings"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"github.com/daypass/daypass/broker/keys"
)

// trustedKey makes a wrapping key that the security officer marks as trusted. The
// token must not be in use: it has one login at a time.
func trustedKey(t *testing.T, label string) {
	t.Helper()
	m, err := acquireModule(t.Context(), testModule)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.release(); err != nil {
			t.Error(err)
		}
	}()
	tokens, err := m.tokens(m.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range tokens {
		if found.info.Label != label {
			continue
		}
		s, err := m.ctx.OpenSession(found.slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := m.ctx.CloseSession(s); err != nil {
				t.Error(err)
			}
		}()
		if err := m.ctx.Login(s, p11.CKU_SO, testSOPIN); err != nil {
			t.Fatal(err)
		}
		_, err = m.ctx.GenerateKey(s, mechanism(p11.CKM_AES_KEY_GEN, nil), []*p11.Attribute{
			p11.NewAttribute(p11.CKA_TOKEN, true), p11.NewAttribute(p11.CKA_PRIVATE, false), p11.NewAttribute(p11.CKA_LABEL, "backup"), p11.NewAttribute(p11.CKA_ID, []byte{9}),
			p11.NewAttribute(p11.CKA_VALUE_LEN, 32), p11.NewAttribute(p11.CKA_WRAP, true), p11.NewAttribute(p11.CKA_UNWRAP, true), p11.NewAttribute(p11.CKA_TRUSTED, true),
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.ctx.Logout(s); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("there is no token %s", label)
}

// TestWrappedBackup: a sealing key that is made so leaves the token under the
// trusted key, and under no other; brought back, it opens what it sealed.
func TestWrappedBackup(t *testing.T) {
	label := unique("wrapped")
	if err := InitSoftHSM(t.Context(), softHSM(label)); err != nil {
		t.Fatal(err)
	}
	trustedKey(t, label)
	config := testConfig()
	config.TokenLabel, config.WrappedBackup = label, true
	token := openTest(t, config)
	made, err := token.MakeSealer(t.Context(), "seal")
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := made.Seal(t.Context(), []byte("secret"), []byte("place"))
	if err != nil {
		t.Fatal(err)
	}
	var wrapped []byte
	raw(t, token, func(ctx *p11.Ctx, open *session) {
		h, err := token.findOne(open, made.(*sealer).key.objectName)
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := token.attribute(open, h, p11.CKA_VALUE); !isCode(err, p11.CKR_ATTRIBUTE_SENSITIVE) {
			t.Errorf("CKA_VALUE: %v", err)
		}
		own, err := ctx.GenerateKey(open.handle, mechanism(p11.CKM_AES_KEY_GEN, nil), []*p11.Attribute{
			p11.NewAttribute(p11.CKA_TOKEN, false), p11.NewAttribute(p11.CKA_VALUE_LEN, 32), p11.NewAttribute(p11.CKA_WRAP, true), p11.NewAttribute(p11.CKA_SENSITIVE, false),
		})
		if err != nil {
			t.Error(err)
			return
		}
		if out, err := ctx.WrapKey(open.handle, mechanism(p11.CKM_AES_KEY_WRAP, nil), own, h); err == nil {
			t.Errorf("it left under a key that nobody trusts: %d bytes", len(out))
		}
		if err := ctx.SetAttributeValue(open.handle, h, []*p11.Attribute{p11.NewAttribute(p11.CKA_WRAP_WITH_TRUSTED, false)}); err == nil {
			t.Error("it no longer asks for a trusted key")
		}
		trusted, err := token.findOne(open, objectName{class: p11.CKO_SECRET_KEY, label: "backup"})
		if err != nil {
			t.Error(err)
			return
		}
		if wrapped, err = ctx.WrapKey(open.handle, mechanism(p11.CKM_AES_KEY_WRAP, nil), trusted, h); err != nil {
			t.Errorf("it doesn't leave under the trusted key: %v", err)
		}
	})
	id := made.(*sealer).key.id
	if err := token.Destroy(t.Context(), "seal"); err != nil {
		t.Fatal(err)
	}
	raw(t, token, func(ctx *p11.Ctx, open *session) {
		trusted, err := token.findOne(open, objectName{class: p11.CKO_SECRET_KEY, label: "backup"})
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := ctx.UnwrapKey(open.handle, mechanism(p11.CKM_AES_KEY_WRAP, nil), trusted, wrapped, []*p11.Attribute{
			p11.NewAttribute(p11.CKA_CLASS, p11.CKO_SECRET_KEY), p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_AES), p11.NewAttribute(p11.CKA_TOKEN, true),
			p11.NewAttribute(p11.CKA_PRIVATE, true), p11.NewAttribute(p11.CKA_SENSITIVE, true), p11.NewAttribute(p11.CKA_EXTRACTABLE, false),
			p11.NewAttribute(p11.CKA_LABEL, "seal"), p11.NewAttribute(p11.CKA_ID, []byte(id)), p11.NewAttribute(p11.CKA_ENCRYPT, true), p11.NewAttribute(p11.CKA_DECRYPT, true),
		}); err != nil {
			t.Errorf("it doesn't come back: %v", err)
		}
	})
	back, err := token.OpenSealer(t.Context(), "seal")
	if err != nil || back.KeyID() != made.KeyID() {
		t.Fatalf("%v", err)
	}
	if opened, err := back.Open(t.Context(), sealed, []byte("place")); err != nil || string(opened) != "secret" {
		t.Errorf("opened %q, %v", opened, err)
	}
	// Who didn't decide so is given no such key.
	config.WrappedBackup = false
	if _, err := openTest(t, config).OpenSealer(t.Context(), "seal"); err == nil || errors.Is(err, keys.ErrNoKey) || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("a key that was outside: %v", err)
	}
}
