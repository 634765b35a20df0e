package vaultapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/daypass/daypass/broker/api"
)

// envelope is every answer that holds something. Clients expect all of its keys.
type envelope struct {
	RequestID     string   `json:"request_id"`
	LeaseID       string   `json:"lease_id"`
	Renewable     bool     `json:"renewable"`
	LeaseDuration int      `json:"lease_duration"` // seconds
	Data          any      `json:"data"`
	WrapInfo      any      `json:"wrap_info"`
	Warnings      []string `json:"warnings"`
	Auth          *auth    `json:"auth"`
}

func (c *call) answer(body *envelope) error {
	body.RequestID = uuid(c.visit.RequestID)
	return c.json(http.StatusOK, body)
}

func (c *call) json(status int, body any) error {
	encoded, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encoding an answer: %w", err)
	}
	return writeJSON(c.w, status, encoded)
}

// done is the answer that has nothing to say.
func (c *call) done() error {
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

func writeJSON(w http.ResponseWriter, status int, body []byte) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, err := w.Write(body)
	return err
}

// uuid writes a request's id as clients of Vault expect one: the same 128 bits.
func uuid(requestID string) string {
	_, text, _ := strings.Cut(requestID, "_")
	id, err := ulid.Parse(text)
	if err != nil {
		return "00000000-0000-0000-0000-000000000000"
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

// seconds are whole ones until a time, at least one: 0 would mean for ever.
func seconds(from, to time.Time) int { return max(1, int(to.Sub(from)/time.Second)) }

// refusal is an error that this API has words of its own for.
type refusal struct {
	status int
	code   api.Code // for log and metrics
	texts  []string
	detail string // for the log
}

// Error implements error.
func (e *refusal) Error() string {
	if e.detail != "" {
		return e.detail
	}
	return strings.Join(e.texts, "; ")
}

// Unwrap says what the refusal would be in the native API.
func (e *refusal) Unwrap() error {
	return &api.Problem{Type: "about:blank", Title: http.StatusText(e.status), Status: e.status, Code: e.code, Detail: e.Error()}
}

const permissionDenied = "permission denied"

func denied(detail string) error {
	return &refusal{status: http.StatusForbidden, code: api.CodeNotAllowed, texts: []string{permissionDenied}, detail: detail}
}

func badRequest(text string) error {
	return &refusal{status: http.StatusBadRequest, code: api.CodeInvalidRequest, texts: []string{text}}
}

// notFound has no words: clients take any for the secret.
func notFound() error {
	return &refusal{status: http.StatusNotFound, code: api.CodeNotFound, texts: []string{}, detail: "no such path"}
}

func unsupported() error {
	return &refusal{status: http.StatusMethodNotAllowed, code: api.CodeMethod, texts: []string{"unsupported operation"}}
}

func noLease() error {
	return &refusal{status: http.StatusBadRequest, code: api.CodeNotFound, texts: []string{"lease not found"}}
}

func stopping() error {
	return &refusal{status: http.StatusServiceUnavailable, code: api.CodeUnavailable, texts: []string{sealed, "this broker is shutting down; the request may be sent again"}}
}

// sealed is what clients know of a Vault that can do nothing now.
const sealed = "Vault is sealed"

// loginError is an error of a job token, which is no token of this API.
type loginError struct{ error }

// Unwrap gives what was wrong.
func (e loginError) Unwrap() error { return e.error }

// Refuse implements httpapi.Guest.
func (*Server) Refuse(w http.ResponseWriter, err error, p *api.Problem, retryAfter time.Duration) error {
	status, texts := words(err, p)
	if retryAfter == 0 && (status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests) {
		retryAfter = time.Second
	}
	if retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(retryAfter.Seconds()))))
	}
	w.Header().Set("Cache-Control", "no-store")
	body, err := json.Marshal(map[string][]string{"errors": texts})
	if err != nil {
		return err
	}
	return writeJSON(w, status, body)
}

// words are status and texts of an error. None of them repeats what was sent.
func words(err error, p *api.Problem) (status int, texts []string) {
	if own, ok := errors.AsType[*refusal](err); ok {
		return own.status, own.texts
	}
	_, login := errors.AsType[loginError](err)
	switch {
	case p.Status == http.StatusUnauthorized && login:
		return http.StatusBadRequest, []string{"error validating token (" + string(p.Reason) + "): " + p.Detail}
	case p.Status == http.StatusForbidden && len(p.Claims) > 0:
		return http.StatusForbidden, []string{permissionDenied, p.Detail + ": " + strings.Join(p.Claims, ", ") + " (request " + p.RequestID + ")"}
	case p.Status == http.StatusUnauthorized, p.Status == http.StatusForbidden, p.Code == api.CodeNoSuchGrant:
		return http.StatusForbidden, []string{permissionDenied}
	case p.Code == api.CodeNotFound, p.Code == api.CodeAlreadyRevoked:
		return http.StatusBadRequest, []string{"lease not found"}
	case p.Code == api.CodeNotRenewable:
		return http.StatusBadRequest, []string{"lease is not renewable", p.Detail}
	case p.Status == http.StatusServiceUnavailable:
		return p.Status, []string{sealed, p.Detail}
	}
	return p.Status, []string{p.Detail}
}
