// Package keys holds what the broker signs and seals with.
//
// A [Signer] signs what others verify (JWTs); its private key may live in an HSM
// (package pkcs11) or, for development, sealed on disk ([OpenSoftware]). A
// [Sealer] wraps two things only: the installation's [Root], 32 random bytes that
// are opened once at start, and the data keys ([DataKey]) that seal the values of
// rows, which package sealing keeps opened for a while. From the root derive, by
// HKDF and each for one use, the keys of all keyed hashes ([Hasher]). So no call
// to an HSM stands on the path of a request but the signature itself.
package keys

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"sort"

	"github.com/go-jose/go-jose/v4"

	"github.com/daypass/daypass/issuers"
)

// The algorithms of signers (RFC 7518 §3.1; EdDSA with Ed25519: RFC 8037 §3.1).
const (
	ES256 = "ES256" // ECDSA on P-256 with SHA-256
	ES384 = "ES384" // ECDSA on P-384 with SHA-384
	RS256 = "RS256" // RSASSA-PKCS1-v1_5 with SHA-256
	PS256 = "PS256" // RSASSA-PSS with SHA-256
	EdDSA = "EdDSA" // Ed25519
)

// Algorithms lists them.
func Algorithms() []string { return []string{ES256, ES384, RS256, PS256, EdDSA} }

// Signer is a private key that signs, wherever it lives.
type Signer = issuers.Signer

// Pair says which key pair is meant.
type Pair struct {
	Label     string
	Algorithm string // one of Algorithms; "": ES256
	Bits      int    // of an RSA key to be made: 2048, 3072 or 4096; 0: 3072
}

// Store is where keys live: a token, or a folder. Safe for concurrent use.
type Store interface {
	// OpenSigner opens a key pair: it must be of that algorithm, be there once, and
	// not be readable from outside. ErrNoKey when there is none of that label.
	OpenSigner(ctx context.Context, pair Pair) (Signer, error)
	// MakeSigner makes a key pair inside. ErrKeyExists when the label is taken.
	MakeSigner(ctx context.Context, pair Pair) (Signer, error)
	// OpenSealer opens an AES-256 key.
	OpenSealer(ctx context.Context, label string) (Sealer, error)
	// MakeSealer makes an AES-256 key inside.
	MakeSealer(ctx context.Context, label string) (Sealer, error)
	// Destroy destroys what has that label, for good. ErrNoKey when nothing has.
	Destroy(ctx context.Context, label string) error
	// List tells which keys there are.
	List(ctx context.Context) ([]Info, error)
}

// Info is what a Store tells of a key.
type Info struct {
	Label     string
	Algorithm string // of a pair: the one that fits its type, RS256 for all of RSA; "": a sealing key
	KeyID     string // as Signer.KeyID and Sealer.KeyID
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

// ErrWrongKey says that what signed, or opened, is not the key that was asked for.
var ErrWrongKey = errors.New("another key than the one asked for")

// ErrKeyExists says that there is a key of that name already.
var ErrKeyExists = errors.New("there is such a key already")

// KeyID is the RFC 7638 thumbprint of a public key, in base64url.
func KeyID(public crypto.PublicKey) (string, error) {
	thumb, err := (&jose.JSONWebKey{Key: public}).Thumbprint(crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("taking a key's thumbprint: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(thumb), nil
}

// AlgorithmOf is the algorithm that fits a public key, RS256 for all of RSA; ""
// for a key that we don't sign with.
func AlgorithmOf(public crypto.PublicKey) string {
	switch public := public.(type) {
	case *ecdsa.PublicKey:
		switch public.Curve {
		case elliptic.P256():
			return ES256
		case elliptic.P384():
			return ES384
		}
	case *rsa.PublicKey:
		if bits := public.N.BitLen(); bits >= 2048 && bits <= 4096 && public.E == 65537 {
			return RS256
		}
	case ed25519.PublicKey:
		if len(public) == ed25519.PublicKeySize {
			return EdDSA
		}
	}
	return ""
}

// fits says whether a key of that kind signs by that algorithm.
func fits(public crypto.PublicKey, algorithm string) bool {
	fitting := AlgorithmOf(public)
	return fitting != "" && (fitting == algorithm || fitting == RS256 && algorithm == PS256)
}

// SelfTest signs a random message and verifies it, so that a key that doesn't
// fit its public half, or its algorithm, is found before its first use.
func SelfTest(s Signer) error { return SelfTestContext(context.Background(), s) }

// SelfTestContext is SelfTest with a deadline.
func SelfTestContext(ctx context.Context, s Signer) error {
	if !fits(s.Public(), s.Algorithm()) {
		return fmt.Errorf("testing signing key %s: it is no key for %s", s.KeyID(), s.Algorithm())
	}
	message := make([]byte, 32)
	if _, err := rand.Read(message); err != nil {
		return fmt.Errorf("testing signing key: %w", err)
	}
	digest, opts := Digest(s.Algorithm(), message)
	signature, err := s.SignContext(ctx, digest, opts)
	if err != nil {
		return fmt.Errorf("testing signing key %s: %w", s.KeyID(), err)
	}
	if !Verifies(s.Public(), digest, opts, signature) {
		return fmt.Errorf("testing signing key %s: %w: its signature doesn't verify with its own public key", s.KeyID(), ErrWrongKey)
	}
	return nil
}

// Digest is what a signer of that algorithm is given for a message, and with
// which options.
func Digest(algorithm string, message []byte) (digest []byte, opts crypto.SignerOpts) {
	switch algorithm {
	case ES384:
		sum := sha512.Sum384(message)
		return sum[:], crypto.SHA384
	case EdDSA:
		return message, crypto.Hash(0)
	}
	sum := sha256.Sum256(message)
	if algorithm == PS256 {
		return sum[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
	}
	return sum[:], crypto.SHA256
}

// CheckDigest refuses what a signer of that algorithm doesn't sign: another hash
// than its own, a digest of another length, PSS where it isn't meant or with
// another salt than one of the hash's length, Ed25519 with a context.
func CheckDigest(algorithm string, digest []byte, opts crypto.SignerOpts) error {
	if opts == nil {
		return errors.New("signing: options that name the hash are required")
	}
	if algorithm == EdDSA {
		if options, ok := opts.(*ed25519.Options); opts.HashFunc() != 0 || ok && options.Context != "" {
			return errors.New("signing: an EdDSA key signs the message itself, with crypto.Hash(0) and without a context")
		}
		return nil
	}
	hash := crypto.SHA256
	if algorithm == ES384 {
		hash = crypto.SHA384
	}
	if opts.HashFunc() != hash || len(digest) != hash.Size() {
		return fmt.Errorf("signing: a key for %s signs %s digests only", algorithm, hash)
	}
	pss, isPSS := opts.(*rsa.PSSOptions)
	if isPSS != (algorithm == PS256) {
		return fmt.Errorf("signing: a key for %s doesn't sign with these options", algorithm)
	}
	if isPSS && pss.SaltLength != rsa.PSSSaltLengthEqualsHash && pss.SaltLength != hash.Size() {
		return fmt.Errorf("signing: the salt of %s is as long as its hash", algorithm)
	}
	return nil
}

// Verifies says whether a signature over a digest, made as [Digest] makes it, is
// of that key.
func Verifies(public crypto.PublicKey, digest []byte, opts crypto.SignerOpts, signature []byte) bool {
	switch public := public.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(public, digest, signature)
	case ed25519.PublicKey:
		return ed25519.Verify(public, digest, signature)
	case *rsa.PublicKey:
		if pss, ok := opts.(*rsa.PSSOptions); ok {
			return rsa.VerifyPSS(public, opts.HashFunc(), digest, signature, pss) == nil
		}
		return rsa.VerifyPKCS1v15(public, opts.HashFunc(), digest, signature) == nil
	}
	return false
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
