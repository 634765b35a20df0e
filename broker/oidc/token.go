package oidc

import (
	"bytes"
	"encoding/base64"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// maxToken bounds a token's length in bytes; GitHub's are about 1,800.
	maxToken = 16 << 10
	// maxKeyID bounds `kid`, which the memory of unknown keys holds on to.
	maxKeyID = 256
	// maxUnix is the last second of the year 9999, the end of RFC 3339.
	maxUnix = 253402300799
	// brokerSubject begins the `sub` of every JWT that a broker mints.
	brokerSubject = "daypass:"
)

// token is a job token taken apart. Nothing in it is to be believed before
// verified is true.
type token struct {
	raw         string
	first, last int    // where its two dots stand
	signed      []byte // header.payload as it arrived: what the signature covers
	sig         []byte
	short       string // see detached

	alg, kid string

	payload []byte
	claims  map[string]any

	iss, sub, jti string
	aud           []string
	exp, nbf, iat time.Time // zero: not in the token

	digest [32]byte // of signed; set when the signature is about to be checked

	// What the key set found. It stands here because go-oidc flattens the
	// errors of a key set to text.
	verified bool
	failure  error
}

// parseToken does what needs neither configuration nor keys: size, shape, the
// strict reading of header and payload, and the types of the registered claims.
func parseToken(raw string) (*token, error) {
	if len(raw) > maxToken {
		return nil, refuse(ReasonMalformed, "longer than 16 KiB")
	}
	t := &token{raw: raw}
	header, err := t.split()
	if err != nil {
		return nil, err
	}
	if err := t.readHeader(header); err != nil {
		return nil, err
	}
	t.claims, err = parseObject(string(t.payload))
	if err != nil {
		return nil, &Error{Reason: ReasonMalformed, Detail: "payload: " + err.Error(), err: err}
	}
	if err := t.readClaims(); err != nil {
		return nil, err
	}
	return t, nil
}

// split decodes the three parts of the compact serialization (RFC 7515 §7.1).
// The base64url must be canonical (no padding, no line ends, unused bits zero),
// so that one signed content has one spelling.
func (t *token) split() (header []byte, err error) {
	// One copy of the token serves decoding and hashing.
	raw := []byte(t.raw)
	first := bytes.IndexByte(raw, '.')
	last := bytes.LastIndexByte(raw, '.')
	if first < 1 || last-first < 2 || last == len(raw)-1 || bytes.IndexByte(raw[first+1:last], '.') >= 0 {
		return nil, refuse(ReasonMalformed, "not three parts separated by dots")
	}
	// encoding/base64 skips these two even when strict.
	if bytes.IndexByte(raw, '\n') >= 0 || bytes.IndexByte(raw, '\r') >= 0 {
		return nil, refuse(ReasonMalformed, "line ends in the token")
	}
	encoding := base64.RawURLEncoding.Strict()
	buffer := make([]byte, 0, encoding.DecodedLen(len(raw)))
	parts := [3][]byte{raw[:first], raw[first+1 : last], raw[last+1:]}
	for i, part := range parts {
		start := len(buffer)
		buffer, err = encoding.AppendDecode(buffer, part)
		if err != nil {
			return nil, &Error{Reason: ReasonMalformed, Detail: "not canonical base64url", err: err}
		}
		parts[i] = buffer[start:len(buffer):len(buffer)]
	}
	t.first, t.last = first, last
	t.signed, t.payload, t.sig = raw[:last:last], parts[1], parts[2]
	return parts[0], nil
}

// detached is the token without its payload (RFC 7515 appendix F). It is what
// go-oidc gets to parse: of a payload it would make two copies, rune by rune, before
// it asks the key set, which has the payload already.
func (t *token) detached() string {
	if t.short == "" {
		t.short = t.raw[:t.first+1] + t.raw[t.last:]
	}
	return t.short
}

// readHeader reads the JOSE header (RFC 7515 §4). What would name or carry a key
// from outside the provider's set, or change what is signed, is refused.
func (t *token) readHeader(header []byte) error {
	members, err := parseObject(string(header))
	if err != nil {
		return &Error{Reason: ReasonMalformed, Detail: "header: " + err.Error(), err: err}
	}
	for name, value := range members {
		ok := true
		switch name {
		case "alg":
			t.alg, ok = value.(string)
		case "kid":
			t.kid, ok = value.(string)
			ok = ok && t.kid != "" && len(t.kid) <= maxKeyID
		case "typ":
			var typ string
			typ, ok = value.(string)
			// Minted tokens are `at+jwt` (RFC 9068): no job token is.
			ok = ok && strings.EqualFold(typ, "JWT")
		case "crit", "jku", "x5u", "jwk", "x5c", "b64", "enc", "zip":
			return refuse(ReasonMalformed, "header member "+name+" is not accepted")
		default:
			if of, variant := caseVariant(name, headerNames()); variant {
				return refuse(ReasonMalformed, "header: a case variant of "+of)
			}
		}
		if !ok {
			return refuse(ReasonMalformed, "header member "+name+" has a value that is not accepted")
		}
	}
	if t.alg == "" {
		return refuse(ReasonMalformed, "header without alg")
	}
	return nil
}

func headerNames() []string {
	return []string{"alg", "kid", "typ", "crit", "jku", "x5u", "jwk", "x5c", "b64", "enc", "zip"}
}

func claimNames() []string {
	return []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti"}
}

// caseVariant finds the one of names that a lenient decoder (Go's included) would
// take name for. All names have three letters, and folding keeps their number,
// though not their bytes: U+212A, the Kelvin sign, is a k to it.
func caseVariant(name string, names []string) (of string, found bool) {
	if len(name) > 3*utf8.UTFMax || utf8.RuneCountInString(name) != 3 {
		return "", false
	}
	for _, known := range names {
		if name != known && strings.EqualFold(name, known) {
			return known, true
		}
	}
	return "", false
}

// readClaims takes the registered claims (RFC 7519 §4.1) by their exact types.
func (t *token) readClaims() error {
	names := claimNames()
	for name := range t.claims {
		if of, variant := caseVariant(name, names); variant {
			return refuse(ReasonMalformed, "payload: a case variant of "+of)
		}
	}
	for _, text := range [...]struct {
		name     string
		into     *string
		required bool
	}{{"iss", &t.iss, true}, {"sub", &t.sub, true}, {"jti", &t.jti, false}} {
		value, present := t.claims[text.name]
		var ok bool
		*text.into, ok = value.(string)
		if present && (!ok || *text.into == "") || !present && text.required {
			return refuse(ReasonMalformed, "claim "+text.name+" is no text, empty, or missing")
		}
	}
	if err := t.readAudience(); err != nil {
		return err
	}
	for _, date := range [...]struct {
		name     string
		into     *time.Time
		required bool
	}{{"exp", &t.exp, true}, {"nbf", &t.nbf, false}, {"iat", &t.iat, false}} {
		value, present := t.claims[date.name]
		var ok bool
		*date.into, ok = numericDate(value)
		if !ok && (present || date.required) {
			return refuse(ReasonMalformed, "claim "+date.name+" is no time in seconds, or missing")
		}
	}
	return nil
}

func (t *token) readAudience() error {
	switch aud := t.claims["aud"].(type) {
	case string:
		t.aud = []string{aud}
		return nil
	case []any:
		t.aud = make([]string, len(aud))
		for i, one := range aud {
			text, ok := one.(string)
			if !ok {
				return refuse(ReasonMalformed, "claim aud holds something that is no text")
			}
			t.aud[i] = text
		}
		return nil
	default:
		return refuse(ReasonMalformed, "claim aud is no text and no list of them, or missing")
	}
}

// numericDate reads a NumericDate (RFC 7519 §2); fractions of a second are cut.
func numericDate(value any) (time.Time, bool) {
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

func (t *token) identity(provider string) *Identity {
	return &Identity{
		Provider: provider,
		Issuer:   t.iss,
		Subject:  t.sub,
		ID:       t.jti,
		Audience: t.aud,
		Claims:   t.claims,
		IssuedAt: t.iat,
		Expiry:   t.exp,
		Digest:   t.digest,
	}
}
