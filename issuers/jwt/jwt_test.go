package jwt_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	josejwt "github.com/go-jose/go-jose/v4/jwt"
	golangjwt "github.com/golang-jwt/jwt/v5"

	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/issuertest"
	"github.com/daypass/daypass/issuers/jwt"
)

const externalURL = "https://daypass.example.com"

type key struct {
	crypto.Signer
	id, algorithm string
}

func (k key) KeyID() string     { return k.id }
func (k key) Algorithm() string { return k.algorithm }
func (k key) SignContext(_ context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.Sign(rand.Reader, digest, opts)
}

func newKey(tb testing.TB) key {
	tb.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key{private, "key-1", "ES256"}
}

func newIssuer(tb testing.TB, signer issuers.Signer, roles map[string]jwt.Role) *jwt.Issuer {
	tb.Helper()
	issuer, err := jwt.New(tb.Context(), jwt.Config{Issuer: externalURL, Signer: func() issuers.Signer { return signer }, Roles: roles})
	if err != nil {
		tb.Fatal(err)
	}
	return issuer
}

func issue(tb testing.TB, issuer *jwt.Issuer, lease issuers.Lease, parameters string) (string, error) {
	tb.Helper()
	res, err := issuer.Issue(tb.Context(), &issuers.IssueRequest{Lease: lease, Parameters: json.RawMessage(parameters)})
	if err != nil {
		return "", err
	}
	return res.Values[0].Value.Reveal(), nil
}

func TestConformance(t *testing.T) {
	signer := newKey(t)
	issuertest.Exercise(t, func(t *testing.T) issuers.Issuer { return newIssuer(t, signer, nil) },
		issuertest.Options{Parameters: json.RawMessage(`{"audience":"https://sts.amazonaws.com"}`)})
}

func TestTokenVerifiesElsewhere(t *testing.T) {
	signer := newKey(t)
	issuer := newIssuer(t, signer, map[string]jwt.Role{"": {}, "plain": {Type: "JWT"}})
	now := time.Now()
	for role, typ := range map[string]string{"": "at+jwt", "plain": "JWT"} {
		lease := issuertest.NewLease("testtesttest", role, now)
		for range 50 { // r and s with leading zeros come up
			token, err := issue(t, issuer, lease, `{"audience":["https://sts.amazonaws.com","vault"],"claims":{"team":"payments","n":7,"big":"x","ok":true,"list":["a","b"]}}`)
			if err != nil {
				t.Fatal(err)
			}
			claims := golangjwt.MapClaims{}
			parsed, err := golangjwt.ParseWithClaims(token, claims, func(*golangjwt.Token) (any, error) { return signer.Public(), nil },
				golangjwt.WithValidMethods([]string{"ES256"}), golangjwt.WithIssuer(externalURL), golangjwt.WithAudience("vault"), golangjwt.WithIssuedAt(), golangjwt.WithExpirationRequired(),
				golangjwt.WithSubject("daypass:main/payments/deploy"))
			if err != nil {
				t.Fatal(err)
			}
			if parsed.Header["kid"] != "key-1" || parsed.Header["typ"] != typ || parsed.Header["alg"] != "ES256" || len(parsed.Header) != 3 {
				t.Errorf("header %v", parsed.Header)
			}
			if claims["jti"] != lease.ID || claims["exp"] != float64(lease.ExpiresAt.Unix()) || claims["iat"] != claims["nbf"] || claims["iat"] != float64(now.Unix()) ||
				claims["client_id"] != claims["sub"] || claims["team"] != "payments" || claims["n"] != 7.0 || claims["ok"] != true {
				t.Errorf("claims %v", claims)
			}
			other, err := josejwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
			if err != nil {
				t.Fatal(err)
			}
			var standard josejwt.Claims
			if err := other.Claims(signer.Public(), &standard); err != nil {
				t.Fatal(err)
			}
			if err := standard.Validate(josejwt.Expected{Issuer: externalURL, AnyAudience: josejwt.Audience{"https://sts.amazonaws.com"}, ID: lease.ID, Time: now}); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestPayloadIsDeterministic(t *testing.T) {
	issuer := newIssuer(t, newKey(t), nil)
	lease := issuertest.NewLease("testtesttest", "", time.Now())
	payloads := map[string]bool{}
	for range 20 {
		token, err := issue(t, issuer, lease, `{"claims":{"z":"1","a":"2","m":"3"},"audience":"x"}`)
		if err != nil {
			t.Fatal(err)
		}
		payloads[token[:strings.LastIndex(token, ".")]] = true
	}
	if len(payloads) != 1 {
		t.Errorf("%d forms of one token", len(payloads))
	}
}

func TestOneAudienceIsAString(t *testing.T) {
	issuer := newIssuer(t, newKey(t), nil)
	token, err := issue(t, issuer, issuertest.NewLease("testtesttest", "", time.Now()), `{"audience":["one"]}`)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(payload), `"aud":"one"`) {
		t.Errorf("%s", payload)
	}
}

func TestParametersRefused(t *testing.T) {
	issuer := newIssuer(t, newKey(t), map[string]jwt.Role{"": {}, "aws": {Audiences: []string{"sts.amazonaws.com"}}})
	cases := map[string]string{
		``:                                   "audience is missing",
		`null`:                               "audience is missing",
		`{}`:                                 "audience: 1 to",
		`{"audience":[]}`:                    "audience: 1 to",
		`{"audience":""}`:                    "without blanks",
		`{"audience":"a b"}`:                 "without blanks",
		`{"audience":null}`:                  "audience",
		`{"audience":7}`:                     "a string or a list",
		`{"audience":[null]}`:                "null is no audience",
		`{"audience":["a","a"]}`:             "twice",
		`{"audience":"a","audience":"b"}`:    "stands twice",
		`{"Audience":"a"}`:                   `no parameter "Audience"`,
		`{"audience":"a","ttl":"1h"}`:        `no parameter "ttl"`,
		`{"audience":"a"} x`:                 "one object",
		`{"audience":"a"}{}`:                 "one object",
		`{"audience":"a"}]`:                  "reading",
		`["a"]`:                              "one object",
		"{\"audience\":\"\xff\"}":            "UTF-8",
		`{"audience":"` + externalURL + `"}`: "own external URL",
		`{"audience":"https://DAYPASS.example.com/"}`:                              "own external URL",
		`{"audience":["x","` + externalURL + `/"]}`:                                "own external URL",
		`{"audience":"a","claims":{"x":null}}`:                                     "claim",
		`{"audience":"a","claims":{"x":{}}}`:                                       "list of strings is needed",
		`{"audience":"a","claims":{"x":[1]}}`:                                      "strings only",
		`{"audience":"a","claims":{"x":9007199254740993}}`:                         "write it as a string",
		`{"audience":"a","claims":{"x":1e999}}`:                                    "write it as a string",
		`{"audience":"a","claims":{"":"x"}}`:                                       "a name has",
		`{"audience":"a","claims":{"x":"1","x":"2"}}`:                              "stands twice",
		`{"audience":"a","claims":"x"}`:                                            "reading",
		`{"audience":"a","claims":{"x":["` + strings.Repeat(`y","`, 101) + `z"]}}`: "at most 100",
		`{"audience":"a","claims":{"` + strings.Repeat("n", 129) + `":"x"}}`:       "a name has",
		`{"audience":"` + strings.Repeat("a", 70_000) + `"}`:                       "limit",
	}
	for raw, want := range cases {
		err := issuer.CheckParameters("", json.RawMessage(raw))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v, want %q", raw, err, want)
		}
		if _, err := issue(t, issuer, issuertest.NewLease("testtesttest", "", time.Now()), raw); !errors.Is(err, issuers.ErrRejected) {
			t.Errorf("issuing with %.80s: %v, want ErrRejected", raw, err)
		}
	}
	for _, name := range []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "azp", "act", "may_act", "cnf", "scope", "SUB", "Aud"} {
		raw := `{"audience":"a","claims":{"` + name + `":"x"}}`
		if err := issuer.CheckParameters("", json.RawMessage(raw)); err == nil || !strings.Contains(err.Error(), "the broker's") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := issue(t, issuer, issuertest.NewLease("testtesttest", "", time.Now()), raw); !errors.Is(err, issuers.ErrRejected) {
			t.Errorf("%s was issued: %v", name, err)
		}
	}
	if err := issuer.CheckParameters("aws", json.RawMessage(`{"audience":"sts.amazonaws.com.evil"}`)); err == nil {
		t.Error("an audience that the role doesn't list was accepted")
	}
	if err := issuer.CheckParameters("aws", json.RawMessage(`{"audience":"sts.amazonaws.com"}`)); err != nil {
		t.Error(err)
	}
}

func TestTemplatesAreCheckedWhenFilled(t *testing.T) {
	issuer := newIssuer(t, newKey(t), map[string]jwt.Role{"aws": {Audiences: []string{"sts.amazonaws.com"}}})
	if err := issuer.CheckParameters("aws", json.RawMessage(`{"audience":"{{ claims.aud }}","claims":{"ref":"{{ claims.ref }}"}}`)); err != nil {
		t.Error(err)
	}
	lease := issuertest.NewLease("testtesttest", "aws", time.Now())
	if _, err := issue(t, issuer, lease, `{"audience":"{{ claims.aud }}"}`); !errors.Is(err, issuers.ErrRejected) {
		t.Errorf("%v", err)
	}
}

func TestTokenIsBounded(t *testing.T) {
	issuer := newIssuer(t, newKey(t), nil)
	_, err := issue(t, issuer, issuertest.NewLease("testtesttest", "", time.Now()), `{"audience":"a","claims":{"x":"`+strings.Repeat("x", 6200)+`"}}`)
	if !errors.Is(err, issuers.ErrRejected) || !strings.Contains(err.Error(), "limit") {
		t.Errorf("%v", err)
	}
}

func TestRotationTakesTheKeyOfTheMoment(t *testing.T) {
	first, second := newKey(t), newKey(t)
	second.id = "key-2"
	current := first
	issuer, err := jwt.New(t.Context(), jwt.Config{Issuer: externalURL, Signer: func() issuers.Signer { return current }})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []key{first, second} {
		current = k
		token, err := issue(t, issuer, issuertest.NewLease("testtesttest", "", time.Now()), `{"audience":"a"}`)
		if err != nil {
			t.Fatal(err)
		}
		_, err = golangjwt.Parse(token, func(parsed *golangjwt.Token) (any, error) {
			if parsed.Header["kid"] != k.id {
				t.Errorf("kid %v, want %s", parsed.Header["kid"], k.id)
			}
			return k.Public(), nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// broken answers with a signature of its choice.
type broken struct {
	key
	der []byte
	err error
}

func (b broken) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return b.der, b.err }
func (b broken) SignContext(context.Context, []byte, crypto.SignerOpts) ([]byte, error) {
	return b.der, b.err
}

func TestBadKeys(t *testing.T) {
	good := newKey(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der := func(r, s *big.Int) []byte {
		text, err := asn1.Marshal(struct{ R, S *big.Int }{r, s})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	huge := new(big.Int).Lsh(big.NewInt(1), 256)
	one := big.NewInt(1)
	for name, c := range map[string]struct {
		signer issuers.Signer
		want   error
	}{
		"none":          {nil, issuers.ErrRejected},
		"RSA":           {key{rsaKey, "k", "ES256"}, issuers.ErrRejected},
		"algorithm":     {key{good.Signer, "k", "none"}, issuers.ErrRejected},
		"no id":         {key{good.Signer, "", "ES256"}, issuers.ErrRejected},
		"away":          {broken{good, nil, errors.New("token removed")}, issuers.ErrUnavailable},
		"garbage":       {broken{good, []byte("x"), nil}, issuers.ErrUnavailable},
		"too long":      {broken{good, der(huge, one), nil}, issuers.ErrUnavailable},
		"zero":          {broken{good, der(new(big.Int), one), nil}, issuers.ErrUnavailable},
		"negative":      {broken{good, der(big.NewInt(-1), one), nil}, issuers.ErrUnavailable},
		"trailing byte": {broken{good, append(der(one, one), 0), nil}, issuers.ErrUnavailable},
	} {
		if _, err := issue(t, newIssuer(t, c.signer, nil), issuertest.NewLease("testtesttest", "", time.Now()), `{"audience":"a"}`); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestShortCoordinatesArePadded(t *testing.T) {
	text, err := asn1.Marshal(struct{ R, S *big.Int }{big.NewInt(1), big.NewInt(2)})
	if err != nil {
		t.Fatal(err)
	}
	token, err := issue(t, newIssuer(t, broken{newKey(t), text, nil}, nil), issuertest.NewLease("testtesttest", "", time.Now()), `{"audience":"a"}`)
	if err != nil {
		t.Fatal(err)
	}
	signature, err := base64.RawURLEncoding.DecodeString(token[strings.LastIndex(token, ".")+1:])
	if err != nil || len(signature) != 64 || signature[31] != 1 || signature[63] != 2 {
		t.Errorf("%x %v", signature, err)
	}
}

func TestConfigRefused(t *testing.T) {
	signer := func() issuers.Signer { return nil }
	for name, config := range map[string]jwt.Config{
		"no issuer":     {Signer: signer},
		"query":         {Issuer: externalURL + "?x", Signer: signer},
		"no key":        {Issuer: externalURL},
		"own audience":  {Issuer: externalURL, Signer: signer, Roles: map[string]jwt.Role{"a": {Audiences: []string{externalURL + "/"}}}},
		"type":          {Issuer: externalURL, Signer: signer, Roles: map[string]jwt.Role{"a": {Type: "a b"}}},
		"env value":     {Issuer: externalURL, Signer: signer, Roles: map[string]jwt.Role{"a": {Env: map[string]string{"tok": "A"}}}},
		"env name":      {Issuer: externalURL, Signer: signer, Roles: map[string]jwt.Role{"a": {Env: map[string]string{"token": "LD_PRELOAD"}}}},
		"env lowercase": {Issuer: externalURL, Signer: signer, Roles: map[string]jwt.Role{"a": {Env: map[string]string{"token": "jwt"}}}},
	} {
		if _, err := jwt.New(t.Context(), config); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestDescribe(t *testing.T) {
	issuer := newIssuer(t, newKey(t), map[string]jwt.Role{"a": {DefaultTTL: time.Minute, Env: map[string]string{"token": "MY_TOKEN"}}, "b": {}})
	a, b := issuer.Describe("a"), issuer.Describe("b")
	if a.DefaultTTL != time.Minute || a.Env["token"] != "MY_TOKEN" || b.DefaultTTL != 5*time.Minute || b.Env["token"] != "DAYPASS_JWT" || !b.SideEffectFree || b.Revocation != issuers.Expiry || b.Kind != jwt.Kind {
		t.Errorf("%+v %+v", a, b)
	}
}

// What CheckParameters lets through, Issue signs or refuses without a panic, and
// the claims that the broker sets are the broker's.
func FuzzParameters(f *testing.F) {
	for _, seed := range []string{`{"audience":"a"}`, `{"audience":["a","b"],"claims":{"x":[1.5,"y"],"y":true}}`, `{"audience":"a","claims":{"sub":"x"}}`, `{"aud`, `[]`, `{"audience":"a","claims":{"\u0073ub":"x"}}`} {
		f.Add([]byte(seed))
	}
	signer := newKey(f)
	issuer := newIssuer(f, signer, nil)
	lease := issuertest.NewLease("testtesttest", "", time.Now())
	f.Fuzz(func(t *testing.T, raw []byte) {
		checked := issuer.CheckParameters("", raw)
		token, err := issue(t, issuer, lease, string(raw))
		if checked != nil && err == nil {
			t.Fatalf("%q was refused and then signed", raw)
		}
		if err != nil {
			return
		}
		claims := golangjwt.MapClaims{}
		if _, err := golangjwt.ParseWithClaims(token, claims, func(*golangjwt.Token) (any, error) { return signer.Public(), nil }, golangjwt.WithIssuer(externalURL), golangjwt.WithJSONNumber()); err != nil {
			t.Fatalf("%q: %v", raw, err)
		}
		if claims["sub"] != "daypass:main/payments/deploy" || claims["jti"] != lease.ID {
			t.Fatalf("%q set what is the broker's: %v", raw, claims)
		}
	})
}

func BenchmarkIssue(b *testing.B) {
	issuer := newIssuer(b, newKey(b), nil)
	lease := issuertest.NewLease("testtesttest", "", time.Now())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := issue(b, issuer, lease, `{"audience":"a","claims":{"team":"payments"}}`); err != nil {
			b.Fatal(err)
		}
	}
}
