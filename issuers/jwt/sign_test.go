package jwt_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
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

func algorithms() []string { return []string{"ES256", "ES384", "RS256", "PS256", "EdDSA"} }

// TestEveryAlgorithmVerifiesElsewhere: two libraries take the token while it
// lives, and neither before it begins, nor once it has run out, nor with a byte of
// it changed, nor under another algorithm's name.
func TestEveryAlgorithmVerifiesElsewhere(t *testing.T) {
	for _, algorithm := range algorithms() {
		t.Run(algorithm, func(t *testing.T) {
			signer := issuertest.NewSigner(t, algorithm)
			now := time.Now().Truncate(time.Second)
			lease := issuertest.NewLease("testtesttest", "", now)
			token, err := issue(t, newIssuer(t, signer, nil), lease, `{"audience":"a"}`)
			if err != nil {
				t.Fatal(err)
			}
			verify := func(token string, at time.Time, methods ...string) error {
				_, err := golangjwt.Parse(token, func(parsed *golangjwt.Token) (any, error) {
					if parsed.Header["kid"] != signer.KeyID() {
						t.Errorf("kid %v, want %s", parsed.Header["kid"], signer.KeyID())
					}
					return signer.Public(), nil
				}, golangjwt.WithValidMethods(methods), golangjwt.WithTimeFunc(func() time.Time { return at }), golangjwt.WithIssuedAt(),
					golangjwt.WithExpirationRequired(), golangjwt.WithAudience("a"), golangjwt.WithIssuer(externalURL), golangjwt.WithSubject("daypass:main/payments/deploy"))
				return err
			}
			if err := verify(token, now, algorithm); err != nil {
				t.Error(err)
			}
			if err := verify(token, lease.ExpiresAt.Add(time.Second), algorithm); !errors.Is(err, golangjwt.ErrTokenExpired) {
				t.Errorf("a second after its end: %v", err)
			}
			if err := verify(token, now.Add(-time.Second), algorithm); !errors.Is(err, golangjwt.ErrTokenNotValidYet) {
				t.Errorf("a second before its beginning: %v", err)
			}
			for _, other := range algorithms() {
				if other != algorithm && verify(token, now, other) == nil {
					t.Errorf("it passes for %s", other)
				}
			}
			for _, i := range []int{strings.IndexByte(token, '.') + 5, strings.LastIndexByte(token, '.') + 5} {
				changed := []byte(token)
				changed[i] ^= 1
				if verify(string(changed), now, algorithm) == nil {
					t.Errorf("with byte %d changed it still verifies", i)
				}
			}
			parsed, err := josejwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(algorithm)})
			if err != nil {
				t.Fatal(err)
			}
			var claims josejwt.Claims
			if err := parsed.Claims(signer.Public(), &claims); err != nil {
				t.Fatal(err)
			}
			if err := claims.ValidateWithLeeway(josejwt.Expected{Issuer: externalURL, Time: lease.ExpiresAt.Add(time.Second)}, 0); !errors.Is(err, josejwt.ErrExpired) {
				t.Errorf("go-jose, a second after its end: %v", err)
			}
		})
	}
}

// TestOpenSSLVerifies: what verifies is no Go at all.
func TestOpenSSLVerifies(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Fatal("openssl is not installed (hint: make deps)")
	}
	pss := []string{"-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32"}
	for algorithm, arguments := range map[string][]string{
		"ES256": {"dgst", "-sha256"}, "ES384": {"dgst", "-sha384"}, "RS256": {"dgst", "-sha256"},
		"PS256": append([]string{"dgst", "-sha256"}, pss...),
		"EdDSA": {"pkeyutl"},
	} {
		t.Run(algorithm, func(t *testing.T) {
			signer := issuertest.NewSigner(t, algorithm)
			token, err := issue(t, newIssuer(t, signer, nil), issuertest.NewLease("testtesttest", "", time.Now()), `{"audience":"a"}`)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			der, err := x509.MarshalPKIXPublicKey(signer.Public())
			if err != nil {
				t.Fatal(err)
			}
			dot := strings.LastIndexByte(token, '.')
			signature, err := base64.RawURLEncoding.DecodeString(token[dot+1:])
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := signer.Public().(*ecdsa.PublicKey); ok {
				half := len(signature) / 2
				points := struct{ R, S *big.Int }{new(big.Int).SetBytes(signature[:half]), new(big.Int).SetBytes(signature[half:])}
				if signature, err = asn1.Marshal(points); err != nil {
					t.Fatal(err)
				}
			}
			file := func(name string, body []byte) string {
				path := filepath.Join(dir, name)
				if err := os.WriteFile(path, body, 0o600); err != nil {
					t.Fatal(err)
				}
				return path
			}
			key := file("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
			signed := file("signature", signature)
			run := func(message string) (string, error) {
				args := append([]string{}, arguments...)
				if algorithm == "EdDSA" {
					args = append(args, "-verify", "-pubin", "-inkey", key, "-rawin", "-in", message, "-sigfile", signed)
				} else {
					args = append(args, "-verify", key, "-signature", signed, message)
				}
				out, err := exec.CommandContext(t.Context(), openssl, args...).CombinedOutput()
				return string(out), err
			}
			if out, err := run(file("message", []byte(token[:dot]))); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			if out, err := run(file("other", []byte(token[:dot-1]))); err == nil {
				t.Errorf("a shorter message verifies\n%s", out)
			}
		})
	}
}

// relabelled is a key under another algorithm's name.
type relabelled struct {
	issuers.Signer
	algorithm string
	public    crypto.PublicKey
}

func (r relabelled) Algorithm() string { return r.algorithm }
func (r relabelled) Public() crypto.PublicKey {
	if r.public != nil {
		return r.public
	}
	return r.Signer.Public()
}

// TestAlgorithmFitsTheKey: no token says one algorithm and is signed by another.
func TestAlgorithmFitsTheKey(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec // the test is about a key that is too small
	if err != nil {
		t.Fatal(err)
	}
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(name string, signer issuers.Signer) {
		t.Helper()
		if _, err := issue(t, newIssuer(t, signer, nil), issuertest.NewLease("testtesttest", "", time.Now()), `{"audience":"a"}`); !errors.Is(err, issuers.ErrRejected) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, of := range algorithms() {
		signer := issuertest.NewSigner(t, of)
		for _, as := range append(algorithms(), "none", "HS256", "ES512", "RS512", "") {
			if as == of || of == "RS256" && as == "PS256" || of == "PS256" && as == "RS256" {
				continue // any RSA key signs by both
			}
			refused(of+" as "+as, relabelled{Signer: signer, algorithm: as})
		}
	}
	es256, rs256, ed := issuertest.NewSigner(t, "ES256"), issuertest.NewSigner(t, "RS256"), issuertest.NewSigner(t, "EdDSA")
	refused("RSA of 1024 bits", relabelled{rs256, "RS256", &small.PublicKey})
	refused("RSA with exponent 3", relabelled{rs256, "RS256", &rsa.PublicKey{N: rs256.Public().(*rsa.PublicKey).N, E: 3}})
	refused("P-521", relabelled{es256, "ES256", &p521.PublicKey})
	refused("Ed25519 of 31 bytes", relabelled{ed, "EdDSA", ed25519.PublicKey(make([]byte, 31))})
	refused("no public key", relabelled{es256, "ES256", struct{}{}})
}

// TestSignaturesOfWrongLength: a token that answers with half a signature gets no
// JWT out.
func TestSignaturesOfWrongLength(t *testing.T) {
	for _, algorithm := range []string{"RS256", "PS256", "EdDSA"} {
		signer := issuertest.NewSigner(t, algorithm)
		for _, size := range []int{0, 1, 63, 65, 255, 257} {
			cut := broken{key: key{signer, signer.KeyID(), algorithm}, der: make([]byte, size)}
			if _, err := issue(t, newIssuer(t, cut, nil), issuertest.NewLease("testtesttest", "", time.Now()), `{"audience":"a"}`); !errors.Is(err, issuers.ErrUnavailable) {
				t.Errorf("%s with %d bytes: %v", algorithm, size, err)
			}
		}
	}
}

// TestSigningEndsWithItsContext: a token that doesn't answer holds nobody longer
// than their deadline.
func TestSigningEndsWithItsContext(t *testing.T) {
	signer := issuertest.NewSigner(t, "ES256")
	asked := make(chan struct{})
	signer.OnSign = func(ctx context.Context) error {
		close(asked)
		<-ctx.Done()
		return context.Cause(ctx)
	}
	issuer := newIssuer(t, signer, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	reason := errors.New("the job has gone")
	done := make(chan error, 1)
	go func() {
		_, err := issuer.Issue(ctx, &issuers.IssueRequest{Lease: issuertest.NewLease("testtesttest", "", time.Now()), Parameters: []byte(`{"audience":"a"}`)})
		done <- err
	}()
	<-asked
	cancel(reason)
	select {
	case err := <-done:
		if !errors.Is(err, issuers.ErrUnavailable) || !errors.Is(err, reason) {
			t.Errorf("%v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it still waits for the key")
	}
}

// TestRolesKeyIsOfAProfilesAlgorithm: the key of the moment is asked, so that a
// rotation to an algorithm that the verifier doesn't take is seen here, not there.
func TestRolesKeyIsOfAProfilesAlgorithm(t *testing.T) {
	takes := map[string]string{
		jwt.ProfileAccessToken: "ES256 ES384 RS256 PS256 EdDSA", jwt.ProfilePlain: "ES256 ES384 RS256 PS256 EdDSA", jwt.ProfileVault: "ES256 ES384 RS256 PS256 EdDSA",
		jwt.ProfileAWS: "ES256 ES384 RS256", jwt.ProfileGCP: "ES256 RS256", jwt.ProfileAzure: "RS256", jwt.ProfileKubernetes: "ES256 ES384 RS256 PS256",
	}
	if len(takes) != len(jwt.Profiles()) {
		t.Fatal("a profile is missing here")
	}
	for _, algorithm := range algorithms() {
		signer := issuertest.NewSigner(t, algorithm)
		for profile, list := range takes {
			issuer := newIssuer(t, signer, map[string]jwt.Role{"r": {Profile: profile}})
			want := strings.Contains(" "+list+" ", " "+algorithm+" ")
			_, err := issue(t, issuer, issuertest.NewLease("testtesttest", "r", time.Now()), `{"audience":"a"}`)
			if (err == nil) != want || err != nil && (!errors.Is(err, issuers.ErrRejected) || !strings.Contains(err.Error(), "profile "+profile+": it takes no token signed with "+algorithm)) {
				t.Errorf("%s with %s: %v", profile, algorithm, err)
			}
			if err := jwt.CheckProfile(profile, algorithm, externalURL); (err == nil) != want {
				t.Errorf("%s with %s, when it is configured: %v", profile, algorithm, err)
			}
		}
	}
}
