package keys

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
)

// DataKeyPlace says which data key it is. All of it is authenticated when the
// key is wrapped: one data key never passes for another.
type DataKeyPlace struct {
	Installation, ID, Tenant, Purpose string
}

// DataKey seals values of rows with AES-256-GCM. It is wrapped by a [Sealer]:
// one call to an HSM opens it, and from then on it works in memory. Safe for
// concurrent use.
type DataKey struct {
	hidden
	place DataKeyPlace
	aead  func() cipher.AEAD // as in Root
}

const (
	dataKeySize   = 32
	dataKeyIDSize = 8

	// formatDataKey is the first byte of what a DataKey seals: format, the key's
	// id (8 bytes), nonce (12 bytes, random), ciphertext, tag (16 bytes).
	formatDataKey = 3
)

// NewDataKeyID makes up the id of a data key: 16 hex digits.
func NewDataKeyID() string {
	id := make([]byte, dataKeyIDSize)
	_, _ = rand.Read(id) // it doesn't fail: crypto/rand crashes the program instead
	return hex.EncodeToString(id)
}

// MakeDataKey makes up a data key for a place. Outside of memory it exists as
// wrapped alone.
func MakeDataKey(ctx context.Context, sealer Sealer, place DataKeyPlace) (key *DataKey, wrapped []byte, err error) {
	if err := place.check(); err != nil {
		return nil, nil, err
	}
	secret := make([]byte, dataKeySize)
	defer clear(secret)
	if _, err := rand.Read(secret); err != nil {
		return nil, nil, fmt.Errorf("making data key: %w", err)
	}
	if wrapped, err = sealer.Seal(ctx, secret, place.bytes()); err != nil {
		return nil, nil, fmt.Errorf("wrapping data key %s: %w", place.ID, err)
	}
	return newDataKey(place, secret), wrapped, nil
}

// OpenDataKey unwraps a data key.
func OpenDataKey(ctx context.Context, sealer Sealer, place DataKeyPlace, wrapped []byte) (*DataKey, error) {
	secret, err := openDataKey(ctx, sealer, place, wrapped)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	return newDataKey(place, secret), nil
}

func openDataKey(ctx context.Context, sealer Sealer, place DataKeyPlace, wrapped []byte) ([]byte, error) {
	if err := place.check(); err != nil {
		return nil, err
	}
	secret, err := sealer.Open(ctx, wrapped, place.bytes())
	if err != nil {
		return nil, fmt.Errorf("unwrapping data key %s: %w", place.ID, err)
	}
	if len(secret) != dataKeySize {
		clear(secret)
		return nil, fmt.Errorf("unwrapping data key %s: %w: it has %d bytes", place.ID, ErrOpen, len(secret))
	}
	return secret, nil
}

// RewrapDataKey wraps a data key by another sealer, and proves that it opens
// there, before anybody lets go of how it was wrapped before.
func RewrapDataKey(ctx context.Context, from, to Sealer, place DataKeyPlace, wrapped []byte) ([]byte, error) {
	secret, err := openDataKey(ctx, from, place, wrapped)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	again, err := wrapAndProve(ctx, to, secret, place.bytes())
	if err != nil {
		return nil, fmt.Errorf("wrapping data key %s anew: %w", place.ID, err)
	}
	return again, nil
}

// wrapAndProve seals a secret, and opens it again.
func wrapAndProve(ctx context.Context, sealer Sealer, secret, place []byte) ([]byte, error) {
	wrapped, err := sealer.Seal(ctx, secret, place)
	if err != nil {
		return nil, err
	}
	opened, err := sealer.Open(ctx, wrapped, place)
	if err != nil {
		return nil, err
	}
	defer clear(opened)
	if string(opened) != string(secret) {
		return nil, fmt.Errorf("sealing key %s opens something else than it sealed", sealer.KeyID())
	}
	return wrapped, nil
}

func newDataKey(place DataKeyPlace, secret []byte) *DataKey {
	aead := newGCM(secret)
	return &DataKey{place: place, aead: func() cipher.AEAD { return aead }}
}

func (p DataKeyPlace) check() error {
	if id, err := hex.DecodeString(p.ID); err != nil || len(id) != dataKeyIDSize || p.Installation == "" || p.Tenant == "" || p.Purpose == "" {
		return errors.New("data key without a whole place: installation, id, tenant and purpose are all required")
	}
	return nil
}

func (p DataKeyPlace) bytes() []byte {
	return joinUnambiguously("daypass data key", p.Installation, p.ID, p.Tenant, p.Purpose)
}

// ID names the key. It stands in the clear in what the key seals.
func (k *DataKey) ID() string { return k.place.ID }

// Seal encrypts a value for its place. A key may seal 2³² values, by whomever:
// its nonces are random.
func (k *DataKey) Seal(row RowID, plaintext []byte) ([]byte, error) {
	if err := k.fits(row); err != nil {
		return nil, err
	}
	aead := k.aead()
	out := make([]byte, 1+dataKeyIDSize, 1+dataKeyIDSize+len(plaintext)+aead.Overhead())
	out[0] = formatDataKey
	if _, err := hex.Decode(out[1:], []byte(k.place.ID)); err != nil {
		return nil, fmt.Errorf("sealing with data key %s: %w", k.place.ID, err)
	}
	return aead.Seal(out, nil, plaintext, k.rowPlace(row)), nil //nolint:gosec // G407 doesn't know this AEAD: it makes the nonce itself
}

// Open returns ErrOpen for a value that this key did not seal for this place.
func (k *DataKey) Open(row RowID, sealed []byte) ([]byte, error) {
	if id, ok := DataKeyOf(sealed); !ok || id != k.place.ID {
		return nil, fmt.Errorf("%w: it was not sealed by data key %s", ErrOpen, k.place.ID)
	}
	if err := k.fits(row); err != nil {
		return nil, err
	}
	plaintext, err := k.aead().Open(nil, nil, sealed[1+dataKeyIDSize:], k.rowPlace(row))
	if err != nil {
		return nil, ErrOpen
	}
	return plaintext, nil
}

// fits refuses rows that the key is not for.
func (k *DataKey) fits(row RowID) error {
	if err := row.Check(); err != nil {
		return err
	}
	if row.Installation != k.place.Installation || row.Tenant != k.place.Tenant || row.Purpose != k.place.Purpose {
		return fmt.Errorf("%w: data key %s is for another installation, tenant or purpose", ErrOpen, k.place.ID)
	}
	return nil
}

func (k *DataKey) rowPlace(row RowID) []byte {
	return joinUnambiguously("daypass row under data key", k.place.ID, row.Installation, row.Tenant, row.Table, row.Column, row.Row, row.Version, row.Purpose)
}

// DataKeyOf tells by which data key a value was sealed; false for values that
// were sealed otherwise.
func DataKeyOf(sealed []byte) (id string, ok bool) {
	if len(sealed) < 1+dataKeyIDSize || sealed[0] != formatDataKey {
		return "", false
	}
	return hex.EncodeToString(sealed[1 : 1+dataKeyIDSize]), true
}
