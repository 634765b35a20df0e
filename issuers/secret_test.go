package issuers_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/daypass/daypass/issuers"
)

func TestSecretIsNeverPrinted(t *testing.T) {
	const value = "the-value-itself"
	secret := issuers.NewSecret(value)
	type holder struct{ hidden issuers.Secret }
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	logger.Info("x", "secret", secret, "holder", holder{secret}, "pointer", &holder{secret})
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", secret, "holder", holder{secret})
	encoded, err := json.Marshal(map[string]any{"s": secret, "p": &secret, "l": []issuers.Secret{secret}, "h": holder{secret}})
	if err != nil {
		t.Fatal(err)
	}
	printed := log.String() + string(encoded)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T"} {
		for _, v := range []any{secret, &secret, holder{secret}, &holder{secret}, []issuers.Secret{secret}, map[string]issuers.Secret{"k": secret}, []holder{{secret}}} {
			printed += fmt.Sprintf(verb, v)
		}
	}
	if strings.Contains(printed, value) || strings.Contains(printed, fmt.Sprintf("%x", value)) {
		t.Errorf("the value was printed: %s", printed)
	}
	if secret.Reveal() != value || (issuers.Secret{}).Reveal() != "" || !(issuers.Secret{}).IsZero() {
		t.Error("Reveal gives something else")
	}
}

func TestGeneratedSecrets(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		s := issuers.Generate(issuers.Password).Reveal()
		if kind, ok := issuers.IsGenerated(s); !ok || kind != issuers.Password || len(s) != issuers.GeneratedLength || seen[s] {
			t.Fatalf("%q: kind %q, %v", s, kind, ok)
		}
		seen[s] = true
	}
}

func TestGenerateFrom(t *testing.T) {
	seen := map[string]bool{}
	for i := range 1000 {
		var bits [32]byte
		bits[i%32], bits[31-i%32] = byte(i), byte(i/32+1)
		if i%2 == 0 {
			bits = sha256.Sum256(bits[:])
		}
		s := issuers.GenerateFrom(issuers.SessionToken, bits).Reveal()
		if kind, ok := issuers.IsGenerated(s); !ok || kind != issuers.SessionToken || s != issuers.GenerateFrom(issuers.SessionToken, bits).Reveal() {
			t.Fatalf("%q: kind %q, %v", s, kind, ok)
		}
		// The same by another way: the digits of the number modulo 62^27, the last first.
		n := new(big.Int).SetBytes(bits[:])
		for _, c := range s[4:31] {
			digit := int64(strings.IndexRune("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", c))
			var rest big.Int
			if n.DivMod(n, big.NewInt(62), &rest); rest.Int64() != digit {
				t.Fatalf("%q of %x: %q is not digit %d", s, bits, c, rest.Int64())
			}
		}
		if seen[s] {
			t.Fatalf("%q comes twice", s)
		}
		seen[s] = true
	}
}

func TestChecksumFindsEveryChangedCharacter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := []byte(issuers.Generate(issuers.SessionToken).Reveal())
		at := rapid.IntRange(0, len(s)-1).Draw(t, "at")
		to := rapid.Byte().Draw(t, "to")
		if s[at] == to {
			return
		}
		s[at] = to
		if kind, ok := issuers.IsGenerated(string(s)); ok {
			t.Fatalf("still a secret of kind %q with byte %d changed", kind, at)
		}
	})
}
