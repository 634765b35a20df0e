package keys

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"sync"
)

// hidden makes whatever embeds it print as "[redacted]".
type hidden struct{}

const redacted = "[redacted]"

// String implements fmt.Stringer.
func (hidden) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (hidden) GoString() string { return redacted }

// Format implements fmt.Formatter: no verb gets through.
func (hidden) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText implements encoding.TextMarshaler, and so covers JSON and YAML.
func (hidden) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue implements slog.LogValuer.
func (hidden) LogValue() slog.Value { return slog.StringValue(redacted) }

// Use says what a key derived from the root is for. Each use has a key of its own.
type Use string

// The uses.
const (
	SessionTokens Use = "session tokens"
	AdminTokens   Use = "admin tokens"
	Fingerprints  Use = "redaction fingerprints"
	Anchors       Use = "redaction anchors"
	AuditMACs     Use = "audit event macs"
	SessionClaims Use = "session claims"
	RowSeals      Use = "row seals"
)

const (
	rootSize = 32

	// SchemeHMAC names how a Hasher hashes, for the rows that hold one.
	SchemeHMAC = "hmac-sha256/1"
)

// Root is the secret that all keyed hashes and seals of one installation derive
// from.
type Root struct {
	hidden
	// A function: fmt looks through the unexported fields of other structs without
	// asking a method, and through a pointer with a verb that doesn't fit it.
	key func() []byte
}

// NewRoot makes a root up.
func NewRoot() (*Root, error) {
	key := make([]byte, rootSize)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("making root: %w", err)
	}
	return holding(key), nil
}

func holding(key []byte) *Root { return &Root{key: func() []byte { return key }} }

// Wrap seals the root for one installation.
func (r *Root) Wrap(ctx context.Context, sealer Sealer, installation string) ([]byte, error) {
	wrapped, err := sealer.Seal(ctx, r.key(), rootPlace(installation))
	if err != nil {
		return nil, fmt.Errorf("wrapping root: %w", err)
	}
	return wrapped, nil
}

// OpenRoot unseals an installation's root.
func OpenRoot(ctx context.Context, sealer Sealer, installation string, wrapped []byte) (*Root, error) {
	key, err := sealer.Open(ctx, wrapped, rootPlace(installation))
	if err != nil {
		return nil, fmt.Errorf("unwrapping root: %w", err)
	}
	if len(key) != rootSize {
		return nil, fmt.Errorf("unwrapping root: %w: it has %d bytes", ErrOpen, len(key))
	}
	return holding(key), nil
}

func rootPlace(installation string) []byte { return joinUnambiguously("daypass root", installation) }

func (r *Root) derive(use Use, what string, size int) []byte {
	key, err := hkdf.Key(sha256.New, r.key(), nil, string(joinUnambiguously("daypass", string(use), what)), size)
	if err != nil {
		// Only for sizes beyond 255 hashes; ours are constants.
		panic("deriving key: " + err.Error())
	}
	return key
}

// keyID names a derived key: derived beside it, it tells nothing of it.
func (r *Root) keyID(use Use) string { return hex.EncodeToString(r.derive(use, "id", 6)) }

// Hasher hashes under a key for one use. Safe for concurrent use.
type Hasher struct {
	hidden
	id   string
	pool sync.Pool
}

// Hasher gives the hasher of one use.
func (r *Root) Hasher(use Use) *Hasher {
	key := r.derive(use, "key", sha256.Size)
	h := &Hasher{id: r.keyID(use)}
	h.pool.New = func() any { return hmac.New(sha256.New, key) }
	return h
}

// KeyID names the key, for the rows that hold one of its hashes.
func (h *Hasher) KeyID() string { return h.id }

// Sum is HMAC-SHA-256 over domain and data, which can't be mistaken for each
// other: the domain's length stands before it.
func (h *Hasher) Sum(domain string, data []byte) [32]byte {
	mac := h.pool.Get().(hash.Hash) // the pool holds nothing else
	defer h.pool.Put(mac)
	mac.Reset()
	mac.Write(binary.BigEndian.AppendUint32(nil, uint32(len(domain)))) //nolint:gosec // domains are constants
	mac.Write([]byte(domain))
	mac.Write(data)
	return [32]byte(mac.Sum(nil))
}

// RowID says which value of which row a sealed value is. All of it is
// authenticated: a value that was moved, swapped or rolled back doesn't open.
type RowID struct {
	Installation, Tenant, Table, Column, Row, Version, Purpose string
}

// Check refuses a place that isn't whole: what is left out isn't authenticated.
func (r RowID) Check() error {
	for _, field := range []struct{ name, value string }{
		{"installation", r.Installation},
		{"tenant", r.Tenant},
		{"table", r.Table},
		{"column", r.Column},
		{"row", r.Row},
		{"version", r.Version},
		{"purpose", r.Purpose},
	} {
		if field.value == "" {
			return fmt.Errorf("%w: the place of the value lacks its %s", ErrOpen, field.name)
		}
	}
	return nil
}

// RowSealer seals values of rows with AES-256-GCM under a key of the root. It
// opens what was sealed before there were data keys; see package sealing for
// what seals now. Safe for concurrent use.
type RowSealer struct {
	hidden
	id   string
	aead func() cipher.AEAD // as in Root
}

// RowSealer gives the sealer of rows.
func (r *Root) RowSealer() *RowSealer {
	aead := newGCM(r.derive(RowSeals, "key", 32))
	return &RowSealer{id: r.keyID(RowSeals), aead: func() cipher.AEAD { return aead }}
}

// KeyID names the key.
func (s *RowSealer) KeyID() string { return s.id }

// Seal encrypts a value for its place.
func (s *RowSealer) Seal(_ context.Context, row RowID, plaintext []byte) ([]byte, error) {
	if err := row.Check(); err != nil {
		return nil, err
	}
	return sealGCM(s.aead(), plaintext, s.place(row)), nil
}

// Open returns ErrOpen for a value that was not sealed for this place.
func (s *RowSealer) Open(_ context.Context, row RowID, sealed []byte) ([]byte, error) {
	if err := row.Check(); err != nil {
		return nil, err
	}
	return openGCM(s.aead(), sealed, s.place(row))
}

func (s *RowSealer) place(row RowID) []byte {
	return joinUnambiguously("daypass row", s.id, row.Installation, row.Tenant, row.Table, row.Column, row.Row, row.Version, row.Purpose)
}

// formatGCM is the first byte of what sealGCM makes: format, nonce (12 bytes,
// random), ciphertext, tag (16 bytes).
const formatGCM = 1

func newGCM(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("making cipher: " + err.Error()) // only for wrong key sizes; ours are constants
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic("making cipher: " + err.Error())
	}
	return aead
}

func sealGCM(aead cipher.AEAD, plaintext, associatedData []byte) []byte {
	out := make([]byte, 1, 1+len(plaintext)+aead.Overhead())
	out[0] = formatGCM
	return aead.Seal(out, nil, plaintext, associatedData) //nolint:gosec // G407 doesn't know this AEAD: it makes the nonce itself
}

func openGCM(aead cipher.AEAD, sealed, associatedData []byte) ([]byte, error) {
	if len(sealed) < 1+aead.Overhead() || sealed[0] != formatGCM {
		return nil, fmt.Errorf("%w: it is not of a known format", ErrOpen)
	}
	plaintext, err := aead.Open(nil, nil, sealed[1:], associatedData)
	if err != nil {
		return nil, ErrOpen
	}
	return plaintext, nil
}

// joinUnambiguously puts each part's length before it, so that no two lists of
// parts give the same bytes.
func joinUnambiguously(parts ...string) []byte {
	var joined []byte
	for _, p := range parts {
		joined = binary.BigEndian.AppendUint32(joined, uint32(len(p))) //nolint:gosec // parts are names
		joined = append(joined, p...)
	}
	return joined
}
