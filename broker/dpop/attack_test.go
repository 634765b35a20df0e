package dpop

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"pgregory.net/rapid"
)

// maker makes proofs that a Key would not.
type maker struct {
	algorithm string
	private   crypto.Signer
}

// makers are one for each algorithm. The keys are made once: RSA takes its time.
var makers = sync.OnceValues(func() (map[string]maker, error) {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, err
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	modulus, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	all := map[string]maker{}
	for algorithm, key := range map[string]crypto.Signer{"ES256": p256, "ES384": p384, "EdDSA": edwards, "RS256": modulus, "PS256": modulus} {
		all[algorithm] = maker{algorithm, key}
	}
	return all, nil
})

func makerOf(t testing.TB, algorithm string) maker {
	t.Helper()
	all, err := makers()
	if err != nil {
		t.Fatal(err)
	}
	return all[algorithm]
}

func (m maker) jwk(t testing.TB) map[string]any {
	t.Helper()
	text, err := json.Marshal(jose.JSONWebKey{Key: m.private.Public()})
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]any
	if err := json.Unmarshal(text, &members); err != nil {
		t.Fatal(err)
	}
	return members
}

func (m maker) header(t testing.TB) map[string]any {
	return map[string]any{"typ": "dpop+jwt", "alg": m.algorithm, "jwk": m.jwk(t)}
}

func goodClaims() map[string]any {
	return map[string]any{"jti": "one", "htm": "POST", "htu": "https://server.example.com/token", "iat": now().Unix()}
}

func now() time.Time { return time.Unix(1_800_000_000, 0) }

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func encode(t testing.TB, v any) string {
	t.Helper()
	if text, ok := v.(string); ok {
		return b64([]byte(text))
	}
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b64(text)
}

// sign signs whatever header and claims; both may be texts.
func (m maker) sign(t testing.TB, header, claims any) string {
	t.Helper()
	signed := encode(t, header) + "." + encode(t, claims)
	return signed + "." + b64(m.signature(t, signed))
}

func (m maker) signature(t testing.TB, signed string) []byte {
	t.Helper()
	hash := map[string]crypto.Hash{"ES384": crypto.SHA384, "EdDSA": 0}
	by, ok := hash[m.algorithm]
	if !ok {
		by = crypto.SHA256
	}
	digest := []byte(signed)
	if by != 0 {
		h := by.New()
		h.Write(digest)
		digest = h.Sum(nil)
	}
	var options crypto.SignerOpts = by
	if m.algorithm == "PS256" {
		options = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: by}
	}
	if key, ok := m.private.(*ecdsa.PrivateKey); ok {
		r, s, err := ecdsa.Sign(rand.Reader, key, digest)
		if err != nil {
			t.Fatal(err)
		}
		size := (key.Params().BitSize + 7) / 8
		out := make([]byte, 2*size)
		r.FillBytes(out[:size])
		s.FillBytes(out[size:])
		return out
	}
	out, err := m.private.Sign(rand.Reader, digest, options)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func with(members map[string]any, name string, value any) map[string]any {
	out := maps.Clone(members)
	if out[name] = value; value == nil {
		delete(out, name)
	}
	return out
}

// TestAlgorithms: each that is accepted, with the thumbprint that go-jose has of the key.
func TestAlgorithms(t *testing.T) {
	t.Parallel()
	for _, algorithm := range Algorithms() {
		m := makerOf(t, algorithm)
		p, err := read(m.sign(t, m.header(t), goodClaims()))
		if err != nil {
			t.Errorf("%s: %v", algorithm, err)
			continue
		}
		want, err := (&jose.JSONWebKey{Key: m.private.Public()}).Thumbprint(crypto.SHA256)
		if err != nil || string(want) != string(p.Thumbprint[:]) {
			t.Errorf("%s: thumbprint %s, want %s (%v)", algorithm, p.Thumbprint, b64(want), err)
		}
		if err := p.Check(Request{Method: "POST", URL: "https://server.example.com/token"}, now()); err != nil {
			t.Errorf("%s: %v", algorithm, err)
		}
	}
}

// TestRefused: RFC 9449, section 4.3, point by point, and what lies beyond it.
func TestRefused(t *testing.T) {
	t.Parallel()
	m, other := makerOf(t, "ES256"), makerOf(t, "ES384")
	header, claims, jwk := m.header(t), goodClaims(), m.jwk(t)
	edwards, modulus := makerOf(t, "EdDSA"), makerOf(t, "RS256")
	good := m.sign(t, header, claims)
	signed := good[:strings.LastIndexByte(good, '.')]
	bad := map[string][]string{
		// 1: one header
		"none": {}, "two": {good, good}, "two in one": {good + ", " + good}, "empty": {""},
		// 2: one well-formed JWT
		"two parts": {signed}, "four parts": {good + ".x"}, "a line end": {good + "\n"}, "padding": {good + "=="}, "JSON": {`{"payload":""}`},
		"a header that is none": {m.sign(t, `[]`, claims)}, "a payload that is none": {m.sign(t, header, `"x"`)}, "no JSON": {m.sign(t, header, `{`)},
		"too long":      {m.sign(t, header, with(claims, "more", strings.Repeat("x", MaxProof)))},
		"a claim twice": {m.sign(t, header, `{"jti":"a","htm":"POST","htm":"GET","htu":"https://server.example.com/token","iat":1800000000}`)},
		// 4: typ
		"no typ": {m.sign(t, with(header, "typ", nil), claims)}, "typ JWT": {m.sign(t, with(header, "typ", "JWT"), claims)}, "typ in capitals": {m.sign(t, with(header, "typ", "DPOP+JWT"), claims)},
		"typ at+jwt": {m.sign(t, with(header, "typ", "at+jwt"), claims)}, "typ of another kind": {m.sign(t, with(header, "typ", 1), claims)},
		// 5: the algorithm
		"no alg": {m.sign(t, with(header, "alg", nil), claims)}, "alg none": {m.sign(t, with(header, "alg", "none"), claims)}, "alg HS256": {m.sign(t, with(header, "alg", "HS256"), claims)},
		"alg of another key": {m.sign(t, with(header, "alg", "RS256"), claims)}, "alg RS512": {modulus.sign(t, with(modulus.header(t), "alg", "RS512"), claims)}, "alg of another curve": {m.sign(t, with(header, "alg", "ES384"), claims)},
		// 6: the signature
		"another's signature": {signed + "." + b64(other.signature(t, signed))}, "a signature of zeros": {signed + "." + b64(make([]byte, 64))}, "another's key": {m.sign(t, with(header, "jwk", maker{"ES256", newP256(t)}.jwk(t)), claims)},
		"RS256 for PS256": {modulus.sign(t, with(modulus.header(t), "alg", "PS256"), claims)}, "a changed payload": {encode(t, header) + "." + encode(t, with(claims, "jti", "two")) + good[len(signed):]},
		// 7: a public key
		"no jwk": {m.sign(t, with(header, "jwk", nil), claims)}, "a jwk of text": {m.sign(t, with(header, "jwk", "x"), claims)}, "an empty jwk": {m.sign(t, with(header, "jwk", map[string]any{}), claims)},
		"a symmetric key":    {m.sign(t, with(header, "jwk", map[string]any{"kty": "oct", "k": "AAAA"}), claims)},
		"no crypto in kty":   {m.sign(t, with(header, "jwk", with(jwk, "kty", "none")), claims)},
		"a key to encrypt":   {m.sign(t, with(header, "jwk", with(jwk, "use", "enc")), claims)},
		"off the curve":      {m.sign(t, with(header, "jwk", with(jwk, "y", jwk["x"])), claims)},
		"a padded member":    {m.sign(t, with(header, "jwk", with(jwk, "x", jwk["x"].(string)+"=")), claims)},
		"an RSA key of 1024": {m.sign(t, with(header, "jwk", map[string]any{"kty": "RSA", "e": "AQAB", "n": b64(odd(1024))}), claims)},
		"an RSA key of 4104": {m.sign(t, with(header, "jwk", map[string]any{"kty": "RSA", "e": "AQAB", "n": b64(odd(4104))}), claims)},
		"a zero before n":    {modulus.sign(t, with(modulus.header(t), "jwk", with(modulus.jwk(t), "n", b64(append([]byte{0}, modulus.private.Public().(*rsa.PublicKey).N.Bytes()...)))), claims)},
		"a zero before e":    {modulus.sign(t, with(modulus.header(t), "jwk", with(modulus.jwk(t), "e", "AAEAAQ")), claims)},
		"an Edwards key cut": {edwards.sign(t, with(edwards.header(t), "jwk", with(edwards.jwk(t), "x", "AAAA")), claims)},
		// What names a key elsewhere, or changes what is signed.
		"crit": {m.sign(t, with(header, "crit", []string{"exp"}), claims)}, "b64": {m.sign(t, with(header, "b64", false), claims)}, "jku": {m.sign(t, with(header, "jku", "https://evil.example"), claims)},
		"x5c": {m.sign(t, with(header, "x5c", []string{}), claims)}, "zip": {m.sign(t, with(header, "zip", "DEF"), claims)},
		// Another spelling, for which a lenient reader falls.
		"JWK": {m.sign(t, with(header, "JWK", jwk), claims)}, "Alg": {m.sign(t, with(header, "Alg", "none"), claims)}, "X": {m.sign(t, with(header, "jwk", with(jwk, "X", "AA")), claims)},
		"HTU": {m.sign(t, header, with(claims, "HTU", "https://evil.example"))}, "HTM": {m.sign(t, header, with(claims, "HTM", "GET"))},
	}
	for _, name := range privateNames() {
		bad["private member "+name] = []string{m.sign(t, with(header, "jwk", with(jwk, name, "AAAA")), claims)}
		bad["private member "+strings.ToUpper(name)] = []string{m.sign(t, with(header, "jwk", with(jwk, strings.ToUpper(name), "AAAA")), claims)}
	}
	// 3: the claims, by their types
	for name, values := range map[string][]any{
		"jti": {nil, "", 1, strings.Repeat("x", maxID+1), []string{"a"}}, "htm": {nil, "", 1, strings.Repeat("x", 33)}, "htu": {nil, "", true, "https://a.example/" + strings.Repeat("x", maxURL)},
		"iat": {nil, "1800000000", -1, 1e30, false}, "ath": {"", 1, strings.Repeat("x", 65)},
	} {
		for _, value := range values {
			bad["claim "+name+" "+encode(t, value)] = []string{m.sign(t, header, with(claims, name, value))}
		}
	}
	for what, proofs := range bad {
		p, err := read(proofs...)
		refused, ok := errors.AsType[*Error](err)
		if p != nil || !ok {
			t.Errorf("%s: taken (%v)", what, err)
			continue
		}
		if strings.Contains(refused.Error(), "server.example.com") || len(refused.Error()) > 200 {
			t.Errorf("%s: the error repeats what came: %v", what, refused)
		}
	}
	for what, raw := range map[string]string{
		"more members":                   m.sign(t, with(with(header, "kid", "x"), "more", 1), with(with(claims, "nonce", "x"), "exp", 1)),
		"a jwk that says what it is for": m.sign(t, with(header, "jwk", with(with(with(jwk, "use", "sig"), "alg", "ES256"), "kid", "k")), claims),
		"a fraction":                     m.sign(t, header, with(claims, "iat", 1800000000.5)),
		"blanks in it":                   m.sign(t, " { \"typ\":\"dpop+jwt\",\"alg\":\"ES256\",\"jwk\":"+string(object(membersOf(m.private.Public())))+"}\n", claims),
	} {
		if _, err := read(raw); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func odd(bits int) []byte {
	n := new(big.Int).SetBit(big.NewInt(1), bits-1, 1)
	return n.Bytes()
}

func newP256(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestCheck: RFC 9449, section 4.3, points 8 to 12.
func TestCheck(t *testing.T) {
	t.Parallel()
	m := makerOf(t, "ES256")
	const token = "dps_token"
	for what, c := range map[string]struct {
		name    string
		value   any
		request Request
		at      time.Duration
		want    string // "": good
	}{
		"good":                       {request: Request{}},
		"another query":              {request: Request{URL: "https://server.example.com/token?a=b#c"}},
		"htu with a query":           {name: "htu", value: "https://server.example.com/token?x#y"},
		"another method":             {request: Request{Method: "GET"}, want: "htm"},
		"htm in small letters":       {name: "htm", value: "post", want: "htm"},
		"another path":               {request: Request{URL: "https://server.example.com/token/"}, want: "htu"},
		"another host":               {request: Request{URL: "https://server.example.org/token"}, want: "htu"},
		"another scheme":             {request: Request{URL: "http://server.example.com/token"}, want: "htu"},
		"no URL":                     {name: "htu", value: "/token", want: "htu"},
		"a minute old":               {at: Window},
		"older":                      {at: Window + time.Second, want: "iat"},
		"a minute early":             {at: -Window},
		"earlier":                    {at: -Window - time.Second, want: "iat"},
		"a token's":                  {name: "ath", value: Hash(token), request: Request{Token: token}},
		"another token's":            {name: "ath", value: Hash("other"), request: Request{Token: token}, want: "ath"},
		"no token's":                 {request: Request{Token: token}, want: "ath"},
		"it need not say":            {request: Request{Token: token, HashOptional: true}},
		"it need not, and says so":   {name: "ath", value: Hash(token), request: Request{Token: token, HashOptional: true}},
		"it need not, and is wrong":  {name: "ath", value: Hash("other"), request: Request{Token: token, HashOptional: true}, want: "ath"},
		"a token's where none comes": {name: "ath", value: Hash(token)},
	} {
		claims := goodClaims()
		if c.name != "" {
			claims[c.name] = c.value
		}
		p, err := read(m.sign(t, m.header(t), claims))
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if c.request.Method == "" {
			c.request.Method = "POST"
		}
		if c.request.URL == "" {
			c.request.URL = "https://server.example.com/token"
		}
		err = p.Check(c.request, now().Add(c.at))
		refused, _ := errors.AsType[*Error](err)
		if (err == nil) != (c.want == "") || err != nil && (refused == nil || !strings.Contains(refused.Detail, c.want)) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
	p, err := read(m.sign(t, m.header(t), goodClaims()))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Check(Request{Method: "POST", URL: "/token"}, now()); err == nil {
		t.Error("compared with no URL, and taken")
	}
}

// TestKey: what a Key makes is taken, whatever the URL, and by go-jose too.
func TestKey(t *testing.T) {
	t.Parallel()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		target := urlOf(t)
		token := rapid.SampledFrom([]string{"", "dps_x"}).Draw(t, "token")
		raw, err := key.Prove("PUT", target, token, now())
		if err != nil {
			t.Fatal(err)
		}
		p, err := read(raw)
		if err != nil {
			t.Fatalf("%s: %v", target, err)
		}
		if p.Thumbprint != key.Thumbprint() {
			t.Error("another thumbprint")
		}
		if err := p.Check(Request{Method: "PUT", URL: target.String(), Token: token}, now()); err != nil {
			t.Errorf("%s: %v", target, err)
		}
		judged(t, raw, p)
	})
}

// judged fails unless go-jose takes the same proof for the same thing.
func judged(t interface {
	Helper()
	Fatalf(format string, args ...any)
}, raw string, p *Proof,
) {
	t.Helper()
	algorithms := []jose.SignatureAlgorithm{}
	for _, algorithm := range Algorithms() {
		algorithms = append(algorithms, jose.SignatureAlgorithm(algorithm))
	}
	parsed, err := jose.ParseSignedCompact(raw, algorithms)
	if err != nil {
		t.Fatalf("taken, and go-jose refuses to read it: %v\n%s", err, raw)
	}
	header := parsed.Signatures[0].Header
	if header.JSONWebKey == nil || !header.JSONWebKey.IsPublic() || !header.JSONWebKey.Valid() || header.ExtraHeaders[jose.HeaderType] != "dpop+jwt" {
		t.Fatalf("taken, and go-jose sees no public key or another typ\n%s", raw)
	}
	payload, err := parsed.Verify(header.JSONWebKey)
	if err != nil {
		t.Fatalf("taken, and go-jose doesn't verify it: %v\n%s", err, raw)
	}
	thumbprint, err := header.JSONWebKey.Thumbprint(crypto.SHA256)
	if err != nil || string(thumbprint) != string(p.Thumbprint[:]) {
		t.Fatalf("go-jose names another key: %s, %s (%v)\n%s", b64(thumbprint), p.Thumbprint, err, raw)
	}
	var said map[string]any
	if err := json.Unmarshal(payload, &said); err != nil || said["jti"] != p.ID || said["htm"] != p.method || said["htu"] != p.url || p.hash != "" && said["ath"] != p.hash {
		t.Fatalf("encoding/json reads another payload: %v (%v)\n%s", said, err, raw)
	}
}

// FuzzProof: whatever is taken means the same to go-jose. The input stands for header
// and payload; where it asks for the key, a real one signs them.
func FuzzProof(f *testing.F) {
	m := maker{"ES256", newP256(f)}
	jwk := string(object(membersOf(m.private.Public())))
	for _, seed := range [][2]string{
		{`{"typ":"dpop+jwt","alg":"ES256","jwk":` + jwk + `}`, `{"jti":"a","htm":"GET","htu":"https://a.example","iat":1800000000}`},
		{`{"typ":"dpop+jwt","alg":"ES256","kid":"a","jwk":` + strings.Replace(jwk, "}", `,"kid":"k"}`, 1) + `}`, `{"jti":"\u0061","htm":"GET","htu":"x","iat":1.8e9,"ath":"x"}`},
		{`{"typ":"dpop+jwt","alg":"ES384","jwk":` + jwk + `}`, `{}`},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, header, payload string) {
		raw := m.sign(t, header, payload)
		p, err := read(raw)
		if err == nil {
			judged(t, raw, p)
		}
		if _, err := read(header + "." + payload); err == nil { // as it is, unsigned
			t.Error("taken without a signature")
		}
	})
}
