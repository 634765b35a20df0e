package main

import (
	"net/http"

	"github.com/daypass/daypass/broker/api"
)

// jobRoutes are those of revocations of many leases.
func jobRoutes(mux *http.ServeMux) {
	mux.HandleFunc("POST "+api.PathLeasesRevoke, func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 202, api.MassRevokeResponse{Matched: 12, Job: "job_1"})
	})
	job := api.Job{ID: "job_1", State: api.JobDone, Actor: "admin", Reason: "broken into", CreatedAt: issued, Matched: 12, Begun: 12, Revoked: 12}
	mux.HandleFunc("GET "+api.PathJobs, func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 200, api.JobList{Jobs: []api.Job{job}})
	})
	mux.HandleFunc("GET "+api.PathJobs+"/{id}", func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, job) })
	mux.HandleFunc("POST "+api.PathJobs+"/{id}/{verb}", func(w http.ResponseWriter, r *http.Request) {
		turned := job
		turned.State = map[string]string{"pause": api.JobPaused, "resume": api.JobRunning}[r.PathValue("verb")]
		reply(w, 200, turned)
	})
}
