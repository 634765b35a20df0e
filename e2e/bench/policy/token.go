package main

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/daypass/daypass/broker/devkit"
	"github.com/daypass/daypass/broker/oidc"
)

const audience = "https://ci.daypass.example.com"

// tokens measures the check of a job token: RS256 with 2048 bits and the claims
// that GitHub sends. The provider stands on loopback and is asked for its keys
// once, before the clock starts.
func (b *bench) tokens() (err error) {
	provider, err := devkit.StartProvider(b.ctx, devkit.ProviderConfig{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, provider.Close()) }()
	verifier, err := oidc.New(b.ctx, oidc.Config{Providers: []oidc.Provider{{Name: "github", Type: "github", Issuer: provider.IssuerURL(devkit.ProfileGitHub), Audience: audience}}})
	if err != nil {
		return err
	}
	raw, err := provider.Token(devkit.ProfileGitHub, audience, nil)
	if err != nil {
		return err
	}
	bare, err := bareCheck(b.ctx, provider, raw)
	if err != nil {
		return err
	}
	const limit, checked = "bare crypto/rsa check", "verify RS256 token"
	forged := raw[:len(raw)-8] + "AAAAAAAA"
	subjects := []struct {
		name string
		do   func() bool // what it ought to be
	}{
		{limit, bare},
		{checked, func() bool { _, err := verifier.Verify(b.ctx, raw); return err == nil }},
		{"refuse a wrong signature", func() bool { _, err := verifier.Verify(b.ctx, forged); return err != nil }},
		{"refuse garbage", func() bool { _, err := verifier.Verify(b.ctx, strings.Repeat("a", 1800)); return err != nil }},
	}
	times, allocations := make([][]float64, len(subjects)), make([]float64, len(subjects))
	for range b.rounds {
		for i, s := range subjects {
			result := testing.Benchmark(func(t *testing.B) {
				t.ReportAllocs()
				for t.Loop() {
					if !s.do() {
						err = fmt.Errorf("%s: the outcome is another", s.name)
					}
				}
			})
			if err != nil {
				return err
			}
			times[i] = append(times[i], float64(result.NsPerOp())/1000)
			allocations[i] = float64(result.AllocsPerOp())
		}
	}
	for i, s := range subjects {
		if err := b.add(s.name, median(times[i]), "µs", limit); err != nil {
			return err
		}
	}
	if err := b.add(limit+" allocations", allocations[0], "allocations", limit+" allocations"); err != nil {
		return err
	}
	return b.add(checked+" allocations", allocations[1], "allocations", limit+" allocations")
}

// bareCheck is the signature check alone: SHA-256 of what is signed, and
// PKCS #1 v1.5.
func bareCheck(ctx context.Context, provider *devkit.Provider, raw string) (func() bool, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, provider.IssuerURL(devkit.ProfileGitHub)+"/jwks", nil)
	if err != nil {
		return nil, err
	}
	response, err := (&http.Client{}).Do(request)
	if err != nil {
		return nil, fmt.Errorf("fetching keys: %w", err)
	}
	defer response.Body.Close() //nolint:errcheck // read to its end
	var set jose.JSONWebKeySet
	if err := json.NewDecoder(response.Body).Decode(&set); err != nil || len(set.Keys) == 0 {
		return nil, fmt.Errorf("reading keys: %w", errors.Join(err, errors.New("status "+response.Status)))
	}
	public, ok := set.Keys[0].Key.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("the provider's key is a %T", set.Keys[0].Key)
	}
	dot := strings.LastIndexByte(raw, '.')
	signature, err := base64.RawURLEncoding.DecodeString(raw[dot+1:])
	if err != nil {
		return nil, err
	}
	return func() bool {
		digest := sha256.Sum256([]byte(raw[:dot]))
		return rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature) == nil
	}, nil
}
