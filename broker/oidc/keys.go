package oidc

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// The signature algorithms (RFC 7518 §3.1, RFC 8037) that can be allowed. All of
// them are asymmetric: a set without HS256 can't be talked into taking a public
// key for a shared secret.
const (
	algRS256 = "RS256"
	algPS256 = "PS256"
	algES256 = "ES256"
	algES384 = "ES384"
	algEdDSA = "EdDSA"
)

// Algorithms lists those that a provider may be allowed.
func Algorithms() []string {
	return []string{algRS256, algES256, algPS256, algES384, algEdDSA}
}

const (
	maxKeys    = 100
	minRSABits = 2048
	maxRSABits = 8192
)

// key is one public key of a provider, checked and ready for use.
type key struct {
	id     string // may be empty
	alg    string // empty: whatever fits the key's type
	public crypto.PublicKey
}

// fits says whether alg may be used with this key. A key made for one algorithm
// is never used with another.
func (k *key) fits(alg string) bool {
	if k.alg != "" && k.alg != alg {
		return false
	}
	switch public := k.public.(type) {
	case *rsa.PublicKey:
		return alg == algRS256 || alg == algPS256
	case *ecdsa.PublicKey:
		return alg == algES256 && public.Curve == elliptic.P256() ||
			alg == algES384 && public.Curve == elliptic.P384()
	case ed25519.PublicKey:
		return alg == algEdDSA
	}
	return false
}

// verify checks t's signature; the algorithm is one that fits.
func (k *key) verify(t *token) bool {
	switch public := k.public.(type) {
	case *rsa.PublicKey:
		if t.alg == algPS256 {
			// RFC 7518 §3.5: the salt is as long as the hash.
			options := rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}
			return rsa.VerifyPSS(public, crypto.SHA256, t.digest[:], t.sig, &options) == nil
		}
		return rsa.VerifyPKCS1v15(public, crypto.SHA256, t.digest[:], t.sig) == nil
	case *ecdsa.PublicKey:
		hash := t.digest[:]
		if t.alg == algES384 {
			sum := sha512.Sum384([]byte(t.signed))
			hash = sum[:]
		}
		// RFC 7518 §3.4: both numbers at full length, one after the other.
		size := (public.Curve.Params().BitSize + 7) / 8
		if len(t.sig) != 2*size {
			return false
		}
		r, s := new(big.Int).SetBytes(t.sig[:size]), new(big.Int).SetBytes(t.sig[size:])
		return ecdsa.Verify(public, hash, r, s)
	case ed25519.PublicKey:
		return ed25519.Verify(public, []byte(t.signed), t.sig)
	}
	return false
}

// jwk holds the members of a JSON Web Key (RFC 7517, RFC 7518 §6) that are read.
// Certificates (`x5c`) are not: the set comes over TLS from the provider itself.
type jwk struct {
	KeyType string   `json:"kty"`
	ID      string   `json:"kid"`
	Use     string   `json:"use"`
	Ops     []string `json:"key_ops"`
	Alg     string   `json:"alg"`
	Curve   string   `json:"crv"`
	N       string   `json:"n"`
	E       string   `json:"e"`
	X       string   `json:"x"`
	Y       string   `json:"y"`
	D       string   `json:"d"`
	K       string   `json:"k"`
}

var (
	errNotForSigning = errors.New("not for signatures")
	errPrivate       = errors.New("private or symmetric key published")
	errUnsupported   = errors.New("unsupported type, curve or size")
	errBadKey        = errors.New("malformed key")
)

// parseKeys reads a JWK Set. Keys that are not understood or too weak are left
// out (RFC 7517 §5), and so are keys that share a `kid` without being the same:
// a name that means two keys means none. skipped has one error for each.
func parseKeys(body []byte) (keys []*key, skipped []error, err error) {
	var document struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &document); err != nil {
		return nil, nil, fmt.Errorf("parsing JWKS: %w", err)
	}
	if document.Keys == nil {
		return nil, nil, errors.New("parsing JWKS: no member keys")
	}
	if len(document.Keys) > maxKeys {
		return nil, nil, fmt.Errorf("parsing JWKS: %d keys, more than %d", len(document.Keys), maxKeys)
	}
	ambiguous := map[string]bool{}
	for i, raw := range document.Keys {
		parsed, err := parseKey(raw)
		if err != nil {
			if !errors.Is(err, errNotForSigning) {
				skipped = append(skipped, fmt.Errorf("key %d: %w", i, err))
			}
			continue
		}
		same := slices.IndexFunc(keys, func(k *key) bool { return k.id != "" && k.id == parsed.id })
		if same < 0 {
			keys = append(keys, parsed)
			continue
		}
		if other := keys[same]; other.alg != parsed.alg || !equalKeys(other.public, parsed.public) {
			ambiguous[parsed.id] = true
			skipped = append(skipped, fmt.Errorf("key %d: its kid stands for another key too", i))
		}
	}
	keys = slices.DeleteFunc(keys, func(k *key) bool { return ambiguous[k.id] })
	return keys, skipped, nil
}

func equalKeys(a, b crypto.PublicKey) bool {
	key, ok := a.(interface {
		Equal(other crypto.PublicKey) bool
	})
	return ok && key.Equal(b)
}

func parseKey(raw []byte) (*key, error) {
	var j jwk
	if err := json.Unmarshal(raw, &j); err != nil {
		return nil, fmt.Errorf("%w: %w", errBadKey, err)
	}
	if j.D != "" || j.K != "" || j.KeyType == "oct" {
		return nil, errPrivate
	}
	if j.Use != "" && j.Use != "sig" || j.Ops != nil && !slices.Contains(j.Ops, "verify") {
		return nil, errNotForSigning
	}
	if len(j.ID) > maxKeyID {
		return nil, errBadKey
	}
	public, err := j.publicKey()
	if err != nil {
		return nil, err
	}
	k := &key{id: j.ID, alg: j.Alg, public: public}
	if j.Alg != "" && !k.fits(j.Alg) {
		return nil, errUnsupported
	}
	return k, nil
}

func (j *jwk) publicKey() (crypto.PublicKey, error) {
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
			return nil, errUnsupported
		}
		return ed25519.PublicKey(x), nil
	default:
		return nil, errUnsupported
	}
}

func (j *jwk) rsaKey() (crypto.PublicKey, error) {
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
		return nil, errUnsupported
	}
	if modulus.Bit(0) == 0 || exponent.Bit(0) == 0 || exponent.BitLen() > 31 || exponent.Int64() < 3 {
		return nil, errBadKey
	}
	return &rsa.PublicKey{N: modulus, E: int(exponent.Int64())}, nil
}

func (j *jwk) ecKey() (crypto.PublicKey, error) {
	var curve elliptic.Curve
	switch j.Curve {
	case "P-256":
		curve = elliptic.P256()
	case "P-384":
		curve = elliptic.P384()
	default:
		return nil, errUnsupported
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
		return nil, errBadKey
	}
	point := append(append([]byte{4}, x...), y...)
	public, err := ecdsa.ParseUncompressedPublicKey(curve, point) // on the curve, not at infinity
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBadKey, err)
	}
	return public, nil
}

func decodeMember(text string) ([]byte, error) {
	decoded, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(decoded) == 0 {
		return nil, errBadKey
	}
	return decoded, nil
}
