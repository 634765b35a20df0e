package pkcs11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/big"

	p11 "github.com/miekg/pkcs11"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/daypass/daypass/broker/keys"
)

// p256 is the DER of OID 1.2.840.10045.3.1.7 (RFC 5480 §2.1.1.1), as CKA_EC_PARAMS.
const p256 = "\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"

// half is the length of r and of s of a signature on P-256.
const half = 32

// signer is a private key in the token.
type signer struct {
	opaque
	token     *Token
	private   *object
	public    *ecdsa.PublicKey
	id        string
	mechanism []*p11.Mechanism
}

// OpenSigner implements keys.Store.
func (t *Token) OpenSigner(ctx context.Context, pair keys.Pair) (keys.Signer, error) {
	return t.signer(ctx, pair.Label)
}

// MakeSigner implements keys.Store.
func (t *Token) MakeSigner(ctx context.Context, pair keys.Pair) (keys.Signer, error) {
	return t.signer(ctx, pair.Label)
}

// signer opens the EC P-256 key pair of that label, or makes it inside the
// token. The errors are keys.ErrNoKey, and keys that are of another kind, not
// unique, or could be read out of the token.
func (t *Token) signer(ctx context.Context, label string) (keys.Signer, error) {
	s := &signer{token: t, mechanism: []*p11.Mechanism{p11.NewMechanism(p11.CKM_ECDSA, nil)}}
	err := t.findOrMake(ctx, label, func(open *session) error { return s.find(open, label) }, t.makePair)
	if err != nil {
		return nil, err
	}
	if s.id, err = keys.KeyID(s.public); err != nil {
		return nil, err
	}
	if err := keys.SelfTest(s); err != nil {
		return nil, err
	}
	return s, nil
}

// findOrMake finds a key, and makes it where it is missing and may be made.
func (t *Token) findOrMake(ctx context.Context, label string, find func(*session) error, generate func(*session, string) error) error {
	if label == "" {
		return errors.New("opening key: a label is required")
	}
	t.module.making.Lock()
	defer t.module.making.Unlock()
	err := t.do(ctx, func(s *session) error {
		err := find(s)
		if !errors.Is(err, errNone) || !t.config.Create {
			return err
		}
		if err := generate(s, label); err != nil {
			return fmt.Errorf("making key %s in token %s: %w", label, t.config.TokenLabel, err)
		}
		return find(s)
	})
	if errors.Is(err, errNone) {
		return fmt.Errorf("%w: %s in token %s (hint: check the label, or let the broker make the key once)", keys.ErrNoKey, label, t.config.TokenLabel)
	}
	return err
}

// find fills the signer in from the token.
func (s *signer) find(open *session, label string) error {
	private := &object{class: p11.CKO_PRIVATE_KEY, label: label}
	h, err := s.token.findOne(open, private)
	if err != nil {
		return err
	}
	err = s.token.mustHave(open, label, h, []named{
		{"CKA_KEY_TYPE (EC)", p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_EC)},
		{"CKA_SENSITIVE (true)", p11.NewAttribute(p11.CKA_SENSITIVE, true)},
		{"CKA_EXTRACTABLE (false)", p11.NewAttribute(p11.CKA_EXTRACTABLE, false)},
		{"CKA_SIGN (true)", p11.NewAttribute(p11.CKA_SIGN, true)},
		{"CKA_EC_PARAMS (P-256)", p11.NewAttribute(p11.CKA_EC_PARAMS, p256)},
	})
	if err != nil {
		return err
	}
	if private.id, err = s.token.identify(open, label, h); err != nil {
		return err
	}
	public, err := s.token.findOne(open, &object{class: p11.CKO_PUBLIC_KEY, label: label, id: private.id})
	if errors.Is(err, errNone) {
		return fmt.Errorf("key %s has no public half of the same label and CKA_ID in token %s (hint: write it there with `pkcs11-tool --write-object --type pubkey`)", label, s.token.config.TokenLabel)
	}
	if err != nil {
		return err
	}
	point, err := s.token.attribute(open, public, p11.CKA_EC_POINT)
	if err != nil {
		return fmt.Errorf("reading public key %s: %w", label, err)
	}
	s.private = private
	s.public, err = parsePoint(point)
	return err
}

// parsePoint reads CKA_EC_POINT: a DER octet string of the point, or, with some
// tokens, the point itself (SEC 1 §2.3.3).
func parsePoint(encoded []byte) (*ecdsa.PublicKey, error) {
	point := encoded
	if len(encoded) != 1+2*half {
		der := cryptobyte.String(encoded)
		if !der.ReadASN1Bytes(&point, asn1.OCTET_STRING) || !der.Empty() {
			return nil, errors.New("reading public key: CKA_EC_POINT is not a DER octet string")
		}
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return nil, fmt.Errorf("reading public key: %w", err)
	}
	return public, nil
}

// makePair makes a key pair that can sign, and nothing else.
func (t *Token) makePair(s *session, label string) error {
	id, err := newID()
	if err != nil {
		return err
	}
	public := []*p11.Attribute{
		p11.NewAttribute(p11.CKA_TOKEN, true),
		p11.NewAttribute(p11.CKA_PRIVATE, false),
		p11.NewAttribute(p11.CKA_LABEL, label),
		p11.NewAttribute(p11.CKA_ID, id),
		p11.NewAttribute(p11.CKA_VERIFY, true),
		p11.NewAttribute(p11.CKA_EC_PARAMS, p256),
	}
	private := []*p11.Attribute{
		p11.NewAttribute(p11.CKA_TOKEN, true),
		p11.NewAttribute(p11.CKA_PRIVATE, true),
		p11.NewAttribute(p11.CKA_SENSITIVE, true),
		p11.NewAttribute(p11.CKA_EXTRACTABLE, false),
		p11.NewAttribute(p11.CKA_LABEL, label),
		p11.NewAttribute(p11.CKA_ID, id),
		p11.NewAttribute(p11.CKA_SIGN, true),
		p11.NewAttribute(p11.CKA_DECRYPT, false),
		p11.NewAttribute(p11.CKA_UNWRAP, false),
		p11.NewAttribute(p11.CKA_DERIVE, false),
	}
	_, _, err = t.module.ctx.GenerateKeyPair(s.handle, []*p11.Mechanism{p11.NewMechanism(p11.CKM_EC_KEY_PAIR_GEN, nil)}, public, private)
	return err
}

// newID makes up a CKA_ID.
func newID() ([]byte, error) {
	id := make([]byte, 16)
	_, err := rand.Read(id)
	return id, err
}

// Public implements crypto.Signer.
func (s *signer) Public() crypto.PublicKey { return s.public }

// KeyID implements keys.Signer.
func (s *signer) KeyID() string { return s.id }

// Algorithm implements keys.Signer.
func (s *signer) Algorithm() string { return keys.ES256 }

// Sign implements crypto.Signer. The token has its own randomness. The digest is
// made outside: SoftHSM has no CKM_ECDSA_SHA256.
func (s *signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.SignContext(context.Background(), digest, opts)
}

// SignContext implements keys.Signer.
func (s *signer) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts == nil || opts.HashFunc() != crypto.SHA256 || len(digest) != crypto.SHA256.Size() {
		return nil, fmt.Errorf("signing with key %s: it signs SHA-256 digests only", s.id)
	}
	var raw []byte
	err := s.token.do(ctx, func(open *session) error {
		h, err := s.token.handle(open, s.private)
		if err != nil {
			return err
		}
		if err := s.token.module.ctx.SignInit(open.handle, s.mechanism, h); err != nil {
			return err
		}
		raw, err = s.token.module.ctx.Sign(open.handle, digest)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("signing with key %s: %w", s.id, err)
	}
	if len(raw) != 2*half {
		return nil, fmt.Errorf("signing with key %s: the token answered %d bytes instead of %d", s.id, len(raw), 2*half)
	}
	// CKM_ECDSA answers r || s; crypto.Signer promises Ecdsa-Sig-Value (RFC 3279 §2.2.3).
	var signature cryptobyte.Builder
	signature.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1BigInt(new(big.Int).SetBytes(raw[:half]))
		b.AddASN1BigInt(new(big.Int).SetBytes(raw[half:]))
	})
	return signature.Bytes()
}

// Destroy implements keys.Store.
func (t *Token) Destroy(context.Context, string) error { return errors.ErrUnsupported }

// List implements keys.Store.
func (t *Token) List(context.Context) ([]keys.Info, error) { return nil, errors.ErrUnsupported }
