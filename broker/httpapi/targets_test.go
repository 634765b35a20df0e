package httpapi_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/broker/ids"
	"github.com/daypass/daypass/issuers"
)

func TestTargets(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	viewer, operator := b.Admin(admin.Viewer), b.Admin(admin.Operator)
	path := api.PathTargets + "/" + brokertest.IssuerDB
	post := func(token string, body any) *brokertest.Answer {
		return b.Do(http.MethodPost, path+"/reconcile", token, body)
	}
	out := b.Exchange(b.Job(), "payments/deploy-db", "payments/read-db")
	missing := out.Credentials[1].LeaseID
	b.DB.Drop(missing)
	orphan := ids.New(ids.Lease, time.Now().Add(-time.Hour))
	b.DB.Plant(issuers.Lease{Installation: b.Installation, ID: orphan, IssuedAt: time.Now().Add(-time.Hour)})

	for _, token := range []string{viewer, out.Session.Token} {
		wantProblem(t, post(token, nil), 403, api.CodeNotAllowed)
	}
	wantProblem(t, b.Do(http.MethodGet, path, out.Session.Token, nil), 403, api.CodeNotAllowed)
	for _, body := range []string{`{"dry":true}`, `{"dry_run":"yes"}`, `[]`} {
		wantProblem(t, post(operator, body), 400, api.CodeInvalidRequest)
	}
	wantProblem(t, b.Do(http.MethodGet, path+"?x=1", viewer, nil), 400, api.CodeInvalidRequest)
	wantProblem(t, b.Do(http.MethodPost, api.PathTargets+"/"+brokertest.IssuerJWT+"/reconcile", operator, nil), 404, api.CodeNotFound)

	var list api.TargetList
	if a := b.Do(http.MethodGet, api.PathTargets, viewer, nil); a.Status != 200 || a.Into(&list) != nil || len(list.Targets) != 2 ||
		list.Targets[0].Issuer != brokertest.IssuerDB || !list.Targets[0].CanList || list.Targets[0].Reconciliation != nil {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	ended := func(a *brokertest.Answer) api.TargetReport {
		t.Helper()
		var report api.TargetReport
		brokertest.Poll(t, "the comparison's end", func() bool {
			report = api.TargetReport{}
			if a.Status != 200 && a.Status != 202 || a.Into(&report) != nil {
				t.Fatalf("%d %s", a.Status, a.Body)
			}
			a = b.Do(http.MethodGet, path, viewer, nil)
			return report.Reconciliation != nil && report.Reconciliation.EndedAt != nil
		})
		return report
	}
	report := ended(post(operator, `{"dry_run":true}`))
	if len(report.Orphans) != 1 || report.OrphansTotal != 1 || report.Orphans[0].LeaseID != orphan || report.Orphans[0].Revoked ||
		len(report.Missing) != 1 || report.Missing[0].LeaseID != missing || report.MissingTotal != 1 || !report.Reconciliation.DryRun || report.Reconciliation.Listed != 2 {
		t.Errorf("%+v", report)
	}
	report = ended(post(operator, nil))
	if r := report.Reconciliation; r.Revoked != 1 || r.Error != "" || r.DryRun || !strings.HasPrefix(r.Actor, "admin ") || len(report.Orphans) != 1 || !report.Orphans[0].Revoked {
		t.Errorf("%+v, %+v", report, report.Reconciliation)
	}
	if live := b.DB.Live(); len(live) != 1 || live[0] != out.Credentials[0].LeaseID {
		t.Errorf("on the target are %v", live)
	}
}

// TestReconcileIsNotWaitedFor: a target that takes its time is compared all the
// same, and one at a time.
func TestReconcileIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	operator := b.Admin(admin.Operator)
	path := api.PathTargets + "/" + brokertest.IssuerDB
	hold := make(chan struct{})
	b.DB.Set(brokertest.Hooks{List: func(ctx context.Context, _ *issuers.ListRequest) (*issuers.ListResponse, error) {
		select {
		case <-hold:
		case <-ctx.Done():
		}
		return nil, nil //nolint:nilnil // the target answers
	}})
	var report api.TargetReport
	if a := b.Do(http.MethodPost, path+"/reconcile", operator, nil); a.Status != 202 || a.Into(&report) != nil || report.Reconciliation.EndedAt != nil {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	wantProblem(t, b.Do(http.MethodPost, path+"/reconcile", operator, nil), 409, api.CodeWrongState)
	close(hold)
	brokertest.Poll(t, "its end", func() bool {
		report = api.TargetReport{}
		a := b.Do(http.MethodGet, path, operator, nil)
		return a.Into(&report) == nil && report.Reconciliation.EndedAt != nil && report.Reconciliation.Error == ""
	})
}
