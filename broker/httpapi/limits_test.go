package httpapi_test

import (
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/devkit"
	"github.com/daypass/daypass/broker/instance"
	"github.com/daypass/daypass/issuers"
)

func TestIdempotencyKeyForms(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	for name, c := range map[string]struct {
		keys []string
		fit  bool
	}{
		"a UUID":         {[]string{"8e03978e-40d5-43dd-bc93-6894a57f9324"}, true},
		"in quotes":      {[]string{`"8e03978e"`}, true},
		"as long as may": {[]string{strings.Repeat("~", api.MaxIdempotencyKey)}, true},
		"too long":       {[]string{strings.Repeat("k", api.MaxIdempotencyKey+1)}, false},
		"empty":          {[]string{""}, false},
		"with a space":   {[]string{"a b"}, false},
		"not ASCII":      {[]string{"clé"}, false},
		"two":            {[]string{"a", "b"}, false},
	} {
		request := b.Request(http.MethodPost, api.PathExchange+"?grant=payments/sign", b.Job(), nil)
		request.Header[api.HeaderIdempotencyKey] = c.keys
		a := b.Send(request)
		if c.fit && a.Status != 200 {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
		}
		if !c.fit {
			wantProblem(t, a, 400, api.CodeInvalidRequest)
		}
	}
}

// badSignature is a token of which nothing is wrong but the signature: it is
// another one's.
func badSignature(b *brokertest.Broker) string {
	one, other := b.Job(), b.Job()
	return one[:strings.LastIndexByte(one, '.')] + other[strings.LastIndexByte(other, '.'):]
}

// TestFailedTokens: an address whose tokens keep failing is told so, and nobody
// else pays for it, a good token from there least of all.
func TestFailedTokens(t *testing.T) {
	t.Parallel()
	_, proxies, _ := net.ParseCIDR("127.0.0.0/8")
	b := brokertest.New(t, brokertest.Options{
		Limits: instance.Limits{FailedTokens: 5}, TrustedProxies: []echo.TrustOption{echo.TrustIPRange(proxies)},
	})
	good := b.Job()
	from := func(address, method, path, token string) *brokertest.Answer {
		request := b.Request(method, path, token, nil)
		request.Header.Set("X-Forwarded-For", address)
		return b.Send(request)
	}
	const exchange = api.PathExchange + "?grant=payments/sign"
	bad := []struct{ method, path, token string }{
		{"POST", exchange, badSignature(b)},
		{"POST", exchange, b.Token(devkit.ProfileGitHub, map[string]any{"exp": time.Now().Add(-time.Minute).Unix()})},
		{"POST", exchange, issuers.Generate(issuers.SessionToken).Reveal()},
		{"GET", api.PathSession, issuers.Generate(issuers.SessionToken).Reveal()},
		{"GET", api.PathLeases, issuers.Generate(issuers.AdminToken).Reveal()},
	}
	for _, r := range bad {
		wantProblem(t, from("192.0.2.1", r.method, r.path, r.token), 401, api.CodeInvalidToken)
	}
	for _, r := range bad {
		a := from("192.0.2.1", r.method, r.path, r.token)
		wantProblem(t, a, 429, api.CodeRateLimited)
		if after, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || after < 1 || after > 12 {
			t.Errorf("Retry-After %q", a.Header.Get("Retry-After"))
		}
		wantProblem(t, from("192.0.2.2", r.method, r.path, r.token), 401, api.CodeInvalidToken)
	}
	// What has no token costs nothing, and is told as ever.
	wantProblem(t, from("192.0.2.1", "POST", exchange, "dps_x"), 401, api.CodeInvalidToken)
	for range 10 {
		if a := from("192.0.2.1", "POST", exchange, good); a.Status != 200 {
			t.Errorf("a good token from there: %d %s", a.Status, a.Body)
		}
	}
}

// TestFailedTokensLoseTheirConnection, unless it is a proxy's.
func TestFailedTokensLoseTheirConnection(t *testing.T) {
	t.Parallel()
	_, proxies, _ := net.ParseCIDR("127.0.0.0/8")
	for name, c := range map[string]struct {
		trusted []echo.TrustOption
		closed  bool
	}{
		"its own":   {nil, true},
		"a proxy's": {[]echo.TrustOption{echo.TrustIPRange(proxies)}, false},
	} {
		b := brokertest.New(t, brokertest.Options{Limits: instance.Limits{FailedTokens: 1}, TrustedProxies: c.trusted})
		send := func() (closed bool) {
			request := b.Request("POST", api.PathExchange+"?grant=payments/sign", badSignature(b), nil)
			request.Header.Set("X-Forwarded-For", "192.0.2.1")
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close() //nolint:errcheck // nothing is read from it
			return response.Close
		}
		if send() {
			t.Errorf("%s: closed at the first failure", name)
		}
		if got := send(); got != c.closed {
			t.Errorf("%s: closed %v, want %v", name, got, c.closed)
		}
	}
}
