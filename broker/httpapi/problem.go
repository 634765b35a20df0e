package httpapi

import (
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/limit"
	"github.com/daypass/daypass/broker/oidc"
	"github.com/daypass/daypass/broker/reloader"
	"github.com/daypass/daypass/policies"
)

// problem is an error as it is answered.
type problem struct {
	api.Problem
	retryAfter time.Duration // 0: no Retry-After
	kept       bool          // the decision can be explained by the request's id
	challenge  string        // WWW-Authenticate of a 401; "": that of a bearer token
	unproven   bool          // the request's proof (RFC 9449) is at fault
	oauth      string        // the error of RFC 6749 that it is answered as; "": as a problem
}

const (
	retrySoon     = time.Second
	retryWhenFree = 10 * time.Second

	retryWhenStill = 2 * time.Second

	retryWhenRight = 5 * time.Second
)

func newProblem(status int, code api.Code, detail string) *problem {
	return &problem{Problem: api.Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: code, Detail: detail}}
}

// problemOf is the one table from errors to answers. What it doesn't know is a
// 500 with a fixed text: the error itself may say what isn't everybody's.
//
//nolint:cyclop // a table
func problemOf(err error) *problem {
	var (
		token       *oidc.Error
		unavailable *oidc.UnavailableError
		denial      *policies.Denial
		request     *broker.RequestError
		tooMany     *leases.TooManyError
		tooOften    *limit.Error
		issue       *broker.IssueError
		tooSoon     *broker.EndsTooSoonError
		mistakes    *policies.LoadError
		unconfirmed *reloader.ConfirmationError
		clock       *leases.ClockError
		ready       *problem
		ofGuest     *api.Problem
		ofEcho      *echo.HTTPError
	)
	if p := oauthProblem(err); p != nil {
		return p
	}
	if p := proofProblem(err); p != nil {
		return p
	}
	if p := secretProblem(err); p != nil {
		return p
	}
	if p := switchProblem(err); p != nil {
		return p
	}
	if p := targetProblem(err); p != nil {
		return p
	}
	if p := jobProblem(err); p != nil {
		return p
	}
	if p := streamProblem(err); p != nil {
		return p
	}
	if p := disclosureProblem(err); p != nil {
		return p
	}
	switch {
	case errors.As(err, &ready):
		return ready
	case errors.As(err, &ofGuest):
		return &problem{Problem: *ofGuest}
	case errors.As(err, &token):
		return invalidToken(token.Reason, token.Detail)
	case errors.Is(err, leases.ErrReplayed):
		return invalidToken(api.ReasonReplayed, "this job token was used up: its session has ended or was given back, or it came before where it may come once; ask the provider for a new one, or use the session token of the first answer")
	case errors.Is(err, admin.ErrUnknown):
		return invalidToken(api.ReasonExpired, "this admin token is not known, was revoked, or has ended (hint: `daypassd admin token list`)")
	case errors.As(err, &unavailable):
		p := newProblem(http.StatusServiceUnavailable, api.CodeUnavailable, "the keys of the token's provider could not be had: send the token again")
		p.retryAfter = unavailable.RetryAfter
		return p
	case errors.As(err, &denial):
		return denied(denial)
	case errors.As(err, &request):
		return newProblem(http.StatusBadRequest, api.CodeInvalidRequest, request.Detail)
	case errors.Is(err, leases.ErrOtherRequest):
		return newProblem(http.StatusBadRequest, api.CodeInvalidRequest, "this Idempotency-Key came with other grants before: take a new key for each request")
	case errors.Is(err, leases.ErrOvertaken), errors.Is(err, leases.ErrRetry), errors.Is(err, leases.ErrNotActive):
		p := newProblem(http.StatusServiceUnavailable, api.CodeUnavailable, "the credentials were taken back while they were made: a retry took their place, or the session was given back; the request may be sent again")
		p.retryAfter = retrySoon
		return p
	case errors.As(err, &tooOften):
		p := newProblem(http.StatusTooManyRequests, api.CodeRateLimited, tooOften.Error()+": wait as long as Retry-After says")
		p.retryAfter = tooOften.After
		return p
	case errors.Is(err, errTooLarge):
		return newProblem(http.StatusRequestEntityTooLarge, api.CodeTooLarge, "the body is larger than 64 KiB")
	case errors.As(err, &tooMany):
		p := newProblem(http.StatusTooManyRequests, api.CodeTooManyLeases, tooMany.Error()+": wait until one ends, or revoke one")
		p.Grant, p.retryAfter = tooMany.Grant, retryWhenFree
		return p
	case errors.As(err, &tooSoon):
		p := newProblem(http.StatusForbidden, api.CodeNotAllowed, tooSoon.Error())
		p.Grant = tooSoon.Grant
		return p
	case errors.As(err, &mistakes):
		return invalidPolicies(mistakes)
	case errors.As(err, &unconfirmed):
		return confirmationRequired(unconfirmed)
	case errors.Is(err, policies.ErrChanging):
		p := newProblem(http.StatusServiceUnavailable, api.CodeUnavailable, "the policy folder changed while it was read; the former set stays in force. Send this again once it is still, or switch a symlink")
		p.retryAfter = retryWhenStill
		return p
	case errors.As(err, &issue) && issue.OwnKey:
		p := newProblem(http.StatusServiceUnavailable, api.CodeUnavailable, "the broker's signing key is away; no credential was made, and the token may be sent again")
		p.Grant, p.retryAfter = issue.Grant, retrySoon
		return p
	case errors.As(err, &issue):
		p := newProblem(http.StatusBadGateway, api.CodeIssuerFailed, "the target of this grant did not make the credential; nothing was left behind, and the token may be sent again")
		p.Grant = issue.Grant
		return p
	case errors.As(err, &clock):
		p := newProblem(http.StatusServiceUnavailable, api.CodeUnavailable, clock.Detail)
		p.retryAfter = retryWhenRight
		return p
	case errors.Is(err, leases.ErrUnavailable), errors.Is(err, admin.ErrUnavailable):
		p := newProblem(http.StatusServiceUnavailable, api.CodeUnavailable, "the broker's database is away or takes no writes; no credential was given out, and the request may be sent again")
		p.retryAfter = retrySoon
		return p
	case errors.Is(err, leases.ErrNotFound):
		return newProblem(http.StatusNotFound, api.CodeNotFound, "no such lease, or not one of this token's")
	case errors.Is(err, broker.ErrNoDocument):
		return newProblem(http.StatusNotFound, api.CodeNotFound, "no issuer publishes anything at this path")
	case errors.Is(err, broker.ErrMediaType):
		return newProblem(http.StatusUnsupportedMediaType, api.CodeUnsupportedType, err.Error())
	case errors.Is(err, broker.ErrNotRenewable):
		return newProblem(http.StatusConflict, api.CodeNotRenewable, err.Error())
	case errors.Is(err, broker.ErrAlreadyRevoked):
		return newProblem(http.StatusConflict, api.CodeAlreadyRevoked, err.Error())
	case errors.Is(err, leases.ErrNotStuck):
		return newProblem(http.StatusConflict, api.CodeNotStuck, "only a lease whose revocation is stuck can be forgotten")
	case errors.Is(err, broker.ErrForbidden):
		return newProblem(http.StatusForbidden, api.CodeNotAllowed, "this token may not do that")
	case errors.As(err, &ofEcho):
		return routing(ofEcho)
	}
	return newProblem(http.StatusInternalServerError, api.CodeInternal, "something went wrong here; the broker's log says what, under this request id")
}

func invalidToken(reason api.Reason, detail string) *problem {
	p := newProblem(http.StatusUnauthorized, api.CodeInvalidToken, detail)
	p.Reason = reason
	return p
}

// denied tells a job of ours which claims did not match. Everybody else gets
// one and the same body, whether the grant exists or not.
func denied(d *policies.Denial) *problem {
	if d.Code == policies.CodeNoSuchGrant {
		p := newProblem(http.StatusNotFound, api.CodeNoSuchGrant, "this policy has no such grant")
		p.Grant = d.Grant
		return p
	}
	p := newProblem(http.StatusForbidden, api.CodeNotAllowed, "no policy gives this job what it asks for")
	if d.Claims != nil {
		p.Detail = "the policy's job entry for this repository asks for other claims"
		p.Claims, p.Grant, p.kept = d.Claims, d.Grant, d.Ours
	}
	return p
}

// routing renders what echo refuses before a handler runs.
func routing(err *echo.HTTPError) *problem {
	switch err.Code {
	case http.StatusNotFound:
		return newProblem(http.StatusNotFound, api.CodeNotFound, "there is nothing at this path")
	case http.StatusMethodNotAllowed:
		return newProblem(http.StatusMethodNotAllowed, api.CodeMethod, "this path takes another method")
	}
	return newProblem(http.StatusBadRequest, api.CodeInvalidRequest, "the request could not be read")
}

// Error implements error, so that a handler can return an answer of its own.
func (p *problem) Error() string { return string(p.Code) + ": " + p.Detail }

// refuser writes the answer of an error that has been judged.
type refuser func(p *problem, c echo.Context, err error) error

func (p *problem) refuse(c echo.Context, _ error) error {
	header := c.Response().Header()
	p.RequestID = requestID(c)
	if p.kept {
		p.Detail += ": `daypass policy explain --request " + p.RequestID + "` shows an operator why"
	}
	if p.retryAfter > 0 {
		header.Set(echo.HeaderRetryAfter, strconv.Itoa(int(math.Ceil(p.retryAfter.Seconds()))))
	}
	if p.oauth != "" {
		return p.writeOAuth(c)
	}
	if p.Status == http.StatusUnauthorized {
		if p.challenge == "" {
			p.challenge = `Bearer error="invalid_token"` // RFC 6750 §3
		}
		header.Set(echo.HeaderWWWAuthenticate, p.challenge)
	}
	header.Set(echo.HeaderContentType, api.ProblemType)
	header.Set(echo.HeaderCacheControl, "no-store")
	return c.JSON(p.Status, p.Problem)
}
