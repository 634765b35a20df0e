package oidc

import (
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// stage is a provider with a key of each kind, and a verifier that trusts it.
type stage struct {
	context  context.Context //nolint:containedctx // the test's own
	clock    *clock
	provider *fakeProvider
	verifier *Verifier
	rsa, ec  *signer
}

func newStage(t testing.TB) *stage {
	t.Helper()
	s := &stage{context: t.Context(), clock: newClock(), rsa: newSigner(t, algRS256, "rsa-1"), ec: newSigner(t, algES256, "ec-1")}
	s.provider = newFakeProvider(t, s.rsa.jwk(), s.ec.jwk())
	s.verifier = newVerifier(t, s.provider.config(s.clock))
	return s
}

func (s *stage) payload(t testing.TB) string {
	t.Helper()
	payload, err := json.Marshal(s.provider.claims(s.clock, nil))
	if err != nil {
		t.Fatal(err)
	}
	return string(payload)
}

// insert puts text right behind the opening brace of a good payload.
func (s *stage) insert(t testing.TB, text string) string {
	t.Helper()
	return "{" + text + "," + s.payload(t)[1:]
}

type attack struct {
	name   string
	token  string
	reason Reason
}

func attacks(t testing.TB, s *stage) []attack {
	t.Helper()
	return slices.Concat(shapeAttacks(t, s), headerAttacks(t, s), payloadAttacks(t, s), claimAttacks(t, s), signatureAttacks(t, s))
}

func shapeAttacks(t testing.TB, s *stage) []attack {
	t.Helper()
	good := s.ec.token(t, s.provider.claims(s.clock, nil))
	parts := strings.Split(good, ".")
	header := b64([]byte(s.ec.header()))
	// The last character of a 64-byte signature carries four unused bits.
	sig := parts[2]
	alphabet := "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	twin := sig[:len(sig)-1] + string(alphabet[strings.IndexByte(alphabet, sig[len(sig)-1])^1])
	return []attack{
		{"empty", "", ReasonMalformed},
		{"dots", "..", ReasonMalformed},
		{"one part", parts[0], ReasonMalformed},
		{"two parts", parts[0] + "." + parts[1], ReasonMalformed},
		{"stripped signature", parts[0] + "." + parts[1] + ".", ReasonMalformed},
		{"detached payload", parts[0] + ".." + parts[2], ReasonMalformed},
		{"no header", "." + parts[1] + "." + parts[2], ReasonMalformed},
		{"four parts", good + ".x", ReasonMalformed},
		{"JWE of five parts", good + ".x.y", ReasonMalformed},
		{"JSON serialization", `{"protected":"` + parts[0] + `","payload":"` + parts[1] + `","signature":"` + sig + `"}`, ReasonMalformed},
		{"huge", good + strings.Repeat("A", maxToken), ReasonMalformed},
		{"padding", good + "==", ReasonMalformed},
		{"standard alphabet", parts[0] + "." + parts[1] + ".+/" + sig[2:], ReasonMalformed},
		{"unused bits of the signature set", parts[0] + "." + parts[1] + "." + twin, ReasonMalformed},
		{"unused bits of the payload set", unusedBits(t, s), ReasonMalformed},
		{"padding inside", parts[0] + "=." + parts[1] + "." + sig, ReasonMalformed},
		{"unused bits of the header set", header[:len(header)-1] + "B." + parts[1] + "." + sig, ReasonMalformed},
		{"line end inside", parts[0] + "\n." + parts[1] + "." + sig, ReasonMalformed},
		{"carriage return at the end", good + "\r", ReasonMalformed},
		{"space before", " " + good, ReasonMalformed},
		{"space inside", parts[0] + ". " + parts[1] + "." + sig, ReasonMalformed},
		{"scheme before", "Bearer " + good, ReasonMalformed},
	}
}

// unusedBits signs a payload that is not canonical base64url, as it stands.
func unusedBits(t testing.TB, s *stage) string {
	t.Helper()
	payload := s.payload(t)
	for len(payload)%3 != 1 {
		payload += " "
	}
	encoded := b64([]byte(payload)) // ends in four unused bits, which are zero
	last := map[byte]string{'A': "B", 'Q': "R", 'g': "h", 'w': "x"}[encoded[len(encoded)-1]]
	signed := b64([]byte(s.ec.header())) + "." + encoded[:len(encoded)-1] + last
	return signed + "." + b64(s.ec.bytes(t, algES256, signed))
}

func headerAttacks(t testing.TB, s *stage) []attack {
	t.Helper()
	payload := s.payload(t)
	with := func(header string) string { return s.ec.raw(t, header, payload) }
	embedded, err := json.Marshal(s.ec.jwk())
	if err != nil {
		t.Fatal(err)
	}
	return []attack{
		{"no JSON in header", with(`alg`), ReasonMalformed},
		{"header is a list", with(`["alg"]`), ReasonMalformed},
		{"header with trailing data", with(s.ec.header() + `{}`), ReasonMalformed},
		{"no alg", with(`{"kid":"ec-1"}`), ReasonMalformed},
		{"alg is a number", with(`{"alg":1}`), ReasonMalformed},
		{"alg twice", with(`{"alg":"ES256","kid":"ec-1","alg":"none"}`), ReasonMalformed},
		{"alg twice, once escaped", with(`{"alg":"ES256","kid":"ec-1","\u0061lg":"none"}`), ReasonMalformed},
		{"Alg beside alg", with(`{"alg":"ES256","kid":"ec-1","Alg":"none"}`), ReasonMalformed},
		{"ALG alone", with(`{"ALG":"ES256","kid":"ec-1"}`), ReasonMalformed},
		{"kid with a Kelvin sign", with("{\"alg\":\"ES256\",\"\u212Aid\":\"ec-1\"}"), ReasonMalformed},
		{"kid is a number", with(`{"alg":"ES256","kid":1}`), ReasonMalformed},
		{"kid is empty", with(`{"alg":"ES256","kid":""}`), ReasonMalformed},
		{"kid is long", with(`{"alg":"ES256","kid":"` + strings.Repeat("k", maxKeyID+1) + `"}`), ReasonMalformed},
		{"crit", with(`{"alg":"ES256","kid":"ec-1","crit":["exp"]}`), ReasonMalformed},
		{"b64", with(`{"alg":"ES256","kid":"ec-1","b64":false}`), ReasonMalformed},
		{"jwk", with(`{"alg":"ES256","kid":"ec-1","jwk":` + string(embedded) + `}`), ReasonMalformed},
		{"jku", with(`{"alg":"ES256","kid":"ec-1","jku":"https://example.com/keys"}`), ReasonMalformed},
		{"x5u", with(`{"alg":"ES256","kid":"ec-1","x5u":"https://example.com/cert"}`), ReasonMalformed},
		{"x5c", with(`{"alg":"ES256","kid":"ec-1","x5c":["AAAA"]}`), ReasonMalformed},
		{"enc", with(`{"alg":"ES256","kid":"ec-1","enc":"A256GCM"}`), ReasonMalformed},
		{"zip", with(`{"alg":"ES256","kid":"ec-1","zip":"DEF"}`), ReasonMalformed},
		{"minted access token", with(`{"alg":"ES256","kid":"ec-1","typ":"at+jwt"}`), ReasonMalformed},
		{"other typ", with(`{"alg":"ES256","kid":"ec-1","typ":"application/jwt"}`), ReasonMalformed},
		{"U+0000 in a name", with(`{"alg":"ES256","kid":"ec-1","x\u0000":1}`), ReasonMalformed},
		{"lone surrogate", with(`{"alg":"ES256","kid":"ec-1","x":"\udfff"}`), ReasonMalformed},
		{"invalid UTF-8 in header", with("{\"alg\":\"ES256\",\"kid\":\"ec-1\",\"x\":\"\xff\"}"), ReasonMalformed},
		{"JWE that names its algorithm", with(`{"alg":"RSA-OAEP-256","kid":"ec-1"}`), ReasonAlgorithm},
		{"JWE with a shared key", with(`{"alg":"dir","kid":"ec-1"}`), ReasonAlgorithm},
		{"typ is null", with(`{"alg":"ES256","kid":"ec-1","typ":null}`), ReasonMalformed},
	}
}

func payloadAttacks(t testing.TB, s *stage) []attack {
	t.Helper()
	payload := s.payload(t)
	with := func(payload string) string { return s.ec.raw(t, s.ec.header(), payload) }
	return []attack{
		{"no JSON", with("claims"), ReasonMalformed},
		{"payload is a list", with("[" + payload + "]"), ReasonMalformed},
		{"a token in a token", with(s.ec.token(t, s.provider.claims(s.clock, nil))), ReasonMalformed},
		{"payload is null", with("null"), ReasonMalformed},
		{"unfinished", with(payload[:len(payload)-1]), ReasonMalformed},
		{"trailing data", with(payload + "{}"), ReasonMalformed},
		{"trailing zero byte", with(payload + "\x00"), ReasonMalformed},
		{"byte order mark", with("\ufeff" + payload), ReasonMalformed},
		{"sub twice", with(s.insert(t, `"sub":"repo:evil"`)), ReasonMalformed},
		{"sub twice, once escaped", with(s.insert(t, `"s\u0075b":"repo:evil"`)), ReasonMalformed},
		{"duplicate below", with(s.insert(t, `"a":{"b":[{"c":1,"c":2}]}`)), ReasonMalformed},
		{"Sub beside sub", with(s.insert(t, `"Sub":"repo:evil"`)), ReasonMalformed},
		{"sub with a long s", with(s.insert(t, "\"\u017Fub\":\"repo:evil\"")), ReasonMalformed},
		{"EXP beside exp", with(s.insert(t, `"EXP":99999999999`)), ReasonMalformed},
		{"invalid UTF-8", with(s.insert(t, "\"a\":\"\xff\"")), ReasonMalformed},
		{"overlong UTF-8", with(s.insert(t, "\"a\":\"\xc0\xaf\"")), ReasonMalformed},
		{"U+0000", with(s.insert(t, `"a":"x\u0000y"`)), ReasonMalformed},
		{"lone high surrogate", with(s.insert(t, `"a":"\ud800"`)), ReasonMalformed},
		{"lone low surrogate", with(s.insert(t, `"a":"\udc00"`)), ReasonMalformed},
		{"two high surrogates", with(s.insert(t, `"a":"\ud800\ud800"`)), ReasonMalformed},
		{"raw control character", with(s.insert(t, "\"a\":\"\n\"")), ReasonMalformed},
		{"deep", with(s.insert(t, `"a":`+strings.Repeat("[", maxDepth)+strings.Repeat("]", maxDepth))), ReasonMalformed},
		{"integer beyond 64 bits", with(s.insert(t, `"a":9223372036854775808`)), ReasonMalformed},
		{"number out of range", with(s.insert(t, `"a":1e999`)), ReasonMalformed},
		{"leading zero", with(s.insert(t, `"a":01`)), ReasonMalformed},
		{"NaN", with(s.insert(t, `"a":NaN`)), ReasonMalformed},
		{"comma at the end", with(payload[:len(payload)-1] + ",}"), ReasonMalformed},
		{"comment", with(s.insert(t, `/* x */"a":1`)), ReasonMalformed},
	}
}

func claimAttacks(t testing.TB, s *stage) []attack {
	t.Helper()
	now := s.clock.Now().Unix()
	claim := func(name string, value any) string {
		return s.ec.token(t, s.provider.claims(s.clock, map[string]any{name: value}))
	}
	return []attack{
		{"foreign issuer", claim("iss", "https://evil.example.com"), ReasonIssuer},
		{"issuer with a trailing slash", claim("iss", s.provider.issuer()+"/"), ReasonIssuer},
		{"issuer in capitals", claim("iss", strings.ToUpper(s.provider.issuer())), ReasonIssuer},
		{"issuer as a prefix", claim("iss", s.provider.issuer()+".evil.example.com"), ReasonIssuer},
		{"the broker's own issuer", claim("iss", "https://daypass.example.com"), ReasonIssuer},
		{"iss missing", claim("iss", nil), ReasonMalformed},
		{"iss is a list", claim("iss", []string{s.provider.issuer()}), ReasonMalformed},
		{"minted subject", claim("sub", "daypass:main/payments/deploy-db"), ReasonMalformed},
		{"sub missing", claim("sub", nil), ReasonMalformed},
		{"sub empty", claim("sub", ""), ReasonMalformed},
		{"sub is a number", claim("sub", 7), ReasonMalformed},
		{"jti is a number", claim("jti", 7), ReasonMalformed},
		{"foreign audience", claim("aud", "https://other.example.com"), ReasonAudience},
		{"audience in capitals", claim("aud", strings.ToUpper(testAudience)), ReasonAudience},
		{"list of foreign audiences", claim("aud", []string{"a", "b"}), ReasonAudience},
		{"empty list of audiences", claim("aud", []string{}), ReasonAudience},
		{"audience list with a number", claim("aud", []any{testAudience, 1}), ReasonMalformed},
		{"aud is an object", claim("aud", map[string]any{testAudience: true}), ReasonMalformed},
		{"aud missing", claim("aud", nil), ReasonMalformed},
		{"exp missing", claim("exp", nil), ReasonMalformed},
		{"exp as a string", claim("exp", fmt.Sprint(now+300)), ReasonMalformed},
		{"exp negative", claim("exp", -1), ReasonMalformed},
		{"exp beyond the year 9999", claim("exp", maxUnix+1), ReasonMalformed},
		{"exp is a huge float", s.ec.raw(t, s.ec.header(), strings.Replace(s.payload(t), fmt.Sprint(now+300), "1e300", 1)), ReasonMalformed},
		{"expired a minute ago", claim("exp", now-60), ReasonExpired},
		{"expires this second", claim("exp", now), ReasonExpired},
		{"nbf beyond the leeway", claim("nbf", now+31), ReasonNotYetValid},
		{"nbf as a string", claim("nbf", "0"), ReasonMalformed},
		{"iat beyond the leeway", claim("iat", now+31), ReasonNotYetValid},
		{"iat as a string", claim("iat", fmt.Sprint(now)), ReasonMalformed},
		{"iat more than a day ago", claim("iat", now-24*3600-1), ReasonExpired},
		{"iat of 1970", claim("iat", 0), ReasonExpired},
		{"no iat, and more than a day to live", s.ec.token(t, s.provider.claims(s.clock, map[string]any{"iat": nil, "exp": now + 24*3600 + 1})), ReasonExpired},
		{"nonce is a number", claim("nonce", 7), ReasonMalformed},
		{"Nonce beside nonce", claim("Nonce", 7), ReasonMalformed},
		{"claims elsewhere", claim("_claim_names", map[string]any{"sub": "x"}), ReasonMalformed},
		{"iat is null", s.ec.raw(t, s.ec.header(), strings.Replace(s.payload(t), fmt.Sprintf(`"iat":%d`, now), `"iat":null`, 1)), ReasonMalformed},
	}
}

func signatureAttacks(t testing.TB, s *stage) []attack {
	t.Helper()
	payload := s.payload(t)
	good := s.rsa.raw(t, s.rsa.header(), payload)
	dot := strings.LastIndexByte(good, '.')
	withSig := func(signer *signer, alg string, sig []byte) string {
		return b64(fmt.Appendf(nil, `{"alg":%q,"kid":%q}`, alg, signer.kid)) + "." + b64([]byte(payload)) + "." + b64(sig)
	}
	der, err := x509.MarshalPKIXPublicKey(s.rsa.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	hs256 := b64([]byte(`{"alg":"HS256","kid":"rsa-1"}`)) + "." + b64([]byte(payload))
	mac := hmac.New(sha256.New, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	mac.Write([]byte(hs256))
	stranger, other := newSigner(t, algES256, "ec-1"), newSigner(t, algES256, "other")
	ecAsRSA := b64([]byte(`{"alg":"RS256","kid":"ec-1"}`)) + "." + b64([]byte(payload))
	changed := strings.Replace(payload, "octo-repo", "evil-repo", 1)
	parts := strings.Split(s.ec.raw(t, s.ec.header(), payload), ".")
	return []attack{
		{"alg none", withSig(s.rsa, "none", []byte("x")), ReasonAlgorithm},
		{"alg None", withSig(s.rsa, "None", []byte("x")), ReasonAlgorithm},
		{"alg rs256", withSig(s.rsa, "rs256", []byte("x")), ReasonAlgorithm},
		{"alg RS512", withSig(s.rsa, "RS512", []byte("x")), ReasonAlgorithm},
		{"HS256 with the public key as secret", hs256 + "." + b64(mac.Sum(nil)), ReasonAlgorithm},
		{"RS256 with the id of an EC key", ecAsRSA + "." + b64(s.rsa.bytes(t, algRS256, ecAsRSA)), ReasonAlgorithm},
		{"PS256 with a key for RS256", withSig(s.rsa, algPS256, make([]byte, 256)), ReasonAlgorithm},
		{"ES384 with a key for ES256", withSig(s.ec, algES384, make([]byte, 96)), ReasonAlgorithm},
		{"EdDSA with an RSA key", withSig(s.rsa, algEdDSA, make([]byte, 64)), ReasonAlgorithm},
		{"ES256 with a zero signature", withSig(s.ec, algES256, make([]byte, 64)), ReasonSignature},
		{"ES256 in DER", withSig(s.ec, algES256, []byte("0\x06\x02\x01\x01\x02\x01\x01")), ReasonSignature},
		{"RS256 with a zero signature", withSig(s.rsa, algRS256, make([]byte, 256)), ReasonSignature},
		{"RS256 cut short", withSig(s.rsa, algRS256, make([]byte, 255)), ReasonSignature},
		{"payload changed", parts[0] + "." + b64([]byte(changed)) + "." + parts[2], ReasonSignature},
		{"signature of another token", good[:dot+1] + b64(s.rsa.bytes(t, algRS256, "x.y")), ReasonSignature},
		{"a stranger's key under a known id", stranger.raw(t, stranger.header(), payload), ReasonSignature},
		{"unknown id", other.raw(t, other.header(), payload), ReasonSignature},
	}
}

func TestAttackTokens(t *testing.T) {
	s := newStage(t)
	for _, a := range attacks(t, s) {
		t.Run(a.name, func(t *testing.T) {
			// A verifier each, so that the cooldown of one doesn't answer for the next.
			v := newVerifier(t, s.provider.config(s.clock))
			identity, err := v.Verify(t.Context(), a.token)
			if identity != nil {
				t.Fatal("the token was accepted")
			}
			var refused *Error
			if !errors.As(err, &refused) {
				t.Fatalf("error is %v, want an *Error", err)
			}
			if refused.Reason != a.reason {
				t.Errorf("reason is %s (%v), want %s", refused.Reason, err, a.reason)
			}
			for _, secret := range []string{"octo-org", "repo:", "evil", "daypass:", testAudience, "eyJ"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the error's text %q holds %q of the token", err, secret)
				}
			}
		})
	}
}

// The attacks above are told from tokens that are merely unusual.
func TestGoodTokens(t *testing.T) {
	s := newStage(t)
	now := s.clock.Now().Unix()
	with := func(changes map[string]any) string { return s.ec.token(t, s.provider.claims(s.clock, changes)) }
	payload := s.payload(t)
	for name, token := range map[string]string{
		"plain":             with(nil),
		"RS256":             s.rsa.token(t, s.provider.claims(s.clock, nil)),
		"aud is a list":     with(map[string]any{"aud": []string{"other", testAudience}}),
		"iat a day ago":     with(map[string]any{"iat": now - 24*3600}),
		"lives for a month": with(map[string]any{"exp": now + 30*24*3600}),
		"no iat, nbf, jti":  with(map[string]any{"iat": nil, "nbf": nil, "jti": nil}),
		"nbf in the leeway": with(map[string]any{"nbf": now + 30}),
		"exp with fraction": with(map[string]any{"exp": float64(now) + 60.5}),
		"spaces":            s.ec.raw(t, " {\n\t\"alg\" : \"ES256\" , \"kid\":\"ec-1\" }\r\n", strings.Replace(payload, `"sub":`, "\n \"sub\"\t: ", 1)),
		"typ in small":      s.ec.raw(t, `{"alg":"ES256","kid":"ec-1","typ":"jwt"}`, payload),
		"no typ":            s.ec.raw(t, `{"alg":"ES256","kid":"ec-1"}`, payload),
		"no kid":            s.ec.raw(t, `{"alg":"ES256"}`, payload),
		"x5t and the like":  s.ec.raw(t, `{"alg":"ES256","kid":"ec-1","x5t":"AAAA","x5t#S256":"AAAA","cty":"json"}`, payload),
		"escapes and pairs": s.ec.raw(t, s.ec.header(), s.insert(t, `"a":"\ud83d\ude00 \u00e9 \" \\ \/ \b\f\n\r\t"`)),
		"nested":            s.ec.raw(t, s.ec.header(), s.insert(t, `"a":`+strings.Repeat("[", maxDepth-1)+strings.Repeat("]", maxDepth-1))),
		"nonce and at_hash": s.ec.raw(t, s.ec.header(), s.insert(t, `"nonce":"7","at_hash":""`)),
	} {
		t.Run(name, func(t *testing.T) {
			identity, err := s.verifier.Verify(t.Context(), token)
			if err != nil {
				t.Fatal(err)
			}
			if identity.Provider != "fake" || identity.Issuer != s.provider.issuer() || identity.Claims["repository_id"] != "74" {
				t.Errorf("identity is %+v", identity)
			}
		})
	}
}

func TestIdentity(t *testing.T) {
	s := newStage(t)
	claims := s.provider.claims(s.clock, map[string]any{"float": 1.5, "whole": 2.0, "big": int64(1) << 62, "yes": true, "none": []any{nil}})
	token := s.ec.token(t, claims)
	identity, err := s.verifier.Verify(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	if identity.Subject != claims["sub"] || identity.ID != "533e8e75" || len(identity.Audience) != 1 {
		t.Errorf("identity is %+v", identity)
	}
	if !identity.IssuedAt.Equal(s.clock.Now()) || identity.Expiry.Sub(identity.IssuedAt).Seconds() != 300 {
		t.Errorf("times are %v and %v", identity.IssuedAt, identity.Expiry)
	}
	if want := sha256.Sum256([]byte(token[:strings.LastIndexByte(token, '.')])); identity.Digest != want {
		t.Error("digest is not that of header.payload")
	}
	want := map[string]any{"runner_id": int64(1), "float": 1.5, "whole": int64(2), "big": int64(1) << 62, "yes": true}
	got := maps.Clone(identity.Claims)
	for name, value := range want {
		if got[name] != value {
			t.Errorf("claim %s is %#v, want %#v", name, got[name], value)
		}
	}
	if list, ok := identity.Claims["none"].([]any); !ok || len(list) != 1 || list[0] != nil {
		t.Errorf("claim none is %#v", identity.Claims["none"])
	}
	if len(identity.Claims) != len(claims) {
		t.Errorf("%d claims, want %d", len(identity.Claims), len(claims))
	}
}

func TestEveryAlgorithm(t *testing.T) {
	c := newClock()
	for _, alg := range Algorithms() {
		t.Run(alg, func(t *testing.T) {
			s := newSigner(t, alg, "only")
			p := newFakeProvider(t, s.jwk())
			token := s.token(t, p.claims(c, nil))
			if _, err := newVerifier(t, p.config(c)).Verify(t.Context(), token); err != nil {
				t.Fatal(err)
			}
			dot := strings.LastIndexByte(token, '.')
			wrong := token[:dot+1] + b64(s.bytes(t, alg, "another.content"))
			_, err := newVerifier(t, p.config(c)).Verify(t.Context(), wrong)
			wantReason(t, err, ReasonSignature)

			// Allowed in general, but not for this provider.
			cfg := p.config(c)
			cfg.Providers[0].Algorithms = []string{algRS256}
			cfg.Providers = append(cfg.Providers, Provider{Name: "other", Issuer: "https://other.example.com", Audience: "x"})
			if alg != algRS256 {
				_, err = newVerifier(t, cfg).Verify(t.Context(), token)
				wantReason(t, err, ReasonAlgorithm)
			}
		})
	}
}

// The salt of PS256 must be as long as the hash.
func TestPS256SaltLength(t *testing.T) {
	c, s := newClock(), newSigner(t, algPS256, "only")
	p := newFakeProvider(t, s.jwk())
	token := s.token(t, p.claims(c, nil))
	dot := strings.LastIndexByte(token, '.')
	digest := sha256.Sum256([]byte(token[:dot]))
	key, ok := s.key.(*rsa.PrivateKey)
	if !ok {
		t.Fatal("not an RSA key")
	}
	sig, err := rsa.SignPSS(rand.Reader, key, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: 8})
	if err == nil {
		_, err = newVerifier(t, p.config(c)).Verify(t.Context(), token[:dot+1]+b64(sig))
	}
	wantReason(t, err, ReasonSignature)
}

func wantReason(t testing.TB, err error, reason Reason) {
	t.Helper()
	var refused *Error
	if !errors.As(err, &refused) || refused.Reason != reason {
		t.Errorf("error is %v, want one of reason %s", err, reason)
	}
}
