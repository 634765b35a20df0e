//go:build !packed

package main

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/daypass/daypass/broker/api"
)

// policyRoutes answers what is asked about decisions.
func policyRoutes(mux *http.ServeMux) {
	mux.HandleFunc("POST "+api.PathPoliciesExplain, func(w http.ResponseWriter, r *http.Request) {
		var request api.ExplainRequest
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil || r.Header.Get("Authorization") != "Bearer "+adminToken {
			refuse(w, api.Problem{Status: 403, Code: api.CodeNotAllowed, Detail: "not for you: " + request.Token})
			return
		}
		answer := api.Explanation{
			Grant: "payments/deploy-db", Digest: "now", Jobs: []api.JobVerdict{{
				Job: "release", Missed: 1, Clauses: []api.Clause{
					{Kind: "provider", Want: "github", Got: "github", OK: true},
					{Kind: "claim", Name: "ref", Want: `"refs/heads/main"`, Got: `"refs/heads/x"`, Why: "different\x1b[2J"},
				},
			}},
		}
		if request.RequestID != "" {
			answer.RequestID, answer.DecidedAt = request.RequestID, issued
			answer.Recorded, answer.Note = &api.Recorded{Digest: "then", Detail: "job release: claims don't match: ref"}, "the policies have changed since"
		}
		reply(w, 200, answer)
	})
	mux.HandleFunc("GET "+api.PathDecisions, func(w http.ResponseWriter, r *http.Request) {
		decision := api.Decision{
			ID: "dec_1", At: issued, RequestID: "req_1", Provider: "github", ProviderType: "github", Subject: "repo:acme/payments",
			Claims: api.Claims{"repository_id": "1", "repository_owner_id": "2", "event_name": "push", "ref": "refs/heads/main", "runner_environment": "github-hosted"},
			Grant:  "payments/deploy-db", TTL: "10m", IP: "203.0.113.7", Allowed: true, Job: "release", Digest: "then",
		}
		if r.URL.Query().Get("cursor") == "" {
			reply(w, 200, api.DecisionList{Decisions: []api.Decision{decision}, Next: "two"})
			return
		}
		decision.ID, decision.RequestID, decision.Claims = "dec_2", "req_2", api.Claims{"ref": "refs/heads/x"}
		decision.Claims = api.Claims{"repository_id": "1", "repository_owner_id": "2", "event_name": "push", "ref": "refs/heads/x", "runner_environment": "github-hosted"}
		reply(w, 200, api.DecisionList{Decisions: []api.Decision{decision}})
	})
}

// job.jwt is a token that nobody signed.
func unsigned(claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return strings.Join([]string{encode([]byte(`{"alg":"RS256"}`)), encode([]byte(claims)), encode([]byte("nobody"))}, ".")
}

func TestParseClaims(t *testing.T) {
	claims, err := parseClaims([]string{"ref=refs/heads/main", "n:=3", "list:=[1,\"a\"]", "a=b=c", "empty=", "text=true", "bool:=true"})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"a":"b=c","bool":true,"empty":"","list":[1,"a"],"n":3,"ref":"refs/heads/main","text":"true"}`
	if got, _ := json.Marshal(claims); string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, bad := range [][]string{{"x"}, {"=x"}, {"n:=x"}, {"n:=1}"}, {`n:=1,"m":2`}, {"a=1", "a=2"}} {
		if got, err := parseClaims(bad); exitCode(err) != exitUsage {
			t.Errorf("%v: %v, %v", bad, got, err)
		}
	}
}

func TestUnverified(t *testing.T) {
	claims, err := unverified(unsigned(`{"exp":1764000000,"ref":"x"}`))
	if err != nil || claims["exp"] != int64(1764000000) || claims["ref"] != "x" {
		t.Errorf("%v, %v", claims, err)
	}
	for _, bad := range []string{"", "a.b", "a.!.c", unsigned("[]"), unsigned("null"), "a." + strings.Repeat("A", api.MaxToken) + ".c"} {
		if _, err := unverified(bad); err == nil {
			t.Errorf("%.40q is accepted", bad)
		}
	}
}

func TestLineDiff(t *testing.T) {
	got := lineDiff("p.yaml", "a\nb\nc\n", "a\nc\nd\n")
	if want := "--- p.yaml\n+++ p.yaml (laid out)\n a\n-b\n c\n+d\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestReplaceFileKeepsItsMode(t *testing.T) {
	name := t.TempDir() + "/p.yaml"
	if err := os.WriteFile(name, []byte("old"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := replaceFile(name, []byte("new")); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(name)
	info, statErr := os.Stat(name)
	if err != nil || statErr != nil || string(data) != "new" || info.Mode().Perm() != 0o640 {
		t.Errorf("%q, %v, %v, %v", data, info, err, statErr)
	}
}
