package httpapi

import (
	"regexp"
	"strings"
	"testing"

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
