package brokertest

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"

	"github.com/daypass/daypass/broker/keys"
)

// Keys makes a sealer and a signer up, in memory: those of a folder take a
// tenth of a second and more to derive from their PIN.
func Keys(t testing.TB) (keys.Sealer, keys.Signer) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := keys.NewSigner(private, keys.ES256)
	if err != nil {
		t.Fatal(err)
	}
	var key [32]byte
	rand.Read(key[:])
	block, err := aes.NewCipher(key[:])
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	return &memorySealer{aead: aead, id: "memory-" + rand.Text()[:6]}, signer
}

// memorySealer is a key that lives as long as its test.
type memorySealer struct {
	aead cipher.AEAD
	id   string
}

// Seal implements keys.Sealer.
func (s *memorySealer) Seal(_ context.Context, plaintext, associatedData []byte) ([]byte, error) {
	return s.aead.Seal(nil, nil, plaintext, associatedData), nil //nolint:gosec // the nonce is random, and its own
}

// Open implements keys.Sealer.
func (s *memorySealer) Open(_ context.Context, sealed, associatedData []byte) ([]byte, error) {
	plaintext, err := s.aead.Open(nil, nil, sealed, associatedData)
	if err != nil {
		return nil, keys.ErrOpen
	}
	return plaintext, nil
}

// KeyID implements keys.Sealer.
func (s *memorySealer) KeyID() string { return s.id }
