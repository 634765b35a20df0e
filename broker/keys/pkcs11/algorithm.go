package pkcs11

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"
	"slices"

	p11 "github.com/miekg/pkcs11"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/daypass/daypass/broker/keys"
)

// What miekg/pkcs11 has no names for: Ed25519 came with PKCS#11 v3.0.
const (
	ckkECEdwards       = 0x40
	ckmECEdwardsKeyGen = 0x1055
	ckmEdDSA           = 0x1057
)

// Curves, as CKA_EC_PARAMS has them in DER.
const (
	curveP256  = "\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07" // OID 1.2.840.10045.3.1.7 (RFC 5480 §2.1.1.1)
	curveP384  = "\x06\x05\x2b\x81\x04\x00\x22"             // OID 1.3.132.0.34
	curve25519 = "\x06\x03\x2b\x65\x70"                     // OID 1.3.101.112 (RFC 8410 §3)
	name25519  = "\x13\x0cedwards25519"                     // PKCS#11 v3.0 §2.3.10 allows the name as well
)

// sha256Prefix stands before a SHA-256 digest that CKM_RSA_PKCS signs: the DER of
// DigestInfo (RFC 8017 §9.2, note 1).
const sha256Prefix = "\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20"

// mechanics is how a token does an algorithm.
type mechanics struct {
	keyType  uint
	typeName string
	curves   []string // CKA_EC_PARAMS of the curve; a key is made with the first that the token takes
	curve    elliptic.Curve
	generate uint
	sign     []*p11.Mechanism
	prefix   string // stands before the digest
}

// howTo tells how a token does an algorithm. The digest is made outside: not every
// token has CKM_ECDSA_SHA256 (SoftHSM hasn't), and all have the bare one.
func howTo(algorithm string) (mechanics, error) {
	switch algorithm {
	case keys.ES256, "":
		return mechanics{
			keyType: p11.CKK_EC, typeName: "EC", curves: []string{curveP256}, curve: elliptic.P256(),
			generate: p11.CKM_EC_KEY_PAIR_GEN, sign: mechanism(p11.CKM_ECDSA, nil),
		}, nil
	case keys.ES384:
		return mechanics{
			keyType: p11.CKK_EC, typeName: "EC", curves: []string{curveP384}, curve: elliptic.P384(),
			generate: p11.CKM_EC_KEY_PAIR_GEN, sign: mechanism(p11.CKM_ECDSA, nil),
		}, nil
	case keys.EdDSA:
		return mechanics{
			keyType: ckkECEdwards, typeName: "EC_EDWARDS", curves: []string{curve25519, name25519},
			generate: ckmECEdwardsKeyGen, sign: mechanism(ckmEdDSA, nil),
		}, nil
	case keys.RS256:
		return mechanics{
			keyType: p11.CKK_RSA, typeName: "RSA",
			generate: p11.CKM_RSA_PKCS_KEY_PAIR_GEN, sign: mechanism(p11.CKM_RSA_PKCS, nil), prefix: sha256Prefix,
		}, nil
	case keys.PS256:
		return mechanics{
			keyType: p11.CKK_RSA, typeName: "RSA", generate: p11.CKM_RSA_PKCS_KEY_PAIR_GEN,
			sign: mechanism(p11.CKM_RSA_PKCS_PSS, p11.NewPSSParams(p11.CKM_SHA256, p11.CKG_MGF1_SHA256, uint(crypto.SHA256.Size()))),
		}, nil
	}
	return mechanics{}, fmt.Errorf("there is no algorithm %q: use one of %v", algorithm, keys.Algorithms())
}

func mechanism(kind uint, params any) []*p11.Mechanism {
	return []*p11.Mechanism{p11.NewMechanism(kind, params)}
}

// kind is what tells a key of this kind from others.
func (m mechanics) kind() []required {
	all := []required{must("CKA_KEY_TYPE ("+m.typeName+")", p11.CKA_KEY_TYPE, m.keyType)}
	if m.keyType == p11.CKK_RSA {
		return all
	}
	var curves []any
	for _, c := range m.curves {
		curves = append(curves, c)
	}
	return append(all, must("CKA_EC_PARAMS ("+m.curveName()+")", p11.CKA_EC_PARAMS, curves...))
}

// privateMust is what a private key must be like: inside, and for signing alone.
func (m mechanics) privateMust() []required {
	all := slices.Concat(m.kind(), inside(), []required{
		must("CKA_SIGN (true)", p11.CKA_SIGN, true), must("CKA_DECRYPT (false)", p11.CKA_DECRYPT, false),
		must("CKA_UNWRAP (false)", p11.CKA_UNWRAP, false), must("CKA_DERIVE (false)", p11.CKA_DERIVE, false),
	})
	if m.keyType != p11.CKK_RSA {
		return all // ECDSA has no message recovery, whatever the attribute says
	}
	return append(all, must("CKA_SIGN_RECOVER (false)", p11.CKA_SIGN_RECOVER, false))
}

func (m mechanics) curveName() string {
	if m.curve == nil {
		return "Ed25519"
	}
	return m.curve.Params().Name
}

// public reads the public half h.
func (m mechanics) public(t *Token, s *session, h p11.ObjectHandle) (crypto.PublicKey, error) {
	if m.keyType != p11.CKK_RSA {
		point, err := t.attribute(s, h, p11.CKA_EC_POINT)
		if err != nil {
			return nil, err
		}
		if m.curve == nil {
			return parseEd25519(point)
		}
		return parsePoint(m.curve, point)
	}
	modulus, err := t.attribute(s, h, p11.CKA_MODULUS)
	if err != nil {
		return nil, err
	}
	exponent, err := t.attribute(s, h, p11.CKA_PUBLIC_EXPONENT)
	if err != nil {
		return nil, err
	}
	e := new(big.Int).SetBytes(exponent)
	if !e.IsInt64() || e.Int64() > 1<<31-1 {
		return nil, errors.New("CKA_PUBLIC_EXPONENT is too large")
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: int(e.Int64())}, nil
}

// coordinate is the length of one coordinate of a curve, and of r and of s.
func coordinate(curve elliptic.Curve) int { return (curve.Params().BitSize + 7) / 8 }

// parsePoint reads CKA_EC_POINT: a DER octet string of the point, or, with some
// tokens, the point itself (SEC 1 §2.3.3).
func parsePoint(curve elliptic.Curve, encoded []byte) (*ecdsa.PublicKey, error) {
	point := encoded
	if len(encoded) != 1+2*coordinate(curve) {
		der := cryptobyte.String(encoded)
		if !der.ReadASN1Bytes(&point, asn1.OCTET_STRING) || !der.Empty() {
			return nil, errors.New("CKA_EC_POINT is not a DER octet string")
		}
	}
	return ecdsa.ParseUncompressedPublicKey(curve, point)
}

// parseEd25519 reads CKA_EC_POINT of an Ed25519 key: a DER octet string of the key
// (RFC 8032 §5.1.2), with some tokens a bit string, or the key itself.
func parseEd25519(encoded []byte) (ed25519.PublicKey, error) {
	point := encoded
	if len(encoded) != ed25519.PublicKeySize {
		der := cryptobyte.String(encoded)
		octets := der.PeekASN1Tag(asn1.OCTET_STRING) && der.ReadASN1Bytes(&point, asn1.OCTET_STRING)
		if !octets && !der.ReadASN1BitStringAsBytes(&point) || !der.Empty() {
			return nil, errors.New("CKA_EC_POINT is no DER octet string")
		}
	}
	if len(point) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("CKA_EC_POINT has %d bytes instead of %d", len(point), ed25519.PublicKeySize)
	}
	return ed25519.PublicKey(point), nil
}

// wellFormed makes crypto.Signer's signature of the token's, and refuses what
// can't be one.
func (m mechanics) wellFormed(public crypto.PublicKey, raw []byte) ([]byte, error) {
	want := ed25519.SignatureSize
	if key, ok := public.(*rsa.PublicKey); ok {
		want = key.Size()
	} else if m.curve != nil {
		want = 2 * coordinate(m.curve)
	}
	if len(raw) != want {
		return nil, fmt.Errorf("the token answered %d bytes instead of %d", len(raw), want)
	}
	if m.curve == nil {
		return raw, nil
	}
	// CKM_ECDSA answers r || s; crypto.Signer promises Ecdsa-Sig-Value (RFC 3279 §2.2.3).
	r, s := new(big.Int).SetBytes(raw[:want/2]), new(big.Int).SetBytes(raw[want/2:])
	for _, v := range []*big.Int{r, s} {
		if v.Sign() == 0 || v.Cmp(m.curve.Params().N) >= 0 {
			return nil, errors.New("the token answered what is no ECDSA signature")
		}
	}
	var signature cryptobyte.Builder
	signature.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(r)
		b.AddASN1BigInt(s)
	})
	return signature.Bytes()
}
