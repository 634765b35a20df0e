package isolated

import (
	"context"
	"crypto/x509"
	"fmt"

	"github.com/daypass/daypass/broker/keys"
)

var _ keys.Store = (*Store)(nil)

// WithID is the same store, of those keys alone that have this CKA_ID: see
// pkcs11.Token.
func (s *Store) WithID(id []byte) keys.Store { return withID{s, string(id)} }

// withID is a Store whose keys have that CKA_ID.
type withID struct {
	*Store
	id string
}

// OpenSigner implements keys.Store.
func (w withID) OpenSigner(ctx context.Context, pair keys.Pair) (keys.Signer, error) {
	return w.signer(ctx, verbOpenSigner, pair, w.id)
}

// MakeSigner implements keys.Store.
func (w withID) MakeSigner(ctx context.Context, pair keys.Pair) (keys.Signer, error) {
	return w.signer(ctx, verbMakeSigner, pair, w.id)
}

// OpenSealer implements keys.Store.
func (w withID) OpenSealer(ctx context.Context, label string) (keys.Sealer, error) {
	return w.sealer(ctx, verbOpenSealer, keyRef{label: label, objectID: w.id})
}

// MakeSealer implements keys.Store.
func (w withID) MakeSealer(ctx context.Context, label string) (keys.Sealer, error) {
	return w.sealer(ctx, verbMakeSealer, keyRef{label: label, objectID: w.id})
}

// Destroy implements keys.Store.
func (w withID) Destroy(ctx context.Context, label string) error {
	_, err := w.call(ctx, &request{verb: verbDestroy, key: keyRef{label: label, objectID: w.id}})
	return err
}

// OpenSigner implements keys.Store.
func (s *Store) OpenSigner(ctx context.Context, pair keys.Pair) (keys.Signer, error) {
	return s.signer(ctx, verbOpenSigner, pair, "")
}

// MakeSigner implements keys.Store.
func (s *Store) MakeSigner(ctx context.Context, pair keys.Pair) (keys.Signer, error) {
	return s.signer(ctx, verbMakeSigner, pair, "")
}

// signer opens or makes a key pair, and has it sign something before it is used:
// what the child says of it is looked at here.
func (s *Store) signer(ctx context.Context, v verb, pair keys.Pair, objectID string) (keys.Signer, error) {
	if pair.Algorithm == "" {
		pair.Algorithm = keys.ES256
	}
	if pair.Bits < 0 || pair.Bits > 1<<16 {
		return nil, fmt.Errorf("a key of %d bits is not possible", pair.Bits)
	}
	ref := keyRef{label: pair.Label, algorithm: pair.Algorithm, objectID: objectID}
	a, err := s.call(ctx, &request{verb: v, key: ref, bits: uint32(pair.Bits)})
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
	ref.id = id
	opened := &signer{store: s, key: ref, public: public}
	if err := keys.SelfTest(opened); err != nil {
		return nil, err
	}
	return opened, nil
}

// OpenSealer implements keys.Store.
func (s *Store) OpenSealer(ctx context.Context, label string) (keys.Sealer, error) {
	return s.sealer(ctx, verbOpenSealer, keyRef{label: label})
}

// MakeSealer implements keys.Store.
func (s *Store) MakeSealer(ctx context.Context, label string) (keys.Sealer, error) {
	return s.sealer(ctx, verbMakeSealer, keyRef{label: label})
}

func (s *Store) sealer(ctx context.Context, v verb, ref keyRef) (keys.Sealer, error) {
	a, err := s.call(ctx, &request{verb: v, key: ref})
	if err != nil {
		return nil, err
	}
	ref.id = a.keyID
	return &sealer{store: s, key: ref}, nil
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
