package main

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"syscall"
	"testing"
)

// signedBy exchanges a job token for a JWT, and tells the key that signed it.
func signedBy(t *testing.T, url, jobToken string) string {
	t.Helper()
	a := exchange(t, url+signRelease+"&format=value", jobToken)
	if a.StatusCode != http.StatusOK {
		t.Fatalf("%d: %s", a.StatusCode, a.body)
	}
	head, err := base64.RawURLEncoding.DecodeString(strings.Split(a.body, ".")[0])
	if err != nil {
		t.Fatal(err)
	}
	var header struct {
		KeyID string `json:"kid"`
	}
	if err := json.Unmarshal(head, &header); err != nil || header.KeyID == "" {
		t.Fatalf("%s: %v", head, err)
	}
	return header.KeyID
}

// TestRotationInAnHSM: commands beside a running broker make, change and destroy
// keys in a real token, through processes of the module's own; the broker follows,
// and starts again with what there is then.
func TestRotationInAnHSM(t *testing.T) {
	t.Parallel()
	p, provider, environment := newIsolated(t)
	env := []string{environment}
	broker, url := p.serve(t, environment)
	published := func() string { return call(t, http.MethodGet, url+"/.well-known/jwks.json", "").body }
	first := signedBy(t, url, jobToken(t, provider))

	runProgram(t, env, "keys", "rotate", "--now", "--config", p.config)
	eventually(t, "the next key is published", func() bool { return strings.Count(published(), `"kid"`) == 2 })
	second := signedBy(t, url, jobToken(t, provider))
	if second == first {
		t.Error("the former key signs")
	}
	if set := published(); !strings.Contains(set, first) || !strings.Contains(set, second) {
		t.Errorf("after a rotation both keys verify: %s", set)
	}

	said := runProgram(t, env, "keys", "revoke-key", second, "--reason", "a drill", "--config", p.config)
	if !strings.Contains(said, "leases that it signed were ended") {
		t.Errorf("revoke-key said %q", said)
	}
	eventually(t, "the revoked key is gone", func() bool { return !strings.Contains(published(), second) })
	third := signedBy(t, url, jobToken(t, provider))
	if set := published(); strings.Contains(set, second) || !strings.Contains(set, third) || !strings.Contains(set, first) {
		t.Errorf("after a revocation: %s", set)
	}

	broker.stop(t, syscall.SIGTERM)
	_, url = p.serve(t, environment)
	if again := signedBy(t, url, jobToken(t, provider)); again != third {
		t.Errorf("after a start %s signs, not %s", again, third)
	}
	list := runProgram(t, env, "keys", "ls", "--config", p.config)
	for _, want := range []string{first, "retiring", second, "revoked", third, "signing"} {
		if !strings.Contains(list, want) {
			t.Errorf("keys ls lacks %q:\n%s", want, list)
		}
	}
}
