package httpapi

import (
	"errors"
	"log/slog"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/policies"
)

// OAuth says what the OAuth calls know. Its zero value: no resource has a grant, and
// nobody may introspect.
type OAuth struct {
	Resources map[string]string // a client's `resource` or `audience` → POLICY/GRANT
	Servers   []ResourceServer
}

func (s *Server) oauthRoutes(e *echo.Echo) {
	e.POST(api.PathOAuthToken, asOAuth(s.oauthToken))
	e.POST(api.PathOAuthIntrospect, asOAuth(s.introspect))
	e.POST(api.PathOAuthRevoke, asOAuth(s.oauthRevoke))
	e.GET(api.PathDiscovery, s.metadata)
	e.GET(api.PathOAuthMetadata, s.metadata)
	// RFC 8414, section 3.1: of an issuer with a path, it stands before that.
	if u, err := url.Parse(s.config.ExternalURL); err == nil && u.Path != "" {
		e.GET(api.PathOAuthMetadata+u.Path, s.metadata)
	}
}

// The errors of RFC 6749, section 5.2, and of those that add to it.
const (
	oauthInvalidRequest   = "invalid_request"
	oauthInvalidClient    = "invalid_client"
	oauthInvalidScope     = "invalid_scope"
	oauthInvalidTarget    = "invalid_target"         // RFC 8693, section 2.2.2
	oauthUnsupportedGrant = "unsupported_grant_type" //
	oauthUnsupportedToken = "unsupported_token_type" // RFC 7009, section 2.2.1
	oauthInvalidProof     = "invalid_dpop_proof"     // RFC 9449, section 5
	oauthUnavailable      = "temporarily_unavailable"
	oauthServerError      = "server_error"
)

// oauthError is an error of one of the OAuth calls.
type oauthError struct {
	code string // "": as its cause says
	// denied is what a denial is called: by what the client named the grant.
	denied string
	cause  error
}

// Error implements error.
func (e *oauthError) Error() string { return e.cause.Error() }

// Unwrap implements the errors package's contract.
func (e *oauthError) Unwrap() error { return e.cause }

func oauthRefusal(code, detail string) error {
	return &oauthError{code: code, cause: &broker.RequestError{Detail: detail}}
}

// asOAuth has whatever goes wrong answered in the shape of RFC 6749.
func asOAuth(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		header := c.Response().Header()
		header.Set(echo.HeaderCacheControl, "no-store")
		header.Set("Pragma", "no-cache") // RFC 6749, section 5.1
		err := next(c)
		if _, done := errors.AsType[*oauthError](err); err == nil || done {
			return err
		}
		return &oauthError{cause: err}
	}
}

// oauthProblem is the answer to an error of the OAuth calls; nil for all others.
// What the client should send again keeps its status. All else is 400, as the RFC
// has it, but for a client that failed to authenticate.
func oauthProblem(err error) *problem {
	e, ok := errors.AsType[*oauthError](err)
	if !ok {
		return nil
	}
	p := problemOf(e.cause)
	p.oauth = e.code
	if p.oauth == "" {
		switch {
		case p.unproven:
			p.oauth = oauthInvalidProof
		case p.Status == http.StatusServiceUnavailable, p.Status == http.StatusTooManyRequests, p.Status == http.StatusBadGateway:
			p.oauth = oauthUnavailable
		case p.Status >= http.StatusInternalServerError:
			p.oauth = oauthServerError
		case e.denied != "" && (p.Status == http.StatusForbidden || p.Status == http.StatusNotFound):
			p.oauth = e.denied
		default:
			p.oauth = oauthInvalidRequest
		}
	}
	switch {
	case p.oauth == oauthInvalidClient:
		p.Status = http.StatusUnauthorized
	case p.Status < http.StatusInternalServerError && p.Status != http.StatusTooManyRequests && p.Status != http.StatusRequestEntityTooLarge:
		p.Status = http.StatusBadRequest
	}
	return p
}

// writeOAuth is write for the OAuth calls.
func (p *problem) writeOAuth(c echo.Context) error {
	if p.Status == http.StatusUnauthorized {
		c.Response().Header().Set(echo.HeaderWWWAuthenticate, `Basic realm="daypass", charset="UTF-8"`)
	}
	return writeJSON(c, p.Status, api.OAuthError{Error: p.oauth, Description: describe(p.Detail)})
}

// describe keeps to what an error_description may hold (RFC 6749, section 5.2).
func describe(detail string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '"' || r == '`':
			return '\''
		case r == '…':
			return '.'
		case r < ' ' || r > '~' || r == '\\':
			return '?'
		}
		return r
	}, detail)
}

// readForm reads the parameters of an OAuth call, from the body alone (RFC 6749,
// section 3.2): each once, but for those in many. One without a value counts as
// absent. Names that nobody here knows are left aside.
func readForm(r *http.Request, many ...string) (url.Values, error) {
	if r.URL.RawQuery != "" {
		return nil, oauthRefusal(oauthInvalidRequest, "parameters stand in the query: send them in the body, where no log keeps them")
	}
	kind, attributes, err := mime.ParseMediaType(r.Header.Get(echo.HeaderContentType))
	charset := attributes["charset"]
	if err != nil || kind != echo.MIMEApplicationForm || charset != "" && !strings.EqualFold(charset, "utf-8") {
		return nil, oauthRefusal(oauthInvalidRequest, "the body must be application/x-www-form-urlencoded, in UTF-8")
	}
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, oauthRefusal(oauthInvalidRequest, "the body is no form that can be read")
	}
	for name, values := range form {
		if values = slices.DeleteFunc(values, func(v string) bool { return v == "" }); len(values) == 0 {
			delete(form, name)
			continue
		}
		if len(values) > 1 && !slices.Contains(many, name) {
			return nil, oauthRefusal(oauthInvalidRequest, "parameter "+clip(name)+" stands twice")
		}
		if len(values) > maxRepeated {
			return nil, oauthRefusal(oauthInvalidRequest, "parameter "+name+" stands too often")
		}
		form[name] = values
	}
	return form, nil
}

const maxRepeated = 16

// oauthToken is POST /oauth/token: an exchange of a job token for the token of one
// grant (RFC 8693). The session token that every exchange makes is not handed out:
// what it could end ends by itself, and by the token that is.
func (s *Server) oauthToken(c echo.Context) error {
	if s.draining.Load() {
		p := newProblem(http.StatusServiceUnavailable, api.CodeUnavailable, "this broker is shutting down; send the token again")
		p.retryAfter = retrySoon
		return p
	}
	if len(c.Request().Header.Values(echo.HeaderAuthorization)) > 0 {
		return oauthRefusal(oauthInvalidClient, "clients don't authenticate here: send no Authorization header, and the job token as subject_token")
	}
	form, err := readForm(c.Request(), "resource", "audience")
	if err != nil {
		return err
	}
	asked, err := s.readTokenRequest(form)
	if err != nil {
		return err
	}
	key, err := retryKey(c.Request())
	if err != nil {
		return err
	}
	request := broker.ExchangeRequest{
		Token: asked.subject, RetryKey: key, RequestID: requestID(c),
		Grants: []broker.GrantRequest{{Name: asked.grant, Kinds: asked.kinds, Bound: hasProof(c.Request())}},
		Admit:  func(check func(quick bool) error) error { return s.admit(c, check) },
		// Nothing is presented in the header Authorization: the proof has no token to name.
		Prove: func(*leases.Held) ([]byte, error) { return s.prove(c, &presented{}, nil) },
	}
	request.RemoteIP, _ = netip.ParseAddr(c.RealIP()) // none is the zero Addr: conditions that ask for it deny
	out, err := s.exchangeOne(c, asked, &request)
	if err != nil {
		if _, other := errors.AsType[*broker.KindError](err); other {
			return &oauthError{code: oauthInvalidTarget, cause: &broker.RequestError{Detail: err.Error()}}
		}
		return &oauthError{denied: asked.denied, cause: err}
	}
	credential := &out.Credentials[0]
	note(c, slog.String("session", out.SessionID), slog.Any("leases", []string{credential.LeaseID}), slog.Any("grants", []string{credential.Grant}))
	return writeJSON(c, http.StatusOK, api.TokenResponse{
		AccessToken: credential.Values[0].Value.Reveal(), IssuedTokenType: asked.issuedType(credential.Kind), TokenType: tokenType(credential.Bound),
		ExpiresIn: int64(max(credential.ExpiresAt.Sub(s.config.Store.Now()), 0) / time.Second), Scope: strings.Join(credential.Scopes, " "),
	})
}

// exchangeOne exchanges for the grant that was named. Where a resource is nobody's,
// the token is looked at all the same: what is mapped is nothing for strangers to
// find out, so it is answered like a grant that the job may not have.
func (s *Server) exchangeOne(c echo.Context, asked *tokenRequest, request *broker.ExchangeRequest) (*broker.Exchanged, error) {
	if asked.grant != "" {
		return s.config.Broker.Exchange(c.Request().Context(), request)
	}
	if err := s.config.Broker.Admit(c.Request().Context(), request); err != nil {
		return nil, err
	}
	return nil, &policies.Denial{Code: policies.CodeNotAllowed, Detail: "no grant, or not one and the same, is mapped to the resources and audiences in the configuration (oauth.resources)"}
}

// tokenRequest is a request of RFC 8693, section 2.1, read.
type tokenRequest struct {
	subject   broker.JobToken
	grant     string   // "": what was named is nobody's
	denied    string   // what a denial of it is called
	kinds     []string // of issuer
	requested string   // type of token; "": any
}

func (r *tokenRequest) issuedType(kind string) string {
	switch {
	case r.requested != "":
		return r.requested
	case kind == "jwt":
		return api.TokenTypeJWT
	}
	return api.TokenTypeAccessToken
}

func (s *Server) readTokenRequest(form url.Values) (*tokenRequest, error) {
	switch grant := form.Get("grant_type"); {
	case grant == "":
		return nil, oauthRefusal(oauthInvalidRequest, "grant_type is missing")
	case grant != api.GrantTokenExchange:
		return nil, oauthRefusal(oauthUnsupportedGrant, "the one grant_type here is "+api.GrantTokenExchange)
	case form.Has("client_secret"), form.Has("client_assertion"), form.Has("client_assertion_type"):
		return nil, oauthRefusal(oauthInvalidClient, "clients don't authenticate here: leave client_secret and client_assertion out")
	case form.Has("actor_token"), form.Has("actor_token_type"):
		return nil, oauthRefusal(oauthInvalidRequest, "actor_token is not supported: a job acts for itself")
	}
	r := &tokenRequest{requested: form.Get("requested_token_type"), kinds: broker.TokenKinds()}
	switch r.requested {
	case "", api.TokenTypeAccessToken:
	case api.TokenTypeJWT:
		r.kinds = []string{"jwt"}
	default:
		return nil, oauthRefusal(oauthInvalidRequest, "requested_token_type is "+api.TokenTypeAccessToken+" or "+api.TokenTypeJWT)
	}
	if kind := form.Get("subject_token_type"); kind != api.TokenTypeJWT && kind != api.TokenTypeID {
		return nil, oauthRefusal(oauthInvalidRequest, "subject_token_type is "+api.TokenTypeJWT+" or "+api.TokenTypeID)
	}
	subject := form.Get("subject_token")
	switch {
	case subject == "":
		return nil, oauthRefusal(oauthInvalidRequest, "subject_token is missing: it is the job's ID token")
	case len(subject) > api.MaxToken:
		return nil, oauthRefusal(oauthInvalidRequest, "subject_token is larger than 16 KiB")
	}
	parsed, err := broker.ParseToken(subject)
	if err != nil {
		return nil, err
	}
	var job bool
	if r.subject, job = parsed.(broker.JobToken); !job {
		return nil, oauthRefusal(oauthInvalidRequest, "subject_token is a secret of Daypass: this call takes a job's ID token")
	}
	return r, s.chooseGrant(r, form)
}

// chooseGrant finds the one grant that is asked for: by a scope, else by resource
// and audience, which all have to lead to it.
func (s *Server) chooseGrant(r *tokenRequest, form url.Values) error {
	r.denied = oauthInvalidTarget
	for scope := range strings.SplitSeq(form.Get("scope"), " ") {
		name, ours := strings.CutPrefix(scope, api.ScopePrefix)
		if !ours {
			continue
		}
		if policy, grant, both := strings.Cut(name, "/"); !both || !isName(policy) || !isName(grant) {
			return oauthRefusal(oauthInvalidScope, "a scope that begins with daypass: names a grant: daypass:POLICY/GRANT")
		}
		if r.grant != "" && r.grant != name {
			return oauthRefusal(oauthInvalidTarget, "several grants: one request brings the token of one")
		}
		r.grant, r.denied = name, oauthInvalidScope
	}
	named := r.grant != ""
	wanted := slices.Concat(form["resource"], form["audience"])
	if !named && len(wanted) == 0 {
		return oauthRefusal(oauthInvalidTarget, "no grant is named: send scope=daypass:POLICY/GRANT, or a resource or audience that the server's configuration maps to one")
	}
	for i, resource := range wanted {
		grant, mapped := s.config.OAuth.Resources[resource]
		switch {
		case named && mapped && grant != r.grant:
			r.grant, r.denied = "", oauthInvalidTarget
			return nil
		case named:
		case !mapped, i > 0 && grant != r.grant:
			r.grant = ""
			return nil
		default:
			r.grant = grant
		}
	}
	return nil
}
