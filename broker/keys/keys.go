// Package keys holds what the broker signs and seals with.
//
// A [Signer] signs what others verify (JWTs); its private key may live in an HSM
// (package pkcs11) or, for development, sealed on disk ([OpenSoftware]). A
// [Sealer] wraps one thing only: the installation's [Root], 32 random bytes that
// are opened once at start. From the root derive, by HKDF and each for one use,
// the keys of all keyed hashes ([Hasher]) and of the seals of rows
// ([RowSealer]). So no call to an HSM stands on the path of a request but the
// signature itself.
package keys

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"sort"

	"github.com/go-jose/go-jose/v4"
)

// ES256 is ECDSA on P-256 with SHA-256 (RFC 7518 §3.4).
const ES256 = "ES256"

// Signer is a private key that signs, wherever it lives. Sign takes a SHA-256
// digest and returns an ASN.1 signature, as crypto.Signer says.
type Signer interface {
	crypto.Signer
	KeyID() string     // RFC 7638 thumbprint: base64url of SHA-256
	Algorithm() string // ES256
}

// Sealer encrypts and authenticates small values under a key that never leaves
// it.
type Sealer interface {
	// Seal encrypts plaintext; it opens again with the same associated data only.
	Seal(ctx context.Context, plaintext, associatedData []byte) ([]byte, error)
	// Open returns ErrOpen for whatever Seal did not make, changed in any byte.
	Open(ctx context.Context, sealed, associatedData []byte) ([]byte, error)
	// KeyID names the key, without telling anything about it.
	KeyID() string
}

// ErrOpen says that a sealed value was not made by this key, or not for this
// place, or was changed.
var ErrOpen = errors.New("sealed value does not open")

// ErrNoKey says that there is no key of that name.
var ErrNoKey = errors.New("no such key")

// KeyID is the RFC 7638 thumbprint of a P-256 public key, in base64url.
func KeyID(public *ecdsa.PublicKey) (string, error) {
	thumb, err := (&jose.JSONWebKey{Key: public}).Thumbprint(crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("taking a key's thumbprint: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(thumb), nil
}

// SelfTest signs a random message and verifies it, so that a key that doesn't
// fit its public half, or is on a curve that we don't sign with, is found
// before its first use.
func SelfTest(s Signer) error {
	public, ok := s.Public().(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() || s.Algorithm() != ES256 {
		return fmt.Errorf("testing signing key %s: it must be an EC key on P-256", s.KeyID())
	}
	var message [32]byte
	if _, err := rand.Read(message[:]); err != nil {
		return fmt.Errorf("testing signing key: %w", err)
	}
	digest := sha256.Sum256(message[:])
	signature, err := s.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return fmt.Errorf("testing signing key %s: %w", s.KeyID(), err)
	}
	if !ecdsa.VerifyASN1(public, digest[:], signature) {
		return fmt.Errorf("testing signing key %s: its signature doesn't verify with its own public key", s.KeyID())
	}
	return nil
}

// JWKS is the public half of the signers (RFC 7517), as JSON, ordered by key id.
func JWKS(signers ...Signer) ([]byte, error) {
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, s := range signers {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: s.Public(), KeyID: s.KeyID(), Algorithm: s.Algorithm(), Use: "sig"})
	}
	sort.Slice(set.Keys, func(i, j int) bool { return set.Keys[i].KeyID < set.Keys[j].KeyID })
	encoded, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("encoding JWKS: %w", err)
	}
	return encoded, nil
}
