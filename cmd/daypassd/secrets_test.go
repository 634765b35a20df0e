package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/daypass/daypass/broker/config"
	"github.com/daypass/daypass/broker/secrets"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/sealed"
)

func TestSecretHooks(t *testing.T) {
	var got string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = r.Method + " " + r.URL.Path + " " + r.Header.Get("Authorization") + " " + string(body)
	}))
	defer server.Close()
	token := write(t, filepath.Join(t.TempDir(), "token"), "hook-token\n")
	settings := &config.Config{Secrets: config.Secrets{Hooks: []config.SecretHook{{Name: "rotator", URL: server.URL + "/daypass", TokenFile: token}}}}
	hooks, err := secretHooks(settings)
	if err != nil {
		t.Fatal(err)
	}
	call := &secrets.HookCall{Stage: secrets.StageSet, Secret: "a/b", Version: 2, Values: secrets.Values{"value": sealed.Value{Secret: issuers.NewSecret("x")}}}
	if err := hooks["rotator"].Call(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(got, "POST /daypass Bearer hook-token {") || !strings.Contains(got, `"values":{"value":"x"}`) || !strings.Contains(got, `"stage":"set"`) {
		t.Errorf("the hook got %s", got)
	}
	settings.Secrets.Hooks[0].CAFile = token
	if _, err := secretHooks(settings); err == nil || !strings.Contains(err.Error(), "secrets.hooks.rotator: reading authorities") {
		t.Errorf("%v", err)
	}
}
