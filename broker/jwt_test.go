package broker_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	golangjwt "github.com/golang-jwt/jwt/v5"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/keys"
)

// published is a verifier that knows nothing but the broker's URL.
func published(t *testing.T, b *brokertest.Broker) (algorithms []string, set jose.JSONWebKeySet) {
	t.Helper()
	var discovery struct {
		JWKS       string   `json:"jwks_uri"`
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
	}
	if err := json.Unmarshal(b.Do(http.MethodGet, api.PathDiscovery, "", nil).Body, &discovery); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b.Do(http.MethodGet, strings.TrimPrefix(discovery.JWKS, b.URL), "", nil).Body, &set); err != nil {
		t.Fatal(err)
	}
	return discovery.Algorithms, set
}

// TestJWTVerifiesByWhatIsPublished: whatever algorithm the broker's key is of, its
// tokens verify by discovery and key set alone, say which repository the grant was
// used by, and are refused once they have run out. A revoked one still verifies;
// the lease says so, and until when.
func TestJWTVerifiesByWhatIsPublished(t *testing.T) {
	for _, algorithm := range keys.Algorithms() {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			policy := strings.Replace(brokertest.Policies, `with: {audience: "https://sts.example.com"}`,
				`with: {audience: "https://sts.example.com", subject: ["{{ claims.repository_id }}", "{{ claims.ref }}"], claims: {repository: "{{ claims.repository }}"}}`, 1)
			b := brokertest.New(t, brokertest.Options{
				Policies: map[string]string{"payments.yaml": policy}, Algorithm: algorithm,
			})
			session := b.Exchange(b.Job(), "payments/sign")
			credential := session.Credentials[0]
			token := credential.Values["token"]
			algorithms, set := published(t, b)
			if !slices.Equal(algorithms, []string{algorithm}) {
				t.Errorf("discovery names %v", algorithms)
			}
			verify := func(at time.Time) (golangjwt.MapClaims, error) {
				claims := golangjwt.MapClaims{}
				_, err := golangjwt.ParseWithClaims(token, claims, func(parsed *golangjwt.Token) (any, error) {
					kid, _ := parsed.Header["kid"].(string)
					found := set.Key(kid)
					if len(found) != 1 {
						return nil, errors.New("no such key")
					}
					return found[0].Key, nil
				}, golangjwt.WithValidMethods(algorithms), golangjwt.WithIssuer(b.URL), golangjwt.WithAudience("https://sts.example.com"),
					golangjwt.WithTimeFunc(func() time.Time { return at }), golangjwt.WithExpirationRequired())
				return claims, err
			}
			issued := credential.ExpiresAt.Add(-5 * time.Minute)
			claims, err := verify(issued.Add(time.Second))
			if err != nil {
				t.Fatal(err)
			}
			if claims["sub"] != "daypass:main/payments/sign:74:refs%2Fheads%2Fmain" || claims["jti"] != credential.LeaseID || claims["repository"] == "" {
				t.Errorf("claims %v", claims)
			}
			if _, err := verify(credential.ExpiresAt.Add(time.Second)); !errors.Is(err, golangjwt.ErrTokenExpired) {
				t.Errorf("once it has run out: %v", err)
			}
			if n := b.Count(`SELECT count(*) FROM leases WHERE id = $1 AND signing_key = $2`, credential.LeaseID, set.Keys[0].KeyID); n != 1 {
				t.Error("the lease doesn't name the key that signed it")
			}
			a := b.Do(http.MethodPost, api.PathLeases+"/"+credential.LeaseID+"/revoke", session.Session.Token, nil)
			if a.Status != http.StatusOK || !bytes.Contains(a.Body, []byte("valid_elsewhere_until")) {
				t.Errorf("revoking: %d %s", a.Status, a.Body)
			}
			lease := b.Lease(session.Session.Token, credential.LeaseID)
			if lease.State == "active" || lease.ValidElsewhereUntil == nil || !lease.ValidElsewhereUntil.Equal(credential.ExpiresAt) {
				t.Errorf("once it is revoked: %+v", lease)
			}
		})
	}
}

// TestAudienceIsTheGrants: nothing that a request says changes whom a token is for.
func TestAudienceIsTheGrants(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	for _, name := range []string{"audience", "resource", "scope", "aud", "claims", "with", "subject"} {
		for where, body := range map[string]any{
			"the request": map[string]any{"grants": []string{"payments/sign"}, name: "https://other.example"},
			"the grant":   map[string]any{"grants": []any{map[string]any{"name": "payments/sign", name: "https://other.example"}}},
		} {
			a := b.Do(http.MethodPost, api.PathExchange, b.Job(), body)
			if a.Status != http.StatusBadRequest || a.Problem.Code != api.CodeInvalidRequest {
				t.Errorf("%s in %s: %d %s", name, where, a.Status, a.Body)
			}
		}
		a := b.Do(http.MethodPost, api.PathExchange+"?grant=payments/sign&"+name+"=x", b.Job(), nil)
		if a.Status != http.StatusBadRequest {
			t.Errorf("%s in the query: %d %s", name, a.Status, a.Body)
		}
	}
	if n := b.Count(`SELECT count(*) FROM leases`); n != 0 {
		t.Errorf("%d leases of refused requests", n)
	}
}
