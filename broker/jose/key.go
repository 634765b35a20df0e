package jose

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
)

// PublicKey holds the members of a JSON Web Key (RFC 7517, RFC 7518 §6, RFC 8037 §2)
// that make a public key. What else stands beside them is the caller's to judge.
type PublicKey struct {
	KeyType string `json:"kty"`
	Curve   string `json:"crv"`
	N       string `json:"n"`
	E       string `json:"e"`
	X       string `json:"x"`
	Y       string `json:"y"`
}

const (
	minRSABits = 2048
	maxRSABits = 8192
)

var (
	// ErrUnsupported says that nothing here verifies by such a key, or that it is too weak.
	ErrUnsupported = errors.New("unsupported type, curve or size")
	// ErrBadKey says that the members are no key.
	ErrBadKey = errors.New("malformed key")
)

// Key is the key that the members say.
func (j *PublicKey) Key() (crypto.PublicKey, error) {
	switch j.KeyType {
	case "RSA":
		return j.rsaKey()
	case "EC":
		return j.ecKey()
	case "OKP":
		x, err := decodeMember(j.X)
		if err != nil {
			return nil, err
		}
		if j.Curve != "Ed25519" || len(x) != ed25519.PublicKeySize {
			return nil, ErrUnsupported
		}
		return ed25519.PublicKey(x), nil
	default:
		return nil, ErrUnsupported
	}
}

func (j *PublicKey) rsaKey() (crypto.PublicKey, error) {
	n, err := decodeMember(j.N)
	if err != nil {
		return nil, err
	}
	e, err := decodeMember(j.E)
	if err != nil {
		return nil, err
	}
	modulus, exponent := new(big.Int).SetBytes(n), new(big.Int).SetBytes(e)
	if bits := modulus.BitLen(); bits < minRSABits || bits > maxRSABits {
		return nil, ErrUnsupported
	}
	if modulus.Bit(0) == 0 || exponent.Bit(0) == 0 || exponent.BitLen() > 31 || exponent.Int64() < 3 {
		return nil, ErrBadKey
	}
	return &rsa.PublicKey{N: modulus, E: int(exponent.Int64())}, nil
}

func (j *PublicKey) ecKey() (crypto.PublicKey, error) {
	var curve elliptic.Curve
	switch j.Curve {
	case "P-256":
		curve = elliptic.P256()
	case "P-384":
		curve = elliptic.P384()
	default:
		return nil, ErrUnsupported
	}
	x, err := decodeMember(j.X)
	if err != nil {
		return nil, err
	}
	y, err := decodeMember(j.Y)
	if err != nil {
		return nil, err
	}
	size := (curve.Params().BitSize + 7) / 8
	if len(x) != size || len(y) != size { // RFC 7518 §6.2.1.2: full length
		return nil, ErrBadKey
	}
	point := append(append([]byte{4}, x...), y...)
	public, err := ecdsa.ParseUncompressedPublicKey(curve, point) // on the curve, not at infinity
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadKey, err)
	}
	return public, nil
}

func decodeMember(text string) ([]byte, error) {
	decoded, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(decoded) == 0 {
		return nil, ErrBadKey
	}
	return decoded, nil
}
