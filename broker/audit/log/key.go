package log

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// The types of signature of C2SP signed-note that checkpoints have. A verifier
// key is written NAME+ID+BASE64 with the key's id in hex, and in base64 the type's
// byte and the public key: its 32 bytes for Ed25519, its SubjectPublicKeyInfo in
// DER for ECDSA on P-256 (over SHA-256, the signature in ASN.1).
const (
	typeEd25519 = 1
	typeECDSA   = 2
)

// Key is a public key that verifies checkpoints.
type Key struct {
	Name   string           // the origin that it signs for; "" where a PEM file names none
	Public crypto.PublicKey // *ecdsa.PublicKey on P-256, or ed25519.PublicKey
	kind   byte
	id     uint32
	bytes  []byte
}

// NewKey takes a public key for an origin.
func NewKey(origin string, public crypto.PublicKey) (*Key, error) {
	k := &Key{Name: origin, Public: public}
	switch public := public.(type) {
	case ed25519.PublicKey:
		if len(public) != ed25519.PublicKeySize {
			return nil, errors.New("reading an audit key: an Ed25519 key has 32 bytes")
		}
		k.kind, k.bytes = typeEd25519, public
		k.id = firstFour(sha256.Sum256(append([]byte(origin+"\n"), append([]byte{typeEd25519}, public...)...)))
	case *ecdsa.PublicKey:
		if public.Curve != elliptic.P256() {
			return nil, errors.New("reading an audit key: of ECDSA, P-256 alone signs checkpoints")
		}
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			return nil, fmt.Errorf("reading an audit key: %w", err)
		}
		k.kind, k.bytes = typeECDSA, der
		k.id = firstFour(sha256.Sum256(der)) // not as for Ed25519: so says signed-note
	default:
		return nil, errors.New("reading an audit key: checkpoints are signed by ECDSA on P-256 or by Ed25519")
	}
	return k, nil
}

func firstFour(sum [sha256.Size]byte) uint32 { return binary.BigEndian.Uint32(sum[:4]) }

// ID is the key's id in notes, in hex.
func (k *Key) ID() string { return fmt.Sprintf("%08x", k.id) }

// String is the verifier key.
func (k *Key) String() string {
	return k.Name + "+" + k.ID() + "+" + base64.StdEncoding.EncodeToString(append([]byte{k.kind}, k.bytes...))
}

// For is the same key under an origin, where it names none itself.
func (k *Key) For(origin string) (*Key, error) {
	if k.Name != "" {
		return k, nil
	}
	return NewKey(origin, k.Public)
}

// verifier is a Key as a note.Verifier.
type verifier struct{ *Key }

// Name implements note.Verifier.
func (v verifier) Name() string { return v.Key.Name }

// KeyHash implements note.Verifier.
func (v verifier) KeyHash() uint32 { return v.id }

// Verify implements note.Verifier.
func (v verifier) Verify(msg, sig []byte) bool {
	switch public := v.Public.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(public, msg, sig)
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(msg)
		return ecdsa.VerifyASN1(public, sum[:], sig)
	}
	return false
}

// Signer is a private key that signs checkpoints, wherever it lives.
type Signer interface {
	Public() crypto.PublicKey
	SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error)
}

// noteSigner is a Signer as a note.Signer, for one signature.
type noteSigner struct {
	verifier
	sign func(msg []byte) ([]byte, error)
}

// Sign implements note.Signer.
func (s noteSigner) Sign(msg []byte) ([]byte, error) { return s.sign(msg) }

func newNoteSigner(ctx context.Context, key *Key, signer Signer) note.Signer {
	return noteSigner{verifier{key}, func(msg []byte) ([]byte, error) {
		if key.kind == typeEd25519 {
			return signer.SignContext(ctx, msg, crypto.Hash(0))
		}
		sum := sha256.Sum256(msg)
		return signer.SignContext(ctx, sum[:], crypto.SHA256)
	}}
}

// MaxKeys bounds how many keys one file has.
const MaxKeys = 64

// ParseKeys reads a file of public keys: PEM (PUBLIC KEY), or verifier keys, a
// line each; blank lines and those that begin with # are left out.
func ParseKeys(text []byte) ([]*Key, error) {
	var keys []*Key
	if strings.Contains(string(text), "-----BEGIN") {
		for rest := text; ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			key, err := parsePEM(block)
			if err != nil {
				return nil, err
			}
			keys = append(keys, key)
			if len(keys) > MaxKeys {
				break
			}
		}
	} else {
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
				continue
			}
			key, err := ParseKey(line)
			if err != nil {
				return nil, err
			}
			keys = append(keys, key)
			if len(keys) > MaxKeys {
				break
			}
		}
	}
	switch {
	case len(keys) == 0:
		return nil, errors.New("there is no public key in it (hint: a PEM file, or verifier keys as `daypassd keys audit` prints them)")
	case len(keys) > MaxKeys:
		return nil, fmt.Errorf("there are more than %d keys in it", MaxKeys)
	}
	return keys, nil
}

func parsePEM(block *pem.Block) (*Key, error) {
	if block.Type != "PUBLIC KEY" {
		// A private key is not ours to see: its kind alone is said.
		return nil, fmt.Errorf("it holds a PEM block %q, and PUBLIC KEY is wanted", block.Type)
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading an audit key: %w", err)
	}
	return NewKey("", public)
}

// ParseKey reads a verifier key.
func ParseKey(text string) (*Key, error) {
	name, rest, _ := strings.Cut(text, "+")
	id, encoded, ok := strings.Cut(rest, "+")
	data, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(data) < 2 || len(text) > 1024 || installationOf(name) == "" {
		return nil, errors.New("reading an audit key: a verifier key has the form daypass-audit/INSTALLATION+ID+BASE64")
	}
	var public crypto.PublicKey
	switch data[0] {
	case typeEd25519:
		public = ed25519.PublicKey(data[1:])
	case typeECDSA:
		if public, err = x509.ParsePKIXPublicKey(data[1:]); err != nil {
			return nil, fmt.Errorf("reading an audit key: %w", err)
		}
	}
	key, err := NewKey(name, public)
	if err != nil {
		return nil, err
	}
	if wanted, err := hex.DecodeString(id); err != nil || hex.EncodeToString(wanted) != key.ID() {
		return nil, errors.New("reading an audit key: its id is not that of the key behind it: it was copied wrong")
	}
	return key, nil
}
