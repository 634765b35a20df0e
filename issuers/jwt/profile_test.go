package jwt_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/issuertest"
	"github.com/daypass/daypass/issuers/jwt"
)

// TestProfilesOfTokens: header and claims are what each verifier reads, and
// nothing besides.
func TestProfilesOfTokens(t *testing.T) {
	signer := issuertest.NewSigner(t, "RS256")
	for _, profile := range jwt.Profiles() {
		issuer := newIssuer(t, signer, map[string]jwt.Role{"r": {Profile: profile}})
		token, err := issue(t, issuer, issuertest.NewLease("testtesttest", "r", time.Now()), `{"audience":"x","subject":"7","claims":{"team":"payments"}}`)
		if err != nil {
			t.Fatalf("%s: %v", profile, err)
		}
		part := func(i int) map[string]any {
			raw, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[i])
			if err != nil {
				t.Fatal(err)
			}
			object := map[string]any{}
			if err := json.Unmarshal(raw, &object); err != nil {
				t.Fatal(err)
			}
			return object
		}
		header, claims := part(0), part(1)
		typ, size := "JWT", 8
		if profile == jwt.ProfileAccessToken {
			typ, size = "at+jwt", 9
		}
		if header["typ"] != typ || header["alg"] != "RS256" || header["kid"] != signer.KeyID() || len(header) != 3 {
			t.Errorf("%s: header %v", profile, header)
		}
		_, client := claims["client_id"]
		if client != (profile == jwt.ProfileAccessToken) || len(claims) != size || claims["aud"] != "x" || claims["sub"] != "daypass:main/payments/deploy:7" || claims["iss"] != externalURL {
			t.Errorf("%s: %v", profile, claims)
		}
	}
}

// TestProfilesRefuse: what the verifier would refuse, when it is configured or loaded.
func TestProfilesRefuse(t *testing.T) {
	configured := map[string]struct {
		profile, issuer string
		role            jwt.Role
	}{
		"profile aws: it fetches keys over https":               {jwt.ProfileAWS, "http://127.0.0.1:8080", jwt.Role{}},
		"profile aws: it takes no issuer with a port":           {jwt.ProfileAWS, "https://daypass.example.com:8443", jwt.Role{}},
		"profile aws: the issuer's URL has 267 bytes":           {jwt.ProfileAWS, "https://d.example/" + strings.Repeat("x", 249), jwt.Role{}},
		"profile aws: audience":                                 {jwt.ProfileAWS, externalURL, jwt.Role{Audiences: []string{strings.Repeat("a", 256)}}},
		"profile gcp: it fetches keys over https":               {jwt.ProfileGCP, "http://localhost", jwt.Role{}},
		"profile gcp: it takes no token that lives for 24h0m0s": {jwt.ProfileGCP, externalURL, jwt.Role{DefaultTTL: 24 * time.Hour}},
		"profile azure: it fetches keys over https":             {jwt.ProfileAzure, "http://localhost", jwt.Role{}},
		"profile kubernetes: it fetches keys over https":        {jwt.ProfileKubernetes, "http://localhost", jwt.Role{}},
		"there is no profile \"AWS\"":                           {"AWS", externalURL, jwt.Role{}},
	}
	for want, c := range configured {
		c.role.Profile = c.profile
		_, err := jwt.New(t.Context(), jwt.Config{Issuer: c.issuer, Signer: func() issuers.Signer { return nil }, Roles: map[string]jwt.Role{"r": c.role}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	roles := map[string]jwt.Role{}
	for _, profile := range jwt.Profiles() {
		roles[profile] = jwt.Role{Profile: profile, SessionTags: true}
	}
	issuer := newIssuer(t, issuertest.NewSigner(t, "RS256"), roles)
	for _, c := range []struct{ profile, parameters, want string }{
		{jwt.ProfileAWS, `{"audience":["a","b"]}`, "profile aws: it takes 1 audience, not 2"},
		{jwt.ProfileGCP, `{"audience":["a","b"]}`, "profile gcp: it takes 1 audience, not 2"},
		{jwt.ProfileAzure, `{"audience":["a","b"]}`, "profile azure: it takes 1 audience, not 2"},
		{jwt.ProfileAWS, `{"audience":"` + strings.Repeat("a", 256) + `"}`, "255 is its limit"},
		{jwt.ProfileGCP, `{"audience":"` + strings.Repeat("a", 257) + `"}`, "256 is its limit"},
		{jwt.ProfileAzure, `{"audience":"` + strings.Repeat("a", 601) + `"}`, "600 is its limit"},
		{jwt.ProfileKubernetes, `{"audience":["a","b"]}`, ""},
		{jwt.ProfileVault, `{"audience":["a","b"]}`, ""},
		{jwt.ProfileKubernetes, `{"audience":"a","claims":{"groups":["deployers"]}}`, ""},
		{jwt.ProfileKubernetes, `{"audience":"a","claims":{"groups":["deployers","system:masters"]}}`, `profile kubernetes: claim "groups": group "system:masters" is Kubernetes' own`},
		{jwt.ProfileKubernetes, `{"audience":"a","claims":{"groups":" System:nodes"}}`, "Kubernetes' own"},
	} {
		err := issuer.CheckParameters(c.profile, json.RawMessage(c.parameters))
		_, issued := issue(t, issuer, issuertest.NewLease("testtesttest", c.profile, time.Now()), c.parameters)
		if c.want == "" {
			if err != nil || issued != nil {
				t.Errorf("%s %s: %v, %v", c.profile, c.parameters, err, issued)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(issued, issuers.ErrRejected) {
			t.Errorf("%s %.60s: %v, %v, want %q", c.profile, c.parameters, err, issued, c.want)
		}
	}
	day := issuers.Grant{Tenant: "main", Policy: "p", Name: "g", Role: jwt.ProfileGCP, TTL: 24 * time.Hour, Parameters: json.RawMessage(`{"audience":"a"}`)}
	if err := issuer.CheckGrant(day); err == nil || !strings.Contains(err.Error(), "profile gcp: it takes no token that lives for 24h0m0s") {
		t.Errorf("%v", err)
	}
	lease := issuertest.NewLease("testtesttest", jwt.ProfileGCP, time.Now())
	lease.ExpiresAt = lease.IssuedAt.Add(24 * time.Hour)
	if _, err := issue(t, issuer, lease, `{"audience":"a"}`); !errors.Is(err, issuers.ErrRejected) {
		t.Errorf("%v", err)
	}
}

const tags = "https://aws.amazon.com/tags"

func TestSessionTags(t *testing.T) {
	issuer := newIssuer(t, issuertest.NewSigner(t, "ES256"), map[string]jwt.Role{"tags": {Profile: jwt.ProfileAWS, SessionTags: true}, "plain": {Profile: jwt.ProfileAWS}})
	parameters := `{"audience":"sts.amazonaws.com","claims":{"https://aws.amazon.com/tags":{"principal_tags":{"Project":["payments"],"Cost Center":["a/b:c=d+e@f-é"]},"transitive_tag_keys":["Project"]},"https://aws.amazon.com/source_identity":"payments.deploy@ci"}}`
	if err := issuer.CheckParameters("tags", json.RawMessage(parameters)); err != nil {
		t.Fatal(err)
	}
	token, err := issue(t, issuer, issuertest.NewLease("testtesttest", "tags", time.Now()), parameters)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	if want := `"https://aws.amazon.com/tags":{"principal_tags":{"Cost Center":["a/b:c=d+e@f-é"],"Project":["payments"]},"transitive_tag_keys":["Project"]}`; !strings.Contains(string(payload), want) {
		t.Errorf("%s", payload)
	}
	// Without the flag, none of what gives rights.
	for _, claim := range []string{
		`"https://aws.amazon.com/tags":{"principal_tags":{"P":["x"]}}`, `"https://aws.amazon.com/tags/principal_tags/P":"x"`, `"HTTPS://aws.amazon.com/Tags":"x"`,
		`"https://aws.amazon.com/source_identity":"abc"`, `"http://aws.amazon.com/tags":"x"`, `"google.subject":"x"`, `"google.groups":["x"]`, `"groups":["x"]`, `"Groups":"x"`,
		`"roles":["x"]`, `"entitlements":["x"]`, `"kubernetes.io":"x"`, `"kubernetes.io/serviceaccount/namespace":"x"`, `"cognito:groups":["x"]`,
	} {
		raw := `{"audience":"a","claims":{` + claim + `}}`
		if err := issuer.CheckParameters("plain", json.RawMessage(raw)); err == nil || !strings.Contains(err.Error(), "session_tags: true") {
			t.Errorf("%s: %v", raw, err)
		}
		if _, err := issue(t, issuer, issuertest.NewLease("testtesttest", "plain", time.Now()), raw); !errors.Is(err, issuers.ErrRejected) {
			t.Errorf("%s was issued: %v", raw, err)
		}
	}
}

func TestSessionTagsRefused(t *testing.T) {
	issuer := newIssuer(t, issuertest.NewSigner(t, "ES256"), map[string]jwt.Role{"tags": {Profile: jwt.ProfileAWS, SessionTags: true}})
	var many []string
	for i := range 51 {
		many = append(many, fmt.Sprintf(`"T%d":["x"]`, i))
	}
	for claims, want := range map[string]string{
		`"` + tags + `":"x"`:                   "write {principal_tags",
		`"` + tags + `":[]`:                    "write {principal_tags",
		`"` + tags + `":{}`:                    "1 to 50 tags",
		`"` + tags + `":{"principal_tags":{}}`: "1 to 50 tags",
		`"` + tags + `":{"principal_tags":{` + strings.Join(many, ",") + `}}`:           "1 to 50 tags",
		`"` + tags + `":{"principal_tags":{"P":"x"}}`:                                   "a list of one text",
		`"` + tags + `":{"principal_tags":{"P":["x","y"]}}`:                             "a list of one text",
		`"` + tags + `":{"principal_tags":{"P":[1]}}`:                                   "a list of one text",
		`"` + tags + `":{"principal_tags":{"P":[{"a":"b"}]}}`:                           "a list of one text",
		`"` + tags + `":{"principal_tags":{"P":["x<y"]}}`:                               "a value has",
		`"` + tags + `":{"principal_tags":{"P":["` + strings.Repeat("x", 257) + `"]}}`:  "a value has",
		`"` + tags + `":{"principal_tags":{"":["x"]}}`:                                  "a name has",
		`"` + tags + `":{"principal_tags":{"` + strings.Repeat("x", 129) + `":["x"]}}`:  "a name has",
		`"` + tags + `":{"principal_tags":{"a\u0000":["x"]}}`:                           "a name has",
		`"` + tags + `":{"principal_tags":{"AWS:x":["x"]}}`:                             "Amazon's",
		`"` + tags + `":{"principal_tags":{"P":["x"],"p":["y"]}}`:                       "stands twice",
		`"` + tags + `":{"principal_tags":{"P":["x"],"P":["y"]}}`:                       "stands twice",
		`"` + tags + `":{"principal_tags":{"P":["x"]},"transitive_tag_keys":["Q"]}`:     "none of principal_tags",
		`"` + tags + `":{"principal_tags":{"P":["x"]},"transitive_tag_keys":["P","P"]}`: "stands twice",
		`"` + tags + `":{"principal_tags":{"P":["x"]},"transitive_tag_keys":"P"}`:       "a list of names",
		`"` + tags + `":{"principal_tags":{"P":["x"]},"transitive_tag_keys":[]}`:        "a list of names",
		`"` + tags + `":{"principal_tags":{"P":["x"]},"Transitive_Tag_Keys":["P"]}`:     "there is no",
		`"` + tags + `/principal_tags/P":"x"`:                                           "AWS reads it another way",
		`"` + tags + `/transitive_tag_keys":["P"]`:                                      "AWS reads it another way",
		`"HTTPS://aws.amazon.com/tags":"x"`:                                             "AWS reads it another way",
		`"https://aws.amazon.com/source_identity":"x"`:                                  "2 to 64",
		`"https://aws.amazon.com/source_identity":["abc"]`:                              "a text",
		`"https://aws.amazon.com/source_identity":"a b"`:                                "2 to 64",
		`"https://aws.amazon.com/source_identity":"aws:abc"`:                            "2 to 64",
		`"https://aws.amazon.com/source_identity":"` + strings.Repeat("x", 65) + `"`:    "2 to 64",
		`"team":{"principal_tags":{"P":["x"]}}`:                                         "list of strings is needed",
	} {
		raw := `{"audience":"a","claims":{` + claims + `}}`
		err := issuer.CheckParameters("tags", json.RawMessage(raw))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.120s: %v, want %q", raw, err, want)
		}
		if _, err := issue(t, issuer, issuertest.NewLease("testtesttest", "tags", time.Now()), raw); !errors.Is(err, issuers.ErrRejected) {
			t.Errorf("%.120s was issued: %v", raw, err)
		}
	}
}

// TestSessionTagsOfTemplates: filled from a job's claims, they are judged again.
func TestSessionTagsOfTemplates(t *testing.T) {
	issuer := newIssuer(t, issuertest.NewSigner(t, "ES256"), map[string]jwt.Role{"tags": {Profile: jwt.ProfileAWS, SessionTags: true}})
	with := func(value string) string {
		return `{"audience":"a","claims":{"https://aws.amazon.com/tags":{"principal_tags":{"Branch":["` + value + `"]}},"https://aws.amazon.com/source_identity":"` + value + `"}}`
	}
	if err := issuer.CheckParameters("tags", json.RawMessage(with("{{ claims.ref }}"))); err != nil {
		t.Error(err)
	}
	lease := issuertest.NewLease("testtesttest", "tags", time.Now())
	if _, err := issue(t, issuer, lease, with("main")); err != nil {
		t.Error(err)
	}
	for _, filled := range []string{"a;b", "{{ claims.ref }}", "x*"} {
		if _, err := issue(t, issuer, lease, with(filled)); !errors.Is(err, issuers.ErrRejected) {
			t.Errorf("%s: %v", filled, err)
		}
	}
}

// TestDocumentedProfiles: the manual's table says what the code does.
func TestDocumentedProfiles(t *testing.T) {
	manual, err := os.ReadFile("../../docs/jwt.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, profile := range jwt.Profiles() {
		_, row, found := strings.Cut(string(manual), "\n| `"+profile+"` | ")
		if !found {
			t.Errorf("no row of %s", profile)
			continue
		}
		listed, _, _ := strings.Cut(row, " |")
		for _, algorithm := range algorithms() {
			if says, does := slices.Contains(strings.Split(listed, ", "), algorithm), jwt.CheckProfile(profile, algorithm, externalURL) == nil; says != does {
				t.Errorf("%s with %s: the manual says %t, the code %t", profile, algorithm, says, does)
			}
		}
	}
}
