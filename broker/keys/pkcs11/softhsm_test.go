package pkcs11

import (
	"crypto"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"github.com/daypass/daypass/issuers"
)

func TestInitSoftHSMIsIdempotent(t *testing.T) {
	token := openTest(t, testConfig())
	signer, err := getSigner(t.Context(), token, "idempotent")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := InitSoftHSM(t.Context(), softHSM(testLabel)); err != nil {
			t.Fatal(err)
		}
	}
	again, err := getSigner(t.Context(), openTest(t, testConfig()), "idempotent")
	if err != nil || again.KeyID() != signer.KeyID() {
		t.Errorf("the key is another one: %v", err)
	}
	tokens, err := token.module.tokens(token.calls)
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, found := range tokens {
		if found.info.Label == testLabel {
			count++
		}
	}
	if count != 1 {
		t.Errorf("%d tokens of that label", count)
	}
}

func TestInitSoftHSMFinishesWhatWasCutOff(t *testing.T) {
	token := openTest(t, testConfig()) // keeps the module
	config := softHSM(unique("cut-off"))
	tokens, err := token.module.tokens(token.calls)
	if err != nil {
		t.Fatal(err)
	}
	for _, blank := range tokens {
		if !blank.initialized() {
			if err := token.module.ctx.InitToken(blank.slot, testSOPIN, config.TokenLabel); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	open := testConfig()
	open.TokenLabel = config.TokenLabel
	if half, err := Open(t.Context(), open); err == nil {
		t.Fatalf("a token without a user opened: %v", half.Close())
	}
	if err := InitSoftHSM(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	openTest(t, open)
}

func TestSoftHSMFolderIsPrivate(t *testing.T) {
	for path, want := range map[string]fs.FileMode{"": 0o700, "tokens": 0o700, confName: 0o600} {
		info, err := os.Stat(filepath.Join(testDir, path))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v", path, info.Mode(), err)
		}
	}
	tokens := os.DirFS(filepath.Join(testDir, "tokens"))
	err := fs.WalkDir(tokens, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		text, err := fs.ReadFile(tokens, path)
		if err == nil && (strings.Contains(string(text), testPIN) || strings.Contains(string(text), testSOPIN)) {
			t.Errorf("%s holds a PIN", entry.Name())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestInitSoftHSMErrors(t *testing.T) {
	openTest(t, testConfig()) // keeps the module, and with it the folder in use
	t.Setenv(confVariable, os.Getenv(confVariable))
	for name, c := range map[string]struct {
		change func(*SoftHSMConfig)
		want   string
	}{
		"no folder":      {func(c *SoftHSMConfig) { c.Dir = "" }, "are required"},
		"no label":       {func(c *SoftHSMConfig) { c.TokenLabel = "" }, "are required"},
		"long label":     {func(c *SoftHSMConfig) { c.TokenLabel = strings.Repeat("x", 33) }, "at most 32 bytes"},
		"no PIN":         {func(c *SoftHSMConfig) { c.PIN = issuers.Secret{} }, "PIN"},
		"no SO PIN":      {func(c *SoftHSMConfig) { c.SOPIN = issuers.Secret{} }, "PIN"},
		"missing module": {func(c *SoftHSMConfig) { c.Module = "/nonexistent/lib.so" }, "no such PKCS#11 module"},
		"another folder": {func(c *SoftHSMConfig) { c.Dir = t.TempDir() }, "one process, one folder"},
		"odd folder":     {func(c *SoftHSMConfig) { c.Dir = t.TempDir() + "/a\nb" }, "can't name the folder"},
	} {
		config := softHSM("errors")
		c.change(&config)
		if err := InitSoftHSM(t.Context(), config); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := UseSoftHSM(t.TempDir()); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("UseSoftHSM of an empty folder: %v", err)
	}
}

func TestFindSoftHSM(t *testing.T) {
	t.Setenv(moduleVariable, "")
	if module, ok := FindSoftHSM(); ok != isFile(module) {
		t.Errorf("found %q, %v", module, ok)
	}
	t.Setenv(moduleVariable, "/nonexistent/lib.so")
	if module, ok := FindSoftHSM(); ok {
		t.Errorf("found %q, which isn't there", module)
	}
	t.Setenv(moduleVariable, testModule)
	if module, ok := FindSoftHSM(); !ok || module != testModule {
		t.Errorf("found %q, %v; want %s", module, ok, testModule)
	}
}

func BenchmarkSign(b *testing.B) {
	token := openTest(b, testConfig())
	s, err := getSigner(b.Context(), token, "sign")
	if err != nil {
		b.Fatal(err)
	}
	digest := make([]byte, 32)
	b.Run("pool", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Sign(nil, digest, crypto.SHA256); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("pool/parallel", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := s.Sign(nil, digest, crypto.SHA256); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
	b.Run("raw C_Sign", func(b *testing.B) {
		ctx := token.module.ctx
		open, err := ctx.OpenSession(slotOf(token), p11.CKF_SERIAL_SESSION)
		if err != nil {
			b.Fatal(err)
		}
		h, err := token.findOne(&session{handle: open}, s.(*signer).private.objectName)
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if err := ctx.SignInit(open, s.(*signer).how.sign, h); err != nil {
				b.Fatal(err)
			}
			if _, err := ctx.Sign(open, digest); err != nil {
				b.Fatal(err)
			}
		}
		if err := ctx.CloseSession(open); err != nil {
			b.Fatal(err)
		}
	})
}
