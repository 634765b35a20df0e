package httpapi_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	auditlog "github.com/daypass/daypass/broker/audit/log"
	"github.com/daypass/daypass/broker/brokertest"
)

// TestAuditLog: what a broker did can be exported, and verified with its key.
func TestAuditLog(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	viewer := b.Admin(admin.Viewer)
	out := b.Exchange(b.Job(), "payments/deploy-db")
	if a := b.Do("POST", api.PathSessionRevoke, out.Session.Token, nil); a.Status != 200 {
		t.Fatal(a.Status, string(a.Body))
	}
	key, err := auditlog.NewKey(auditlog.Origin(b.Installation), b.AuditKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	var kept string
	var report *auditlog.Report
	brokertest.Poll(t, "all of it is signed", func() bool {
		checkpoint := b.Do("GET", api.PathAuditCheckpoint, viewer, nil)
		if checkpoint.Status == 404 {
			return false
		}
		kept = string(checkpoint.Body)
		export := b.Do("GET", api.PathAuditExport, viewer, nil)
		if checkpoint.Status != 200 || export.Status != 200 || export.Header.Get("Content-Type") != "application/jsonl" {
			t.Fatal(checkpoint.Status, export.Status, export.Header)
		}
		report, err = auditlog.VerifyBytes(export.Body, auditlog.Proof{Keys: []*auditlog.Key{key}, Against: []string{kept}})
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(export.Body), `"lease.revoked\"`) && !report.SelfConsistent()
	})
	if part := b.Do("GET", api.PathAuditExport+"?from=2&to=3", viewer, nil); strings.Count(string(part.Body), `"seq":2,`) != 1 || strings.Contains(string(part.Body), `"seq":3,`) || !strings.HasSuffix(string(part.Body), "{\"end\":3}\n") {
		t.Errorf("%s", part.Body)
	}
	for _, query := range []string{"?from=-1", "?from=x", "?from=3&to=2", "?to=1000000", "?since=1"} {
		if a := b.Do("GET", api.PathAuditExport+query, viewer, nil); a.Status != 400 {
			t.Errorf("%s: %d %s", query, a.Status, a.Body)
		}
	}
	for _, path := range []string{api.PathAuditCheckpoint, api.PathAuditExport} {
		for _, token := range []string{out.Session.Token, b.Admin(admin.Redactor), ""} {
			if a := b.Do("GET", path, token, nil); a.Status != 401 && a.Status != 403 {
				t.Errorf("%s with %.4s…: %d", path, token, a.Status)
			}
		}
	}
	var ready struct{ Checks map[string]string }
	if a := b.Do("GET", api.PathReady, "", nil); json.Unmarshal(a.Body, &ready) != nil || ready.Checks["audit"] != "ok" {
		t.Errorf("%s", a.Body)
	}
	if a := b.Do("GET", api.PathMetrics, "", nil); !strings.Contains(string(a.Body), `daypass_audit_failing{what="log"} 0`) || !strings.Contains(string(a.Body), "daypass_audit_lag_seconds") {
		t.Error("the metrics say nothing of it")
	}
}
