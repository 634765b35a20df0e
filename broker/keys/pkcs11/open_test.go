package pkcs11

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/issuers"
)

func TestOpenErrors(t *testing.T) {
	// A token of its own, that nobody has logged in to yet.
	fresh := unique("pin-test")
	if err := InitSoftHSM(t.Context(), softHSM(fresh)); err != nil {
		t.Fatal(err)
	}
	notALibrary := filepath.Join(t.TempDir(), "text.so")
	if err := os.WriteFile(notALibrary, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	const wrongPIN = "wrong-Wd7pQ1xY"
	for name, c := range map[string]struct {
		change func(*Config)
		want   error
		hint   string
	}{
		"wrong PIN":      {func(c *Config) { c.TokenLabel, c.PIN = fresh, issuers.NewSecret(wrongPIN) }, ErrPIN, "CKR_PIN_INCORRECT"},
		"missing token":  {func(c *Config) { c.TokenLabel = "nowhere" }, ErrNoToken, `"nowhere"`},
		"missing module": {func(c *Config) { c.Module = "/nonexistent/lib.so" }, ErrNoModule, "hint: "},
		"not a library":  {func(c *Config) { c.Module = notALibrary }, ErrNoModule, notALibrary},
		"no PIN":         {func(c *Config) { c.PIN = issuers.Secret{} }, nil, "are required"},
		"no module":      {func(c *Config) { c.Module = "" }, nil, "are required"},
		"no label":       {func(c *Config) { c.TokenLabel = "" }, nil, "are required"},
		"sessions":       {func(c *Config) { c.MaxSessions = -1 }, nil, "-1 sessions"},
	} {
		config := testConfig()
		c.change(&config)
		token, err := Open(t.Context(), config)
		switch {
		case err == nil:
			t.Errorf("%s: opened: %v", name, token.Close())
		case c.want != nil && !errors.Is(err, c.want), !strings.Contains(err.Error(), c.hint):
			t.Errorf("%s: %v", name, err)
		case strings.Contains(err.Error(), wrongPIN), strings.Contains(err.Error(), testPIN):
			t.Errorf("%s: the error tells the PIN", name)
		}
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(cancelled, testConfig()); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestRefusedPINIsNotSentAgain(t *testing.T) {
	config := testConfig()
	config.TokenLabel = unique("pin-once")
	if err := InitSoftHSM(t.Context(), softHSM(config.TokenLabel)); err != nil {
		t.Fatal(err)
	}
	token := openTest(t, config)
	// The PIN changes under a running broker, and its sessions die.
	const changed = "changed-Gh5tR2"
	raw(t, token, func(ctx *p11.Ctx, s *session) {
		if err := ctx.SetPIN(s.handle, testPIN, changed); err != nil {
			t.Error(err)
		}
		if err := ctx.CloseAllSessions(slotOf(token)); err != nil {
			t.Error(err)
		}
	})
	if _, err := getSigner(t.Context(), token, "sign"); !errors.Is(err, ErrPIN) {
		t.Fatalf("with the old PIN: %v", err)
	}
	// Even with the right PIN back in place nothing is sent: the answer is remembered.
	token.config.PIN = issuers.NewSecret(changed)
	if _, err := getSigner(t.Context(), token, "sign"); !errors.Is(err, ErrPIN) {
		t.Fatalf("a second login was tried: %v", err)
	}
	config.PIN = issuers.NewSecret(changed)
	if _, err := getSigner(t.Context(), openTest(t, config), "sign"); err != nil {
		t.Errorf("opened anew: %v", err)
	}
}

func TestMissingKey(t *testing.T) {
	token := openTest(t, testConfig())
	if _, err := token.OpenSigner(t.Context(), keys.Pair{Label: "missing"}); !errors.Is(err, keys.ErrNoKey) || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("signer: %v", err)
	}
	if _, err := token.OpenSealer(t.Context(), "missing"); !errors.Is(err, keys.ErrNoKey) || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("sealer: %v", err)
	}
	if _, err := token.OpenSigner(t.Context(), keys.Pair{Label: ""}); err == nil {
		t.Error("a key without a label opened")
	}
}

func TestUnfitKeysAreRefused(t *testing.T) {
	token := openTest(t, testConfig())
	common := func(label, id string, more ...*p11.Attribute) []*p11.Attribute {
		return append(more, p11.NewAttribute(p11.CKA_TOKEN, true), p11.NewAttribute(p11.CKA_LABEL, label), p11.NewAttribute(p11.CKA_ID, id))
	}
	inside := func(more ...*p11.Attribute) []*p11.Attribute {
		return append(more, p11.NewAttribute(p11.CKA_SENSITIVE, true), p11.NewAttribute(p11.CKA_EXTRACTABLE, false))
	}
	type generate func(ctx *p11.Ctx, s *session, label string) error
	makeEC := func(curve string, private ...*p11.Attribute) generate {
		return func(ctx *p11.Ctx, s *session, label string) error {
			_, _, err := ctx.GenerateKeyPair(s.handle, []*p11.Mechanism{p11.NewMechanism(p11.CKM_EC_KEY_PAIR_GEN, nil)},
				common(label, "id", p11.NewAttribute(p11.CKA_EC_PARAMS, curve)),
				common(label, "id", append(private, p11.NewAttribute(p11.CKA_SIGN, true), p11.NewAttribute(p11.CKA_DECRYPT, false), p11.NewAttribute(p11.CKA_UNWRAP, false), p11.NewAttribute(p11.CKA_DERIVE, false))...))
			return err
		}
	}
	makeAES := func(size int, id string) generate {
		return func(ctx *p11.Ctx, s *session, label string) error {
			_, err := ctx.GenerateKey(s.handle, []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_KEY_GEN, nil)},
				common(label, id, inside(p11.NewAttribute(p11.CKA_VALUE_LEN, size), p11.NewAttribute(p11.CKA_ENCRYPT, true), p11.NewAttribute(p11.CKA_DECRYPT, true))...))
			return err
		}
	}
	sign := func(label string) error { _, err := getSigner(t.Context(), token, label); return err }
	seal := func(label string) error { _, err := getSealer(t.Context(), token, label); return err }
	const p384 = "\x06\x05\x2b\x81\x04\x00\x22"
	for name, c := range map[string]struct {
		times int
		make  generate
		open  func(string) error
		want  string
	}{
		"P-384":       {1, makeEC(p384, inside()...), sign, "CKA_EC_PARAMS (P-256)"},
		"extractable": {1, makeEC(curveP256, p11.NewAttribute(p11.CKA_SENSITIVE, true), p11.NewAttribute(p11.CKA_EXTRACTABLE, true)), sign, "CKA_EXTRACTABLE (false)"},
		"readable":    {1, makeEC(curveP256, p11.NewAttribute(p11.CKA_SENSITIVE, false), p11.NewAttribute(p11.CKA_EXTRACTABLE, false)), sign, "CKA_SENSITIVE (true)"},
		"two pairs":   {2, makeEC(curveP256, inside()...), sign, "several of that label"},
		"AES-128":     {1, makeAES(16, "id"), seal, "CKA_VALUE_LEN (32)"},
		"two AES":     {2, makeAES(32, "id"), seal, "several of that label"},
		"AES no id":   {1, makeAES(32, ""), seal, "no CKA_ID"},
	} {
		label := unique("unfit")
		raw(t, token, func(ctx *p11.Ctx, s *session) {
			for range c.times {
				if err := c.make(ctx, s, label); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
		if err := c.open(label); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "hint: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
