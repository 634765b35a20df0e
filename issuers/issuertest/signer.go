package issuertest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/daypass/daypass/issuers"
)

// Signer is a key in memory. It implements [issuers.Signer].
type Signer struct {
	crypto.Signer
	id, algorithm string

	// OnSign is asked before each signature; an error ends it.
	OnSign func(ctx context.Context) error
}

// NewSigner makes a key up for a JWS algorithm.
func NewSigner(t testing.TB, algorithm string) *Signer {
	t.Helper()
	s := &Signer{algorithm: algorithm}
	var err error
	switch algorithm {
	case "ES256":
		s.Signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ES384":
		s.Signer, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "RS256", "PS256":
		s.Signer, err = rsa.GenerateKey(rand.Reader, 2048)
	case "EdDSA":
		_, s.Signer, err = ed25519.GenerateKey(rand.Reader)
	default:
		t.Fatalf("there is no algorithm %q", algorithm)
	}
	if err != nil {
		t.Fatal(err)
	}
	thumbprint, err := (&jose.JSONWebKey{Key: s.Public()}).Thumbprint(crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	s.id = base64.RawURLEncoding.EncodeToString(thumbprint)
	return s
}

// SignContext implements [issuers.Signer].
func (s *Signer) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.OnSign != nil {
		if err := s.OnSign(ctx); err != nil {
			return nil, err
		}
	}
	return s.Sign(rand.Reader, digest, opts)
}

// KeyID implements [issuers.Signer].
func (s *Signer) KeyID() string { return s.id }

// Algorithm implements [issuers.Signer].
func (s *Signer) Algorithm() string { return s.algorithm }

var _ issuers.Signer = (*Signer)(nil)
