package isolated

import (
	"context"
	"crypto/x509"
	"fmt"

	"github.com/daypass/daypass/broker/keys"
)

var _ keys.Store = (*Store)(nil)

// OpenSigner implements keys.Store.
func (s *Store) OpenSigner(ctx context.Context, pair keys.Pair) (keys.Signer, error) {
	return s.signer(ctx, verbOpenSigner, pair)
}

// MakeSigner implements keys.Store.
func (s *Store) MakeSigner(ctx context.Context, pair keys.Pair) (keys.Signer, error) {
	return s.signer(ctx, verbMakeSigner, pair)
}

// signer opens or makes a key pair, and has it sign something before it is used:
// what the child says of it is looked at here.
func (s *Store) signer(ctx context.Context, v verb, pair keys.Pair) (keys.Signer, error) {
	if pair.Algorithm == "" {
		pair.Algorithm = keys.ES256
	}
	if pair.Bits < 0 || pair.Bits > 1<<16 {
		return nil, fmt.Errorf("a key of %d bits is not possible", pair.Bits)
	}
	a, err := s.call(ctx, &request{verb: v, key: keyRef{label: pair.Label, algorithm: pair.Algorithm}, bits: uint32(pair.Bits)})
	if err != nil {
		return nil, err
	}
	public, err := x509.ParsePKIXPublicKey(a.public)
	if err != nil {
		return nil, fmt.Errorf("reading the public key of %s: %w", pair.Label, err)
	}
	id, err := keys.KeyID(public)
	if err != nil {
		return nil, err
	}
	if id != a.keyID {
		return nil, fmt.Errorf("%w: the public key of %s is that of %s, not of %s", ErrOtherKey, pair.Label, id, a.keyID)
	}
	opened := &signer{store: s, key: keyRef{label: pair.Label, algorithm: pair.Algorithm, id: id}, public: public}
	if err := keys.SelfTest(opened); err != nil {
		return nil, err
	}
	return opened, nil
}

// OpenSealer implements keys.Store.
func (s *Store) OpenSealer(ctx context.Context, label string) (keys.Sealer, error) {
	return s.sealer(ctx, verbOpenSealer, label)
}

// MakeSealer implements keys.Store.
func (s *Store) MakeSealer(ctx context.Context, label string) (keys.Sealer, error) {
	return s.sealer(ctx, verbMakeSealer, label)
}

func (s *Store) sealer(ctx context.Context, v verb, label string) (keys.Sealer, error) {
	a, err := s.call(ctx, &request{verb: v, key: keyRef{label: label}})
	if err != nil {
		return nil, err
	}
	return &sealer{store: s, key: keyRef{label: label, id: a.keyID}}, nil
}

// Destroy implements keys.Store.
func (s *Store) Destroy(ctx context.Context, label string) error {
	_, err := s.call(ctx, &request{verb: verbDestroy, key: keyRef{label: label}})
	return err
}

// List implements keys.Store.
func (s *Store) List(ctx context.Context) ([]keys.Info, error) {
	a, err := s.call(ctx, &request{verb: verbList})
	if err != nil {
		return nil, err
	}
	return a.list, nil
}
