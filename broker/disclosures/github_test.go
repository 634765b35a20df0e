package disclosures_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/disclosures"
	"github.com/daypass/daypass/broker/leases"
)

// published is a server that publishes keys as GitHub does.
type published struct {
	*httptest.Server

	asked atomic.Int32
	keys  atomic.Pointer[map[string]any]
}

func publish(t *testing.T, keys map[string]any) *published {
	t.Helper()
	p := &published{}
	p.keys.Store(&keys)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		p.asked.Add(1)
		var list []map[string]any
		for id, key := range *p.keys.Load() {
			text, ok := key.(string)
			if !ok {
				der, err := x509.MarshalPKIXPublicKey(key)
				if err != nil {
					w.WriteHeader(http.StatusInternalServerError)
					return
				}
				text = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
			}
			list = append(list, map[string]any{"key_identifier": id, "key": text, "is_current": true})
		}
		if list == nil {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"public_keys": list})
	}))
	t.Cleanup(p.Close)
	return p
}

func sign(t *testing.T, key *ecdsa.PrivateKey, body []byte) string {
	t.Helper()
	sum := sha256.Sum256(body)
	signature, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(signature)
}

func newKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestGitHubSample: what GitHub's documentation shows as signed verifies.
func TestGitHubSample(t *testing.T) {
	t.Parallel()
	const id, key = "90a421169f0a406205f1563a953312f0be898d3c7b6c06b681aa86a874555f4a", `-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE9MJJHnMfn2+H4xL4YaPDA4RpJqUq
kCmRCBnYERxZanmcpzQSXs1X/AljlKkbJ8qpVIW4clayyef9gWhFbNHWAA==
-----END PUBLIC KEY-----`
	p := publish(t, map[string]any{id: key})
	keys, err := disclosures.NewGitHubKeys(disclosures.GitHubKeysConfig{URL: p.URL, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	const body = `[{"token":"some_token","type":"some_type","url":"some_url"}]`
	if err := keys.Verify(t.Context(), []byte(body), id, "MEUCIQDKZokqnCjrRtw0tni+2Ltvl/uiMJ1EGumEsp1BsNr32AIgQY1YXD2nlj+XNfGK4rBfkMJ1JDOQcYXxa2sY8FNkrKc="); err != nil {
		t.Error(err)
	}
}

func TestGitHubKeys(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	first, second, other := newKey(t, elliptic.P256()), newKey(t, elliptic.P256()), newKey(t, elliptic.P384())
	p := publish(t, map[string]any{"first": &first.PublicKey, "odd": &other.PublicKey, "none": "no PEM"})
	keys, err := disclosures.NewGitHubKeys(disclosures.GitHubKeysConfig{URL: p.URL, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	body := []byte(`[]`)
	verify := func(id, signature string, want error) {
		t.Helper()
		if err := keys.Verify(t.Context(), body, id, signature); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", id, err, want)
		}
	}
	verify("first", "", disclosures.ErrSignature)
	verify("", sign(t, first, body), disclosures.ErrSignature)
	verify("first", "no base64!", disclosures.ErrSignature)
	if p.asked.Load() != 0 {
		t.Error("the keys were asked for without need")
	}
	verify("first", sign(t, first, body), nil)
	verify("first", sign(t, first, []byte(`[ ]`)), disclosures.ErrSignature)
	verify("first", sign(t, second, body), disclosures.ErrSignature)
	verify("odd", sign(t, other, body), disclosures.ErrSignature)
	verify("second", sign(t, second, body), disclosures.ErrSignature)
	if n := p.asked.Load(); n != 1 {
		t.Errorf("the keys were asked for %d times within a minute", n)
	}
	// A new key is known a minute later.
	p.keys.Store(&map[string]any{"first": &first.PublicKey, "second": &second.PublicKey})
	now = now.Add(time.Minute)
	verify("second", sign(t, second, body), nil)
	// The former ones are used while there are no others, for a day.
	p.keys.Store(&map[string]any{})
	now = now.Add(2 * time.Hour)
	verify("second", sign(t, second, body), nil)
	now = now.Add(23 * time.Hour)
	verify("second", sign(t, second, body), leases.ErrUnavailable)
	for _, bad := range []string{"", "http://keys.example", "ftp://x", "https://"} {
		if _, err := disclosures.NewGitHubKeys(disclosures.GitHubKeysConfig{URL: bad, Now: time.Now}); err == nil {
			t.Errorf("%q is no place for keys", bad)
		}
	}
}
