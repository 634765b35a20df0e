package introspect_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/client/introspect"
	"github.com/daypass/daypass/broker/dpop"
)

const audience = "https://deploy.example.com"

// answering is a broker that knows one token, and counts who asks.
type answering struct {
	*httptest.Server
	asked atomic.Int32
	body  atomic.Pointer[string]
}

func newAnswering(t *testing.T) *answering {
	t.Helper()
	a := serve()
	t.Cleanup(a.Close)
	return a
}

func serve() *answering {
	a := &answering{}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.asked.Add(1)
		name, secret, _ := r.BasicAuth()
		if name != "deploy" || secret != "s%2Bcret" || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.PostFormValue("token") != "good" {
			_, _ = io.WriteString(w, `{"active":false}`)
			return
		}
		_, _ = io.WriteString(w, *a.body.Load())
	}))
	a.say(fmt.Sprintf(`{"active":true,"sub":"daypass:main/payments/deploy-api","scope":"deploy:read","aud":[%q],"exp":%d,"jti":"lse_1"}`, audience, time.Now().Add(time.Hour).Unix()))
	return a
}

func (a *answering) say(body string) { a.body.Store(&body) }

func (a *answering) guard() *introspect.Guard {
	return &introspect.Guard{URL: a.URL, Name: "deploy", Secret: "s+cret", Audience: audience}
}

func call(handler http.Handler, authorization ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for _, value := range authorization {
		r.Header.Add("Authorization", value)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w
}

func TestRequire(t *testing.T) {
	t.Parallel()
	broker := newAnswering(t)
	guard := broker.guard()
	next := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, introspect.From(r.Context()).ID)
	})
	read, write := guard.Require(next, "deploy:read"), guard.Require(next, "deploy:read", "deploy:write")
	for _, c := range []struct {
		handler   http.Handler
		headers   []string
		status    int
		challenge string
	}{
		{read, []string{"Bearer good"}, 200, ""},
		{read, []string{"bearer  good"}, 200, ""},
		{guard.Require(next), []string{"Bearer good"}, 200, ""},
		{write, []string{"Bearer good"}, 403, `Bearer error="insufficient_scope", scope="deploy:read deploy:write"`},
		{read, nil, 401, "Bearer"},
		{read, []string{"Bearer bad"}, 401, `Bearer error="invalid_token"`},
		{read, []string{"Bearer "}, 401, `Bearer error="invalid_token"`},
		{read, []string{"Bearer " + strings.Repeat("x", 17<<10)}, 401, `Bearer error="invalid_token"`},
		{read, []string{"Basic good"}, 401, `Bearer error="invalid_request"`},
		{read, []string{"Bearer good", "Bearer good"}, 401, `Bearer error="invalid_request"`},
	} {
		res := call(c.handler, c.headers...)
		body := res.Body.String()
		if res.Code != c.status || res.Header().Get("WWW-Authenticate") != c.challenge || (c.status == 200) != (body == "lse_1") {
			t.Errorf("%.40q: %d %q %q", c.headers, res.Code, res.Header().Get("WWW-Authenticate"), body)
		}
	}
	if introspect.From(t.Context()) != nil {
		t.Error("a token from nowhere")
	}
}

// TestCache: an answer counts for its time, and no longer; a token's own end counts
// within it.
func TestCache(t *testing.T) {
	t.Parallel()
	broker := newAnswering(t)
	guard := broker.guard()
	now := time.Now()
	guard.Now = func() time.Time { return now }
	check := func(token string, good bool, asked int32) {
		t.Helper()
		_, err := guard.Check(t.Context(), token)
		if (err == nil) != good || broker.asked.Load() != asked {
			t.Errorf("%s: %v, asked %d times, want %d", token, err, broker.asked.Load(), asked)
		}
	}
	check("good", true, 1)
	check("good", true, 1)
	check("bad", false, 2)
	check("bad", false, 2)
	broker.say(`{"active":false}`)
	now = now.Add(4 * time.Second)
	check("good", true, 2)
	now = now.Add(2 * time.Second)
	check("good", false, 3)
	broker.say(fmt.Sprintf(`{"active":true,"aud":[%q],"exp":%d}`, audience, now.Add(8*time.Second).Unix()))
	now = now.Add(6 * time.Second)
	check("good", true, 4)
	now = now.Add(3 * time.Second)
	check("good", false, 4)
	guard.Cache = -1
	now = now.Add(time.Minute)
	broker.say(fmt.Sprintf(`{"active":true,"aud":["https://other.example"],"exp":%d}`, now.Add(time.Hour).Unix()))
	check("good", false, 5) // for another service
	check("good", false, 6)
}

// TestBrokerAway: nothing is let through, and nobody is told that the token is bad.
func TestBrokerAway(t *testing.T) {
	t.Parallel()
	broker := newAnswering(t)
	elsewhere := httptest.NewServer(http.RedirectHandler(broker.URL, http.StatusTemporaryRedirect))
	t.Cleanup(elsewhere.Close)
	wrong, moved, garbled := broker.guard(), broker.guard(), broker.guard()
	wrong.Secret, moved.URL = "other", elsewhere.URL
	broker.say(`{"active":`)
	for what, guard := range map[string]*introspect.Guard{"another secret": wrong, "a redirect": moved, "half an answer": garbled} {
		res := call(guard.Require(http.NotFoundHandler()), "Bearer good")
		if res.Code != http.StatusServiceUnavailable || res.Header().Get("Retry-After") == "" || res.Header().Get("WWW-Authenticate") != "" {
			t.Errorf("%s: %d %v", what, res.Code, res.Header())
		}
	}
	if broker.asked.Load() != 2 {
		t.Errorf("asked %d times: a redirect was followed", broker.asked.Load())
	}
}

func ExampleGuard_Require() {
	broker := serve() // the broker, which knows the token "good"
	defer broker.Close()
	guard := &introspect.Guard{URL: broker.URL, Name: "deploy", Secret: "s+cret", Audience: "https://deploy.example.com"}
	releases := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "releases for "+introspect.From(r.Context()).Subject)
	})
	service := httptest.NewServer(guard.Require(releases, "deploy:read"))
	defer service.Close()

	request, _ := http.NewRequest(http.MethodGet, service.URL, nil)
	request.Header.Set("Authorization", "Bearer good")
	response, err := service.Client().Do(request)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer response.Body.Close() //nolint:errcheck // it was read to its end
	body, _ := io.ReadAll(response.Body)
	fmt.Println(string(body))
	// Output: releases for daypass:main/payments/deploy-api
}

// TestBound: what a service needs to know before it can take a bound token.
func TestBound(t *testing.T) {
	t.Parallel()
	key, err := dpop.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	broker := newAnswering(t)
	for what, c := range map[string]struct {
		audience, origin, url string
		status                int
	}{
		"by the audience":             {audience, "", "https://deploy.example.com/a", 200},
		"an audience with a path":     {audience + "/v2", "", "https://deploy.example.com/a", 200},
		"behind a path":               {audience, "https://example.com/deploy/", "https://example.com/deploy/a", 200},
		"another URL than the origin": {audience, "https://example.com", "https://deploy.example.com/a", 401},
		"an audience that is no URL":  {"deploy", "", "https://deploy.example.com/a", 503},
	} {
		broker.say(fmt.Sprintf(`{"active":true,"token_type":"DPoP","aud":[%q],"exp":%d,"jti":"lse_1","cnf":{"jkt":%q}}`, c.audience, time.Now().Add(time.Hour).Unix(), key.Thumbprint()))
		guard := broker.guard()
		guard.Audience, guard.Origin = c.audience, c.origin
		u, err := url.Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		proof, err := key.Prove(http.MethodGet, u, "good", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodGet, "/a", nil)
		r.Header.Set("Authorization", "DPoP good")
		r.Header.Set("DPoP", proof)
		w := httptest.NewRecorder()
		guard.Require(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(w, r)
		if w.Code != c.status {
			t.Errorf("%s: %d, want %d", what, w.Code, c.status)
		}
	}
	w := call(broker.guard().Require(http.NotFoundHandler()))
	if got := w.Header().Values("WWW-Authenticate"); len(got) != 2 || got[0] != "Bearer" || got[1] != dpop.Challenge("") {
		t.Errorf("whoever brings nothing is asked for %q", got)
	}
	if w := call(broker.guard().Require(http.NotFoundHandler()), "DPoP bad"); w.Header().Get("WWW-Authenticate") != dpop.Challenge("invalid_token") {
		t.Errorf("%v", w.Header())
	}
}
