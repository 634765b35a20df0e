package x509

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/daypass/daypass/issuers"
)

// signing is how an authority's key signs.
type signing struct {
	certificate x509.SignatureAlgorithm
	identifier  pkix.AlgorithmIdentifier
	hash        crypto.Hash // zero: the message itself is signed
	opts        crypto.SignerOpts
}

// signingOf tells it from the signer's JWS algorithm.
func signingOf(signer issuers.Signer) (signing, error) {
	null := asn1.RawValue{Tag: asn1.TagNull}
	s := signing{}
	switch signer.Algorithm() {
	case "ES256":
		s.certificate, s.hash, s.identifier.Algorithm = x509.ECDSAWithSHA256, crypto.SHA256, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	case "ES384":
		s.certificate, s.hash, s.identifier.Algorithm = x509.ECDSAWithSHA384, crypto.SHA384, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}
	case "EdDSA":
		s.certificate, s.identifier.Algorithm = x509.PureEd25519, asn1.ObjectIdentifier{1, 3, 101, 112}
	case "RS256":
		s.certificate, s.hash = x509.SHA256WithRSA, crypto.SHA256
		s.identifier = pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, Parameters: null}
	case "PS256":
		parameters, err := pssParameters()
		if err != nil {
			return s, err
		}
		s.certificate, s.hash = x509.SHA256WithRSAPSS, crypto.SHA256
		s.identifier = pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}, Parameters: parameters}
		s.opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
		return s, nil
	default:
		return s, fmt.Errorf("a key for %q can't sign certificates", signer.Algorithm())
	}
	s.opts = s.hash
	return s, nil
}

// pssParameters are those of SHA-256 everywhere and a salt as long (RFC 4055, section 3.1).
func pssParameters() (asn1.RawValue, error) {
	sha256 := pkix.AlgorithmIdentifier{Algorithm: oidSHA256(), Parameters: asn1.RawValue{Tag: asn1.TagNull}}
	inner, err := asn1.Marshal(sha256)
	if err != nil {
		return asn1.RawValue{}, fmt.Errorf("encoding the parameters of PSS: %w", err)
	}
	whole, err := asn1.Marshal(struct {
		Hash pkix.AlgorithmIdentifier `asn1:"explicit,tag:0"`
		MGF  pkix.AlgorithmIdentifier `asn1:"explicit,tag:1"`
		Salt int                      `asn1:"explicit,tag:2"`
	}{
		Hash: sha256, Salt: crypto.SHA256.Size(),
		MGF: pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 8}, Parameters: asn1.RawValue{FullBytes: inner}},
	})
	if err != nil {
		return asn1.RawValue{}, fmt.Errorf("encoding the parameters of PSS: %w", err)
	}
	return asn1.RawValue{FullBytes: whole}, nil
}

// sign signs a message and checks the signature with the authority's certificate.
func (s signing) sign(ctx context.Context, signer issuers.Signer, by *x509.Certificate, message []byte) ([]byte, error) {
	digest := message
	if s.hash != 0 {
		h := s.hash.New()
		h.Write(message)
		digest = h.Sum(nil)
	}
	signature, err := signer.SignContext(ctx, digest, s.opts)
	if err != nil {
		return nil, err
	}
	if err := by.CheckSignature(s.certificate, message, signature); err != nil {
		return nil, errors.New("the key's signature doesn't verify with the authority's certificate")
	}
	return signature, nil
}

// keyBits are those of a public key as a certificate holds it.
func keyBits(public any) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("encoding a public key: %w", err)
	}
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		return nil, fmt.Errorf("encoding a public key: %w", err)
	}
	return info.Key.RightAlign(), nil
}

func oidSHA1() asn1.ObjectIdentifier   { return asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26} }
func oidSHA256() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1} }
