package httpapi_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/client/introspect"
)

// documentedDPoP runs what docs/dpop.md shows for a shell, in its order.
func (o *office) documentedDPoP(t *testing.T) {
	page, err := os.ReadFile("../../docs/dpop.md")
	if err != nil {
		t.Fatal(err)
	}
	guard := &introspect.Guard{URL: o.URL + api.PathOAuthIntrospect, Name: "deploy", Secret: serverSecret, Audience: deployAudience, Cache: -1}
	service := httptest.NewServer(guard.Require(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "hello "+introspect.From(r.Context()).Subject+"\n")
	}), "deploy:read"))
	defer service.Close()
	guard.Origin = service.URL
	var script strings.Builder
	scripts := regexp.MustCompile("(?s)\n```sh\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(scripts) != 3 {
		t.Fatalf("%d scripts in docs/dpop.md", len(scripts))
	}
	for _, m := range scripts {
		script.WriteString(m[1])
	}
	// A thief has the tokens alone.
	script.WriteString(`curl -sS -o /dev/null -w '%{http_code}\n' "$SERVICE/releases" -H "Authorization: Bearer $token"
curl -sS -o /dev/null -w '%{http_code}\n' "$DAYPASS_URL/v1/session" -H "Authorization: Bearer $session"
`)
	run := exec.CommandContext(t.Context(), "sh", "-euc", script.String())
	run.Env = append(os.Environ(), "DAYPASS_URL="+o.URL, "ID_TOKEN="+o.Job(), "SERVICE="+service.URL, "no_proxy=127.0.0.1", "TMPDIR="+t.TempDir())
	out, err := run.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got := regexp.MustCompile(`(?s)^hello daypass:main/payments/deploy-api\n\{"session":.*"leases":\[\{.*\{"state":"revoked".*\}401\n401\n$`).Match(out)
	if !got {
		t.Errorf("%s", out)
	}
}
