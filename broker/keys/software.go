package keys

import (
	"context"
	"crypto"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/daypass/daypass/issuers"
)

// SoftwareConfig says where software keys live.
type SoftwareConfig struct {
	Dir    string         // made, with mode 0700, when it is missing and Create is set
	PIN    issuers.Secret // required; the keys are sealed under it
	Create bool           // makes the folder when it is missing
}

// Software is a folder of keys, each sealed in a file of its own. They are for
// development: whoever has the folder and the PIN has the keys.
type Software struct {
	hidden // fmt looks into unexported fields past their methods: config holds the PIN
	config SoftwareConfig
	// underPIN is the cipher that a salt and the PIN give. It takes its time, so it is
	// remembered: the files of a folder share a salt.
	underPIN func(salt []byte) (cipher.AEAD, error)
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
	return &Software{config: config, underPIN: rememberPIN(config.PIN)}, nil
}

// softwareSigner is a private key in memory.
type softwareSigner struct {
	hidden
	crypto.Signer
	id, algorithm string
}

// Sign implements crypto.Signer.
func (s *softwareSigner) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := CheckDigest(s.algorithm, digest, opts); err != nil {
		return nil, err
	}
	return s.Signer.Sign(random, digest, opts)
}

// KeyID implements Signer.
func (s *softwareSigner) KeyID() string { return s.id }

// Algorithm implements Signer.
func (s *softwareSigner) Algorithm() string { return s.algorithm }

// SignContext implements Signer.
func (s *softwareSigner) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("signing with key %s: %w", s.id, context.Cause(ctx))
	}
	return s.Sign(rand.Reader, digest, opts)
}

// NewSigner makes a Signer of a private key that is in memory already.
func NewSigner(key crypto.Signer, algorithm string) (Signer, error) {
	id, err := KeyID(key.Public())
	if err != nil {
		return nil, err
	}
	s := &softwareSigner{Signer: key, id: id, algorithm: algorithm}
	if err := SelfTest(s); err != nil {
		return nil, err
	}
	return s, nil
}

// OpenSigner implements Store.
func (s *Software) OpenSigner(_ context.Context, pair Pair) (Signer, error) {
	return s.signer(pair, nil)
}

// MakeSigner implements Store.
func (s *Software) MakeSigner(_ context.Context, pair Pair) (Signer, error) {
	return s.signer(pair, func() ([]byte, error) {
		key, err := newPrivateKey(pair)
		if err != nil {
			return nil, err
		}
		return x509.MarshalPKCS8PrivateKey(key)
	})
}

func (s *Software) signer(pair Pair, generate func() ([]byte, error)) (Signer, error) {
	der, err := s.load(forSigning, pair.Label, generate)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("opening software key %s: %w", pair.Label, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("opening software key %s: it is no key that signs", pair.Label)
	}
	return NewSigner(signer, pair.algorithm())
}

func (p Pair) algorithm() string {
	if p.Algorithm == "" {
		return ES256
	}
	return p.Algorithm
}

// DefaultBits is the size of an RSA key that is made where a Pair says none.
const DefaultBits = 3072

func newPrivateKey(pair Pair) (crypto.Signer, error) {
	switch pair.algorithm() {
	case ES256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case ES384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case EdDSA:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case RS256, PS256:
		bits := pair.Bits
		if bits == 0 {
			bits = DefaultBits
		}
		if bits != 2048 && bits != 3072 && bits != 4096 {
			return nil, fmt.Errorf("an RSA key has 2048, 3072 or 4096 bits, not %d", bits)
		}
		return rsa.GenerateKey(rand.Reader, bits)
	}
	return nil, fmt.Errorf("there is no algorithm %q: use one of %v", pair.Algorithm, Algorithms())
}

// softwareSealer is an AES key in memory.
type softwareSealer struct {
	hidden
	aead cipher.AEAD
	id   string
}

// OpenSealer implements Store.
func (s *Software) OpenSealer(_ context.Context, label string) (Sealer, error) {
	return s.sealer(label, nil)
}

// MakeSealer implements Store.
func (s *Software) MakeSealer(_ context.Context, label string) (Sealer, error) {
	return s.sealer(label, func() ([]byte, error) {
		key := make([]byte, 32)
		_, err := rand.Read(key)
		return key, err
	})
}

func (s *Software) sealer(label string, generate func() ([]byte, error)) (Sealer, error) {
	key, err := s.load(forSealing, label, generate)
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

// Destroy implements Store.
func (s *Software) Destroy(_ context.Context, label string) error {
	found := false
	for _, purpose := range []string{forSigning, forSealing} {
		path, err := s.path(purpose, label)
		if err != nil {
			return err
		}
		switch err := os.Remove(path); {
		case err == nil:
			found = true
		case !errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("destroying software key %s: %w", label, err)
		}
	}
	if !found {
		return fmt.Errorf("destroying software key %s: %w", label, ErrNoKey)
	}
	return nil
}

// List implements Store.
func (s *Software) List(ctx context.Context) ([]Info, error) {
	entries, err := os.ReadDir(s.config.Dir)
	if err != nil {
		return nil, fmt.Errorf("listing software keys: %w", err)
	}
	var all []Info
	for _, entry := range entries {
		name, isKey := strings.CutSuffix(entry.Name(), keySuffix)
		if !isKey {
			continue
		}
		if label, seals := strings.CutPrefix(name, forSealing+"-"); seals {
			sealer, err := s.OpenSealer(ctx, label)
			if err != nil {
				return nil, err
			}
			all = append(all, Info{Label: label, KeyID: sealer.KeyID()})
		}
		if label, signs := strings.CutPrefix(name, forSigning+"-"); signs {
			der, err := s.load(forSigning, label, nil)
			if err != nil {
				return nil, err
			}
			info, err := describe(label, der)
			if err != nil {
				return nil, err
			}
			all = append(all, info)
		}
	}
	return all, nil
}

func describe(label string, der []byte) (Info, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return Info{}, fmt.Errorf("opening software key %s: %w", label, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return Info{}, fmt.Errorf("opening software key %s: it is no key that signs", label)
	}
	id, err := KeyID(signer.Public())
	return Info{Label: label, Algorithm: AlgorithmOf(signer.Public()), KeyID: id}, err
}

// What a file's name begins and ends with.
const (
	forSigning = "sign"
	forSealing = "seal"
	keySuffix  = ".key"
)

func (s *Software) path(purpose, label string) (string, error) {
	if !regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`).MatchString(label) {
		return "", fmt.Errorf("opening software key %q: a label is made of a-z, 0-9 and -", label)
	}
	return filepath.Join(s.config.Dir, purpose+"-"+label+keySuffix), nil
}

// load opens a key's file, or makes it where generate isn't nil: then it must
// not be there.
func (s *Software) load(purpose, label string, generate func() ([]byte, error)) ([]byte, error) {
	path, err := s.path(purpose, label)
	if err != nil {
		return nil, err
	}
	place := joinUnambiguously("daypass software key", purpose, label)
	if generate != nil {
		key, err := s.create(path, place, generate)
		if errors.Is(err, fs.ErrExist) {
			err = ErrKeyExists
		}
		if err != nil {
			return nil, fmt.Errorf("making software key %s: %w", label, err)
		}
		return key, nil
	}
	stored, err := os.ReadFile(path) //nolint:gosec // the folder is the operator's, the name was checked
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: software key %s (hint: %s was not found; `daypassd dev` makes one)", ErrNoKey, label, path)
	}
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
	salt, err := s.salt()
	if err != nil {
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

// salt is that of the folder's first file, or a new one.
func (s *Software) salt() ([]byte, error) {
	salt := make([]byte, saltSize)
	entries, err := os.ReadDir(s.config.Dir)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), keySuffix) {
			continue
		}
		stored, err := os.ReadFile(filepath.Join(s.config.Dir, entry.Name()))
		if err == nil && len(stored) > saltSize {
			return stored[:saltSize:saltSize], nil
		}
	}
	_, err = rand.Read(salt)
	return salt, err
}

// mostSalts is more than a folder has: one, or one for each of its first files.
const mostSalts = 64

func rememberPIN(pin issuers.Secret) func(salt []byte) (cipher.AEAD, error) {
	var mu sync.Mutex
	known := map[[saltSize]byte]cipher.AEAD{}
	return func(salt []byte) (cipher.AEAD, error) {
		mu.Lock()
		defer mu.Unlock()
		at := [saltSize]byte(salt)
		if aead := known[at]; aead != nil {
			return aead, nil
		}
		key, err := pbkdf2.Key(sha256.New, pin.Reveal(), salt, pinIterations, 32)
		if err != nil {
			return nil, fmt.Errorf("deriving key from PIN: %w", err)
		}
		if len(known) >= mostSalts {
			clear(known)
		}
		known[at] = newGCM(key)
		return known[at], nil
	}
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
