package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"

	"github.com/daypass/daypass/broker/api"
)

// redactRoutes mask "broker-secret", and cut off at "cut here".
func redactRoutes(mux *http.ServeMux) {
	mux.HandleFunc("POST "+api.PathRedact, func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("Authorization") {
		case "Bearer " + sessionToken, "Bearer " + adminToken:
		default:
			refuse(w, api.Problem{Status: 401, Code: api.CodeInvalidToken, Detail: "not for a job's token"})
			return
		}
		text, _ := io.ReadAll(r.Body)
		masked := bytes.ReplaceAll(text, []byte("broker-secret"), []byte("[by the broker]"))
		before, _, cut := bytes.Cut(masked, []byte("cut here"))
		w.Header().Set("Content-Type", "application/octet-stream")
		_, _ = w.Write(before)
		if cut {
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
	})
	mux.HandleFunc("GET "+api.PathRedactionRules, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+adminToken {
			refuse(w, api.Problem{Status: 403, Code: api.CodeNotAllowed, Detail: "not for you"})
			return
		}
		_ = json.NewEncoder(w).Encode(api.RuleChange{Type: api.RulesAll, Rules: []api.Rule{{ID: "rul_1", Pattern: `internal-[0-9]{6}`}}})
		_ = http.NewResponseController(w).Flush()
	})
}
