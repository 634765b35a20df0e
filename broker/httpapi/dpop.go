package httpapi

import (
	"errors"
	"log/slog"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/dpop"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/limit"
	"github.com/daypass/daypass/broker/oidc"
)

// presented is the token that a request came with.
type presented struct {
	token any    // one of the types of package broker
	raw   string // as it came
	bound bool   // sent as one that is bound to a key: by the scheme DPoP
	// bare says that the call takes a bound token without a proof, as a bearer's.
	bare bool
	// proven says that the request's proof was checked. It is good once, and the token
	// may be looked at again while the request goes on.
	proven bool
}

const presentedKey = "daypass.presented"

const schemeBearer = "Bearer"

// authorization is the one token of a request and the scheme it came by: schemeBearer
// or dpop.Scheme.
func authorization(c echo.Context) (scheme, token string, err error) {
	values := c.Request().Header.Values(echo.HeaderAuthorization)
	if len(values) == 1 {
		scheme, token, _ = strings.Cut(values[0], " ")
		token = strings.TrimSpace(token)
	}
	for _, known := range []string{schemeBearer, dpop.Scheme} {
		switch {
		case token == "" || !strings.EqualFold(scheme, known):
		case len(token) > api.MaxToken:
			return "", "", &oidc.Error{Reason: oidc.ReasonMalformed, Detail: "the token is larger than 16 KiB"}
		default:
			return known, token, nil
		}
	}
	return "", "", &oidc.Error{Reason: oidc.ReasonMalformed, Detail: "send one header `Authorization: Bearer TOKEN`"}
}

// bearer tells which kind of token the caller sent.
func bearer(c echo.Context) (*presented, error) {
	if sent, ok := c.Get(presentedKey).(*presented); ok {
		return sent, nil
	}
	scheme, token, err := authorization(c)
	if err != nil {
		return nil, err
	}
	sent := &presented{raw: token, bound: scheme == dpop.Scheme}
	if sent.token, err = broker.ParseToken(token); err != nil {
		return nil, err
	}
	if _, ofVault := sent.token.(broker.VaultToken); ofVault {
		return nil, &oidc.Error{Reason: oidc.ReasonMalformed, Detail: "this is a token of the Vault façade: it is good there alone"}
	}
	if _, ofSession := sent.token.(broker.SessionToken); sent.bound && !ofSession {
		return nil, &schemeError{"only session tokens are bound to keys: send this one as `Authorization: Bearer TOKEN`"}
	}
	c.Set(presentedKey, sent)
	return sent, nil
}

// schemeError says that a token came by the wrong scheme: one that is bound as a
// bearer's, or the other way round (RFC 9449, sections 7.1 and 7.2).
type schemeError struct{ detail string }

// Error implements error.
func (e *schemeError) Error() string { return e.detail }

// proofFault says that a request's proof, or the lack of one, is at fault.
func proofFault(err error) bool {
	_, proof := errors.AsType[*dpop.Error](err)
	_, scheme := errors.AsType[*schemeError](err)
	return proof || scheme
}

// proofProblem is the answer to what is wrong with a proof; nil for all other errors.
func proofProblem(err error) *problem {
	var proof *dpop.Error
	var scheme *schemeError
	switch {
	case errors.As(err, &proof):
		p := invalidToken(api.ReasonProof, proof.Error())
		p.challenge, p.unproven = dpop.Challenge(oauthInvalidProof), true
		return p
	case errors.As(err, &scheme):
		p := invalidToken(api.ReasonProof, scheme.detail)
		p.challenge = dpop.Challenge("invalid_token")
		return p
	case errors.Is(err, dpop.ErrCrowded):
		return problemOf(&limit.Error{Limit: "proofs", After: dpop.Window})
	}
	return nil
}

// checkKey checks the proof of a request whose session token was found: one that is
// bound to a key comes with a proof of that key, and no other comes as if it was.
func (s *Server) checkKey(c echo.Context, sent *presented, held *leases.Held) error {
	if sent.proven || !sent.bound && (held.Thumbprint == nil || sent.bare) {
		return nil
	}
	_, err := s.prove(c, sent, held)
	sent.proven = err == nil
	return err
}

// prove says which key the sender of a good token has proved to have; nil where it
// sent no proof. Held is what a session token stands for, nil for a job token.
func (s *Server) prove(c echo.Context, sent *presented, held *leases.Held) (thumbprint []byte, err error) {
	isBound := held != nil && held.Thumbprint != nil
	switch {
	case isBound && !sent.bound:
		return nil, &schemeError{"this token is bound to a key: send it as `Authorization: DPoP TOKEN`, with a proof in the header DPoP (RFC 9449)"}
	case !isBound && sent.bound:
		return nil, &schemeError{"this token is bound to no key: send it as `Authorization: Bearer TOKEN`"}
	case !sent.bound && len(c.Request().Header.Values(dpop.Header)) == 0:
		return nil, nil
	}
	proof, err := dpop.Read(c.Request().Header)
	if err != nil {
		return nil, err
	}
	now := s.config.Now()
	if err := proof.Check(dpop.Request{
		Method: c.Request().Method, URL: s.config.ExternalURL + c.Request().URL.EscapedPath(), Token: sent.raw, HashOptional: !isBound,
	}, now); err != nil {
		return nil, err
	}
	if isBound && string(held.Thumbprint) != string(proof.Thumbprint[:]) {
		return nil, &dpop.Error{Detail: "its key is not the one that the token is bound to"}
	}
	if err := s.proofs.Use(proof, now); err != nil {
		return nil, err
	}
	note(c, slog.String("dpop_jkt", proof.Thumbprint.String()))
	return proof.Thumbprint[:], nil
}

// hasProof says that a request came with a proof, good or bad.
func hasProof(r *http.Request) bool { return len(r.Header.Values(dpop.Header)) > 0 }

// tokenType is how a token is to be sent.
func tokenType(bound bool) string {
	if bound {
		return api.TokenTypeDPoP
	}
	return api.TokenTypeBearer
}
