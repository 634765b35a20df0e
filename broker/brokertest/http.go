package brokertest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/devkit"
)

// Answer is what came back.
type Answer struct {
	Status  int
	Header  http.Header
	Body    []byte
	Problem api.Problem // of an error
}

// Into decodes the body, and refuses members that v doesn't have.
func (a *Answer) Into(v any) error {
	decoder := json.NewDecoder(bytes.NewReader(a.Body))
	decoder.DisallowUnknownFields()
	return decoder.Decode(v)
}

// Token is a job token of a profile for this broker. claims are laid over the
// profile's samples.
func (b *Broker) Token(profile string, claims map[string]any) string {
	b.t.Helper()
	token, err := b.Provider.Token(profile, Audience, claims)
	if err != nil {
		b.t.Fatal(err)
	}
	b.secrets.add(token)
	return token
}

// Job is a job token that may have the grants of [Policies].
func (b *Broker) Job() string {
	b.t.Helper()
	return b.Token(devkit.ProfileGitHub, nil)
}

// Hide makes a value one that may stand nowhere.
func (b *Broker) Hide(value string) string {
	b.secrets.add(value)
	return value
}

// Admin makes an admin token of a role.
func (b *Broker) Admin(role admin.Role) string {
	b.t.Helper()
	secret, _, err := b.Base.Tokens.Create(b.t.Context(), admin.Request{Role: role, Owner: "test@example.com", OSUser: "tester", TTL: time.Hour})
	if err != nil {
		b.t.Fatal(err)
	}
	b.secrets.add(secret.Reveal())
	return secret.Reveal()
}

// Do sends a request. token is a bearer token, "" for none; body is nil, a
// string or []byte as they are, an io.Reader, or what becomes JSON.
func (b *Broker) Do(method, path, token string, body any) *Answer {
	b.t.Helper()
	request := b.Request(method, path, token, body)
	response, err := b.server.Client().Do(request)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.read(response)
}

// Request is the request that Do sends.
func (b *Broker) Request(method, path, token string, body any) *http.Request {
	b.t.Helper()
	var reader io.Reader
	switch body := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(body)
	case []byte:
		reader = bytes.NewReader(body)
	case io.Reader:
		reader = body
	default:
		encoded, err := json.Marshal(body)
		if err != nil {
			b.t.Fatal(err)
		}
		reader = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(b.t.Context(), method, b.URL+path, reader)
	if err != nil {
		b.t.Fatal(err)
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	return request
}

// Send sends a request that the test has made.
func (b *Broker) Send(request *http.Request) *Answer {
	b.t.Helper()
	response, err := b.server.Client().Do(request) //nolint:gosec // to the broker under test
	if err != nil {
		b.t.Fatal(err)
	}
	return b.read(response)
}

func (b *Broker) read(response *http.Response) *Answer {
	b.t.Helper()
	defer response.Body.Close() //nolint:errcheck // it was read to its end
	body, err := io.ReadAll(response.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	a := &Answer{Status: response.StatusCode, Header: response.Header, Body: body}
	if a.Header.Get("Content-Type") == api.ProblemType {
		if err := a.Into(&a.Problem); err != nil {
			b.t.Errorf("a problem that can't be read: %v\n%s", err, body)
		}
	}
	if a.Status >= http.StatusBadRequest {
		b.answers.add(body)
	} else {
		b.secrets.find(string(body))
	}
	return a
}

// TryExchange asks for grants.
func (b *Broker) TryExchange(token string, grants ...string) *Answer {
	b.t.Helper()
	return b.Do(http.MethodPost, api.PathExchange, token, map[string]any{"grants": grants})
}

// Exchange asks for grants and gets them, or the test fails.
func (b *Broker) Exchange(token string, grants ...string) *api.ExchangeResponse {
	b.t.Helper()
	a := b.TryExchange(token, grants...)
	if a.Status != http.StatusOK {
		b.t.Fatalf("exchange for %v: %d\n%s", grants, a.Status, a.Body)
	}
	out := &api.ExchangeResponse{}
	if err := a.Into(out); err != nil {
		b.t.Fatal(err)
	}
	return out
}

// Lease reads a lease as an admin token of that value sees it.
func (b *Broker) Lease(token, id string) api.Lease {
	b.t.Helper()
	a := b.Do(http.MethodGet, api.PathLeases+"/"+id, token, nil)
	var l api.Lease
	if err := a.Into(&l); a.Status != http.StatusOK || err != nil {
		b.t.Fatalf("reading lease %s: %d %v\n%s", id, a.Status, err, a.Body)
	}
	return l
}
