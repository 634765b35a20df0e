package dpop

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"math/big"
	"slices"

	"github.com/daypass/daypass/broker/jose"
)

// proofKey is the public key of a header, and what it signs with.
type proofKey struct {
	algorithm  string
	public     crypto.PublicKey
	thumbprint Thumbprint
}

func headerNames() []string {
	return []string{"alg", "typ", "jwk", "kid", "crit", "jku", "x5u", "x5c", "b64", "enc", "zip"}
}

// readHeader reads the JOSE header (RFC 9449, section 4.2). What would name another
// key, or change what is signed, is refused; other members are left aside.
func readHeader(members map[string]any) (*proofKey, error) {
	names := headerNames()
	for name := range members {
		switch name {
		case "crit", "jku", "x5u", "x5c", "b64", "enc", "zip":
			return nil, refuse("header member %s is not accepted", name)
		}
		if of, variant := jose.CaseVariant(name, names); variant {
			return nil, refuse("header: a case variant of %s", of)
		}
	}
	if members["typ"] != typ {
		return nil, refuse("header member typ is not %s", typ)
	}
	algorithm, _ := members["alg"].(string)
	if !slices.Contains(Algorithms(), algorithm) {
		return nil, refuse("header member alg is none of the algorithms that are accepted")
	}
	jwk, ok := members["jwk"].(map[string]any)
	if !ok {
		return nil, refuse("header member jwk is missing, or no key")
	}
	key, err := readKey(jwk)
	if err != nil {
		return nil, err
	}
	if key.algorithm = algorithm; !jose.Fits(algorithm, key.public) {
		return nil, refuse("alg is not one for the key in jwk")
	}
	return key, nil
}

// privateNames are the members that hold private or shared key material (RFC 7518,
// section 6).
func privateNames() []string { return []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} }

// readKey reads a public key. It has one spelling: two of one key would be two
// thumbprints, of which a token is bound to one.
func readKey(members map[string]any) (*proofKey, error) {
	private, public := privateNames(), []string{"kty", "crv", "n", "e", "x", "y", "use", "key_ops", "alg"}
	for name := range members {
		_, variant := jose.CaseVariant(name, private)
		if variant || slices.Contains(private, name) {
			return nil, refuse("jwk holds a private or symmetric key: it must never be sent")
		}
		if of, variant := jose.CaseVariant(name, public); variant {
			return nil, refuse("jwk: a case variant of %s", of)
		}
	}
	text := func(name string) string {
		value, _ := members[name].(string)
		return value
	}
	said := jose.PublicKey{KeyType: text("kty"), Curve: text("crv"), N: text("n"), E: text("e"), X: text("x"), Y: text("y")}
	key, err := said.Key()
	if err != nil {
		return nil, refuse("jwk: %v", err)
	}
	if use, present := members["use"]; present && use != "sig" {
		return nil, refuse("jwk is not for signatures")
	}
	if found, ok := key.(*rsa.PublicKey); ok && found.Size() > maxRSA {
		return nil, refuse("jwk: an RSA key of more than 4096 bits")
	}
	canonical := membersOf(key)
	for _, m := range canonical {
		if members[m.name] != m.value {
			return nil, refuse("jwk: member %s is not in its canonical form", m.name)
		}
	}
	return &proofKey{public: key, thumbprint: thumbprint(canonical)}, nil
}

// member is one of a key's required members, in canonical form.
type member struct{ name, value string }

// membersOf are the required members of a public key, in the order of RFC 7638,
// section 3.2.
func membersOf(key crypto.PublicKey) []member {
	text := func(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
	switch key := key.(type) {
	case *rsa.PublicKey:
		return []member{{"e", text(big.NewInt(int64(key.E)).Bytes())}, {"kty", "RSA"}, {"n", text(key.N.Bytes())}}
	case *ecdsa.PublicKey:
		point, err := key.Bytes()
		if err != nil {
			return nil // of a key that was read, it can be written
		}
		half := len(point) / 2
		return []member{{"crv", key.Params().Name}, {"kty", "EC"}, {"x", text(point[1 : 1+half])}, {"y", text(point[1+half:])}}
	case ed25519.PublicKey:
		return []member{{"crv", "Ed25519"}, {"kty", "OKP"}, {"x", text(key)}}
	}
	return nil
}

// object writes the members as RFC 7638, section 3.3, wants them: nothing in them
// needs to be escaped.
func object(members []member) []byte {
	out := []byte{'{'}
	for i, m := range members {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, `"`+m.name+`":"`+m.value+`"`...)
	}
	return append(out, '}')
}

func thumbprint(members []member) Thumbprint { return sha256.Sum256(object(members)) }
