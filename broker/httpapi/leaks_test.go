package httpapi_test

import (
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/instance"
	"github.com/daypass/daypass/issuers"
)

// search searches a text, or the test fails.
func search(t *testing.T, b *brokertest.Broker, token, query, text string) *api.LeaksResponse {
	t.Helper()
	a := b.Do(http.MethodPost, api.PathLeaks+query, token, text)
	out := &api.LeaksResponse{}
	if a.Status != http.StatusOK || a.Into(out) != nil {
		t.Fatalf("searching: %d\n%s", a.Status, a.Body)
	}
	if out.Bytes != int64(len(text)) {
		t.Errorf("%d bytes were read of %d", out.Bytes, len(text))
	}
	return out
}

// TestLeaks: a text is searched for what stands in it, whatever it is and however it
// is written, and each finding says whose it is and where.
func TestLeaks(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	job := b.Exchange(b.Job(), "payments/deploy-db", "payments/sign")
	db, signed := job.Credentials[0], job.Credentials[1]
	redactor, viewer := b.Admin(admin.Redactor), b.Admin(admin.Viewer)
	unknown := issuers.Generate(issuers.APIToken).Reveal()
	text := "some log\nPGPASSWORD=" + db.Values["password"] + "\nand " + db.Values["password"] + "\n" +
		"jwt: " + base64.StdEncoding.EncodeToString([]byte("xx"+signed.Values["token"])) + "\n" +
		"session " + job.Session.Token + " admin " + viewer + " other " + unknown + "\n"
	found := search(t, b, redactor, "?source=ci.log%0a", text)
	var kinds []string
	for _, l := range found.Leaks {
		kinds = append(kinds, l.Kind)
		if l.Offset < 0 || l.Offset+int64(l.Length) > int64(len(text)) || l.Length == 0 {
			t.Errorf("%+v lies outside the text", l)
		}
	}
	if want := []string{db.Kind, signed.Kind, api.KindSessionToken, api.KindAdminToken, api.KindUnknownToken}; !slices.Equal(kinds, want) || found.Truncated {
		t.Fatalf("found %v, want %v\n%+v", kinds, want, found)
	}
	first, second := found.Leaks[0], found.Leaks[1]
	if at := first.Offset; text[at:at+int64(first.Length)] != db.Values["password"] || first.Form != "" || first.LeaseID != db.LeaseID || first.Grant != "payments/deploy-db" ||
		first.Field != "password" || !first.Live || first.State != "active" || first.SessionID != job.Session.ID || first.Provider != "github" || first.Subject == "" || first.IssuedAt == nil {
		t.Errorf("the password: %+v", first)
	}
	if !strings.Contains(first.Run, "/actions/runs/") {
		t.Errorf("the job runs at %q", first.Run)
	}
	if second.LeaseID != signed.LeaseID || second.Field != "token" || second.Form != "base64" {
		t.Errorf("the JWT: %+v", second)
	}
	// Once more from there: one event for each value and place.
	search(t, b, redactor, "?source=ci.log", text)
	search(t, b, redactor, "?source=other.log", text)
	if n := b.Count(`SELECT count(*) FROM audit_events WHERE type = 'leak.found'`); n != 8 {
		t.Errorf("%d events of four values at two places", n)
	}
	if n := b.Count(`SELECT count(*) FROM audit_events WHERE type = 'leak.found' AND body LIKE '%' || $1 || '%' AND body LIKE '%"source":"ci.log"%'`, db.LeaseID); n != 1 {
		t.Errorf("%d events of the password", n)
	}
	if metrics := string(b.Do(http.MethodGet, api.PathMetrics, "", nil).Body); !strings.Contains(metrics, `daypass_leaks_found_total{kind="lease",live="true"} 4`) || !strings.Contains(metrics, "daypass_leak_anchors 1") {
		t.Error("the metrics don't tell")
	}
}

// TestLeaksRevoke: what is found is taken back, and on the target too.
func TestLeaksRevoke(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	one, other := b.Exchange(b.Job(), "payments/deploy-db", "payments/sign"), b.Exchange(b.Job(), "payments/deploy-db")
	redactor, viewer := b.Admin(admin.Redactor), b.Admin(admin.Viewer)
	spare := b.Admin(admin.Viewer)
	text := one.Credentials[0].Values["url"] + " " + one.Credentials[1].Values["token"] + " " + other.Session.Token + " " + spare
	found := search(t, b, redactor, "?revoke=true&source=ticket", text)
	if len(found.Leaks) != 4 || slices.ContainsFunc(found.Leaks, func(l api.Leak) bool { return !l.Revoked }) {
		t.Fatalf("%+v", found)
	}
	// A signed token verifies elsewhere to its end.
	if l := found.Leaks[1]; l.State != "expired" || !l.Live {
		t.Errorf("the JWT: %+v", l)
	}
	for _, c := range []api.Credential{one.Credentials[0], other.Credentials[0]} {
		brokertest.Poll(t, "it is taken back", func() bool { return b.Lease(viewer, c.LeaseID).State == "revoked" })
	}
	if a := b.Do(http.MethodGet, api.PathLeases, spare, nil); a.Status != http.StatusUnauthorized {
		t.Errorf("the admin token: %d", a.Status)
	}
	if n := b.Count(`SELECT count(*) FROM audit_events WHERE subject = $1 AND type = 'lease.revoking' AND body LIKE '%its secret was found: ticket%'`, one.Credentials[0].LeaseID); n != 1 {
		t.Errorf("%d events say why", n)
	}
	if again := search(t, b, redactor, "?revoke=true&source=ticket", text); len(again.Leaks) != 4 || again.Leaks[0].Live || !again.Leaks[0].Revoked {
		t.Errorf("once more: %+v", again)
	}
}

// TestLeaksOfASession: a session is told of its own leases, and not whether anything
// is somebody else's.
func TestLeaksOfASession(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	mine, others := b.Exchange(b.Job(), "payments/deploy-db", "payments/sign"), b.Exchange(b.Job(), "payments/deploy-db", "payments/sign")
	text := func(e *api.ExchangeResponse) string {
		return strings.Join([]string{e.Credentials[0].Values["password"], e.Credentials[1].Values["token"], e.Session.Token}, "\n")
	}
	everything := text(mine) + "\n" + text(others) + "\n" + b.Admin(admin.Viewer) + "\n" + issuers.Generate(issuers.Password).Reveal()
	found := search(t, b, mine.Session.Token, "", everything)
	var whose []string
	for _, l := range found.Leaks {
		whose = append(whose, l.LeaseID+l.Kind)
	}
	if want := []string{mine.Credentials[0].LeaseID + mine.Credentials[0].Kind, mine.Credentials[1].LeaseID + "jwt", api.KindSessionToken}; !slices.Equal(whose, want) {
		t.Errorf("it is told of %v, want %v", whose, want)
	}
	if a := b.Do(http.MethodPost, api.PathLeaks+"?revoke=true", mine.Session.Token, text(others)); a.Status != http.StatusOK || !strings.Contains(string(a.Body), `"leaks":[]`) {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	viewer := b.Admin(admin.Viewer)
	if l := b.Lease(viewer, others.Credentials[0].LeaseID); l.State != "active" {
		t.Errorf("another's lease is %s", l.State)
	}
	if a := b.Do(http.MethodPost, api.PathLeaks, viewer, everything); a.Status != http.StatusForbidden {
		t.Errorf("a viewer: %d", a.Status)
	}
	if a := b.Do(http.MethodPost, api.PathLeaks, b.Job(), everything); a.Status != http.StatusUnauthorized {
		t.Errorf("a job token: %d", a.Status)
	}
	if n := b.Count(`SELECT count(*) FROM leaks`); n != 0 {
		t.Errorf("%d of a session's own findings are on record", n)
	}
	search(t, b, mine.Session.Token, "?revoke=true", text(mine))
	brokertest.Poll(t, "its own is taken back", func() bool { return b.Lease(viewer, mine.Credentials[0].LeaseID).State == "revoked" })
	if a := b.Do(http.MethodPost, api.PathLeaks, mine.Session.Token, "x"); a.Status != http.StatusUnauthorized {
		t.Errorf("the token of a session that was revoked: %d", a.Status)
	}
}

// TestStolenDatabase: whoever has all tables, and no key, has no eight bytes of
// anything that was given out.
func TestStolenDatabase(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	job := b.Exchange(b.Job(), "payments/deploy-db", "payments/sign")
	redactor := b.Admin(admin.Redactor)
	token := job.Credentials[1].Values["token"]
	values := []string{job.Credentials[0].Values["password"], token[strings.LastIndexByte(token, '.')+1:], job.Session.Token, redactor}
	search(t, b, redactor, "?source=x", token+" "+strings.Join(values, " "))
	rows, err := b.Base.Pool.Query(t.Context(), `SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace AND NOT relispartition`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || !slices.Contains(tables, "fingerprints") || !slices.Contains(tables, "leaks") {
		t.Fatalf("tables %v: %v", tables, err)
	}
	var stolen strings.Builder
	for _, table := range tables {
		rows, err := b.Base.Pool.Query(t.Context(), `SELECT t::text FROM `+pgx.Identifier{table}.Sanitize()+` t`)
		if err != nil {
			t.Fatal(err)
		}
		all, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		stolen.WriteString(strings.Join(all, "\n"))
	}
	text := stolen.String()
	if len(text) < 5000 || !strings.Contains(text, job.Credentials[1].LeaseID) {
		t.Fatal("that is not the database")
	}
	for i, value := range values {
		for at := 0; at+8 <= len(value); at++ {
			window := value[at : at+8]
			for _, written := range []string{window, hex.EncodeToString([]byte(window)), base64.StdEncoding.EncodeToString([]byte(window))[:10]} {
				if strings.Contains(text, written) {
					t.Errorf("bytes %d to %d of value %d stand in the database", at, at+8, i)
				}
			}
		}
	}
	if n := b.Count(`SELECT count(*) FROM fingerprints WHERE anchor IS NOT NULL`); n != 1 {
		t.Errorf("%d anchors: one value has no shape of the broker's own", n)
	}
}

// TestLeaksOfAStaticSecret: a value that several leases got is one finding, of the last
// of them, and one event.
func TestLeaksOfAStaticSecret(t *testing.T) {
	t.Parallel()
	k := newKeeper(t, brokertest.Options{}, brokertest.SecretLogin)
	value := k.Hide("0123456789abcdefghijklmnop")
	k.want(k.Do(http.MethodPut, k.path(""), k.operator, map[string]any{
		"owner": "x", "values": map[string]string{"username": "app", "password": value}, "random_bits": map[string]int{"password": 130},
	}))
	k.promote(1)
	first, last := k.Exchange(k.Job(), "payments/login"), k.Exchange(k.Job(), "payments/login")
	redactor := k.Admin(admin.Redactor)
	found := search(t, k.Broker, redactor, "?revoke=true", `{"password":"`+value+`","again":"0123456789abcdefghijklmno"}`)
	if len(found.Leaks) != 1 {
		t.Fatalf("%+v", found)
	}
	if l := found.Leaks[0]; l.LeaseID != max(first.Credentials[0].LeaseID, last.Credentials[0].LeaseID) || l.Leases != 2 || l.Field != "password" || !l.Revoked {
		t.Errorf("%+v", l)
	}
	if n := k.Count(`SELECT count(*) FROM audit_events WHERE type = 'leak.found'`); n != 1 {
		t.Errorf("%d events of one value", n)
	}
	if n := k.Count(`SELECT count(*) FROM leases WHERE state IN ('revoking', 'expired')`); n != 2 {
		t.Errorf("%d of its two leases end", n)
	}
}

// TestLeaksOfWhatIsGone: when a lease's row went, the audit log says whose it was.
func TestLeaksOfWhatIsGone(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	job := b.Exchange(b.Job(), "payments/sign", "payments/deploy-db")
	text := job.Credentials[0].Values["token"] + "\n" + job.Credentials[1].Values["password"]
	b.Do(http.MethodPost, api.PathSessionRevoke, job.Session.Token, nil)
	brokertest.Poll(t, "all has ended", func() bool { return b.Count(`SELECT count(*) FROM leases WHERE ended_at IS NULL`) == 0 })
	for _, table := range []string{"leases", "session_tokens", "sessions"} {
		b.Exec(`DELETE FROM ` + table)
	}
	redactor := b.Admin(admin.Redactor)
	found := search(t, b, redactor, "?revoke=true", text)
	if len(found.Leaks) != 2 {
		t.Fatalf("%+v", found)
	}
	for i, l := range found.Leaks {
		if l.LeaseID != job.Credentials[i].LeaseID || l.Grant != job.Credentials[i].Grant || l.Provider != "github" || l.Subject != "repo:octo-org/octo-repo:ref:refs/heads/main" ||
			l.Kind != "lease" || l.Live || l.IssuedAt == nil || l.ExpiresAt == nil {
			t.Errorf("%+v", l)
		}
	}
}

// TestAnchorsAreBounded: a broker looks for the latest values, and for those that came
// since it looked last.
func TestAnchorsAreBounded(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{Redaction: instance.Redaction{MaxAnchors: 4}})
	redactor := b.Admin(admin.Redactor)
	var all []string
	issue := func() {
		all = append(all, b.Exchange(b.Job(), "payments/sign").Credentials[0].Values["token"])
	}
	for range 6 {
		issue()
	}
	for range 4 {
		found := search(t, b, redactor, "", strings.Join(all, "\n"))
		if n := len(found.Leaks); n < 3 || n > 4 {
			t.Errorf("%d of %d values are known, of which there may be 4", n, len(all))
		}
		issue()
		brokertest.Poll(t, "the latest is known", func() bool { return len(search(t, b, redactor, "", all[len(all)-1]).Leaks) == 1 })
	}
}
