package ssh

import (
	"bytes"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// MaxPublicKey is the longest public key that is taken from a job, in bytes.
const MaxPublicKey = 16 << 10

// Types of keys, as ssh-keygen calls them.
const (
	keyED25519   = "ed25519"
	keyECDSA     = "ecdsa"
	keyRSA       = "rsa"
	keySKED25519 = "ed25519-sk"
	keySKECDSA   = "ecdsa-sk"
)

const (
	minRSA = 2048
	maxRSA = 8192 // every login verifies with it
)

func keyTypes() []string        { return []string{keyED25519, keyECDSA, keyRSA, keySKED25519, keySKECDSA} }
func defaultKeyTypes() []string { return []string{keyED25519, keyECDSA, keyRSA} }

// keyType sorts the algorithm names of public keys. DSA has none, and
// certificates, whose names end in -cert-v01@openssh.com, neither.
func keyType(algorithm string) string {
	switch algorithm {
	case ssh.KeyAlgoED25519:
		return keyED25519
	case ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521:
		return keyECDSA
	case ssh.KeyAlgoRSA:
		return keyRSA
	case ssh.KeyAlgoSKED25519:
		return keySKED25519
	case ssh.KeyAlgoSKECDSA256:
		return keySKECDSA
	}
	return ""
}

var errPublicKey = errors.New("the public key is not one line as in a .pub file: type, base64, and a comment or none")

// parsePublicKey reads what a stranger sent: one line, without the options that
// authorized_keys may have.
func parsePublicKey(text string, allowed []string) (ssh.PublicKey, error) {
	if len(text) > MaxPublicKey {
		return nil, fmt.Errorf("the public key has %d bytes, and %d is the limit", len(text), MaxPublicKey)
	}
	text = strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
	if strings.ContainsAny(text, "\r\n\x00") {
		return nil, errPublicKey
	}
	algorithm, rest, _ := strings.Cut(text, " ")
	encoded, _, _ := strings.Cut(rest, " ")
	kind := keyType(algorithm)
	if kind == "" {
		return nil, errPublicKey
	}
	if !slices.Contains(allowed, kind) {
		return nil, fmt.Errorf("a key of type %s is not certified: use %s", kind, strings.Join(allowed, ", "))
	}
	blob, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return nil, errPublicKey
	}
	key, err := ssh.ParsePublicKey(blob)
	if err != nil || key.Type() != algorithm || !bytes.Equal(key.Marshal(), blob) {
		return nil, errPublicKey
	}
	if crypto, ok := key.(ssh.CryptoPublicKey); ok {
		if public, ok := crypto.CryptoPublicKey().(*rsa.PublicKey); ok && (public.N.BitLen() < minRSA || public.N.BitLen() > maxRSA) {
			return nil, fmt.Errorf("an RSA key of %d bits is not certified: %d to %d are", public.N.BitLen(), minRSA, maxRSA)
		}
	}
	return key, nil
}
