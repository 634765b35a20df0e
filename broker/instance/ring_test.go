package instance_test

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/keyring"
	"github.com/daypass/daypass/broker/keys"
)

// keySet is what a broker publishes, as a verifier reads it.
func keySet(t *testing.T, b *brokertest.Broker) *jose.JSONWebKeySet {
	t.Helper()
	a := b.Do(http.MethodGet, api.PathJWKS, "", nil)
	set := &jose.JSONWebKeySet{}
	if err := json.Unmarshal(a.Body, set); err != nil || a.Status != http.StatusOK {
		t.Fatalf("%d %s %v", a.Status, a.Body, err)
	}
	if got := a.Header.Get("Cache-Control"); got != "public, max-age=300" {
		t.Errorf("Cache-Control: %s", got)
	}
	return set
}

// verifies says whether a verifier with that key set accepts a token.
func verifies(t *testing.T, set *jose.JSONWebKeySet, token string) bool {
	t.Helper()
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	var claims jwt.Claims
	return parsed.Claims(set, &claims) == nil && claims.Validate(jwt.Expected{Time: time.Now()}) == nil
}

func signedBy(t *testing.T, token string) string {
	t.Helper()
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	return parsed.Headers[0].KeyID
}

// TestRotation of the signing key under brokers that work: what was signed before
// verifies after it, and a revocation ends it all.
func TestRotation(t *testing.T) {
	t.Parallel()
	first := brokertest.New(t, brokertest.Options{Idle: true})
	second := brokertest.New(t, brokertest.Options{Join: first, Idle: true})
	sign := func(b *brokertest.Broker) (token, lease string) {
		t.Helper()
		c := b.Exchange(b.Job(), "payments/sign").Credentials[0]
		return c.Values["token"], c.LeaseID
	}
	before, beforeLease := sign(first)
	next, err := first.Keys().Rotate(t.Context(), "ana", false)
	if err != nil {
		t.Fatal(err)
	}
	kept := keySet(t, first) // a verifier asks just now, and never again
	if token, _ := sign(first); signedBy(t, token) == next.KeyID || !verifies(t, kept, token) {
		t.Error("the next key signs before its time")
	}
	first.Exec(`UPDATE signing_keys SET signs_from = now() WHERE state = 'published'`)
	if _, err := first.Keys().RunOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The second broker hasn't noticed yet.
	for _, b := range []*brokertest.Broker{second, first} {
		token, _ := sign(b)
		if byNext := signedBy(t, token) == next.KeyID; byNext != (b == first) {
			t.Errorf("it signed with %s", signedBy(t, token))
		}
		if !verifies(t, kept, token) {
			t.Error("a verifier that keeps the key set doesn't accept it")
		}
	}
	if err := second.Keys().Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, afterLease := sign(second)
	for _, b := range []*brokertest.Broker{first, second} {
		if set := keySet(t, b); !verifies(t, set, before) || !verifies(t, set, after) || len(set.Keys) != 2 {
			t.Errorf("the key set doesn't verify what was signed: %+v", set)
		}
	}

	out, err := second.Keys().RevokeKey(t.Context(), keyring.Revoke{Key: next.KeyID, Actor: "ana", Reason: "seen"})
	if err != nil || out.Leases != 2 {
		t.Fatalf("%+v %v", out, err)
	}
	viewer := first.Admin(admin.Viewer)
	if l := first.Lease(viewer, afterLease); l.State != "expired" {
		t.Errorf("a lease that it signed is %s", l.State)
	}
	if l := first.Lease(viewer, beforeLease); l.State != "active" {
		t.Errorf("a lease that the other key signed is %s", l.State)
	}
	if err := first.Keys().Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, b := range []*brokertest.Broker{first, second} {
		if set := keySet(t, b); verifies(t, set, after) || !verifies(t, set, before) {
			t.Errorf("the key set after the revocation: %+v", set)
		}
		if token, _ := sign(b); signedBy(t, token) != out.Replacement || !verifies(t, keySet(t, b), token) {
			t.Errorf("%s signs", signedBy(t, token))
		}
	}
}

// TestKeysInUse: a broker that runs rotates by itself, says how its keys are, and
// where it can't sign it answers 503.
func TestKeysInUse(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{RotateEvery: keys.MinRotateEvery})
	b.Exec(`UPDATE signing_keys SET signing_since = now() - interval '2 hours'`)
	brokertest.Poll(t, "the next key is published", func() bool { return len(keySet(t, b).Keys) == 2 })
	var algorithms struct {
		Supported []string `json:"id_token_signing_alg_values_supported"`
	}
	if err := json.Unmarshal(b.Do(http.MethodGet, api.PathDiscovery, "", nil).Body, &algorithms); err != nil || !slices.Equal(algorithms.Supported, []string{"ES256"}) {
		t.Errorf("%+v %v", algorithms, err)
	}
	brokertest.Poll(t, "the metrics tell", func() bool {
		text := string(b.Do(http.MethodGet, api.PathMetrics, "", nil).Body)
		return strings.Contains(text, `daypass_signing_keys{state="published"} 1`) && strings.Contains(text, "daypass_signing_key_rotation_failing 0") &&
			regexp.MustCompile(`(?m)^daypass_signing_key_age_seconds 7[2-9]\d\d`).MatchString(text)
	})

	// No key at all: revoked by somebody who can't make another one.
	b.StopWork()
	b.Exec(`UPDATE signing_keys SET state = 'revoked', ended_at = now(), ended_reason = 'seen' WHERE state IN ('signing', 'published')`)
	if err := b.Keys().Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a := b.Do(http.MethodPost, api.PathExchange+"?grant=payments/sign", b.Job(), nil); a.Status != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	if a := b.Do(http.MethodPost, api.PathExchange+"?grant=payments/deploy-db", b.Job(), nil); a.Status != http.StatusOK {
		t.Errorf("what needs no signature: %d", a.Status)
	}
}
