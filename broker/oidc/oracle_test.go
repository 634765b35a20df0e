package oidc

import (
	"crypto"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"pgregory.net/rapid"
)

// oracle is go-oidc's verifier with the same provider, keys and clock.
func (s *stage) oracle() *gooidc.IDTokenVerifier {
	keys := &gooidc.StaticKeySet{PublicKeys: []crypto.PublicKey{s.rsa.key.Public(), s.ec.key.Public()}}
	return gooidc.NewVerifier(s.provider.issuer(), keys, &gooidc.Config{
		ClientID: testAudience, SupportedSigningAlgs: []string{algRS256, algES256}, Now: s.clock.Now,
	})
}

// agrees fails where go-oidc refuses a token that we accept, or reads it
// otherwise. It says which of the two accepted.
func (s *stage) agrees(t fatalf, verifier *gooidc.IDTokenVerifier, raw string) (ours, theirs bool) {
	identity, err := s.verifier.Verify(s.context, raw)
	if err != nil && identity != nil {
		t.Fatalf("an identity beside the error %v", err)
	}
	token, oracleErr := verifier.Verify(s.context, raw)
	switch {
	case err != nil:
		return false, oracleErr == nil
	case oracleErr != nil:
		t.Fatalf("accepted a token that go-oidc refuses: %v\n%s", oracleErr, raw)
	case token.Issuer != identity.Issuer, token.Subject != identity.Subject, !slices.Equal(token.Audience, identity.Audience),
		token.Expiry.Unix() != identity.Expiry.Unix(), !identity.IssuedAt.IsZero() && token.IssuedAt.Unix() != identity.IssuedAt.Unix():
		t.Fatalf("read as %+v, by go-oidc as %+v", identity, token)
	}
	return true, true
}

type fatalf interface {
	Fatalf(format string, args ...any)
}

// Every attack that go-oidc refuses too is an attack, and no good token is one.
func TestVerdictsOfAnotherLibrary(t *testing.T) {
	s := newStage(t)
	verifier := s.oracle()
	stricter := 0
	for _, a := range attacks(t, s) {
		ours, theirs := s.agrees(t, verifier, a.token)
		if ours {
			t.Errorf("%s: accepted", a.name)
		}
		if theirs {
			stricter++
		}
	}
	if stricter == 0 {
		t.Error("go-oidc refuses all attacks: does it ask the right questions?")
	}
	if ours, _ := s.agrees(t, verifier, s.rsa.token(t, s.provider.claims(s.clock, nil))); !ours {
		t.Error("a good token was refused")
	}
}

// What go-oidc refuses, we refuse: over tokens that a provider signed with header
// and claims of a chance's making, and over such that were changed afterwards.
func TestWhatAnotherLibraryRefusesIsRefused(t *testing.T) {
	s := newStage(t)
	verifier := s.oracle()
	var both, neither, stricter atomic.Int64
	rapid.Check(t, func(r *rapid.T) {
		for range 20 {
			signer := rapid.SampledFrom([]*signer{s.ec, s.ec, s.ec, s.rsa}).Draw(r, "signer")
			raw := signer.raw(t, chanceHeader(r, signer), chanceClaims(r, s))
			if rapid.IntRange(0, 3).Draw(r, "changed") == 0 {
				raw = chanceChange(r, raw)
			}
			ours, theirs := s.agrees(r, verifier, raw)
			switch {
			case ours:
				both.Add(1)
			case theirs:
				stricter.Add(1)
			default:
				neither.Add(1)
			}
		}
	})
	if both.Load() == 0 || neither.Load() == 0 || stricter.Load() == 0 {
		t.Errorf("accepted by both %d, by neither %d, by go-oidc alone %d: the chances are badly set", both.Load(), neither.Load(), stricter.Load())
	}
}

// chanceValue is some JSON, most of it of a wrong type for wherever it lands.
func chanceValue(r *rapid.T) string {
	return rapid.SampledFrom([]string{
		`null`, `true`, `0`, `-1`, `1.5`, `1e300`, `9223372036854775807`, `""`, `"x"`, `"JWT"`, `"ES256"`, `"RS256"`, `[]`, `{}`,
		`["x"]`, `["` + testAudience + `"]`, `["` + testAudience + `","x"]`, `[1]`, `{"x":"y"}`, `"\ud83d\ude00"`, `"\u0000"`, `"\ud800"`,
	}).Draw(r, "value")
}

func chanceHeader(r *rapid.T, signer *signer) string {
	header := strings.TrimSuffix(signer.header(), "}")
	for range rapid.IntRange(0, 2).Draw(r, "headers") {
		name := rapid.SampledFrom([]string{
			"alg", "kid", "typ", "crit", "jku", "x5u", "jwk", "x5c", "x5t", "b64", "enc", "zip", "cty", "nonce", "url", "epk", "apu", "p2c", "iv", "tag", "KID", "x",
		}).Draw(r, "header")
		header += fmt.Sprintf(",%q:%s", name, chanceValue(r))
	}
	return header + "}"
}

func chanceClaims(r *rapid.T, s *stage) string {
	now := s.clock.Now().Unix()
	claims := map[string]string{
		"iss": fmt.Sprintf("%q", s.provider.issuer()), "aud": fmt.Sprintf("%q", testAudience), "sub": `"x"`,
		"exp": fmt.Sprint(now + rapid.Int64Range(-1, 100).Draw(r, "exp")), "iat": fmt.Sprint(now), "nbf": fmt.Sprint(now + rapid.Int64Range(-400, 400).Draw(r, "nbf")),
	}
	names := []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "nonce", "at_hash", "_claim_names", "_claim_sources", "NONCE", "At_Hash", "Exp", "email", "x"}
	for range rapid.IntRange(0, 2).Draw(r, "claims") {
		claims[rapid.SampledFrom(names).Draw(r, "claim")] = chanceValue(r)
	}
	if rapid.IntRange(0, 5).Draw(r, "left out") == 0 {
		delete(claims, rapid.SampledFrom(names).Draw(r, "absent"))
	}
	var members []string
	for name, value := range claims {
		members = append(members, fmt.Sprintf("%q:%s", name, value))
	}
	slices.Sort(members)
	return "{" + strings.Join(members, ",") + "}"
}

// chanceChange replaces, drops or doubles one byte.
func chanceChange(r *rapid.T, raw string) string {
	at := rapid.IntRange(0, len(raw)-1).Draw(r, "at")
	with := string(rapid.SampledFrom([]byte("Ab1-_.=+/ \n")).Draw(r, "with"))
	return raw[:at] + rapid.SampledFrom([]string{with, "", raw[at:at+1] + with}).Draw(r, "by") + raw[at+1:]
}
