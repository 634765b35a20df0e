package oidc

import (
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"

	strict "github.com/daypass/daypass/broker/jose"
)

// lenient reads an object as Go's own decoder does, with our types of numbers.
func lenient(t *testing.T, text string) map[string]any {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var object map[string]any
	if err := decoder.Decode(&object); err != nil {
		t.Fatalf("accepted %q, which encoding/json refuses: %v", text, err)
	}
	converted, ok := convert(t, object).(map[string]any)
	if !ok {
		t.Fatalf("accepted %q, which is no object", text)
	}
	return converted
}

func convert(t *testing.T, value any) any {
	t.Helper()
	switch value := value.(type) {
	case json.Number:
		if !strings.ContainsAny(value.String(), ".eE") {
			n, err := value.Int64()
			if err != nil {
				t.Fatalf("accepted the integer %s: %v", value, err)
			}
			return n
		}
		f, err := value.Float64()
		if err != nil || math.IsInf(f, 0) {
			t.Fatalf("accepted the number %s: %v", value, err)
		}
		return f
	case []any:
		for i := range value {
			value[i] = convert(t, value[i])
		}
	case map[string]any:
		for name := range value {
			value[name] = convert(t, value[name])
		}
	}
	return value
}

// What the strict parser accepts, it reads as Go's own decoder does.
func FuzzParseObject(f *testing.F) {
	for _, seed := range []string{
		`{}`, ` { "a" : [ ] } `, `{"a":1,"b":-0,"c":1.5e+3,"d":[true,false,null,{}]}`,
		`{"a":"\ud83d\ude00\u00e9\n\/"}`, `{"a":1,"\u0061":2}`, `{"a":9223372036854775808}`, `{"a":1e999}`,
		`{"a":"` + "\xff" + `"}`, `{"a":"\ud800"}`, `{"a":"\u0000"}`, `{"a":1}x`, `{"a":01}`, `[[[[`,
		strings.Repeat(`{"a":`, 17) + "1" + strings.Repeat("}", 17), `{"a":"\ufffd"}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		object, err := strict.ParseObject(text)
		if err != nil {
			return
		}
		if want := lenient(t, text); !reflect.DeepEqual(object, want) {
			t.Fatalf("%q read as %#v, by encoding/json as %#v", text, object, want)
		}
	})
}

// Whatever bytes arrive: no panic, and what is accepted two other libraries, with
// the same keys, accept as well.
func FuzzVerify(f *testing.F) {
	s := newStage(f)
	good := s.rsa.token(f, s.provider.claims(s.clock, nil))
	if _, err := s.verifier.Verify(f.Context(), good); err != nil { // fetches the keys
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(s.ec.token(f, s.provider.claims(s.clock, nil)))
	for _, a := range attacks(f, s) {
		if len(a.token) <= maxToken {
			f.Add(a.token)
		}
	}
	oracle := s.oracle()
	parser := jwt.NewParser(jwt.WithValidMethods([]string{algRS256, algES256}), jwt.WithTimeFunc(s.clock.Now),
		jwt.WithIssuer(s.provider.issuer()), jwt.WithAudience(testAudience), jwt.WithExpirationRequired(), jwt.WithStrictDecoding())
	f.Fuzz(func(t *testing.T, raw string) {
		if accepted, _ := s.agrees(t, oracle, raw); !accepted {
			return
		}
		_, err := parser.Parse(raw, func(token *jwt.Token) (any, error) {
			if token.Method.Alg() == algRS256 {
				return s.rsa.key.Public(), nil
			}
			return s.ec.key.Public(), nil
		})
		if err != nil {
			t.Fatalf("accepted a token that golang-jwt refuses: %v", err)
		}
	})
}

// A provider that signs anything at all: what is accepted, another reader
// understands in the same way.
func FuzzSigned(f *testing.F) {
	s := newStage(f)
	payload := s.payload(f)
	if _, err := s.verifier.Verify(f.Context(), s.ec.raw(f, s.ec.header(), payload)); err != nil {
		f.Fatal(err)
	}
	base := fmt.Sprintf(`"iss":%q,"aud":%q,"sub":"x","exp":%d`, s.provider.issuer(), testAudience, s.clock.Now().Unix()+60)
	oracle := s.oracle()
	f.Add(s.ec.header(), "")
	f.Add(`{"alg":"ES256","b64":false,"crit":["b64"]}`, `,"nonce":1`)
	f.Add(`{"alg":"ES256","alg":"none"}`, `,"SUB":"y"`)
	f.Add(`{"alg":"ES256","x5t":1}`, `,"sub":"y","_claim_names":{"a":"b"}`)
	f.Add(`{"alg":"ES256","nonce":7,"x5c":["AAAA"]}`, `,"nonce":7,"At_Hash":[],"iat":"1"`)
	f.Fuzz(func(t *testing.T, header, more string) {
		payload := "{" + base + more + "}"
		raw := s.ec.raw(t, header, payload)
		identity, err := s.verifier.Verify(t.Context(), raw)
		if err != nil {
			return
		}
		s.agrees(t, oracle, raw)
		claims := lenient(t, payload)
		if identity.Subject != claims["sub"] || identity.Issuer != claims["iss"] || !reflect.DeepEqual(identity.Claims, claims) {
			t.Fatalf("%q read as %#v", payload, identity)
		}
		read := lenient(t, header)
		for _, name := range []string{"crit", "jwk", "jku", "x5u", "x5c", "b64"} {
			if _, there := read[name]; there {
				t.Fatalf("accepted header %q", header)
			}
		}
		if read["alg"] != algES256 || !slices.Contains(identity.Audience, testAudience) {
			t.Fatalf("accepted header %q, audience %q", header, identity.Audience)
		}
	})
}

// Whatever a provider publishes: no panic, and no key that is too weak, that another
// library doesn't read, or that it reads as another key.
func FuzzParseKeys(f *testing.F) {
	for _, alg := range Algorithms() {
		key, err := json.Marshal(newSigner(f, alg, "a").jwk())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(fmt.Appendf(nil, `{"keys":[%s]}`, key))
		f.Add(fmt.Appendf(nil, `{"keys":[%s,{"kty":"oct","k":"AAAA"},%[1]s]}`, key))
	}
	f.Add([]byte(`{"keys":null}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"},{"kty":"OKP","crv":"Ed25519","x":"AA"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-521"}],"Keys":[1]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		keys, _, err := parseKeys(body)
		if err != nil && keys != nil {
			t.Fatal("keys beside an error")
		}
		for _, k := range keys {
			examineKey(t, k)
		}
	})
}

func examineKey(t *testing.T, k *key) {
	t.Helper()
	fitting := slices.DeleteFunc(Algorithms(), func(alg string) bool { return !k.fits(alg) })
	if len(fitting) == 0 || k.fits("none") || k.fits("HS256") || k.fits("") || len(k.id) > maxKeyID {
		t.Errorf("key %q fits %q", k.id, fitting)
	}
	other := jose.JSONWebKey{Key: k.public}
	text, err := other.MarshalJSON()
	if err == nil {
		err = other.UnmarshalJSON(text)
	}
	if err != nil || !other.Valid() || !other.IsPublic() || !equalKeys(k.public, other.Key) {
		t.Errorf("go-jose doesn't take the key: %v", err)
	}
	if public, ok := k.public.(*rsa.PublicKey); ok && (public.N.BitLen() < minRSABits || public.E < 3 || public.E%2 == 0) {
		t.Errorf("RSA key of %d bits with exponent %d", public.N.BitLen(), public.E)
	}
}
