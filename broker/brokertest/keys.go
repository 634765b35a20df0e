package brokertest

import (
	"context"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/daypass/daypass/broker/keys"
)

// Keys makes a sealer and an empty store of keys up, in memory: those of a
// folder take a tenth of a second and more to derive from their PIN.
func Keys(t testing.TB) (keys.Sealer, *MemoryStore) {
	t.Helper()
	sealer, err := newMemorySealer()
	if err != nil {
		t.Fatal(err)
	}
	return sealer, &MemoryStore{}
}

// MemoryStore holds keys as long as its test. Its zero value is empty. It
// implements [keys.Store].
type MemoryStore struct {
	// Wrap replaces each signer that is opened or made by what it makes of it; nil:
	// none. Fail is asked before each call, by its method's name and the label; nil:
	// nothing fails. Both are set before the first call.
	Wrap func(keys.Signer) keys.Signer
	Fail func(method, label string) error

	mu      sync.Mutex
	signers map[string]keys.Signer
	sealers map[string]keys.Sealer
}

func (s *MemoryStore) begin(method, label string) error {
	if s.Fail != nil {
		if err := s.Fail(method, label); err != nil {
			return err
		}
	}
	s.mu.Lock()
	if s.signers == nil {
		s.signers, s.sealers = map[string]keys.Signer{}, map[string]keys.Sealer{}
	}
	return nil
}

func (s *MemoryStore) wrapped(signer keys.Signer) keys.Signer {
	if s.Wrap == nil {
		return signer
	}
	return s.Wrap(signer)
}

// OpenSigner implements keys.Store.
func (s *MemoryStore) OpenSigner(_ context.Context, pair keys.Pair) (keys.Signer, error) {
	if err := s.begin("OpenSigner", pair.Label); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	signer, there := s.signers[pair.Label]
	if !there {
		return nil, fmt.Errorf("%w: %s", keys.ErrNoKey, pair.Label)
	}
	return s.wrapped(signer), nil
}

// MakeSigner implements keys.Store.
func (s *MemoryStore) MakeSigner(_ context.Context, pair keys.Pair) (keys.Signer, error) {
	if err := s.begin("MakeSigner", pair.Label); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	if _, there := s.signers[pair.Label]; there {
		return nil, fmt.Errorf("%w: %s", keys.ErrKeyExists, pair.Label)
	}
	var private crypto.Signer
	var err error
	switch pair.Algorithm {
	case "", keys.ES256:
		pair.Algorithm = keys.ES256
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case keys.ES384:
		private, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case keys.EdDSA:
		_, private, err = ed25519.GenerateKey(rand.Reader)
	default:
		private, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		return nil, err
	}
	signer, err := keys.NewSigner(private, pair.Algorithm)
	if err != nil {
		return nil, err
	}
	s.signers[pair.Label] = signer
	return s.wrapped(signer), nil
}

// OpenSealer implements keys.Store.
func (s *MemoryStore) OpenSealer(_ context.Context, label string) (keys.Sealer, error) {
	if err := s.begin("OpenSealer", label); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	sealer, there := s.sealers[label]
	if !there {
		return nil, fmt.Errorf("%w: %s", keys.ErrNoKey, label)
	}
	return sealer, nil
}

// MakeSealer implements keys.Store.
func (s *MemoryStore) MakeSealer(_ context.Context, label string) (keys.Sealer, error) {
	if err := s.begin("MakeSealer", label); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	if _, there := s.sealers[label]; there {
		return nil, fmt.Errorf("%w: %s", keys.ErrKeyExists, label)
	}
	sealer, err := newMemorySealer()
	if err != nil {
		return nil, err
	}
	s.sealers[label] = sealer
	return sealer, nil
}

// Destroy implements keys.Store.
func (s *MemoryStore) Destroy(_ context.Context, label string) error {
	if err := s.begin("Destroy", label); err != nil {
		return err
	}
	defer s.mu.Unlock()
	_, signs := s.signers[label]
	_, seals := s.sealers[label]
	if !signs && !seals {
		return fmt.Errorf("%w: %s", keys.ErrNoKey, label)
	}
	delete(s.signers, label)
	delete(s.sealers, label)
	return nil
}

// List implements keys.Store.
func (s *MemoryStore) List(context.Context) ([]keys.Info, error) {
	if err := s.begin("List", ""); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	var all []keys.Info
	for label, signer := range s.signers {
		all = append(all, keys.Info{Label: label, Algorithm: signer.Algorithm(), KeyID: signer.KeyID()})
	}
	for label, sealer := range s.sealers {
		all = append(all, keys.Info{Label: label, KeyID: sealer.KeyID()})
	}
	slices.SortFunc(all, func(a, b keys.Info) int { return strings.Compare(a.Label, b.Label) })
	return all, nil
}

var _ keys.Store = (*MemoryStore)(nil)

func newMemorySealer() (*memorySealer, error) {
	var key [32]byte
	rand.Read(key[:])
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &memorySealer{aead: aead, id: "memory-" + rand.Text()[:6]}, nil
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
