package keys_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/issuers"
)

const softwarePIN = "pin-Zq4vT8rN"

func openSoftware(t testing.TB, dir, pin string, create bool) *keys.Software {
	t.Helper()
	software, err := keys.OpenSoftware(keys.SoftwareConfig{Dir: dir, PIN: issuers.NewSecret(pin), Create: create})
	if err != nil {
		t.Fatal(err)
	}
	return software
}

func newSealer(t testing.TB, label string) keys.Sealer {
	t.Helper()
	sealer, err := openSoftware(t, t.TempDir(), softwarePIN, true).Sealer(label)
	if err != nil {
		t.Fatal(err)
	}
	return sealer
}

func TestSoftwareKeysReopen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "keys")
	software := openSoftware(t, dir, softwarePIN, true)
	signer, err := software.Signer("main")
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := software.Sealer("main")
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := sealer.Seal(t.Context(), []byte("secret"), []byte("place"))
	if err != nil {
		t.Fatal(err)
	}

	reopened := openSoftware(t, dir, softwarePIN, false)
	again, err := reopened.Signer("main")
	if err != nil || again.KeyID() != signer.KeyID() {
		t.Fatalf("another key: %v", err)
	}
	digest := sha256.Sum256([]byte("message"))
	signature, err := again.Sign(nil, digest[:], crypto.SHA256)
	if err != nil || !ecdsa.VerifyASN1(signer.Public().(*ecdsa.PublicKey), digest[:], signature) {
		t.Errorf("signature %x, %v", signature, err)
	}
	opener, err := reopened.Sealer("main")
	if err != nil || opener.KeyID() != sealer.KeyID() {
		t.Fatalf("another key: %v", err)
	}
	if opened, err := opener.Open(t.Context(), sealed, []byte("place")); err != nil || string(opened) != "secret" {
		t.Errorf("opened %q, %v", opened, err)
	}
	other, err := software.Sealer("other")
	if err != nil || other.KeyID() == sealer.KeyID() {
		t.Fatalf("two labels, one key: %v", err)
	}

	for path, want := range map[string]fs.FileMode{"": 0o700, "sign-main.key": 0o600, "seal-main.key": 0o600} {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v", path, info.Mode(), err)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, ".key-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func TestSealerBindsEveryByte(t *testing.T) {
	sealer := newSealer(t, "main")
	sealed, err := sealer.Seal(t.Context(), []byte("secret"), []byte("place"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range sealed {
		tampered := bytes.Clone(sealed)
		tampered[i] ^= 1
		if opened, err := sealer.Open(t.Context(), tampered, []byte("place")); !errors.Is(err, keys.ErrOpen) {
			t.Errorf("byte %d: opened %q, %v", i, opened, err)
		}
	}
	if opened, err := sealer.Open(t.Context(), sealed, []byte("elsewhere")); !errors.Is(err, keys.ErrOpen) {
		t.Errorf("wrong place: opened %q, %v", opened, err)
	}
}

func TestSoftwareKeyErrors(t *testing.T) {
	dir := t.TempDir()
	software := openSoftware(t, dir, softwarePIN, true)
	if _, err := software.Signer("main"); err != nil {
		t.Fatal(err)
	}
	const wrongPIN = "wrong-Wd7pQ1xY"
	if _, err := openSoftware(t, dir, wrongPIN, true).Signer("main"); !errors.Is(err, keys.ErrOpen) || strings.Contains(err.Error(), wrongPIN) {
		t.Errorf("wrong PIN: %v", err)
	}
	strict := openSoftware(t, dir, softwarePIN, false)
	if _, err := strict.Signer("missing"); !errors.Is(err, keys.ErrNoKey) || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("missing signer: %v", err)
	}
	if _, err := strict.Sealer("main"); !errors.Is(err, keys.ErrNoKey) {
		t.Errorf("missing sealer: %v", err)
	}
	for _, label := range []string{"", "../main", "a/b", "Main", "-x", "a.key", "a\x00", strings.Repeat("a", 64)} {
		if _, err := software.Signer(label); err == nil {
			t.Errorf("label %q was taken", label)
		}
	}
	for name, config := range map[string]keys.SoftwareConfig{
		"no folder": {PIN: issuers.NewSecret(softwarePIN)},
		"no PIN":    {Dir: dir},
		"short PIN": {Dir: dir, PIN: issuers.NewSecret("1234567")},
	} {
		if _, err := keys.OpenSoftware(config); err == nil || strings.Contains(err.Error(), "1234567") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSoftwareFilesAreBound(t *testing.T) {
	dir := t.TempDir()
	software := openSoftware(t, dir, softwarePIN, true)
	if _, err := software.Signer("main"); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "sign-main.key")
	stored, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	put := func(path string, data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, size := range []int{0, 1, 15, 16, 44, len(stored) - 1} {
		put(path, stored[:size])
		if _, err := software.Signer("main"); !errors.Is(err, keys.ErrOpen) {
			t.Errorf("cut to %d bytes: %v", size, err)
		}
		if left, err := os.ReadFile(path); err != nil || !bytes.Equal(left, stored[:size]) {
			t.Errorf("cut to %d bytes: the file was replaced, %v", size, err)
		}
	}
	// Salt, format, nonce, ciphertext, tag.
	for _, i := range []int{0, 16, 17, 29, len(stored) - 1} {
		tampered := bytes.Clone(stored)
		tampered[i] ^= 0x10
		put(path, tampered)
		if _, err := software.Signer("main"); !errors.Is(err, keys.ErrOpen) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
	put(path, stored)
	if _, err := software.Signer("main"); err != nil {
		t.Errorf("put back: %v", err)
	}
	// A file under another name is another key's, though the PIN is right.
	put(filepath.Join(dir, "sign-renamed.key"), stored)
	if _, err := software.Signer("renamed"); !errors.Is(err, keys.ErrOpen) {
		t.Errorf("renamed: %v", err)
	}
	put(filepath.Join(dir, "seal-main.key"), stored)
	if _, err := software.Sealer("main"); !errors.Is(err, keys.ErrOpen) {
		t.Errorf("a signing key as sealing key: %v", err)
	}
}

func TestConcurrentCreateMakesOneSoftwareKey(t *testing.T) {
	dir := t.TempDir()
	ids := make([]string, 4)
	var group sync.WaitGroup
	for i := range ids {
		software := openSoftware(t, dir, softwarePIN, true)
		group.Go(func() {
			signer, err := software.Signer("main")
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = signer.KeyID()
		})
	}
	group.Wait()
	stored, err := openSoftware(t, dir, softwarePIN, false).Signer("main")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if id != stored.KeyID() {
			t.Fatalf("keys %q were handed out; on disk is %s", ids, stored.KeyID())
		}
	}
}
