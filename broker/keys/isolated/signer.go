package isolated

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/daypass/daypass/broker/keys"
)

// signer is a key pair in the child.
type signer struct {
	opaque
	store  *Store
	key    keyRef
	public crypto.PublicKey
}

// Public implements crypto.Signer.
func (s *signer) Public() crypto.PublicKey { return s.public }

// KeyID implements keys.Signer.
func (s *signer) KeyID() string { return s.key.id }

// Algorithm implements keys.Signer.
func (s *signer) Algorithm() string { return s.key.algorithm }

// Sign implements crypto.Signer. The token has its own randomness.
func (s *signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.SignContext(context.Background(), digest, opts)
}

// SignContext implements keys.Signer.
func (s *signer) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	options, err := packOptions(opts)
	if err != nil {
		return nil, fmt.Errorf("signing with key %s: %w", s.key.id, err)
	}
	a, err := s.store.call(ctx, &request{verb: verbSign, key: s.key, opts: options, data: digest})
	if err != nil {
		return nil, fmt.Errorf("signing with key %s: %w", s.key.id, err)
	}
	return a.data, nil
}

// sealer is a sealing key in the child.
type sealer struct {
	opaque
	store *Store
	key   keyRef
}

// KeyID implements keys.Sealer.
func (s *sealer) KeyID() string { return s.key.id }

// Seal implements keys.Sealer.
func (s *sealer) Seal(ctx context.Context, plaintext, associatedData []byte) ([]byte, error) {
	a, err := s.store.call(ctx, &request{verb: verbSeal, key: s.key, data: plaintext, place: associatedData})
	if err != nil {
		return nil, fmt.Errorf("sealing with key %s: %w", s.key.id, err)
	}
	return a.data, nil
}

// Open implements keys.Sealer.
func (s *sealer) Open(ctx context.Context, sealed, associatedData []byte) ([]byte, error) {
	a, err := s.store.call(ctx, &request{verb: verbOpen, key: s.key, data: sealed, place: associatedData})
	if err != nil {
		return nil, fmt.Errorf("opening with key %s: %w", s.key.id, err)
	}
	return a.data, nil
}

// signOptions are a crypto.SignerOpts on its way.
type signOptions struct {
	hash    uint8 // a crypto.Hash
	padding uint8 // paddingPSS; 0: none, or PKCS #1 v1.5
	salt    int32 // rsa.PSSOptions.SaltLength
}

const paddingPSS = 1

// packOptions refuses what it can't carry whole: options that were left out would
// make another signature than was asked for.
func packOptions(opts crypto.SignerOpts) (signOptions, error) {
	if opts == nil {
		return signOptions{}, errors.New("options are required: the hash that made the digest")
	}
	hash := opts.HashFunc()
	if hash > math.MaxUint8 {
		return signOptions{}, fmt.Errorf("there is no hash %d", hash)
	}
	packed := signOptions{hash: uint8(hash)}
	switch opts := opts.(type) {
	case crypto.Hash:
		return packed, nil
	case *rsa.PSSOptions:
		if opts.SaltLength < rsa.PSSSaltLengthEqualsHash || opts.SaltLength > maxFrame {
			return signOptions{}, fmt.Errorf("a salt of %d bytes is not possible", opts.SaltLength)
		}
		packed.padding, packed.salt = paddingPSS, int32(opts.SaltLength)
		return packed, nil
	case *ed25519.Options:
		if opts.Context == "" {
			return packed, nil
		}
	}
	return signOptions{}, fmt.Errorf("options of type %T can't be sent to the module's process", opts)
}

func (o signOptions) unpack() crypto.SignerOpts {
	if o.padding == paddingPSS {
		return &rsa.PSSOptions{SaltLength: int(o.salt), Hash: crypto.Hash(o.hash)}
	}
	return crypto.Hash(o.hash)
}

var (
	_ keys.Signer = (*signer)(nil)
	_ keys.Sealer = (*sealer)(nil)
)
