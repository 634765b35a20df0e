package keys_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	sealer, err := openSoftware(t, t.TempDir(), softwarePIN, true).MakeSealer(t.Context(), label)
	if err != nil {
		t.Fatal(err)
	}
	return sealer
}

func TestSoftwareKeysReopen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "keys")
	software := openSoftware(t, dir, softwarePIN, true)
	signer, err := software.MakeSigner(t.Context(), keys.Pair{Label: "main"})
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := software.MakeSealer(t.Context(), "main")
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := sealer.Seal(t.Context(), []byte("secret"), []byte("place"))
	if err != nil {
		t.Fatal(err)
	}

	reopened := openSoftware(t, dir, softwarePIN, false)
	again, err := reopened.OpenSigner(t.Context(), keys.Pair{Label: "main"})
	if err != nil || again.KeyID() != signer.KeyID() {
		t.Fatalf("another key: %v", err)
	}
	digest := sha256.Sum256([]byte("message"))
	signature, err := again.Sign(nil, digest[:], crypto.SHA256)
	if err != nil || !ecdsa.VerifyASN1(signer.Public().(*ecdsa.PublicKey), digest[:], signature) {
		t.Errorf("signature %x, %v", signature, err)
	}
	opener, err := reopened.OpenSealer(t.Context(), "main")
	if err != nil || opener.KeyID() != sealer.KeyID() {
		t.Fatalf("another key: %v", err)
	}
	if opened, err := opener.Open(t.Context(), sealed, []byte("place")); err != nil || string(opened) != "secret" {
		t.Errorf("opened %q, %v", opened, err)
	}
	other, err := software.MakeSealer(t.Context(), "other")
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
	if _, err := software.MakeSigner(t.Context(), keys.Pair{Label: "main"}); err != nil {
		t.Fatal(err)
	}
	const wrongPIN = "wrong-Wd7pQ1xY"
	if _, err := openSoftware(t, dir, wrongPIN, true).OpenSigner(t.Context(), keys.Pair{Label: "main"}); !errors.Is(err, keys.ErrOpen) || strings.Contains(err.Error(), wrongPIN) {
		t.Errorf("wrong PIN: %v", err)
	}
	strict := openSoftware(t, dir, softwarePIN, false)
	if _, err := strict.OpenSigner(t.Context(), keys.Pair{Label: "missing"}); !errors.Is(err, keys.ErrNoKey) || !strings.Contains(err.Error(), "hint: ") {
		t.Errorf("missing signer: %v", err)
	}
	if _, err := strict.OpenSealer(t.Context(), "main"); !errors.Is(err, keys.ErrNoKey) {
		t.Errorf("missing sealer: %v", err)
	}
	for _, label := range []string{"", "../main", "a/b", "Main", "-x", "a.key", "a\x00", strings.Repeat("a", 64)} {
		if _, err := software.OpenSigner(t.Context(), keys.Pair{Label: label}); err == nil {
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
	if _, err := software.MakeSigner(t.Context(), keys.Pair{Label: "main"}); err != nil {
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
		if _, err := software.OpenSigner(t.Context(), keys.Pair{Label: "main"}); !errors.Is(err, keys.ErrOpen) {
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
		if _, err := software.OpenSigner(t.Context(), keys.Pair{Label: "main"}); !errors.Is(err, keys.ErrOpen) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
	put(path, stored)
	if _, err := software.OpenSigner(t.Context(), keys.Pair{Label: "main"}); err != nil {
		t.Errorf("put back: %v", err)
	}
	// A file under another name is another key's, though the PIN is right.
	put(filepath.Join(dir, "sign-renamed.key"), stored)
	if _, err := software.OpenSigner(t.Context(), keys.Pair{Label: "renamed"}); !errors.Is(err, keys.ErrOpen) {
		t.Errorf("renamed: %v", err)
	}
	put(filepath.Join(dir, "seal-main.key"), stored)
	if _, err := software.OpenSealer(t.Context(), "main"); !errors.Is(err, keys.ErrOpen) {
		t.Errorf("a signing key as sealing key: %v", err)
	}
}

func TestConcurrentMakersMakeOneSoftwareKey(t *testing.T) {
	dir := t.TempDir()
	var made atomic.Int32
	var group sync.WaitGroup
	for range 4 {
		software := openSoftware(t, dir, softwarePIN, true)
		group.Go(func() {
			signer, err := software.MakeSigner(t.Context(), keys.Pair{Label: "main"})
			if errors.Is(err, keys.ErrKeyExists) {
				signer, err = software.OpenSigner(t.Context(), keys.Pair{Label: "main"})
			} else {
				made.Add(1)
			}
			if err != nil {
				t.Error(err)
				return
			}
			stored, err := software.OpenSigner(t.Context(), keys.Pair{Label: "main"})
			if err != nil || stored.KeyID() != signer.KeyID() {
				t.Errorf("another key was handed out than is on disk: %v", err)
			}
		})
	}
	group.Wait()
	if made.Load() != 1 {
		t.Errorf("%d made the key", made.Load())
	}
}

func TestSoftwareAlgorithms(t *testing.T) {
	software := openSoftware(t, t.TempDir(), softwarePIN, true)
	for _, algorithm := range keys.Algorithms() {
		pair := keys.Pair{Label: strings.ToLower(algorithm), Algorithm: algorithm, Bits: 2048}
		made, err := software.MakeSigner(t.Context(), pair)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := software.MakeSigner(t.Context(), pair); !errors.Is(err, keys.ErrKeyExists) {
			t.Errorf("%s: made twice: %v", algorithm, err)
		}
		opened, err := software.OpenSigner(t.Context(), pair)
		if err != nil || opened.KeyID() != made.KeyID() || opened.Algorithm() != algorithm {
			t.Errorf("%s: opened %v, %v", algorithm, opened, err)
		}
		pair.Algorithm = otherThan(algorithm)
		if _, err := software.OpenSigner(t.Context(), pair); err == nil {
			t.Errorf("%s: opened for %s", algorithm, pair.Algorithm)
		}
		for _, wrong := range wrongDigests(algorithm) {
			if signature, err := made.SignContext(t.Context(), wrong.digest, wrong.opts); err == nil {
				t.Errorf("%s: signed %s: %x", algorithm, wrong.name, signature)
			}
		}
	}
	if _, err := software.MakeSigner(t.Context(), keys.Pair{Label: "x", Algorithm: keys.RS256, Bits: 1024}); err == nil {
		t.Error("an RSA key of 1024 bits was made")
	}
	if _, err := software.MakeSigner(t.Context(), keys.Pair{Label: "x", Algorithm: "HS256"}); err == nil {
		t.Error("a key for HS256 was made")
	}
}

// otherThan is an algorithm that a key for that one can't be used for.
func otherThan(algorithm string) string {
	if algorithm == keys.EdDSA {
		return keys.ES256
	}
	return keys.EdDSA
}

type wrongDigest struct {
	name   string
	digest []byte
	opts   crypto.SignerOpts
}

// wrongDigests are what a signer of that algorithm must refuse.
func wrongDigests(algorithm string) []wrongDigest {
	digest, opts := keys.Digest(algorithm, []byte("message"))
	wrong := []wrongDigest{
		{"no options", digest, nil},
		{"SHA-1", make([]byte, 20), crypto.SHA1},
		{"SHA-512", make([]byte, 64), crypto.SHA512},
	}
	if algorithm == keys.EdDSA {
		return append(wrong, wrongDigest{"a context", digest, &ed25519.Options{Context: "c"}})
	}
	wrong = append(wrong, wrongDigest{"no hash", digest, crypto.Hash(0)}, wrongDigest{"a short digest", digest[1:], opts}, wrongDigest{"a long digest", append(digest, 0), opts})
	if algorithm == keys.PS256 {
		return append(wrong, wrongDigest{"PKCS #1 v1.5", digest, crypto.SHA256},
			wrongDigest{"another salt", digest, &rsa.PSSOptions{SaltLength: 20, Hash: crypto.SHA256}},
			wrongDigest{"any salt", digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto, Hash: crypto.SHA256}})
	}
	return append(wrong, wrongDigest{"PSS", digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: opts.HashFunc()}})
}

func TestSoftwareListAndDestroy(t *testing.T) {
	software := openSoftware(t, t.TempDir(), softwarePIN, true)
	signer, err := software.MakeSigner(t.Context(), keys.Pair{Label: "one", Algorithm: keys.EdDSA})
	if err != nil {
		t.Fatal(err)
	}
	sealer, err := software.MakeSealer(t.Context(), "two")
	if err != nil {
		t.Fatal(err)
	}
	want := []keys.Info{{Label: "two", KeyID: sealer.KeyID()}, {Label: "one", Algorithm: keys.EdDSA, KeyID: signer.KeyID()}}
	if got, err := software.List(t.Context()); err != nil || !slices.Equal(got, want) {
		t.Errorf("listed %+v, %v; want %+v", got, err, want)
	}
	for _, label := range []string{"one", "two"} {
		if err := software.Destroy(t.Context(), label); err != nil {
			t.Error(err)
		}
		if err := software.Destroy(t.Context(), label); !errors.Is(err, keys.ErrNoKey) {
			t.Errorf("destroyed twice: %v", err)
		}
	}
	if got, err := software.List(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("left: %+v, %v", got, err)
	}
	if _, err := software.OpenSigner(t.Context(), keys.Pair{Label: "one", Algorithm: keys.EdDSA}); !errors.Is(err, keys.ErrNoKey) {
		t.Errorf("a destroyed key opened: %v", err)
	}
}
