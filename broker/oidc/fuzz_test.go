package oidc

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
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
		object, err := parseObject(text)
		if err != nil {
			return
		}
		if want := lenient(t, text); !reflect.DeepEqual(object, want) {
			t.Fatalf("%q read as %#v, by encoding/json as %#v", text, object, want)
		}
	})
}

// Whatever bytes arrive: no panic, and what is accepted another library, with the
// same keys, accepts as well.
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
	parser := jwt.NewParser(jwt.WithValidMethods([]string{algRS256, algES256}), jwt.WithTimeFunc(s.clock.Now),
		jwt.WithIssuer(s.provider.issuer()), jwt.WithAudience(testAudience), jwt.WithExpirationRequired(), jwt.WithStrictDecoding())
	f.Fuzz(func(t *testing.T, raw string) {
		identity, err := s.verifier.Verify(t.Context(), raw)
		if err != nil {
			if identity != nil {
				t.Fatal("an identity beside an error")
			}
			return
		}
		_, err = parser.Parse(raw, func(token *jwt.Token) (any, error) {
			if token.Method.Alg() == algRS256 {
				return s.rsa.key.Public(), nil
			}
			return s.ec.key.Public(), nil
		})
		if err != nil {
			t.Fatalf("accepted a token that another library refuses: %v", err)
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
	f.Add(s.ec.header(), "")
	f.Add(`{"alg":"ES256","b64":false,"crit":["b64"]}`, `,"nonce":1`)
	f.Add(`{"alg":"ES256","alg":"none"}`, `,"SUB":"y"`)
	f.Add(`{"alg":"ES256","x5t":1}`, `,"sub":"y","_claim_names":{"a":"b"}`)
	f.Fuzz(func(t *testing.T, header, more string) {
		payload := "{" + base + more + "}"
		identity, err := s.verifier.Verify(t.Context(), s.ec.raw(t, header, payload))
		if err != nil {
			return
		}
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
