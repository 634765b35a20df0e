// Package dpop is the proof of possession of RFC 9449, both sides of it: a [Key] in
// the memory of a job makes a proof for each request, and a [Verifier] checks that a
// request came with one. A token that is bound to the key by its thumbprint (RFC 7638)
// is of no use to whoever finds the token alone, in a log, a dump or a proxy.
//
// A proof is a JWT whose header holds the public key itself, so anybody can make a
// good one: by itself it says nothing but that its maker had some key when this request
// was made. All else is in the comparison with what the token is bound to, which is the
// caller's ([Proof.Thumbprint]).
//
// It is read as strictly as a job token is (package jose): size first, then form, then
// the signature. Standard library only, for clients and services are built from it.
package dpop

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/daypass/daypass/broker/jose"
)

const (
	// Header is the HTTP header of a proof.
	Header = "DPoP"
	// Scheme is that of a bound token in the header Authorization.
	Scheme = "DPoP"
	// MaxProof is the longest proof that is read, in bytes: one with an RSA key of 4096
	// bits and a URL of a kilobyte has about 3,500.
	MaxProof = 4 << 10

	typ        = "dpop+jwt"
	maxID      = 256 // bytes of jti
	maxURL     = 2 << 10
	maxRSA     = 4096 / 8 // bytes of a modulus: more costs the verifier more than anybody needs
	hashLength = sha256.Size
)

// Algorithms are those that a proof may be signed with. All are asymmetric.
func Algorithms() []string {
	return []string{jose.ES256, jose.ES384, jose.EdDSA, jose.RS256, jose.PS256}
}

// Thumbprint names a public key (RFC 7638, with SHA-256).
type Thumbprint [hashLength]byte

// String is what stands in `cnf.jkt`.
func (t Thumbprint) String() string { return base64.RawURLEncoding.EncodeToString(t[:]) }

// Error says what is wrong with a proof. It holds nothing of the proof itself.
type Error struct{ Detail string }

// Error implements error.
func (e *Error) Error() string { return "DPoP proof: " + e.Detail }

func refuse(format string, args ...any) error { return &Error{fmt.Sprintf(format, args...)} }

// Proof is one whose signature was checked. Whether it is for a request is for
// [Verifier.Check] to say.
type Proof struct {
	Thumbprint Thumbprint // of the key that signed it
	ID         string     // jti
	IssuedAt   time.Time

	method, url string
	hash        string // ath, as it came; "": there is none
}

// parse reads a proof and checks its signature.
func parse(raw string) (*Proof, error) {
	if len(raw) > MaxProof {
		return nil, refuse("longer than 4 KiB")
	}
	parts, err := jose.Split(raw)
	if err != nil {
		return nil, refuse("%v", err)
	}
	header, err := parseObject(parts.Header)
	if err != nil {
		return nil, refuse("header: %v", err)
	}
	key, err := readHeader(header)
	if err != nil {
		return nil, err
	}
	payload, err := parseObject(parts.Payload)
	if err != nil {
		return nil, refuse("payload: %v", err)
	}
	p := &Proof{Thumbprint: key.thumbprint}
	if err := p.readClaims(payload); err != nil {
		return nil, err
	}
	signature := jose.Signature{Algorithm: key.algorithm, Signed: parts.Signed, Digest: sha256.Sum256([]byte(parts.Signed))}
	if signature.Value, err = jose.Decode(nil, parts.Signature); err != nil {
		return nil, refuse("signature: %v", err)
	}
	if !signature.By(key.public) {
		return nil, refuse("the signature is not that of the key in its header")
	}
	return p, nil
}

func parseObject(part string) (map[string]any, error) {
	decoded, err := jose.Decode(nil, part)
	if err != nil {
		return nil, err
	}
	return jose.ParseObject(string(decoded))
}

// claimNames are those that a lenient reader must not find under another spelling.
func claimNames() []string {
	return []string{"jti", "htm", "htu", "iat", "ath", "nonce", "exp", "nbf"}
}

// readClaims takes the claims of RFC 9449, section 4.2, by their exact types. Others
// are left aside (section 4.3 leaves their meaning to extensions): exp and nbf too,
// since iat decides.
func (p *Proof) readClaims(claims map[string]any) error {
	names := claimNames()
	for name := range claims {
		if of, variant := jose.CaseVariant(name, names); variant {
			return refuse("payload: a case variant of %s", of)
		}
	}
	text := func(name string, most int) (string, error) {
		value, _ := claims[name].(string)
		if value == "" || len(value) > most {
			return "", refuse("claim %s is missing, no text, empty or too long", name)
		}
		return value, nil
	}
	var err error
	if p.ID, err = text("jti", maxID); err != nil {
		return err
	}
	if p.method, err = text("htm", 32); err != nil {
		return err
	}
	if p.url, err = text("htu", maxURL); err != nil {
		return err
	}
	if _, present := claims["ath"]; present {
		if p.hash, err = text("ath", 64); err != nil {
			return err
		}
	}
	var ok bool
	if p.IssuedAt, ok = jose.NumericDate(claims["iat"]); !ok {
		return refuse("claim iat is missing, or no time in seconds")
	}
	return nil
}

// Hash is what stands in `ath` of a proof for an access token.
func Hash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Challenge is the value of WWW-Authenticate by which a server asks for a proof, or
// says what is wrong with one (RFC 9449, section 7.1). An empty code asks.
func Challenge(code string) string {
	challenge := Scheme + ` algs="` + strings.Join(Algorithms(), " ") + `"`
	if code != "" {
		challenge += `, error="` + code + `"`
	}
	return challenge
}
