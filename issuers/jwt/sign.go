package jwt

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"

	"github.com/daypass/daypass/issuers"
)

// header is a JWS header (RFC 7515, section 4.1).
type header struct {
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid"`
	Type      string `json:"typ"`
}

// method is how a key signs: checked, so that a token's `alg` says what its
// signature is.
type method struct {
	algorithm  string
	size       int // bytes of the signature as it stands in the token
	coordinate int // ECDSA: bytes of r and of s (RFC 7518, section 3.4)
}

// methodOf says how a key signs, or why it can't: a key of another type, curve or
// size than its algorithm's would make tokens that nobody should take.
func methodOf(key issuers.Signer) (method, error) {
	if key == nil {
		return method{}, errors.New("there is no signing key")
	}
	if key.KeyID() == "" {
		return method{}, errors.New("the signing key has no id")
	}
	m := method{algorithm: key.Algorithm()}
	fits := false
	switch public := key.Public().(type) {
	case *ecdsa.PublicKey:
		switch m.algorithm {
		case "ES256":
			m.coordinate, fits = 32, public.Curve == elliptic.P256()
		case "ES384":
			m.coordinate, fits = 48, public.Curve == elliptic.P384()
		}
		m.size = 2 * m.coordinate
	case *rsa.PublicKey:
		bits := public.N.BitLen()
		m.size = public.Size()
		fits = (m.algorithm == "RS256" || m.algorithm == "PS256") && bits >= 2048 && bits <= 4096 && public.E == 65537
	case ed25519.PublicKey:
		m.size = ed25519.SignatureSize
		fits = m.algorithm == "EdDSA" && len(public) == ed25519.PublicKeySize
	}
	if !fits {
		return method{}, fmt.Errorf("the signing key %s is no key for %q: ES256, ES384, RS256, PS256 and EdDSA are known, RSA of 2048 to 4096 bits", key.KeyID(), m.algorithm)
	}
	return m, nil
}

// digest is what the key is given for a message, as [issuers.Signer] wants it.
func (m method) digest(message []byte) ([]byte, crypto.SignerOpts) {
	switch m.algorithm {
	case "EdDSA":
		return message, crypto.Hash(0) // RFC 8032: not a hash of it
	case "ES384":
		sum := sha512.Sum384(message)
		return sum[:], crypto.SHA384
	}
	sum := sha256.Sum256(message)
	if m.algorithm == "PS256" { // RFC 7518, section 3.5: the salt is as long as the hash
		return sum[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
	}
	return sum[:], crypto.SHA256
}

// encode is a key's signature as it stands in a token.
func (m method) encode(signature []byte) ([]byte, error) {
	if m.coordinate > 0 {
		return fixedSignature(signature, m.coordinate)
	}
	if len(signature) != m.size {
		return nil, fmt.Errorf("the key's signature has %d bytes, not %d", len(signature), m.size)
	}
	return signature, nil
}

// sign makes a compact JWS (RFC 7515, section 7.1). What waits for the key waits
// no longer than ctx.
func sign(ctx context.Context, key issuers.Signer, typ string, payload []byte) (string, error) {
	m, err := methodOf(key)
	if err != nil {
		return "", fmt.Errorf("%w: %w", issuers.ErrRejected, err)
	}
	head, err := json.Marshal(header{Algorithm: m.algorithm, KeyID: key.KeyID(), Type: typ})
	if err != nil {
		return "", fmt.Errorf("writing the token's header: %w", err)
	}
	encoding := base64.RawURLEncoding
	size := encoding.EncodedLen(len(head)) + encoding.EncodedLen(len(payload)) + encoding.EncodedLen(m.size) + 2
	if size > MaxToken {
		return "", fmt.Errorf("%w: the token would have %d bytes, and %d is the limit: shorten the grant's claims", issuers.ErrRejected, size, MaxToken)
	}
	token := make([]byte, 0, size)
	token = encoding.AppendEncode(token, head)
	token = append(token, '.')
	token = encoding.AppendEncode(token, payload)
	digest, opts := m.digest(token)
	raw, err := key.SignContext(ctx, digest, opts)
	if err != nil {
		return "", fmt.Errorf("%w: signing a token: %w", issuers.ErrUnavailable, err)
	}
	signature, err := m.encode(raw)
	if err != nil {
		return "", fmt.Errorf("%w: signing a token: %w", issuers.ErrUnavailable, err)
	}
	token = append(token, '.')
	return string(encoding.AppendEncode(token, signature)), nil
}

// fixedSignature turns the ASN.1 form that a crypto.Signer returns into r and s
// of a fixed length each (RFC 7518, section 3.4).
func fixedSignature(der []byte, coordinate int) ([]byte, error) {
	var points struct{ R, S *big.Int }
	rest, err := asn1.Unmarshal(der, &points)
	if err != nil {
		return nil, fmt.Errorf("reading the key's signature: %w", err)
	}
	if len(rest) != 0 || points.R.Sign() <= 0 || points.S.Sign() <= 0 || points.R.BitLen() > 8*coordinate || points.S.BitLen() > 8*coordinate {
		return nil, errors.New("the key's signature is malformed")
	}
	signature := make([]byte, 2*coordinate)
	points.R.FillBytes(signature[:coordinate])
	points.S.FillBytes(signature[coordinate:])
	return signature, nil
}
