package httpapi_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
)

// BenchmarkIntrospect is what an answer costs beside the one look-up that it is made
// of: go test ./broker/httpapi -run xxx -bench Introspect.
func BenchmarkIntrospect(b *testing.B) {
	o := newOffice(b, brokertest.Options{})
	token := o.Exchange(o.Job(), "payments/deploy-api").Credentials[0].Values["token"]
	handler := o.API(false)
	ask := func(b *testing.B, token string, active bool) {
		for b.Loop() {
			r := httptest.NewRequest(http.MethodPost, api.PathOAuthIntrospect, strings.NewReader(url.Values{"token": {token}}.Encode()))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.SetBasicAuth("deploy", url.QueryEscape(serverSecret))
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			if w.Code != http.StatusOK || strings.Contains(w.Body.String(), `"active":true`) != active {
				b.Fatal(w.Code, w.Body)
			}
		}
	}
	b.Run("lookup", func(b *testing.B) {
		var sum []byte
		if err := o.Base.Pool.QueryRow(b.Context(), `SELECT fingerprint FROM fingerprints`).Scan(&sum); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			var id, state string
			if err := o.Base.Pool.QueryRow(b.Context(), `SELECT l.id, l.state FROM fingerprints f JOIN leases l ON l.id = f.lease_id WHERE f.fingerprint = $1`, sum).Scan(&id, &state); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("active", func(b *testing.B) { ask(b, token, true) })
	b.Run("garbage", func(b *testing.B) { ask(b, strings.Repeat("x", 1000), false) })
}
