package main

import (
	"encoding/json"
	"net/http"

	"github.com/daypass/daypass/broker/api"
)

func switchRoutes(mux *http.ServeMux) {
	mux.HandleFunc("POST "+api.PathSwitches, func(w http.ResponseWriter, r *http.Request) {
		var asked api.SwitchRequest
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil || asked.Name == "none" {
			refuse(w, api.Problem{Status: 404, Code: api.CodeNotFound, Detail: "there is no policy \"none\" here"})
			return
		}
		reply(w, 200, api.Switch{Kind: asked.Kind, Name: asked.Name, Off: asked.Off, Reason: asked.Reason, Actor: "admin adm_1 x", ChangedAt: issued, Sweeping: asked.Revoke})
	})
	mux.HandleFunc("GET "+api.PathSwitches, func(w http.ResponseWriter, _ *http.Request) {
		reply(w, 200, api.SwitchList{Switches: []api.Switch{
			{Kind: "policy", Name: "payments", Off: true, Reason: "its log\x1b[2J leaked", Actor: "admin adm_1 x", ChangedAt: issued, Sweeping: true, Swept: 12},
			{Kind: "issuer", Name: "db", Off: true, Reason: "INC-4711", Actor: "admin adm_1 x", ChangedAt: issued},
			{Kind: "provider", Name: "github", Actor: "admin adm_1 x", ChangedAt: issued},
		}})
	})
}
