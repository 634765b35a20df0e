package httpapi

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/dpop"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/oidc"
)

// ResourceServer is a service that may ask what a token is good for. Secret and
// Certificate are hashes; the zero one says that it has none. Who has both needs both.
type ResourceServer struct {
	Name        string
	Secret      [sha256.Size]byte // SHA-256 of the secret
	Certificate [sha256.Size]byte // SHA-256 of the TLS client certificate
	Audiences   []string          // it hears of tokens for these alone
}

// errClient: who introspects is none of the resource servers.
var errClient = errors.New("unknown resource server, or not its secret or certificate")

// introspect is POST /oauth/introspect (RFC 7662).
func (s *Server) introspect(c echo.Context) error {
	var server *ResourceServer
	if err := s.admit(c, func(bool) (err error) {
		server, err = s.resourceServer(c.Request())
		return err
	}); err != nil {
		if errors.Is(err, errClient) {
			return oauthRefusal(oauthInvalidClient, errClient.Error()+" (HTTP Basic, or the TLS client certificate; see resource_servers in the server's configuration)")
		}
		return err
	}
	note(c, slog.String("resource_server", server.Name))
	token, err := readToken(c.Request())
	if err != nil {
		return err
	}
	found, err := s.config.Broker.Introspect(c.Request().Context(), token, server.Audiences)
	if err != nil {
		return err
	}
	if found == nil || found.Issuer != "" && found.Issuer != s.config.ExternalURL {
		return writeJSON(c, http.StatusOK, api.Introspection{})
	}
	l := found.Lease
	note(c, slog.Any("leases", []string{l.ID}))
	var key *api.Confirmation
	if found.Thumbprint != "" {
		key = &api.Confirmation{Thumbprint: found.Thumbprint}
	}
	return writeJSON(c, http.StatusOK, api.Introspection{
		Active: true, Scope: strings.Join(found.Scopes, " "), ClientID: found.ClientID, TokenType: tokenType(key != nil), Confirmation: key,
		Expires: l.ExpiresAt.Unix(), IssuedAt: l.IssuedAt.Unix(), NotBefore: l.IssuedAt.Unix(),
		Subject: found.Subject, Audience: found.Audiences, Issuer: s.config.ExternalURL, ID: l.ID,
	})
}

// readToken reads the one parameter that introspection and revocation have. What
// token_type_hint says is left aside: a token tells its kind by its shape.
func readToken(r *http.Request) (string, error) {
	form, err := readForm(r)
	if err != nil {
		return "", err
	}
	token := form.Get("token")
	if token == "" {
		return "", oauthRefusal(oauthInvalidRequest, "token is missing")
	}
	if len(token) > api.MaxToken {
		return "oversized", nil // as unknown as any other
	}
	return token, nil
}

// resourceServer tells who asks, by HTTP Basic (RFC 6749, section 2.3.1), by the
// certificate of the connection (RFC 8705, section 2.2), or both. It looks at all of
// them, whoever comes, so that its time says nothing of names and secrets.
func (s *Server) resourceServer(r *http.Request) (*ResourceServer, error) {
	name, secret, err := basic(r)
	if err != nil {
		return nil, err
	}
	var none, certificate [sha256.Size]byte
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		certificate = sha256.Sum256(r.TLS.PeerCertificates[0].Raw)
	}
	given := sha256.Sum256([]byte(secret))
	byName := sha256.Sum256([]byte(name))
	var found *ResourceServer
	for i := range s.config.OAuth.Servers {
		server := &s.config.OAuth.Servers[i]
		own := sha256.Sum256([]byte(server.Name))
		named := subtle.ConstantTimeCompare(own[:], byName[:]) == 1
		knows := subtle.ConstantTimeCompare(server.Secret[:], given[:]) == 1
		holds := subtle.ConstantTimeCompare(server.Certificate[:], certificate[:]) == 1 && certificate != none
		hasSecret, hasCertificate := server.Secret != none, server.Certificate != none
		switch {
		case !hasSecret && !hasCertificate:
		case hasSecret && (!named || !knows), hasCertificate && !holds, name != "" && !named:
		default:
			found = server
		}
	}
	if found == nil {
		return nil, errClient
	}
	return found, nil
}

// basic reads the header Authorization; empty texts where there is none. Name and
// secret are form-encoded within it.
func basic(r *http.Request) (name, secret string, err error) {
	if len(r.Header.Values(echo.HeaderAuthorization)) == 0 {
		return "", "", nil
	}
	name, secret, ok := r.BasicAuth()
	if !ok || len(r.Header.Values(echo.HeaderAuthorization)) > 1 {
		return "", "", errClient
	}
	if name, err = url.QueryUnescape(name); err != nil || name == "" {
		return "", "", errClient
	}
	if secret, err = url.QueryUnescape(secret); err != nil {
		return "", "", errClient
	}
	return name, secret, nil
}

// oauthRevoke is POST /oauth/revoke (RFC 7009): holding a token is enough to end it,
// and nothing else ends with it. A token that nobody knows is answered like one that
// was revoked; who sends many of those is held up, as at every check of tokens.
func (s *Server) oauthRevoke(c echo.Context) error {
	token, err := readToken(c.Request())
	if err != nil {
		return err
	}
	var found *leases.TokenLease
	err = s.admit(c, func(bool) (err error) {
		found, err = s.config.Broker.FindToken(c.Request().Context(), token)
		if errors.Is(err, leases.ErrNotFound) {
			return &oidc.Error{Reason: oidc.ReasonMalformed, Detail: "no lease has this token"}
		}
		return err
	})
	if _, unknown := errors.AsType[*oidc.Error](err); unknown {
		return c.NoContent(http.StatusOK)
	}
	if errors.Is(err, broker.ErrUnsupportedToken) {
		return oauthRefusal(oauthUnsupportedToken, "this ends API tokens and JWTs alone: give a session back with POST /v1/session/revoke")
	}
	if err != nil {
		return err
	}
	note(c, slog.Any("leases", []string{found.ID}))
	if found.State.Ended() {
		return c.NoContent(http.StatusOK)
	}
	if err := s.config.Broker.RevokeFound(c.Request().Context(), found.Lease); err != nil {
		return err
	}
	return c.NoContent(http.StatusOK)
}

// metadata is the document of RFC 8414 and of OpenID Connect Discovery 1.0: it names
// only what exists.
func (s *Server) metadata(c echo.Context) error {
	url := s.config.ExternalURL
	body := api.AuthorizationServer{
		Issuer: url, JWKSURI: url + api.PathJWKS,
		TokenEndpoint: url + api.PathOAuthToken, TokenEndpointAuth: []string{"none"},
		RevocationEndpoint: url + api.PathOAuthRevoke, RevocationAuth: []string{"none"},
		GrantTypes: []string{api.GrantTokenExchange}, ResponseTypes: []string{"id_token"}, SubjectTypes: []string{"public"},
		IDTokenSigningAlgorithms: s.config.Algorithms(),
		Claims:                   []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "cnf"},
		ProofAlgorithms:          dpop.Algorithms(),
	}
	for _, server := range s.config.OAuth.Servers {
		body.IntrospectionEndpoint = url + api.PathOAuthIntrospect
		for method, hash := range map[string][sha256.Size]byte{"client_secret_basic": server.Secret, "self_signed_tls_client_auth": server.Certificate} {
			if hash != [sha256.Size]byte{} && !slices.Contains(body.IntrospectionAuth, method) {
				body.IntrospectionAuth = append(body.IntrospectionAuth, method)
			}
		}
	}
	slices.Sort(body.IntrospectionAuth)
	c.Response().Header().Set(echo.HeaderCacheControl, keysCache())
	return writeJSON(c, http.StatusOK, body)
}
