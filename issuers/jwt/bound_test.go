package jwt_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/issuertest"
	"github.com/daypass/daypass/issuers/jwt"
)

// TestBound: an access token says which key it is bound to (RFC 9449, section 6.1); one
// for a verifier that would not ask for the key is bound to none.
func TestBound(t *testing.T) {
	t.Parallel()
	issuer := newIssuer(t, newKey(t), map[string]jwt.Role{"access": {}, "plain": {Profile: jwt.ProfilePlain}})
	const thumbprint = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
	issue := func(role, thumbprint string) (*issuers.IssueResponse, error) {
		return issuer.Issue(t.Context(), &issuers.IssueRequest{
			Lease: issuertest.NewLease("testtesttest", role, time.Now()), Parameters: json.RawMessage(`{"audience":"https://a.example"}`), Thumbprint: thumbprint,
		})
	}
	if !issuer.Describe("access").Bindable || issuer.Describe("plain").Bindable || issuer.Describe("access").BoundOnly {
		t.Errorf("%+v, %+v", issuer.Describe("access"), issuer.Describe("plain"))
	}
	if _, err := issue("plain", thumbprint); !errors.Is(err, issuers.ErrRejected) {
		t.Errorf("bound, for a verifier that doesn't ask: %v", err)
	}
	for _, want := range []string{thumbprint, ""} {
		made, err := issue("access", want)
		if err != nil {
			t.Fatal(err)
		}
		payload, err := base64.RawURLEncoding.DecodeString(strings.Split(made.Values[0].Value.Reveal(), ".")[1])
		if err != nil {
			t.Fatal(err)
		}
		var said struct {
			Confirmation map[string]string `json:"cnf"`
		}
		if err := json.Unmarshal(payload, &said); err != nil || said.Confirmation["jkt"] != want || (said.Confirmation == nil) != (want == "") {
			t.Errorf("%v (%v), want %q: %s", said, err, want, payload)
		}
	}
}
