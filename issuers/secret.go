package issuers

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"strings"
)

// Secret is a value that must not be printed. Every verb, every logger and
// every encoder shows "[redacted]"; only [Secret.Reveal] gives the value, so
// that the places where one leaves the program can be counted.
type Secret struct {
	// A pointer, since fmt looks through the unexported fields of other structs
	// without asking a method: there it prints an address.
	value *string
}

const redacted = "[redacted]"

// NewSecret wraps a value.
func NewSecret(value string) Secret { return Secret{value: &value} }

// Reveal gives the value. Call it where a response or a driver needs it, and nowhere else.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// IsZero says that there is no value.
func (s Secret) IsZero() bool { return s.Reveal() == "" }

// String implements fmt.Stringer.
func (Secret) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (Secret) GoString() string { return redacted }

// Format implements fmt.Formatter: no verb gets through.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler, and so covers JSON, YAML and XML.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// The kinds of value that the broker itself makes up: the letter after "dp".
const (
	SessionToken byte = 's'
	APIToken     byte = 't'
	Password     byte = 'p'
	AdminToken   byte = 'a'
	VaultToken   byte = 'v'
	// RevocationToken gives a session back, and does nothing else.
	RevocationToken byte = 'r'
)

// GeneratedBits is how many random bits a generated secret holds at least.
const GeneratedBits = 160

const (
	base62       = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	randomLength = 27 // 27 · log2(62) = 160.7 bits
	sumLength    = 6  // 62^6 > 2^32
	prefixLength = 4  // "dp" kind "_"

	// GeneratedLength is the length of every generated secret in bytes.
	GeneratedLength = prefixLength + randomLength + sumLength
	// GeneratedPattern matches the shape of every generated secret (RE2). Whether
	// the checksum holds is for [IsGenerated] to say.
	GeneratedPattern = `dp[a-z]_[0-9A-Za-z]{33}`
)

// Generate makes up a secret of a kind: "dp", the kind's letter, "_", at least
// 160 random bits in base62, and a 6-character base62 CRC-32 (IEEE) of all
// before it, so that a scanner can tell one from noise without asking anybody.
func Generate(kind byte) Secret {
	buf := make([]byte, 0, GeneratedLength)
	buf = append(buf, 'd', 'p', kind, '_')
	// Bytes of 248 and above would favour some letters: 248 = 4 · 62.
	var random [2 * randomLength]byte
	for len(buf) < prefixLength+randomLength {
		rand.Read(random[:]) // never fails: since Go 1.24 it ends the program instead
		for _, b := range random {
			if b < 248 && len(buf) < prefixLength+randomLength {
				buf = append(buf, base62[b%62])
			}
		}
	}
	return NewSecret(string(appendSum(buf)))
}

// GenerateFrom is the secret of a kind that 256 bits stand for: of the same shape as
// those of [Generate], and as hard to guess as the bits. That they are more than the
// shape holds makes every secret as likely as the next, up to 1 in 2^95.
func GenerateFrom(kind byte, bits [32]byte) Secret {
	var words [8]uint32
	for i := range words {
		words[i] = binary.BigEndian.Uint32(bits[4*i:])
	}
	buf := make([]byte, prefixLength+randomLength, GeneratedLength)
	copy(buf, []byte{'d', 'p', kind, '_'})
	for i := prefixLength; i < len(buf); i++ { // one long division by 62 a letter
		var rest uint64
		for w := range words {
			rest = rest<<32 | uint64(words[w])
			words[w], rest = uint32(rest/62), rest%62 //nolint:gosec // rest < 62 · 2^32
		}
		buf[i] = base62[rest]
	}
	return NewSecret(string(appendSum(buf)))
}

// IsGenerated says whether s is, whole, a secret of the shape that Generate
// makes, its checksum included, and of which kind.
func IsGenerated(s string) (kind byte, ok bool) {
	if len(s) != GeneratedLength || !strings.HasPrefix(s, "dp") || s[2] < 'a' || s[2] > 'z' || s[3] != '_' {
		return 0, false
	}
	body := s[:prefixLength+randomLength]
	if string(appendSum([]byte(body))) != s {
		return 0, false
	}
	return s[2], true
}

func appendSum(b []byte) []byte {
	sum := crc32.ChecksumIEEE(b)
	var digits [sumLength]byte
	for i := sumLength - 1; i >= 0; i-- {
		digits[i] = base62[sum%62]
		sum /= 62
	}
	return append(b, digits[:]...)
}
