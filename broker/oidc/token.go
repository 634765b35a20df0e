package oidc

import (
	"strings"
	"time"

	"github.com/daypass/daypass/broker/jose"
)

const (
	// maxToken bounds a token's length in bytes; GitHub's are about 1,800.
	maxToken = 16 << 10
	// maxKeyID bounds `kid`, in bytes.
	maxKeyID = 256
	// brokerSubject begins the `sub` of every JWT that a broker mints.
	brokerSubject = "daypass:"
)

// token is a job token taken apart. Nothing in it is to be believed before its
// signature was checked.
type token struct {
	signed  string // header.payload as it arrived: what the signature covers
	payload string // base64url
	encoded string // the signature, base64url

	alg, kid string

	sig    []byte
	claims map[string]any

	iss, sub, jti string
	aud           []string
	exp, nbf, iat time.Time // zero: not in the token

	digest [32]byte // of signed; set when the signature is about to be checked
}

// parseHeader does what is cheapest: size, shape, and the strict reading of the
// header.
func parseHeader(raw string) (*token, error) {
	if len(raw) > maxToken {
		return nil, refuse(ReasonMalformed, "longer than 16 KiB")
	}
	parts, err := jose.Split(raw)
	if err != nil {
		return nil, &Error{Reason: ReasonMalformed, Detail: err.Error(), err: err}
	}
	header := parts.Header
	t := &token{signed: parts.Signed, payload: parts.Payload, encoded: parts.Signature}
	decoded, err := decodeText(header)
	if err != nil {
		return nil, err
	}
	if err := t.readHeader(decoded); err != nil {
		return nil, err
	}
	return t, nil
}

// parsePayload reads payload and signature as far as that needs neither
// configuration nor keys: the strict reading of the JSON, and the types of the
// registered claims.
func (t *token) parsePayload() error {
	decoded, err := decodeText(t.payload)
	if err != nil {
		return err
	}
	if t.sig, err = decode(nil, t.encoded); err != nil {
		return err
	}
	if t.claims, err = jose.ParseObject(decoded); err != nil {
		return &Error{Reason: ReasonMalformed, Detail: "payload: " + err.Error(), err: err}
	}
	return t.readClaims()
}

// decode takes canonical base64url alone. It appends to dst.
func decode(dst []byte, part string) ([]byte, error) {
	decoded, err := jose.Decode(dst, part)
	if err != nil {
		return nil, &Error{Reason: ReasonMalformed, Detail: err.Error(), err: err}
	}
	return decoded, nil
}

// decodeText is decode for text. The room is on the stack, and enough for the
// tokens of real providers: of these the heap sees one copy alone.
func decodeText(part string) (string, error) {
	var room [2 << 10]byte
	decoded, err := decode(room[:0], part)
	return string(decoded), err
}

// readHeader reads the JOSE header (RFC 7515 §4). What would name or carry a key
// from outside the provider's set, or change what is signed, is refused.
func (t *token) readHeader(header string) error {
	members, err := jose.ParseObject(header)
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
		case "nonce":
			_, ok = value.(string)
		case "typ":
			var typ string
			typ, ok = value.(string)
			// Minted tokens are `at+jwt` (RFC 9068): no job token is.
			ok = ok && strings.EqualFold(typ, "JWT")
		case "crit", "jku", "x5u", "jwk", "x5c", "b64", "enc", "zip":
			return refuse(ReasonMalformed, "header member "+name+" is not accepted")
		default:
			if of, variant := jose.CaseVariant(name, headerNames()); variant {
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

// claimNames are the claims that some reader of JWTs gives a meaning of its own:
// the registered ones (RFC 7519 §4.1) and those of OpenID Connect Core.
func claimNames() []string {
	return []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "nonce", "at_hash", "_claim_names", "_claim_sources"}
}

// readClaims takes the registered claims (RFC 7519 §4.1) by their exact types.
func (t *token) readClaims() error {
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
		*date.into, ok = jose.NumericDate(value)
		if !ok && (present || date.required) {
			return refuse(ReasonMalformed, "claim "+date.name+" is no time in seconds, or missing")
		}
	}
	return t.readOthers()
}

// readOthers refuses what another reader of JWTs might take for a claim that it
// knows, or might not take at all.
func (t *token) readOthers() error {
	names := claimNames()
	for name, value := range t.claims {
		switch name {
		case "iss", "sub", "aud", "exp", "nbf", "iat", "jti":
		case "nonce", "at_hash":
			if _, ok := value.(string); !ok {
				return refuse(ReasonMalformed, "claim "+name+" is no text")
			}
		case "_claim_names", "_claim_sources":
			return refuse(ReasonMalformed, "claim "+name+" says that there are claims elsewhere")
		default:
			if of, variant := jose.CaseVariant(name, names); variant {
				return refuse(ReasonMalformed, "payload: a case variant of "+of)
			}
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
