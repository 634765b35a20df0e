package httpapi

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/daypass/daypass/broker/api/openapi"
)

var pathParameter = regexp.MustCompile(`:[a-z]+`)

// TestOpenAPI: the document has every route, and nothing else.
func TestOpenAPI(t *testing.T) {
	s := &Server{metrics: newMetrics(prometheus.NewRegistry()), config: Config{Metrics: prometheus.NewRegistry()}}
	e, is := s.API(true).(*echo.Echo)
	if !is {
		t.Fatal("the API is no echo")
	}
	routes := map[string]bool{}
	for _, r := range e.Routes() {
		path := pathParameter.ReplaceAllStringFunc(r.Path, func(p string) string { return "{" + p[1:] + "}" })
		routes[r.Method+" "+path] = true
	}
	for _, o := range openapi.Operations() {
		// What has slashes of its own is a rest of the path for echo.
		path := strings.NewReplacer("/{name}", "/*", "/{question}", "/*").Replace(o.Path)
		if !routes[o.Method+" "+path] {
			t.Errorf("%s %s is no route", o.Method, o.Path)
		}
		delete(routes, o.Method+" "+path)
	}
	for route := range routes {
		t.Errorf("%s stands not in the OpenAPI document (hint: broker/api/openapi/operations.go, then go test ./broker/api/openapi -run TestDocument -update)", route)
	}
}

// TestOpenAPIIsServed as it stands in the repository, to everybody, once: who asks
// again with its tag is told that it is the same.
func TestOpenAPIIsServed(t *testing.T) {
	kept, err := os.ReadFile("../api/openapi/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{metrics: newMetrics(prometheus.NewRegistry()), config: Config{Metrics: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler), Now: time.Now}}
	served := s.API(false)
	get := func(tag string) *httptest.ResponseRecorder {
		request := httptest.NewRequest(http.MethodGet, "/openapi.json", nil)
		request.Header.Set("If-None-Match", tag)
		answer := httptest.NewRecorder()
		served.ServeHTTP(answer, request)
		return answer
	}
	first := get(`"another"`)
	tag := first.Header().Get("ETag")
	if first.Code != http.StatusOK || first.Body.String() != string(kept) || first.Header().Get("Content-Type") != "application/json" ||
		!strings.HasPrefix(first.Header().Get("Cache-Control"), "public") || len(tag) < 10 {
		t.Errorf("%d %v, %d bytes", first.Code, first.Header(), first.Body.Len())
	}
	if again := get(tag); again.Code != http.StatusNotModified || again.Body.Len() > 0 || again.Header().Get("ETag") != tag {
		t.Errorf("once more: %d %v", again.Code, again.Header())
	}
}
