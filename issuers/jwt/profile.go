package jwt

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// The profiles: what a token looks like, and what its verifier demands of it.
const (
	ProfileAccessToken = "at+jwt"     // an RFC 9068 access token, for services of one's own
	ProfilePlain       = "jwt"        // an RFC 7519 token, for those who know no access tokens
	ProfileAWS         = "aws"        // sts:AssumeRoleWithWebIdentity
	ProfileGCP         = "gcp"        // workload identity federation
	ProfileAzure       = "azure"      // federated identity credentials
	ProfileKubernetes  = "kubernetes" // the API server's JWT authenticator
	ProfileVault       = "vault"      // the JWT auth method of Vault and OpenBao
)

// Profiles lists them.
func Profiles() []string {
	return []string{ProfileAccessToken, ProfilePlain, ProfileAWS, ProfileGCP, ProfileAzure, ProfileKubernetes, ProfileVault}
}

// profile is what one kind of verifier demands. Zero: no demand, within what this
// package bounds anyway (parameters.go, subject.go, MaxToken).
type profile struct {
	name       string
	typ        string   // header `typ`
	clientID   bool     // the claim client_id is there
	bindable   bool     // may be bound to a key: verifiers of access tokens know RFC 9449, or can
	algorithms []string // those that the verifier takes; nil: all
	audiences  int      // how many at most
	audience   int      // bytes of each at most
	subject    int      // bytes at most
	issuer     int      // bytes at most
	public     bool     // the issuer is fetched over https, by a name
	noPort     bool     // the issuer's URL has no port
	life       time.Duration
	// refuse says what is wrong with a claim of the grant's, for this verifier.
	refuse func(name string, value any) error
}

// profileOf finds a profile by its name; "" is ProfileAccessToken.
//
// What stands here was read in the verifiers' own documents and code; docs/jwt.md
// says where, and what could not be verified. Where two documents differ, the
// narrower holds.
func profileOf(name string) (profile, error) {
	switch name {
	case "", ProfileAccessToken:
		// RFC 9068, section 2.1 (typ) and 2.2 (client_id).
		return profile{name: ProfileAccessToken, typ: "at+jwt", clientID: true, bindable: true}, nil
	case ProfilePlain:
		return profile{name: name, typ: "JWT"}, nil // RFC 7519, section 5.1
	case ProfileAWS:
		return profile{
			name: name, typ: "JWT",
			// "AWS STS support for ECDSA-based signatures of OIDC tokens", 2024-11-20, beside RSA.
			algorithms: []string{"RS256", "ES256", "ES384"},
			// One: with several, STS wants an azp, which is none of ours. IAM takes
			// client IDs of up to 255 characters (CreateOpenIDConnectProvider).
			audiences: 1, audience: 255,
			// "must begin with https://", "should not contain a port number" (the same page).
			issuer: 255, public: true, noPort: true,
		}, nil
	case ProfileGCP:
		return profile{
			name: name, typ: "JWT",
			// "Must be RS256 or ES256", iat in the past, exp less than 48 hours after it (STS
			// v1 token, subjectToken). 24 hours are ours, to be on the safe side.
			algorithms: []string{"RS256", "ES256"}, life: 24*time.Hour - time.Minute,
			audiences: 1, audience: 256, // allowedAudiences of a provider: 256 characters each
			subject: 127, // google.subject "cannot exceed 127 bytes" (attributeMapping)
			public:  true,
		}, nil
	case ProfileAzure:
		return profile{
			name: name, typ: "JWT",
			// "Only issuers that provide tokens signed using the RS256 algorithm are
			// supported"; ES256 answers AADSTS5002738.
			algorithms: []string{"RS256"},
			// "must have exactly 1 audience"; issuer, subject and audience have at most
			// 600 characters each.
			audiences: 1, audience: 600, issuer: 600, public: true,
		}, nil
	case ProfileKubernetes:
		return profile{
			name: name, typ: "JWT",
			// allowedSigningAlgs of k8s.io/apiserver's OIDC authenticator: no EdDSA.
			algorithms: []string{"RS256", "PS256", "ES256", "ES384"},
			public:     true, // issuer.url: https, without query and fragment, equal to iss
			refuse:     refuseSystemGroups,
		}, nil
	case ProfileVault:
		// hashicorp/cap, jwt/algs.go: all of ours. Vault reaches the broker by whatever
		// URL it is told, so plain http on loopback is no mistake.
		return profile{name: name, typ: "JWT"}, nil
	}
	return profile{}, fmt.Errorf("there is no profile %q\nhint: use one of %s", name, strings.Join(Profiles(), ", "))
}

// CheckProfile says why a verifier of that profile would refuse every token that
// an issuer of that URL signs with that algorithm.
func CheckProfile(name, algorithm, issuer string) error {
	p, err := profileOf(name)
	if err != nil {
		return err
	}
	if err := p.checkAlgorithm(algorithm); err != nil {
		return err
	}
	return p.checkIssuer(issuer)
}

func (p profile) checkAlgorithm(algorithm string) error {
	if len(p.algorithms) > 0 && !slices.Contains(p.algorithms, algorithm) {
		return p.errorf("it takes no token signed with %s\nhint: set keys.signing.algorithm to one of %s", algorithm, strings.Join(p.algorithms, ", "))
	}
	return nil
}

func (p profile) checkIssuer(issuer string) error {
	u, err := url.Parse(issuer)
	if err != nil {
		return p.errorf("issuer %q is no URL", issuer)
	}
	switch {
	case p.issuer > 0 && len(issuer) > p.issuer:
		return p.errorf("the issuer's URL has %d bytes, and %d is its limit", len(issuer), p.issuer)
	case p.public && u.Scheme != "https":
		return p.errorf("it fetches keys over https alone, and external_url is %s", issuer)
	case p.noPort && u.Port() != "":
		return p.errorf("it takes no issuer with a port\nhint: serve external_url on port 443, where none is written")
	}
	return nil
}

func (p profile) checkAudience(audiences []string) error {
	if p.audiences > 0 && len(audiences) > p.audiences {
		return p.errorf("it takes %d audience, not %d\nhint: make a grant for each", p.audiences, len(audiences))
	}
	for _, audience := range audiences {
		if p.audience > 0 && len(audience) > p.audience {
			return p.errorf("audience %.40q… has %d bytes, and %d is its limit", audience, len(audience), p.audience)
		}
	}
	return nil
}

func (p profile) checkSubject(subject string) error {
	if limit := min(orElse(p.subject, maxSubject), maxSubject); len(subject) > limit {
		return p.errorf("the subject %.60q… has %d bytes, and %d is the limit\nhint: shorten the names of policy and grant, or the grant's `subject`", subject, len(subject), limit)
	}
	return nil
}

func (p profile) checkLife(life time.Duration) error {
	if p.life > 0 && life > p.life {
		return p.errorf("it takes no token that lives for %s; %s is its limit", life, p.life)
	}
	return nil
}

func (p profile) checkClaim(name string, value any) error {
	if p.refuse == nil {
		return nil
	}
	if err := p.refuse(name, value); err != nil {
		return p.errorf("claim %q: %w", name, err)
	}
	return nil
}

func (p profile) errorf(format string, args ...any) error {
	return fmt.Errorf("profile %s: "+format, append([]any{p.name}, args...)...)
}

func orElse(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

// refuseSystemGroups keeps a token out of the groups that Kubernetes keeps for
// itself, system:masters first of all: an authenticator without a prefix would
// believe it.
func refuseSystemGroups(name string, value any) error {
	if !strings.EqualFold(name, "groups") {
		return nil
	}
	texts, _ := value.([]any)
	for _, text := range append(slices.Clone(texts), value) {
		if group, ok := text.(string); ok && strings.HasPrefix(strings.ToLower(strings.TrimSpace(group)), "system:") {
			return fmt.Errorf("group %q is Kubernetes' own", group)
		}
	}
	return nil
}
