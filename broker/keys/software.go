package keys

import (
	"context"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/daypass/daypass/issuers"
)

// SoftwareConfig says where software keys live.
type SoftwareConfig struct {
	Dir    string         // made, with mode 0700, when missing and Create is set
	PIN    issuers.Secret // required; the keys are sealed under it
	Create bool           // makes keys that are missing; otherwise they are an error
}

// Software is a folder of keys, each sealed in a file of its own. They are for
// development: whoever has the folder and the PIN has the keys.
type Software struct {
	hidden // fmt looks into unexported fields past their methods: config holds the PIN
	config SoftwareConfig
}

const (
	pinIterations = 200_000 // PBKDF2-HMAC-SHA-256; the PIN is random, so this is a belt
	saltSize      = 16
)

// OpenSoftware opens a folder of keys.
func OpenSoftware(config SoftwareConfig) (*Software, error) {
	if config.Dir == "" || len(config.PIN.Reveal()) < 8 {
		return nil, errors.New("opening software keys: a folder and a PIN of at least 8 characters are required")
	}
	if config.Create {
		if err := os.MkdirAll(config.Dir, 0o700); err != nil {
			return nil, fmt.Errorf("opening software keys: %w", err)
		}
	}
	return &Software{config: config}, nil
}

// softwareSigner is an EC key in memory.
type softwareSigner struct {
	hidden
	*ecdsa.PrivateKey
	id string
}

// KeyID implements Signer.
func (s *softwareSigner) KeyID() string { return s.id }

// Algorithm implements Signer.
func (s *softwareSigner) Algorithm() string { return ES256 }

// NewSigner makes a Signer of a P-256 key that is in memory already.
func NewSigner(key *ecdsa.PrivateKey) (Signer, error) {
	id, err := KeyID(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	s := &softwareSigner{PrivateKey: key, id: id}
	if err := SelfTest(s); err != nil {
		return nil, err
	}
	return s, nil
}

// Signer opens the EC P-256 key of that label.
func (s *Software) Signer(label string) (Signer, error) {
	der, err := s.load("sign", label, func() ([]byte, error) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		return x509.MarshalPKCS8PrivateKey(key)
	})
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("opening software key %s: %w", label, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("opening software key %s: it is not an EC key", label)
	}
	return NewSigner(key)
}

// softwareSealer is an AES key in memory.
type softwareSealer struct {
	hidden
	aead cipher.AEAD
	id   string
}

// Sealer opens the AES-256 key of that label.
func (s *Software) Sealer(label string) (Sealer, error) {
	key, err := s.load("seal", label, func() ([]byte, error) {
		key := make([]byte, 32)
		_, err := rand.Read(key)
		return key, err
	})
	if err != nil {
		return nil, err
	}
	if len(key) != 32 {
		return nil, fmt.Errorf("opening software key %s: it is not an AES-256 key", label)
	}
	id := sha256.Sum256(joinUnambiguously("daypass sealing key id", string(key)))
	return &softwareSealer{aead: newGCM(key), id: hex.EncodeToString(id[:6])}, nil
}

// Seal implements Sealer.
func (s *softwareSealer) Seal(_ context.Context, plaintext, associatedData []byte) ([]byte, error) {
	return sealGCM(s.aead, plaintext, associatedData), nil
}

// Open implements Sealer.
func (s *softwareSealer) Open(_ context.Context, sealed, associatedData []byte) ([]byte, error) {
	return openGCM(s.aead, sealed, associatedData)
}

// KeyID implements Sealer.
func (s *softwareSealer) KeyID() string { return s.id }

// load opens a key's file, or makes it.
func (s *Software) load(purpose, label string, generate func() ([]byte, error)) ([]byte, error) {
	if !regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`).MatchString(label) {
		return nil, fmt.Errorf("opening software key %q: a label is made of a-z, 0-9 and -", label)
	}
	path := filepath.Join(s.config.Dir, purpose+"-"+label+".key")
	place := joinUnambiguously("daypass software key", purpose, label)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if !s.config.Create {
			return nil, fmt.Errorf("%w: software key %s (hint: %s was not found; `daypassd dev` makes one)", ErrNoKey, label, path)
		}
		key, err := s.create(path, place, generate)
		if err == nil {
			return key, nil
		}
		if !errors.Is(err, fs.ErrExist) { // somebody else was faster: theirs counts
			return nil, fmt.Errorf("making software key %s: %w", label, err)
		}
	}
	stored, err := os.ReadFile(path) //nolint:gosec // the folder is the operator's, the name was checked
	if err != nil {
		return nil, fmt.Errorf("opening software key %s: %w", label, err)
	}
	if len(stored) < saltSize {
		return nil, fmt.Errorf("opening software key %s: %w: the file is cut off", label, ErrOpen)
	}
	aead, err := s.underPIN(stored[:saltSize])
	if err != nil {
		return nil, err
	}
	key, err := openGCM(aead, stored[saltSize:], place)
	if err != nil {
		return nil, fmt.Errorf("opening software key %s: %w (hint: wrong PIN, or the file was changed)", label, err)
	}
	return key, nil
}

func (s *Software) create(path string, place []byte, generate func() ([]byte, error)) ([]byte, error) {
	key, err := generate()
	if err != nil {
		return nil, err
	}
	salt := make([]byte, saltSize)
	if _, err := rand.Read(salt); err != nil {
		return nil, err
	}
	aead, err := s.underPIN(salt)
	if err != nil {
		return nil, err
	}
	if err := writeFile(path, append(salt, sealGCM(aead, key, place)...)); err != nil {
		return nil, err
	}
	return key, nil
}

func (s *Software) underPIN(salt []byte) (cipher.AEAD, error) {
	key, err := pbkdf2.Key(sha256.New, s.config.PIN.Reveal(), salt, pinIterations, 32)
	if err != nil {
		return nil, fmt.Errorf("deriving key from PIN: %w", err)
	}
	return newGCM(key), nil
}

// writeFile leaves the whole file or none. It is fs.ErrExist when there is one: of
// two that make the same key at one moment, the second must not replace the key
// that the first has begun to use.
func writeFile(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".key-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir) //nolint:gosec // the folder is the operator's
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
