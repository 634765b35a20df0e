// Package jose is the strict reading of what is signed elsewhere: the three parts of
// a JWS, the JSON in them, public keys, and the check of a signature. A job token
// (package oidc) and a proof of possession (package dpop) are read by the same lines,
// so that there is one place where two readings could differ, and one to look at.
//
// It decides nothing: which members have to be there, and what they mean, is said by
// whoever reads. Standard library only, since clients are built from it too.
package jose

import (
	"encoding/base64"
	"errors"
	"strings"
	"time"
	"unicode/utf8"
)

// Parts are those of the compact serialization (RFC 7515 §7.1), base64url as they came.
type Parts struct {
	Header, Payload, Signature string
	Signed                     string // what the signature covers
}

var (
	errParts  = errors.New("not three parts separated by dots")
	errLines  = errors.New("line ends in the token")
	errBase64 = errors.New("not canonical base64url")
)

// Split takes a token apart. The caller has bounded its size.
func Split(raw string) (Parts, error) {
	header, rest, _ := strings.Cut(raw, ".")
	payload, sig, _ := strings.Cut(rest, ".")
	if header == "" || payload == "" || sig == "" || strings.IndexByte(sig, '.') >= 0 {
		return Parts{}, errParts
	}
	// encoding/base64 skips these two even when strict.
	if strings.IndexByte(raw, '\n') >= 0 || strings.IndexByte(raw, '\r') >= 0 {
		return Parts{}, errLines
	}
	return Parts{Header: header, Payload: payload, Signature: sig, Signed: raw[:len(header)+1+len(payload)]}, nil
}

// Decode takes canonical base64url alone (no padding, unused bits zero), so that one
// signed content has one spelling. It appends to dst. The caller looks for line ends,
// as Split does.
func Decode(dst []byte, part string) ([]byte, error) {
	decoded, err := base64.RawURLEncoding.Strict().AppendDecode(dst, []byte(part))
	if err != nil {
		return nil, errBase64
	}
	return decoded, nil
}

// maxVariant is the length of the longest name that folds to a known one.
const maxVariant = utf8.UTFMax * len("_claim_sources")

// CaseVariant finds the one of names that a lenient decoder (Go's included) would
// take name for. Folding keeps the number of letters, and that of bytes too unless
// one of them isn't ASCII: U+212A, the Kelvin sign, is a k to it.
func CaseVariant(name string, names []string) (of string, found bool) {
	if len(name) > maxVariant {
		return "", false
	}
	var bits byte
	for i := range len(name) {
		bits |= name[i]
	}
	for _, known := range names {
		if (bits >= utf8.RuneSelf || len(name) == len(known)) && name != known && strings.EqualFold(name, known) {
			return known, true
		}
	}
	return "", false
}

// maxUnix is the last second of the year 9999, the end of RFC 3339.
const maxUnix = 253402300799

// NumericDate reads a NumericDate (RFC 7519 §2), of a value of [ParseObject];
// fractions of a second are cut.
func NumericDate(value any) (time.Time, bool) {
	switch n := value.(type) {
	case int64:
		if n >= 0 && n <= maxUnix {
			return time.Unix(n, 0), true
		}
	case float64:
		if n >= 0 && n <= maxUnix {
			return time.Unix(int64(n), 0), true
		}
	}
	return time.Time{}, false
}
