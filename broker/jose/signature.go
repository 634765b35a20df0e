package jose

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha512"
	"math/big"
)

// The signature algorithms (RFC 7518 §3.1, RFC 8037) that can be allowed. All of
// them are asymmetric: a set without HS256 can't be talked into taking a public
// key for a shared secret.
const (
	RS256 = "RS256"
	PS256 = "PS256"
	ES256 = "ES256"
	ES384 = "ES384"
	EdDSA = "EdDSA"
)

// Algorithms lists them.
func Algorithms() []string {
	return []string{RS256, ES256, PS256, ES384, EdDSA}
}

// Fits says whether an algorithm may be used with a key.
func Fits(algorithm string, public crypto.PublicKey) bool {
	switch public := public.(type) {
	case *rsa.PublicKey:
		return algorithm == RS256 || algorithm == PS256
	case *ecdsa.PublicKey:
		return algorithm == ES256 && public.Curve == elliptic.P256() ||
			algorithm == ES384 && public.Curve == elliptic.P384()
	case ed25519.PublicKey:
		return algorithm == EdDSA
	}
	return false
}

// Signature is one that is to be checked.
type Signature struct {
	Algorithm string
	Signed    string   // what it covers
	Digest    [32]byte // SHA-256 of that
	Value     []byte
}

// By says whether it is the signature of a key. The algorithm is one that fits.
func (s *Signature) By(public crypto.PublicKey) bool {
	switch public := public.(type) {
	case *rsa.PublicKey:
		if s.Algorithm == PS256 {
			// RFC 7518 §3.5: the salt is as long as the hash.
			options := rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}
			return rsa.VerifyPSS(public, crypto.SHA256, s.Digest[:], s.Value, &options) == nil
		}
		return rsa.VerifyPKCS1v15(public, crypto.SHA256, s.Digest[:], s.Value) == nil
	case *ecdsa.PublicKey:
		hash := s.Digest[:]
		if s.Algorithm == ES384 {
			sum := sha512.Sum384([]byte(s.Signed))
			hash = sum[:]
		}
		// RFC 7518 §3.4: both numbers at full length, one after the other.
		size := (public.Curve.Params().BitSize + 7) / 8
		if len(s.Value) != 2*size {
			return false
		}
		r, t := new(big.Int).SetBytes(s.Value[:size]), new(big.Int).SetBytes(s.Value[size:])
		return ecdsa.Verify(public, hash, r, t)
	case ed25519.PublicKey:
		return ed25519.Verify(public, []byte(s.Signed), s.Value)
	}
	return false
}
