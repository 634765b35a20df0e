package devkit

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/go-jose/go-jose/v4"
)

// keysKept is the signing key and the one before it.
const keysKept = 2

// providerKeys are the demo provider's keys, the newest first, which signs.
type providerKeys struct {
	algorithm jose.SignatureAlgorithm
	file      string // empty: kept in memory alone

	mu   sync.Mutex
	keys []jose.JSONWebKey
}

// openProviderKeys reads the keys in dir, or makes the first one.
func openProviderKeys(dir string, algorithm jose.SignatureAlgorithm) (*providerKeys, error) {
	if algorithm == "" {
		algorithm = jose.RS256
	}
	k := &providerKeys{algorithm: algorithm}
	if dir != "" {
		k.file = filepath.Join(dir, "demo-provider-keys.json")
		text, err := os.ReadFile(k.file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reading the demo provider's keys: %w", err)
		}
		if err == nil {
			var set jose.JSONWebKeySet
			if err := json.Unmarshal(text, &set); err != nil {
				return nil, fmt.Errorf("reading the demo provider's keys in %s: %w\nhint: remove the file to make new ones", k.file, err)
			}
			k.keys = set.Keys
		}
	}
	if len(k.keys) > 0 && k.keys[0].Algorithm == string(algorithm) {
		return k, nil
	}
	return k, k.rotate()
}

// rotate puts a new key in front.
func (k *providerKeys) rotate() error {
	private, err := generateKey(k.algorithm)
	if err != nil {
		return fmt.Errorf("making the demo provider's key: %w", err)
	}
	key := jose.JSONWebKey{Key: private, KeyID: rand.Text()[:16], Algorithm: string(k.algorithm), Use: "sig"}
	k.mu.Lock()
	defer k.mu.Unlock()
	keys := append([]jose.JSONWebKey{key}, k.keys...)
	keys = keys[:min(len(keys), keysKept)]
	if k.file != "" {
		text, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
		if err != nil {
			return fmt.Errorf("encoding the demo provider's keys: %w", err)
		}
		if err := os.WriteFile(k.file+".new", text, 0o600); err != nil {
			return fmt.Errorf("keeping the demo provider's keys: %w", err)
		}
		if err := os.Rename(k.file+".new", k.file); err != nil {
			return fmt.Errorf("keeping the demo provider's keys: %w", err)
		}
	}
	k.keys = keys
	return nil
}

func generateKey(algorithm jose.SignatureAlgorithm) (crypto.Signer, error) {
	switch algorithm {
	case jose.RS256, jose.PS256:
		return rsa.GenerateKey(rand.Reader, 2048)
	case jose.ES256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.EdDSA:
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	default:
		return nil, fmt.Errorf("there is no algorithm %q here\nhint: RS256, PS256, ES256 or EdDSA", algorithm)
	}
}

func (k *providerKeys) signer() (jose.Signer, error) {
	k.mu.Lock()
	key := k.keys[0]
	k.mu.Unlock()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: k.algorithm, Key: key}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, fmt.Errorf("signing with the demo provider's key: %w", err)
	}
	return signer, nil
}

// public is the JWKS (RFC 7517 §5).
func (k *providerKeys) public() jose.JSONWebKeySet {
	k.mu.Lock()
	defer k.mu.Unlock()
	keys := slices.Clone(k.keys)
	for i := range keys {
		keys[i] = keys[i].Public()
	}
	return jose.JSONWebKeySet{Keys: keys}
}
