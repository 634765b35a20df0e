package pkcs11

import (
	"bytes"
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
	probe []byte // sealed when the key was opened; each session has to open it first
}

// OpenSealer implements keys.Store.
func (t *Token) OpenSealer(ctx context.Context, label string) (keys.Sealer, error) {
	return t.openSealer(ctx, label, "")
}

// openSealer opens the AES-256 key of that label, and id where one is given. The
// errors are those of openSigner.
func (t *Token) openSealer(ctx context.Context, label, id string) (keys.Sealer, error) {
	if label == "" {
		return nil, errors.New("opening key: a label is required")
	}
	type found struct {
		name  objectName
		probe []byte
	}
	s := &sealer{token: t}
	key, err := useSettled(ctx, t, func(open *session) (found, error) {
		n := objectName{class: p11.CKO_SECRET_KEY, label: label, id: id}
		h, err := t.findOne(open, n)
		if err != nil {
			return found{}, err
		}
		wanted, err := t.sealingMust(open, h)
		if err != nil {
			return found{}, err
		}
		if err := t.mustHave(open, label, h, wanted); err != nil {
			return found{}, err
		}
		if n.id, err = t.identify(open, label, h); err != nil {
			return found{}, err
		}
		probe, err := s.seal(open, h, []byte(probeText), []byte(probeText))
		return found{n, probe}, err
	})
	if errors.Is(err, errNone) {
		return nil, t.noKey(label)
	}
	if err != nil {
		return nil, err
	}
	s.key, s.probe, s.id = &object{objectName: key.name, prove: s.prove}, key.probe, t.sealerID(key.name.id)
	if err := s.selfTest(ctx); err != nil {
		return nil, fmt.Errorf("testing sealing key %s: %w", label, err)
	}
	return s, nil
}

// sealingMust is what a sealing key must be like. Where backups are wrapped, one
// that can leave does so under a trusted key alone, and one that came back so
// can't have been inside for ever.
func (t *Token) sealingMust(open *session, h p11.ObjectHandle) ([]required, error) {
	wanted := []required{
		must("CKA_KEY_TYPE (AES)", p11.CKA_KEY_TYPE, p11.CKK_AES),
		must("CKA_ENCRYPT (true)", p11.CKA_ENCRYPT, true),
		must("CKA_DECRYPT (true)", p11.CKA_DECRYPT, true),
	}
	if !t.config.WrappedBackup {
		return append(append(wanted, must("CKA_VALUE_LEN (32)", p11.CKA_VALUE_LEN, keySize)), inside()...), nil
	}
	// SoftHSM doesn't tell the length of what was unwrapped.
	wanted = append(wanted, must("CKA_VALUE_LEN (32)", p11.CKA_VALUE_LEN, keySize, 0), must("CKA_SENSITIVE (true)", p11.CKA_SENSITIVE, true))
	extractable, err := t.attribute(open, h, p11.CKA_EXTRACTABLE)
	if err != nil {
		return nil, fmt.Errorf("reading CKA_EXTRACTABLE: %w", err)
	}
	if bytes.Equal(extractable, p11.NewAttribute(p11.CKA_EXTRACTABLE, true).Value) {
		wanted = append(wanted, must("CKA_WRAP_WITH_TRUSTED (true)", p11.CKA_WRAP_WITH_TRUSTED, true))
	}
	return wanted, nil
}

// sealerID hashes what a key is called, never what it is.
func (t *Token) sealerID(id string) string {
	serial := t.serial()
	place := binary.BigEndian.AppendUint32([]byte("daypass pkcs11 sealing key id"), uint32(len(serial))) //nolint:gosec // CK_TOKEN_INFO has 16 bytes for it
	sum := sha256.Sum256(append(append(place, serial...), id...))
	return hex.EncodeToString(sum[:6])
}

// KeyID implements keys.Sealer. It derives from the token's serial number and
// the key's CKA_ID.
func (s *sealer) KeyID() string { return s.id }

// Seal implements keys.Sealer with CKM_AES_GCM.
func (s *sealer) Seal(ctx context.Context, plaintext, associatedData []byte) ([]byte, error) {
	// Copies: the caller may have gone by the time that the token looks at them.
	plaintext, associatedData = bytes.Clone(plaintext), bytes.Clone(associatedData)
	sealed, err := use(ctx, s.token, func(open *session) ([]byte, error) {
		h, err := s.token.handle(open, s.key)
		if err != nil {
			return nil, err
		}
		return s.seal(open, h, plaintext, associatedData)
	})
	if err != nil {
		return nil, fmt.Errorf("sealing with key %s: %w", s.id, err)
	}
	return sealed, nil
}

func (s *sealer) seal(open *session, h p11.ObjectHandle, plaintext, associatedData []byte) ([]byte, error) {
	nonce := make([]byte, nonceSize)
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("making nonce: %w", err)
	}
	params := p11.NewGCMParams(nonce, associatedData, tagSize*8)
	defer params.Free()
	if err := s.token.calls.EncryptInit(open.handle, mechanism(p11.CKM_AES_GCM, params), h); err != nil {
		return nil, err
	}
	ciphertext, err := s.token.calls.Encrypt(open.handle, plaintext)
	if err != nil {
		return nil, err
	}
	// Some HSMs choose the nonce themselves and write it back.
	sealed := append(append([]byte{formatGCM}, params.IV()...), ciphertext...)
	if len(sealed) != headSize+len(plaintext)+tagSize {
		return nil, fmt.Errorf("the token answered %d bytes for %d", len(sealed), len(plaintext))
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
	sealed, associatedData = bytes.Clone(sealed), bytes.Clone(associatedData)
	return use(ctx, s.token, func(open *session) ([]byte, error) {
		h, err := s.token.handle(open, s.key)
		if err != nil {
			return nil, err
		}
		return s.unseal(open, h, sealed, associatedData)
	})
}

func (s *sealer) unseal(open *session, h p11.ObjectHandle, sealed, associatedData []byte) ([]byte, error) {
	params := p11.NewGCMParams(sealed[1:headSize], associatedData, tagSize*8)
	defer params.Free()
	if err := s.token.calls.DecryptInit(open.handle, mechanism(p11.CKM_AES_GCM, params), h); err != nil {
		return nil, err
	}
	return s.token.calls.Decrypt(open.handle, sealed[headSize:])
}

// probeText is what a sealing key proves itself by.
const probeText = "daypass self test"

// prove has the key of that handle open what the key sealed when it was opened.
func (s *sealer) prove(open *session, h p11.ObjectHandle) error {
	opened, err := s.unseal(open, h, s.probe, []byte(probeText))
	if isStale(err) || isGone(err) || err == nil && string(opened) == probeText {
		return err
	}
	if err == nil {
		err = keys.ErrOpen
	}
	return fmt.Errorf("%w: key %s of token %s doesn't open what it sealed: %w", errWrongKey, s.key.label, s.token.config.name(), err)
}

// selfTest seals and opens a constant.
func (s *sealer) selfTest(ctx context.Context) error {
	sealed, err := s.Seal(ctx, []byte(probeText), []byte(probeText))
	if err != nil {
		return err
	}
	opened, err := s.open(ctx, sealed, []byte(probeText))
	if err != nil {
		return err
	}
	if string(opened) != probeText {
		return errors.New("what it opens is not what it sealed")
	}
	return nil
}
