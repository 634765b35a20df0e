package main

import (
	"net/http"
	"time"

	"github.com/daypass/daypass/broker/api"
)

// secretRoutes answers what is asked about static secrets.
func secretRoutes(mux *http.ServeMux) {
	due := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC) // long ago, whatever the clock says
	one := api.Secret{
		ID: "sec_1", Name: "payments/stripe-key", Owner: "payments@example.com", Hook: "rotator", RotateEvery: "720h0m0s", DueAt: &due, CreatedAt: issued,
		Current: 1, Pending: 2, Attempts: 3, LastError: "stage set: the hook\x1b[2J answered with status 500",
	}
	whole := one
	whole.Versions = []api.SecretVersion{
		{Version: 2, State: "pending", Fields: []string{"password", "username"}, CreatedAt: issued, CreatedBy: "admin adm_1 x"},
		{Version: 1, State: "current", Fields: []string{"value"}, CreatedAt: issued, CreatedBy: "admin adm_1 x", VerifiedAt: &due, PromotedAt: &due},
	}
	mux.HandleFunc("GET "+api.PathSecrets, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("cursor") == "" {
			reply(w, 200, api.SecretList{Secrets: []api.Secret{one}, Next: "payments/stripe-key"})
			return
		}
		reply(w, 200, api.SecretList{Secrets: []api.Secret{{Name: "zeta", Owner: "x"}}})
	})
	mux.HandleFunc("GET "+api.PathSecrets+"/payments/stripe-key", func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, whole) })
	mux.HandleFunc("GET "+api.PathSecrets+"/payments/stripe-key:reads", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 200, api.SecretReadList{Reads: []api.SecretRead{
			{ID: "srd_1", Version: 1, At: issued, LeaseID: "lse_1", State: "active", Grant: "payments/key", Provider: "github", Subject: "repo:acme/pay:ref"},
		}})
	})
	mux.HandleFunc("PUT "+api.PathSecrets+"/", func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, one) })
	mux.HandleFunc("POST "+api.PathSecrets+"/", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == api.PathSecrets+"/payments/held:destroy" {
			refuse(w, api.Problem{Status: 409, Code: api.CodeInUse, Detail: "1 live leases hold this version", Leases: []string{"lse_1"}, Count: 1})
			return
		}
		reply(w, 200, one)
	})
}
