package client

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/dpop"
)

// ErrUnbound says that a broker gave out a session token without binding it to the
// client's key: it is too old to know of such. What it issued was given back.
var ErrUnbound = errors.New("the broker didn't bind the session token to this client's key")

// sessionPrefix begins every session token.
const sessionPrefix = "dps_"

// prove adds a proof that this client has its key (RFC 9449): to an exchange, so that
// what it brings is bound to the key, and to whatever comes with a session token.
func (c *Client) prove(request *http.Request, k *call) error {
	token := ""
	switch {
	case strings.HasPrefix(k.token, sessionPrefix):
		token = k.token
		request.Header.Set("Authorization", dpop.Scheme+" "+token)
	case k.path != api.PathExchange:
		return nil
	}
	proof, err := c.key.Prove(request.Method, request.URL, token, c.now())
	if err != nil {
		return err
	}
	request.Header.Set(dpop.Header, proof)
	return nil
}

// wantBound refuses an answer that is not bound to the client's key.
func (c *Client) wantBound(ctx context.Context, answer *api.ExchangeResponse) error {
	if c.key == nil || answer.Session.TokenType == api.TokenTypeDPoP {
		return nil
	}
	bearer := *c
	bearer.key = nil
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tryTimeout)
	defer cancel()
	if _, err := bearer.RevokeSession(ctx, answer.Session.Token, "it is not bound to the client's key"); err != nil {
		return errors.Join(ErrUnbound, err)
	}
	return ErrUnbound
}
