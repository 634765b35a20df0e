package oidc

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
)

// githubClaims is the size and shape of a real token of GitHub Actions.
func githubClaims(p *fakeProvider, c *clock) map[string]any {
	return p.claims(c, map[string]any{
		"actor": "octocat", "actor_id": "12", "base_ref": "", "check_run_id": "35200000001",
		"enterprise": "avocado-corp", "enterprise_id": "2", "event_name": "push", "head_ref": "",
		"job_workflow_ref": "octo-org/octo-repo/.github/workflows/deploy.yml@refs/heads/main",
		"job_workflow_sha": strings.Repeat("a", 40), "ref": "refs/heads/main", "ref_protected": "true",
		"ref_type": "branch", "repository_owner": "octo-org", "repository_owner_id": "65",
		"repository_visibility": "private", "run_attempt": "2", "run_id": "30433642", "run_number": "10",
		"runner_environment": "github-hosted", "sha": strings.Repeat("b", 40), "workflow": "deploy",
		"workflow_ref": "octo-org/octo-repo/.github/workflows/deploy.yml@refs/heads/main",
		"workflow_sha": strings.Repeat("a", 40), "runner_id": nil,
	})
}

func benchToken(b *testing.B, alg string) (v *Verifier, s *signer, token string) {
	b.Helper()
	c := newClock()
	s = newSigner(b, alg, "key-1")
	p := newFakeProvider(b, s.jwk())
	v = newVerifier(b, p.config(c))
	token = s.token(b, githubClaims(p, c))
	if _, err := v.Verify(b.Context(), token); err != nil { // fetches the keys
		b.Fatal(err)
	}
	return v, s, token
}

// bareCheck is the signature check alone, the lower limit of Verify.
func bareCheck(b *testing.B, s *signer, token string) func() bool {
	b.Helper()
	dot := strings.LastIndexByte(token, '.')
	sig, err := base64.RawURLEncoding.DecodeString(token[dot+1:])
	if err != nil {
		b.Fatal(err)
	}
	switch public := s.key.Public().(type) {
	case *rsa.PublicKey:
		return func() bool {
			digest := sha256.Sum256([]byte(token[:dot]))
			return rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], sig) == nil
		}
	case *ecdsa.PublicKey:
		half := len(sig) / 2
		der, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(sig[:half]), new(big.Int).SetBytes(sig[half:])})
		if err != nil {
			b.Fatal(err)
		}
		return func() bool {
			digest := sha256.Sum256([]byte(token[:dot]))
			return ecdsa.VerifyASN1(public, digest[:], der)
		}
	}
	b.Fatal("no such key")
	return nil
}

func benchVerify(b *testing.B, alg string) {
	b.Helper()
	v, _, token := benchToken(b, alg)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(b.Context(), token); err != nil {
			b.Fatal(err)
		}
	}
}

func benchBare(b *testing.B, alg string) {
	b.Helper()
	_, s, token := benchToken(b, alg)
	bare := bareCheck(b, s, token)
	b.ReportAllocs()
	for b.Loop() {
		if !bare() {
			b.Fatal("signature refused")
		}
	}
}

func BenchmarkVerifyRS256(b *testing.B) { benchVerify(b, algRS256) }
func BenchmarkBareRS256(b *testing.B)   { benchBare(b, algRS256) }
func BenchmarkVerifyES256(b *testing.B) { benchVerify(b, algES256) }
func BenchmarkBareES256(b *testing.B)   { benchBare(b, algES256) }

// BenchmarkVerifyBesideBare takes turns between Verify and the bare signature
// check and compares the medians, which a busy machine moves least.
func BenchmarkVerifyBesideBare(b *testing.B) {
	for _, alg := range []string{algRS256, algES256} {
		b.Run(alg, func(b *testing.B) {
			v, s, token := benchToken(b, alg)
			bare := bareCheck(b, s, token)
			var whole, part []time.Duration
			for b.Loop() {
				start := time.Now()
				if _, err := v.Verify(b.Context(), token); err != nil {
					b.Fatal(err)
				}
				middle := time.Now()
				if !bare() {
					b.Fatal("signature refused")
				}
				part = append(part, time.Since(middle))
				whole = append(whole, middle.Sub(start))
			}
			slices.Sort(whole)
			slices.Sort(part)
			verify, limit := whole[len(whole)/2], part[len(part)/2]
			b.ReportMetric(float64(verify.Nanoseconds()), "verify-ns")
			b.ReportMetric(float64(limit.Nanoseconds()), "bare-ns")
			b.ReportMetric(float64(verify)/float64(limit), "ratio")
		})
	}
}

func BenchmarkParse(b *testing.B) {
	_, _, token := benchToken(b, algES256)
	b.ReportAllocs()
	for b.Loop() {
		t, err := parseHeader(token)
		if err == nil {
			err = t.parsePayload()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRefuse is what a bad token costs: the good one beside them is the limit
// that none of them may pass, as TestBadTokensCostNoMore checks.
func BenchmarkRefuse(b *testing.B) {
	v, raws := badTokens(b)
	for name, raw := range raws {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = v.Verify(b.Context(), raw)
			}
		})
	}
}

// A flood costs the broker no more than as many good tokens. Medians of runs that
// take turns: on a busy machine all of them grow alike.
func TestBadTokensCostNoMore(t *testing.T) {
	v, raws := badTokens(t)
	times := map[string][]time.Duration{}
	for range 300 {
		for name, raw := range raws {
			start := time.Now()
			_, err := v.Verify(t.Context(), raw)
			times[name] = append(times[name], time.Since(start))
			if (err == nil) != (name == "good") {
				t.Fatalf("%s: error is %v", name, err)
			}
		}
	}
	median := func(name string) time.Duration {
		slices.Sort(times[name])
		return times[name][len(times[name])/2]
	}
	good := median("good")
	for name := range raws {
		most := good
		switch name {
		case "good", "bad signature": // the same work
			most = good * 3 / 2
		case "noise", "dots", "parts", "huge":
			most = good / 10
		}
		if got := median(name); got > most {
			t.Errorf("%s costs %v, a good token %v", name, got, good)
		}
	}
}

// badTokens are a good token and what strangers send in its place.
func badTokens(t testing.TB) (v *Verifier, raws map[string]string) {
	t.Helper()
	c, s := newClock(), newSigner(t, algRS256, "key-1")
	p := newFakeProvider(t, s.jwk())
	v = newVerifier(t, p.config(c))
	with := func(changes map[string]any) string {
		claims := githubClaims(p, c)
		maps.Copy(claims, changes)
		return s.token(t, claims)
	}
	good := with(nil)
	if _, err := v.Verify(t.Context(), good); err != nil { // fetches the keys
		t.Fatal(err)
	}
	dot := strings.LastIndexByte(good, '.')
	other := newSigner(t, algRS256, "key-2")
	return v, map[string]string{
		"good":          good,
		"noise":         strings.Repeat("x", len(good)),
		"dots":          strings.Repeat(".", len(good)),
		"parts":         good + ".x",
		"huge":          strings.Repeat("x", maxToken+1),
		"alg none":      b64([]byte(`{"alg":"none"}`)) + good[strings.IndexByte(good, '.'):],
		"issuer":        with(map[string]any{"iss": "https://evil.example.com"}),
		"audience":      with(map[string]any{"aud": "https://other.example.com"}),
		"expired":       with(map[string]any{"exp": c.Now().Unix() - 60}),
		"unknown kid":   other.token(t, githubClaims(p, c)),
		"bad signature": good[:dot+1] + b64(s.bytes(t, algRS256, "x.y")),
	}
}
