package jwt_test

import (
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	golangjwt "github.com/golang-jwt/jwt/v5"
	"pgregory.net/rapid"

	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/issuertest"
	"github.com/daypass/daypass/issuers/jwt"
)

func subjectOf(tb testing.TB, token string) string {
	tb.Helper()
	claims := golangjwt.MapClaims{}
	if _, _, err := golangjwt.NewParser().ParseUnverified(token, claims); err != nil {
		tb.Fatal(err)
	}
	subject, err := claims.GetSubject()
	if err != nil {
		tb.Fatal(err)
	}
	return subject
}

func TestSubjectParts(t *testing.T) {
	issuer := newIssuer(t, newKey(t), nil)
	for parameters, want := range map[string]string{
		`{"audience":"a"}`:                                       "daypass:main/payments/deploy",
		`{"audience":"a","subject":"42"}`:                        "daypass:main/payments/deploy:42",
		`{"audience":"a","subject":["42","refs/heads/main"]}`:    "daypass:main/payments/deploy:42:refs%2Fheads%2Fmain",
		`{"audience":"a","subject":"a:b%3A*?\u00e9-._~ \u0000"}`: "daypass:main/payments/deploy:a%3Ab%253A%2A%3F%C3%A9-._~%20%00",
		`{"audience":"a","subject":"../x"}`:                      "daypass:main/payments/deploy:..%2Fx",
	} {
		token, err := issue(t, issuer, issuertest.NewLease("testtesttest", "", time.Now()), parameters)
		if err != nil {
			t.Fatal(err)
		}
		if got := subjectOf(t, token); got != want {
			t.Errorf("%s: %s, want %s", parameters, got, want)
		}
	}
}

// TestSubjectsAreNobodyElses: whatever a job puts into its claims, its subject is
// no other's, and begins with its own grant's name alone.
func TestSubjectsAreNobodyElses(t *testing.T) {
	issuer := newIssuer(t, newKey(t), nil)
	name := rapid.StringMatching(`[a-z][a-z0-9-]{0,6}`)
	part := rapid.OneOf(rapid.StringMatching(`[a-b:/%]{1,4}`), rapid.StringN(1, 6, 24), rapid.SampledFrom([]string{":", "/", "%3A", "%", "a:b", "main/payments/deploy", "\x00", "é"}))
	type identity struct {
		policy, grant string
		parts         []string
	}
	draw := func(t *rapid.T, label string) identity {
		return identity{name.Draw(t, label+" policy"), name.Draw(t, label+" grant"), rapid.SliceOfN(part, 0, 3).Draw(t, label+" parts")}
	}
	rapid.Check(t, func(rt *rapid.T) {
		subject := func(id identity) string {
			parameters := map[string]any{"audience": "a"}
			if len(id.parts) > 0 {
				parameters["subject"] = id.parts
			}
			raw, err := json.Marshal(parameters)
			if err != nil {
				rt.Fatal(err)
			}
			lease := issuertest.NewLease("testtesttest", "", time.Now())
			lease.Policy, lease.Grant = id.policy, id.grant
			token, err := issue(t, issuer, lease, string(raw))
			if err != nil {
				rt.Fatalf("%+v: %v", id, err)
			}
			return subjectOf(t, token)
		}
		one, other := draw(rt, "one"), draw(rt, "other")
		if rapid.Bool().Draw(rt, "same grant") {
			other.policy, other.grant = one.policy, one.grant
		}
		a, b := subject(one), subject(other)
		same := one.policy == other.policy && one.grant == other.grant && slices.Equal(one.parts, other.parts)
		if (a == b) != same {
			rt.Fatalf("%+v and %+v: %s and %s", one, other, a, b)
		}
		// Who trusts daypass:main/POLICY/GRANT:* trusts that grant alone.
		grant := "daypass:main/" + one.policy + "/" + one.grant + ":"
		if strings.HasPrefix(b, grant) && (other.policy != one.policy || other.grant != one.grant) {
			rt.Fatalf("%s begins with %s", b, grant)
		}
		// And it can be read back.
		fields := strings.Split(a, ":")[2:]
		for i, field := range fields {
			text, err := url.PathUnescape(field)
			if err != nil || text != one.parts[i] {
				rt.Fatalf("%s: part %d reads %q, want %q (%v)", a, i, text, one.parts[i], err)
			}
		}
		if len(fields) != len(one.parts) {
			rt.Fatalf("%s has %d parts, want %d", a, len(fields), len(one.parts))
		}
	})
}

func TestSubjectIsBounded(t *testing.T) {
	issuer := newIssuer(t, newKey(t), map[string]jwt.Role{"": {}, "gcp": {Profile: jwt.ProfileGCP}})
	base := len("daypass:main/payments/deploy:")
	for role, limit := range map[string]int{"": 255, "gcp": 127} {
		lease := issuertest.NewLease("testtesttest", role, time.Now())
		for size, want := range map[int]error{limit - base: nil, limit - base + 1: issuers.ErrRejected} {
			if _, err := issue(t, issuer, lease, `{"audience":"a","subject":"`+strings.Repeat("x", size)+`"}`); !errors.Is(err, want) {
				t.Errorf("role %q with %d bytes more: %v, want %v", role, size, err, want)
			}
			grant := issuers.Grant{Tenant: "main", Policy: "payments", Name: "deploy", Role: role, Parameters: json.RawMessage(`{"audience":"a","subject":"` + strings.Repeat("x", size) + `"}`)}
			if err := issuer.CheckGrant(grant); (err == nil) != (want == nil) {
				t.Errorf("role %q with %d bytes more, when it is loaded: %v", role, size, err)
			}
		}
	}
	// The names alone may be too long for a verifier: found when the policy is loaded.
	long := strings.Repeat("p", 63)
	err := issuer.CheckGrant(issuers.Grant{Tenant: "main", Policy: long, Name: long, Role: "gcp", Parameters: json.RawMessage(`{"audience":"a"}`)})
	if err == nil || !strings.Contains(err.Error(), "profile gcp: the subject") || !strings.Contains(err.Error(), "127") {
		t.Errorf("%v", err)
	}
	if err := issuer.CheckGrant(issuers.Grant{Tenant: "main", Policy: long, Name: long, Parameters: json.RawMessage(`{"audience":"a"}`)}); err != nil {
		t.Error(err)
	}
	// What a template will be is not known yet; what stands around it is.
	around := `{"audience":"a","subject":"` + strings.Repeat("x", 98) + `{{ claims.repository_id }}"}`
	if err := issuer.CheckGrant(issuers.Grant{Tenant: "main", Policy: "payments", Name: "deploy", Role: "gcp", Parameters: json.RawMessage(around)}); err == nil {
		t.Error("a subject that can't fit was loaded")
	}
}

// TestTwoTemplatesInOnePart: x:y and z, or x and y:z, would be one text.
func TestTwoTemplatesInOnePart(t *testing.T) {
	issuer := newIssuer(t, newKey(t), nil)
	err := issuer.CheckParameters("", json.RawMessage(`{"audience":"a","subject":"{{ claims.a }}:{{ claims.b }}"}`))
	if err == nil || !strings.Contains(err.Error(), "write a list") {
		t.Errorf("%v", err)
	}
	if err := issuer.CheckParameters("", json.RawMessage(`{"audience":"a","subject":["repo-{{ claims.a }}","{{ claims.b }}"]}`)); err != nil {
		t.Error(err)
	}
}
