package pkcs11

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"github.com/daypass/daypass/broker/keys"
)

const (
	// formatGCM is the first byte of a sealed value: format, nonce, ciphertext,
	// tag. Values sealed by a software key begin with another.
	formatGCM = 2
	nonceSize = 12
	tagSize   = 16
	headSize  = 1 + nonceSize
	keySize   = 32
)

// sealer is an AES-256 key in the token.
type sealer struct {
	opaque
	token *Token
	key   *object
	id    string
}

// OpenSealer implements keys.Store.
func (t *Token) OpenSealer(ctx context.Context, label string) (keys.Sealer, error) {
	return t.sealer(ctx, label)
}

// MakeSealer implements keys.Store.
func (t *Token) MakeSealer(ctx context.Context, label string) (keys.Sealer, error) {
	return t.sealer(ctx, label)
}

// sealer opens the AES-256 key of that label, or makes it inside the token. The
// errors are those of signer.
func (t *Token) sealer(ctx context.Context, label string) (keys.Sealer, error) {
	s := &sealer{token: t}
	err := t.findOrMake(ctx, label, func(open *session) error { return s.find(open, label) }, t.makeAES)
	if err != nil {
		return nil, err
	}
	// It hashes what the key is called, never what it is.
	place := binary.BigEndian.AppendUint32([]byte("daypass pkcs11 sealing key id"), uint32(len(t.serial))) //nolint:gosec // CK_TOKEN_INFO has 16 bytes for it
	sum := sha256.Sum256(append(append(place, t.serial...), s.key.id...))
	s.id = hex.EncodeToString(sum[:6])
	if err := s.selfTest(ctx); err != nil {
		return nil, fmt.Errorf("testing sealing key %s: %w", label, err)
	}
	return s, nil
}

func (s *sealer) find(open *session, label string) error {
	key := &object{class: p11.CKO_SECRET_KEY, label: label}
	h, err := s.token.findOne(open, key)
	if err != nil {
		return err
	}
	err = s.token.mustHave(open, label, h, []named{
		{"CKA_KEY_TYPE (AES)", p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_AES)},
		{"CKA_VALUE_LEN (32)", p11.NewAttribute(p11.CKA_VALUE_LEN, keySize)},
		{"CKA_SENSITIVE (true)", p11.NewAttribute(p11.CKA_SENSITIVE, true)},
		{"CKA_EXTRACTABLE (false)", p11.NewAttribute(p11.CKA_EXTRACTABLE, false)},
		{"CKA_ENCRYPT (true)", p11.NewAttribute(p11.CKA_ENCRYPT, true)},
		{"CKA_DECRYPT (true)", p11.NewAttribute(p11.CKA_DECRYPT, true)},
	})
	if err != nil {
		return err
	}
	if key.id, err = s.token.identify(open, label, h); err != nil {
		return err
	}
	s.key = key
	return nil
}

func (t *Token) makeAES(s *session, label string) error {
	id, err := newID()
	if err != nil {
		return err
	}
	_, err = t.module.ctx.GenerateKey(s.handle, []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_KEY_GEN, nil)}, []*p11.Attribute{
		p11.NewAttribute(p11.CKA_TOKEN, true),
		p11.NewAttribute(p11.CKA_PRIVATE, true),
		p11.NewAttribute(p11.CKA_SENSITIVE, true),
		p11.NewAttribute(p11.CKA_EXTRACTABLE, false),
		p11.NewAttribute(p11.CKA_LABEL, label),
		p11.NewAttribute(p11.CKA_ID, id),
		p11.NewAttribute(p11.CKA_VALUE_LEN, keySize),
		p11.NewAttribute(p11.CKA_ENCRYPT, true),
		p11.NewAttribute(p11.CKA_DECRYPT, true),
		p11.NewAttribute(p11.CKA_SIGN, false),
		p11.NewAttribute(p11.CKA_VERIFY, false),
		p11.NewAttribute(p11.CKA_WRAP, false),
		p11.NewAttribute(p11.CKA_UNWRAP, false),
		p11.NewAttribute(p11.CKA_DERIVE, false),
	})
	return err
}

// KeyID implements keys.Sealer. It derives from the token's serial number and
// the key's CKA_ID.
func (s *sealer) KeyID() string { return s.id }

// Seal implements keys.Sealer with CKM_AES_GCM.
func (s *sealer) Seal(ctx context.Context, plaintext, associatedData []byte) ([]byte, error) {
	nonce := make([]byte, nonceSize)
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("making nonce: %w", err)
	}
	var sealed []byte
	err := s.with(ctx, nonce, associatedData, func(open p11.SessionHandle, params *p11.GCMParams, h p11.ObjectHandle) error {
		ctx := s.token.module.ctx
		if err := ctx.EncryptInit(open, gcm(params), h); err != nil {
			return err
		}
		ciphertext, err := ctx.Encrypt(open, plaintext)
		if err != nil {
			return err
		}
		// Some HSMs choose the nonce themselves and write it back.
		sealed = append(append([]byte{formatGCM}, params.IV()...), ciphertext...)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("sealing with key %s: %w", s.id, err)
	}
	if len(sealed) != headSize+len(plaintext)+tagSize {
		return nil, fmt.Errorf("sealing with key %s: the token answered %d bytes for %d", s.id, len(sealed), len(plaintext))
	}
	return sealed, nil
}

// Open implements keys.Sealer.
func (s *sealer) Open(ctx context.Context, sealed, associatedData []byte) ([]byte, error) {
	if len(sealed) < headSize+tagSize || sealed[0] != formatGCM {
		return nil, fmt.Errorf("%w: it is not of a known format", keys.ErrOpen)
	}
	plaintext, err := s.open(ctx, sealed, associatedData)
	if _, ok := errors.AsType[p11.Error](err); !ok {
		return plaintext, err
	}
	// Tokens differ in what they answer to a wrong tag, and some say the same
	// when they are out of order. So ask whether the key works at all.
	if broken := s.selfTest(ctx); broken != nil {
		return nil, fmt.Errorf("opening with key %s: %w", s.id, err)
	}
	return nil, fmt.Errorf("%w: with key %s: %w", keys.ErrOpen, s.id, err)
}

func (s *sealer) open(ctx context.Context, sealed, associatedData []byte) ([]byte, error) {
	var plaintext []byte
	err := s.with(ctx, sealed[1:headSize], associatedData, func(open p11.SessionHandle, params *p11.GCMParams, h p11.ObjectHandle) error {
		ctx := s.token.module.ctx
		if err := ctx.DecryptInit(open, gcm(params), h); err != nil {
			return err
		}
		var err error
		plaintext, err = ctx.Decrypt(open, sealed[headSize:])
		return err
	})
	return plaintext, err
}

// with runs an operation with the key, and with parameters that live in C memory
// until it has ended.
func (s *sealer) with(ctx context.Context, nonce, associatedData []byte, operation func(p11.SessionHandle, *p11.GCMParams, p11.ObjectHandle) error) error {
	return s.token.do(ctx, func(open *session) error {
		h, err := s.token.handle(open, s.key)
		if err != nil {
			return err
		}
		params := p11.NewGCMParams(nonce, associatedData, tagSize*8)
		defer params.Free()
		return operation(open.handle, params, h)
	})
}

func gcm(params *p11.GCMParams) []*p11.Mechanism {
	return []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_GCM, params)}
}

// selfTest seals and opens a constant.
func (s *sealer) selfTest(ctx context.Context) error {
	const probe = "daypass self test"
	sealed, err := s.Seal(ctx, []byte(probe), []byte(probe))
	if err != nil {
		return err
	}
	opened, err := s.open(ctx, sealed, []byte(probe))
	if err != nil {
		return err
	}
	if string(opened) != probe {
		return errors.New("what it opens is not what it sealed")
	}
	return nil
}
