package oidc

import (
	"encoding/json"
	"errors"
	"maps"
	"math/big"
	"strings"
	"testing"

	"github.com/daypass/daypass/broker/jose"
)

func TestParseKeys(t *testing.T) {
	ec, ecAgain := newSigner(t, algES256, "ec"), newSigner(t, algES256, "ec")
	rsa := newSigner(t, algRS256, "rsa")
	with := func(j map[string]any, changes map[string]any) map[string]any {
		j = maps.Clone(j)
		maps.Copy(j, changes)
		return j
	}
	size := func(bits uint) map[string]any {
		n := new(big.Int).Lsh(big.NewInt(1), bits-1)
		return with(rsa.jwk(), map[string]any{"n": b64(n.Add(n, big.NewInt(1)).Bytes())})
	}
	for name, test := range map[string]struct {
		keys    []map[string]any
		want    int
		skipped error
	}{
		"both":                      {[]map[string]any{ec.jwk(), rsa.jwk()}, 2, nil},
		"none":                      {[]map[string]any{}, 0, nil},
		"same key twice":            {[]map[string]any{ec.jwk(), ec.jwk()}, 1, nil},
		"one kid, two keys":         {[]map[string]any{ec.jwk(), ecAgain.jwk(), rsa.jwk()}, 1, errAny},
		"one kid, two algorithms":   {[]map[string]any{rsa.jwk(), with(rsa.jwk(), map[string]any{"alg": "PS256"})}, 0, errAny},
		"for encryption":            {[]map[string]any{with(ec.jwk(), map[string]any{"use": "enc"})}, 0, nil},
		"for other operations":      {[]map[string]any{with(ec.jwk(), map[string]any{"key_ops": []string{"encrypt"}})}, 0, nil},
		"RSA of 1024 bits":          {[]map[string]any{size(1024)}, 0, jose.ErrUnsupported},
		"RSA of 2047 bits":          {[]map[string]any{size(2047)}, 0, jose.ErrUnsupported},
		"RSA of 8192 bits":          {[]map[string]any{size(8192)}, 1, nil},
		"RSA of 8193 bits":          {[]map[string]any{size(8193)}, 0, jose.ErrUnsupported},
		"RSA with exponent 1":       {[]map[string]any{with(rsa.jwk(), map[string]any{"e": "AQ"})}, 0, jose.ErrBadKey},
		"RSA with an even exponent": {[]map[string]any{with(rsa.jwk(), map[string]any{"e": "BA"})}, 0, jose.ErrBadKey},
		"RSA with a huge exponent":  {[]map[string]any{with(rsa.jwk(), map[string]any{"e": b64([]byte(strings.Repeat("\x01", 32)))})}, 0, jose.ErrBadKey},
		"RSA without modulus":       {[]map[string]any{with(rsa.jwk(), map[string]any{"n": ""})}, 0, jose.ErrBadKey},
		"curve P-521":               {[]map[string]any{with(ec.jwk(), map[string]any{"crv": "P-521", "alg": ""})}, 0, jose.ErrUnsupported},
		"curve of another size":     {[]map[string]any{with(ec.jwk(), map[string]any{"crv": "P-384", "alg": ""})}, 0, jose.ErrBadKey},
		"curve secp256k1":           {[]map[string]any{with(ec.jwk(), map[string]any{"crv": "secp256k1", "alg": ""})}, 0, jose.ErrUnsupported},
		"point off the curve":       {[]map[string]any{with(ec.jwk(), map[string]any{"x": b64(make([]byte, 32))})}, 0, jose.ErrBadKey},
		"X25519":                    {[]map[string]any{{"kty": "OKP", "crv": "X25519", "x": b64(make([]byte, 32))}}, 0, jose.ErrUnsupported},
		"symmetric":                 {[]map[string]any{{"kty": "oct", "k": "AAAA", "alg": "HS256"}}, 0, errPrivate},
		"private":                   {[]map[string]any{with(ec.jwk(), map[string]any{"d": "AAAA"})}, 0, errPrivate},
		"algorithm of another type": {[]map[string]any{with(ec.jwk(), map[string]any{"alg": "RS256"})}, 0, jose.ErrUnsupported},
		"algorithm HS256":           {[]map[string]any{with(rsa.jwk(), map[string]any{"alg": "HS256"})}, 0, jose.ErrUnsupported},
		"unknown type":              {[]map[string]any{{"kty": "AKP", "alg": "ML-DSA-44"}}, 0, jose.ErrUnsupported},
		"no type":                   {[]map[string]any{{}}, 0, jose.ErrUnsupported},
		"kid is a number":           {[]map[string]any{with(ec.jwk(), map[string]any{"kid": 1})}, 0, jose.ErrBadKey},
		"one bad beside a good":     {[]map[string]any{{"kty": "AKP"}, ec.jwk()}, 1, jose.ErrUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			body, err := json.Marshal(map[string]any{"keys": test.keys})
			if err != nil {
				t.Fatal(err)
			}
			keys, skipped, err := parseKeys(body)
			if err != nil {
				t.Fatal(err)
			}
			if len(keys) != test.want {
				t.Errorf("%d keys, want %d", len(keys), test.want)
			}
			switch {
			case test.skipped == nil && len(skipped) > 0:
				t.Errorf("skipped %v", skipped)
			case test.skipped != nil && len(skipped) == 0:
				t.Error("nothing was said about the key left out")
			case test.skipped != nil && !errors.Is(test.skipped, errAny) && !errors.Is(skipped[0], test.skipped):
				t.Errorf("skipped for %v, want %v", skipped[0], test.skipped)
			}
		})
	}
}

var errAny = errors.New("any error")
