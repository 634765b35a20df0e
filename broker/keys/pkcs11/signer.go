package pkcs11

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	p11 "github.com/miekg/pkcs11"

	"github.com/daypass/daypass/broker/keys"
)

// signer is a private key in the token.
//
// That a signature is of this key rests on the proof that each session gives
// before its first one, and on its length and form, which are looked at each
// time. Signatures are not verified one by one: that would take half as long
// again as signing, and find nothing that the proof doesn't, since the handle and
// the session stay the same.
type signer struct {
	opaque
	token     *Token
	private   *object
	public    crypto.PublicKey
	algorithm string
	how       mechanics
	id        string
}

// OpenSigner implements keys.Store.
func (t *Token) OpenSigner(ctx context.Context, pair keys.Pair) (keys.Signer, error) {
	return t.openSigner(ctx, pair, "")
}

// openSigner opens the pair of that label, and id where one is given. The errors are
// keys.ErrNoKey, and keys that are of another kind, not unique, or could be read
// out of the token.
func (t *Token) openSigner(ctx context.Context, pair keys.Pair, id string) (keys.Signer, error) {
	how, err := howTo(pair.Algorithm)
	if err != nil {
		return nil, fmt.Errorf("opening key %s: %w", pair.Label, err)
	}
	if pair.Label == "" {
		return nil, errors.New("opening key: a label is required")
	}
	if pair.Algorithm == "" {
		pair.Algorithm = keys.ES256
	}
	found, err := useSettled(ctx, t, func(open *session) (pairFound, error) {
		return t.findPair(open, objectName{class: p11.CKO_PRIVATE_KEY, label: pair.Label, id: id}, how)
	})
	if errors.Is(err, errNone) {
		return nil, t.noKey(pair.Label)
	}
	if err != nil {
		return nil, err
	}
	s := &signer{token: t, public: found.public, algorithm: pair.Algorithm, how: how}
	if s.id, err = keys.KeyID(s.public); err != nil {
		return nil, err
	}
	s.private = &object{objectName: found.private, prove: s.prove}
	if err := keys.SelfTestContext(ctx, s); err != nil {
		return nil, err
	}
	return s, nil
}

func (t *Token) noKey(label string) error {
	return fmt.Errorf("%w: %s in token %s (hint: check the label, or let the broker make the key once)", keys.ErrNoKey, label, t.config.name())
}

// pairFound is a key pair in the token.
type pairFound struct {
	private objectName
	public  crypto.PublicKey
}

// findPair finds both halves of a pair, and checks them.
func (t *Token) findPair(open *session, n objectName, how mechanics) (pairFound, error) {
	h, err := t.findOne(open, n)
	if err != nil {
		return pairFound{}, err
	}
	if err := t.mustHave(open, n.label, h, how.privateMust()); err != nil {
		return pairFound{}, err
	}
	if n.id, err = t.identify(open, n.label, h); err != nil {
		return pairFound{}, err
	}
	public, err := t.findOne(open, objectName{class: p11.CKO_PUBLIC_KEY, label: n.label, id: n.id})
	if errors.Is(err, errNone) {
		return pairFound{}, fmt.Errorf("key %s has no public half of the same label and CKA_ID in token %s (hint: write it there with `pkcs11-tool --write-object --type pubkey`)", n.label, t.config.name())
	}
	if err != nil {
		return pairFound{}, err
	}
	key, err := how.public(t, open, public)
	if err != nil {
		return pairFound{}, fmt.Errorf("reading public key %s: %w", n.label, err)
	}
	return pairFound{private: n, public: key}, nil
}

// Public implements crypto.Signer.
func (s *signer) Public() crypto.PublicKey { return s.public }

// KeyID implements keys.Signer.
func (s *signer) KeyID() string { return s.id }

// Algorithm implements keys.Signer.
func (s *signer) Algorithm() string { return s.algorithm }

// Sign implements crypto.Signer. The token has its own randomness.
func (s *signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.SignContext(context.Background(), digest, opts)
}

// SignContext implements keys.Signer. Where ctx has no deadline it takes at most
// five seconds.
func (s *signer) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := keys.CheckDigest(s.algorithm, digest, opts); err != nil {
		return nil, fmt.Errorf("signing with key %s: %w", s.id, err)
	}
	data := s.input(digest)
	signature, err := use(ctx, s.token, func(open *session) ([]byte, error) {
		h, err := s.token.handle(open, s.private)
		if err != nil {
			return nil, err
		}
		return s.sign(open, h, data)
	})
	if err != nil {
		return nil, fmt.Errorf("signing with key %s: %w", s.id, err)
	}
	return signature, nil
}

// input is what the token is given for a digest: a copy, since the caller may
// have gone by the time that the token looks at it.
func (s *signer) input(digest []byte) []byte {
	return append([]byte(s.how.prefix), digest...)
}

func (s *signer) sign(open *session, h p11.ObjectHandle, data []byte) ([]byte, error) {
	if err := s.token.calls.SignInit(open.handle, s.how.sign, h); err != nil {
		return nil, err
	}
	raw, err := s.token.calls.Sign(open.handle, data)
	if err != nil {
		return nil, err
	}
	signature, err := s.how.wellFormed(s.public, raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errWrongKey, err)
	}
	return signature, nil
}

// prove has the key of that handle sign a random message.
func (s *signer) prove(open *session, h p11.ObjectHandle) error {
	message := make([]byte, 32)
	if _, err := rand.Read(message); err != nil {
		return err
	}
	digest, opts := keys.Digest(s.algorithm, bytes.Clone(message))
	signature, err := s.sign(open, h, s.input(digest))
	if err != nil {
		return err
	}
	if !keys.Verifies(s.public, digest, opts, signature) {
		return fmt.Errorf("%w: what token %s signed with key %s doesn't verify with its public key", errWrongKey, s.token.config.name(), s.private.label)
	}
	return nil
}
