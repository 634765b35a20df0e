package introspect_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/daypass/daypass/broker/client/introspect"
)

// What docs/oauth.md shows.
func Example() {
	secret := "a-long-random-secret"
	mux := http.NewServeMux()
	releases := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {})
	release := releases
	guard := &introspect.Guard{
		URL: "https://daypass.example.com/oauth/introspect", Name: "deploy", Secret: secret,
		Audience: "https://deploy.example.com",
	}
	mux.Handle("GET /releases", guard.Require(releases, "deploy:read"))
	mux.Handle("POST /releases", guard.Require(release, "deploy:read", "deploy:write"))

	answer := httptest.NewRecorder()
	mux.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/releases", nil)) // without a token
	fmt.Println(answer.Code)
	// Output: 401
}
