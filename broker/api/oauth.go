package api

// Paths of the OAuth calls.
const (
	PathOAuthToken      = "/oauth/token"      //nolint:gosec // a path; RFC 8693
	PathOAuthIntrospect = "/oauth/introspect" // RFC 7662
	PathOAuthRevoke     = "/oauth/revoke"     // RFC 7009
	PathOAuthMetadata   = "/.well-known/oauth-authorization-server"
)

// Names of RFC 8693.
const (
	GrantTokenExchange   = "urn:ietf:params:oauth:grant-type:token-exchange" //nolint:gosec // a name
	TokenTypeJWT         = "urn:ietf:params:oauth:token-type:jwt"            //nolint:gosec // a name
	TokenTypeID          = "urn:ietf:params:oauth:token-type:id_token"       //nolint:gosec // a name
	TokenTypeAccessToken = "urn:ietf:params:oauth:token-type:access_token"   //nolint:gosec // a name
	// ScopePrefix stands before POLICY/GRANT in a scope that names a grant.
	ScopePrefix = "daypass:"
)

// TokenResponse answers POST /oauth/token (RFC 8693, section 2.2.1).
type TokenResponse struct {
	AccessToken     string `json:"access_token"`
	IssuedTokenType string `json:"issued_token_type"`
	TokenType       string `json:"token_type"` // Bearer; DPoP where it is bound to the key of the request
	ExpiresIn       int64  `json:"expires_in"` // seconds
	Scope           string `json:"scope,omitempty"`
}

// OAuthError answers what failed of the OAuth calls (RFC 6749, section 5.2).
type OAuthError struct {
	Error       string `json:"error"`
	Description string `json:"error_description,omitempty"`
}

// Introspection answers POST /oauth/introspect (RFC 7662, section 2.2). Where a
// token isn't active, it says nothing else.
type Introspection struct {
	Active    bool     `json:"active"`
	Scope     string   `json:"scope,omitempty"`
	ClientID  string   `json:"client_id,omitempty"`
	TokenType string   `json:"token_type,omitempty"` // Bearer; DPoP of one that is bound to a key
	Expires   int64    `json:"exp,omitempty"`
	IssuedAt  int64    `json:"iat,omitempty"`
	NotBefore int64    `json:"nbf,omitempty"`
	Subject   string   `json:"sub,omitempty"` // daypass:TENANT/POLICY/GRANT
	Audience  []string `json:"aud,omitempty"` // of the token's, those that are of who asks
	Issuer    string   `json:"iss,omitempty"`
	ID        string   `json:"jti,omitempty"` // of the lease

	Confirmation *Confirmation `json:"cnf,omitempty"` // the key that it is bound to
}

// Confirmation names the key that a token is bound to (RFC 9449, section 6).
type Confirmation struct {
	Thumbprint string `json:"jkt"` // of the public key: RFC 7638, with SHA-256
}

// The types of tokens: how they are to be sent.
const (
	TokenTypeBearer = "Bearer"
	TokenTypeDPoP   = "DPoP" // with a proof of the key that it is bound to (RFC 9449)
)

// AuthorizationServer is the metadata of RFC 8414, and of OpenID Connect Discovery
// 1.0 as far as there is something of it.
type AuthorizationServer struct {
	Issuer                   string   `json:"issuer"`
	JWKSURI                  string   `json:"jwks_uri"`
	TokenEndpoint            string   `json:"token_endpoint"`
	TokenEndpointAuth        []string `json:"token_endpoint_auth_methods_supported"`
	IntrospectionEndpoint    string   `json:"introspection_endpoint,omitempty"`
	IntrospectionAuth        []string `json:"introspection_endpoint_auth_methods_supported,omitempty"`
	RevocationEndpoint       string   `json:"revocation_endpoint"`
	RevocationAuth           []string `json:"revocation_endpoint_auth_methods_supported"`
	GrantTypes               []string `json:"grant_types_supported"`
	ResponseTypes            []string `json:"response_types_supported"`
	SubjectTypes             []string `json:"subject_types_supported"`
	IDTokenSigningAlgorithms []string `json:"id_token_signing_alg_values_supported"`
	Claims                   []string `json:"claims_supported"`
	ProofAlgorithms          []string `json:"dpop_signing_alg_values_supported"` // RFC 9449
}
