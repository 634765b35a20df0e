package broker_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
)

// TestTokensFromBeforeAPromotion: a job token that may have been used where nobody
// remembers it any more opens nothing, whether it says when it was issued or not.
func TestTokensFromBeforeAPromotion(t *testing.T) {
	t.Parallel()
	first := brokertest.New(t, brokertest.Options{Idle: true})
	session := first.Exchange(first.Job(), "payments/sign").Session.Token
	first.Exec(`UPDATE installation SET epoch = 1, epoch_at = clock_timestamp() - interval '1 minute', epoch_why = 'promoted'`)
	first.Exec(`UPDATE sessions SET opened_at = opened_at - interval '1 hour'`)
	b := brokertest.New(t, brokertest.Options{Join: first, Idle: true})
	now := time.Now()
	at := func(d time.Duration) int64 { return now.Add(d).Unix() }
	for name, c := range map[string]struct {
		claims map[string]any
		status int
	}{
		"issued since":  {nil, http.StatusOK},
		"issued before": {map[string]any{"iat": at(-2 * time.Minute), "nbf": at(-2 * time.Minute)}, http.StatusUnauthorized},
		// It could have been used for as long as a token may live.
		"doesn't say when, and ends soon": {map[string]any{"iat": nil}, http.StatusUnauthorized},
		// Before the promotion it would have had longer to live than any token may.
		"doesn't say when, and ends late": {map[string]any{"iat": nil, "exp": at(24*time.Hour - 20*time.Second)}, http.StatusOK},
	} {
		a := b.TryExchange(b.Token("github", c.claims), "payments/sign")
		if a.Status != c.status || (a.Status != http.StatusOK && a.Problem.Reason != api.ReasonExpired) {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
		}
	}
	if a := b.TryExchange(session, "payments/sign"); a.Status != http.StatusUnauthorized || a.Problem.Reason != api.ReasonExpired {
		t.Errorf("a session of before: %d %s", a.Status, a.Body)
	}
}
