package main

import (
	"net/http"
	"sync/atomic"

	"github.com/daypass/daypass/broker/api"
)

// targetRoutes answers what is asked about targets: payments-db differs, clean-db
// doesn't, slow-db takes its time, full-db has too many.
func targetRoutes(mux *http.ServeMux) {
	ended := expires
	report := func(issuer string, dry bool) api.TargetReport {
		return api.TargetReport{
			Target: api.Target{Issuer: issuer, Address: "db.example:5432", CanList: true, Reconciliation: &api.Reconciliation{
				ID: "rec_1", Actor: "admin adm_1 x", StartedAt: issued, EndedAt: &ended, DryRun: dry, Listed: 7,
			}},
			Orphans: []api.Orphan{}, Missing: []api.MissingCredential{},
		}
	}
	differing := func(issuer string, dry bool) api.TargetReport {
		r := report(issuer, dry)
		r.Orphans, r.OrphansTotal = []api.Orphan{{ID: "orp_1", Name: "dp_x\x1b[2J", LeaseID: "lse_1", Why: "there is no such lease", CreatedAt: &issued, FoundAt: ended, Revoked: !dry}}, 1
		r.Missing, r.MissingTotal = []api.MissingCredential{{LeaseID: "lse_2", Since: ended}}, 1
		r.Reconciliation.Orphans, r.Reconciliation.Missing, r.Reconciliation.Young = 1, 1, 2
		if !dry {
			r.Reconciliation.Revoked = 1
		}
		return r
	}
	mux.HandleFunc("GET "+api.PathTargets, func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 200, api.TargetList{Targets: []api.Target{report("clean-db", true).Target, {Issuer: "files"}}})
	})
	dry := func(r *http.Request) bool { return r.ContentLength > int64(len(`{"dry_run":`)) }
	mux.HandleFunc("POST "+api.PathTargets+"/{issuer}/reconcile", func(w http.ResponseWriter, r *http.Request) {
		switch issuer := r.PathValue("issuer"); issuer {
		case "payments-db":
			reply(w, 200, differing(issuer, dry(r)))
		case "clean-db":
			reply(w, 200, report(issuer, dry(r)))
		case "slow-db":
			begun := report(issuer, true)
			begun.Reconciliation.EndedAt = nil
			reply(w, 202, begun)
		case "full-db":
			full := report(issuer, false)
			full.Reconciliation.Error = "too many orphans: nothing was taken back"
			reply(w, 200, full)
		default:
			refuse(w, api.Problem{Status: 409, Code: api.CodeWrongState, Detail: "this target is being compared already"})
		}
	})
	var asked atomic.Int32
	mux.HandleFunc("GET "+api.PathTargets+"/slow-db", func(w http.ResponseWriter, _ *http.Request) {
		r := differing("slow-db", true)
		if asked.Add(1) == 1 {
			r.Reconciliation.EndedAt = nil
		}
		reply(w, 200, r)
	})
}
