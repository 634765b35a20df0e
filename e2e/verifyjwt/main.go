// Command verifyjwt verifies a JWT as its receiver would: by the issuer's own
// discovery document and key set, with a JWT library that the broker doesn't
// use. It reads the token from standard input and prints its claims.
//
//	verifyjwt -issuer https://daypass.example.com -audience https://api.example.com < token
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

func main() {
	issuer := flag.String("issuer", "", "URL of the issuer, the token's iss")
	audience := flag.String("audience", "", "what must stand in the token's aud")
	flag.Parse()
	if err := run(*issuer, *audience, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "verifyjwt:", err)
		os.Exit(1)
	}
}

func run(issuer, audience string, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	raw, err := io.ReadAll(io.LimitReader(in, 16<<10))
	if err != nil {
		return fmt.Errorf("reading token: %w", err)
	}
	var discovery struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if err := get(ctx, issuer+"/.well-known/openid-configuration", &discovery); err != nil {
		return err
	}
	if discovery.Issuer != issuer {
		return fmt.Errorf("discovery is of issuer %q, not %q", discovery.Issuer, issuer)
	}
	var set struct{ Keys []key }
	if err := get(ctx, discovery.JWKSURI, &set); err != nil {
		return err
	}
	claims := jwt.MapClaims{}
	_, err = jwt.ParseWithClaims(strings.TrimSpace(string(raw)), claims, func(t *jwt.Token) (any, error) {
		for _, k := range set.Keys {
			// The key says which algorithm it is for; the token only which key it is of.
			if k.Kid == t.Header["kid"] && k.Alg == t.Method.Alg() {
				return k.public()
			}
		}
		return nil, errors.New("no key of that kid and alg in the key set")
	}, jwt.WithValidMethods([]string{"ES256", "ES384", "RS256", "PS256", "EdDSA"}), jwt.WithIssuer(issuer), jwt.WithAudience(audience), jwt.WithExpirationRequired())
	if err != nil {
		return fmt.Errorf("verifying token: %w", err)
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(claims)
}

// key is a public key of a JWKS (RFC 7517 §4).
type key struct{ Kty, Crv, Kid, Alg, X, Y, N, E string }

func (k key) public() (any, error) {
	switch k.Kty + " " + k.Crv {
	case "EC P-256":
		return k.point(elliptic.P256())
	case "EC P-384":
		return k.point(elliptic.P384())
	case "OKP Ed25519": // RFC 8037 §2
		raw, err := base64.RawURLEncoding.DecodeString(k.X)
		if err != nil || len(raw) != ed25519.PublicKeySize {
			return nil, errors.New("decoding key: no Ed25519 key of 32 bytes")
		}
		return ed25519.PublicKey(raw), nil
	case "RSA ": // RFC 7518 §6.3.1
		n, err := base64.RawURLEncoding.DecodeString(k.N)
		if err != nil {
			return nil, fmt.Errorf("decoding key: %w", err)
		}
		e, err := base64.RawURLEncoding.DecodeString(k.E)
		if err != nil || len(e) == 0 || len(e) > 4 {
			return nil, errors.New("decoding key: no exponent of 1 to 4 bytes")
		}
		return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}, nil
	}
	return nil, fmt.Errorf("decoding key: there is no way with kty %q and crv %q", k.Kty, k.Crv)
}

// point reads a point in affine coordinates (RFC 7518 §6.2.1).
func (k key) point(curve elliptic.Curve) (*ecdsa.PublicKey, error) {
	point := []byte{4} // uncompressed (SEC 1 §2.3.3)
	for _, coordinate := range []string{k.X, k.Y} {
		raw, err := base64.RawURLEncoding.DecodeString(coordinate)
		if err != nil {
			return nil, fmt.Errorf("decoding key: %w", err)
		}
		point = append(point, raw...)
	}
	return ecdsa.ParseUncompressedPublicKey(curve, point)
}

func get(ctx context.Context, url string, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("reading %s: %w", url, err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("reading %s: %w", url, err)
	}
	defer response.Body.Close() //nolint:errcheck // read-only
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("reading %s: %s", url, response.Status)
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(into); err != nil {
		return fmt.Errorf("reading %s: %w", url, err)
	}
	return nil
}
