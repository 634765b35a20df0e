// Command verifyjwt verifies a JWT as its receiver would: by the issuer's own
// discovery document and key set, with a JWT library that the broker doesn't
// use. It reads the token from standard input and prints its claims.
//
//	verifyjwt -issuer https://daypass.example.com -audience https://api.example.com < token
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
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
	var set struct {
		Keys []struct{ Kty, Crv, Kid, Alg, X, Y string }
	}
	if err := get(ctx, discovery.JWKSURI, &set); err != nil {
		return err
	}
	claims := jwt.MapClaims{}
	_, err = jwt.ParseWithClaims(strings.TrimSpace(string(raw)), claims, func(t *jwt.Token) (any, error) {
		for _, k := range set.Keys {
			if k.Kid == t.Header["kid"] && k.Kty == "EC" && k.Crv == "P-256" {
				return publicKey(k.X, k.Y)
			}
		}
		return nil, errors.New("no key of that kid in the key set")
	}, jwt.WithValidMethods([]string{"ES256"}), jwt.WithIssuer(issuer), jwt.WithAudience(audience), jwt.WithExpirationRequired())
	if err != nil {
		return fmt.Errorf("verifying token: %w", err)
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(claims)
}

// publicKey reads a point in affine coordinates (RFC 7518 §6.2.1).
func publicKey(x, y string) (*ecdsa.PublicKey, error) {
	point := []byte{4} // uncompressed (SEC 1 §2.3.3)
	for _, coordinate := range []string{x, y} {
		raw, err := base64.RawURLEncoding.DecodeString(coordinate)
		if err != nil {
			return nil, fmt.Errorf("decoding key: %w", err)
		}
		point = append(point, raw...)
	}
	return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
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
