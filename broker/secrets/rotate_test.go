package secrets_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/secrets"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/sealed"
)

// target is a server that has a password, and a hook in front of it.
type target struct {
	mu       sync.Mutex
	password string
	calls    []string
	keys     map[string]string // Idempotency-Key → body
	answer   func(stage string) int
}

func (s *target) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	var call struct {
		Secret  string            `json:"secret"`
		Version int               `json:"version"`
		Stage   string            `json:"stage"`
		Values  map[string]string `json:"values"`
		Current map[string]string `json:"current"`
	}
	if json.Unmarshal(body, &call) != nil || r.Header.Get("Authorization") != "Bearer hook-token" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	key := r.Header.Get("Idempotency-Key")
	if before, again := s.keys[key]; key == "" || (again && before != string(body)) {
		w.WriteHeader(http.StatusConflict) // the same call has to come to the same
		return
	}
	if s.keys == nil {
		s.keys = map[string]string{}
	}
	s.keys[key] = string(body)
	s.calls = append(s.calls, call.Stage)
	if s.answer != nil {
		if status := s.answer(call.Stage); status != 0 {
			w.WriteHeader(status)
			_, _ = w.Write([]byte("echo " + call.Values["password"]))
			return
		}
	}
	switch call.Stage {
	case "set":
		if call.Current["password"] != s.password && call.Values["password"] != s.password {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		s.password = call.Values["password"]
	case "verify":
		if call.Values["password"] != s.password {
			w.WriteHeader(http.StatusForbidden)
		}
	}
}

// hook starts a target over TLS and returns the hook to it.
func (s *target) hook(t *testing.T) secrets.Hook {
	t.Helper()
	server := httptest.NewTLSServer(s)
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	hook, err := secrets.NewHTTPHook(secrets.HTTPHookConfig{
		URL: server.URL, CAFile: file, AllowPrivateAddress: true, Token: func() (issuers.Secret, error) { return issuers.NewSecret("hook-token"), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return hook
}

func login(password string) secrets.Values {
	return secrets.Values{"username": {Secret: issuers.NewSecret("app-user")}, "password": {Secret: issuers.NewSecret(password)}}
}

// rotating is a fixture with a secret that is due.
func rotating(t *testing.T, s *target, hook string) *fixture {
	t.Helper()
	f := newFixture(t, func(c *secrets.Config) { c.Hooks = map[string]secrets.Hook{"rotator": s.hook(t)} })
	s.password = "first-password"
	if _, err := f.Put(t.Context(), secrets.PutRequest{
		Name: name, Values: login(s.password), Actor: actor,
		Settings: secrets.Settings{Owner: new("x"), RotateEvery: new(time.Hour), RotateFields: &[]string{"password"}, Hook: &hook},
	}); err != nil {
		t.Fatal(err)
	}
	f.promote(1)
	f.exec(`UPDATE secrets SET due_at = now() - interval '1 second', rotate_at = now() - interval '1 second'`)
	return f
}

// work runs a rotator until nothing waits; what it says is why it stopped.
func (f *fixture) work(checkpoint func(string)) (stopped any) {
	f.t.Helper()
	r, err := secrets.NewRotator(secrets.RotatorConfig{Store: f.Store, Checkpoint: checkpoint})
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { stopped = recover() }()
	for {
		worked, err := r.RunOnce(f.t.Context())
		if err != nil {
			f.t.Fatal(err)
		}
		if !worked {
			return nil
		}
	}
}

func (f *fixture) current() secrets.Values {
	f.t.Helper()
	v, err := f.Read(f.t.Context(), newLease(), sealed.Wanted{Secret: name, Fields: []string{"username", "password"}})
	if err != nil {
		f.t.Fatal(err)
	}
	return v.Values
}

// TestRotationSurvivesACrash stops the rotator at every step, lets its claim run
// out, and has another one go on.
func TestRotationSurvivesACrash(t *testing.T) {
	t.Parallel()
	for _, step := range []string{
		"none", "after_claim", "after_make_up", "before_set", "called_set", "after_set", "before_verify", "called_verify", "after_verify", "after_promote",
	} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			s := &target{}
			f := rotating(t, s, "rotator")
			stopped := f.work(func(at string) {
				if at == step {
					panic("crash at " + at)
				}
			})
			if (stopped == nil) != (step == "none") {
				t.Fatalf("stopped: %v", stopped)
			}
			// Whatever the step: leases get a version that works, once it is set anew.
			if got := f.current()["password"].Secret.Reveal(); got != s.password && got != "first-password" {
				t.Error("leases get what never was current")
			}
			f.exec(`UPDATE secrets SET rotate_at = now() WHERE rotate_at > now() AND rotate_at < now() + interval '2 minutes'`)
			if stopped := f.work(nil); stopped != nil {
				t.Fatal(stopped)
			}
			if got := f.states(); got != "retired current" {
				t.Fatalf("states: %s", got)
			}
			values := f.current()
			if p := values["password"]; p.Secret.Reveal() != s.password || s.password == "first-password" || p.RandomBits < 128 || values["username"].Secret.Reveal() != "app-user" {
				t.Errorf("the target and the vault differ, or nothing was rotated: %d bits", p.RandomBits)
			}
			if _, ok := issuers.IsGenerated(s.password); !ok {
				t.Error("what was made up doesn't look like a secret")
			}
			secret, versions, err := f.Get(t.Context(), name)
			if err != nil || secret.LastError != "" || secret.DueAt == nil || !secret.DueAt.After(time.Now()) || !secret.RotateAt.Equal(*secret.DueAt) || versions[0].SetAt == nil {
				t.Errorf("%+v, %v", secret, err)
			}
			for _, kind := range []string{"secret.set", "secret.put", "secret.verified", "secret.promoted"} {
				if n := f.count(`SELECT count(*) FROM audit_events e JOIN secrets s ON s.id = e.subject WHERE type = $1 AND body LIKE '%"version":2%'`, kind); n != 1 {
					t.Errorf("%d events %s of the new version", n, kind)
				}
			}
			if found := f.anywhere(s.password); found != "" {
				t.Errorf("the new password stands in %s", found)
			}
		})
	}
}

func TestRotationThatFails(t *testing.T) {
	t.Parallel()
	s := &target{answer: func(stage string) int {
		if stage == "verify" {
			return http.StatusTeapot
		}
		return 0
	}}
	f := rotating(t, s, "rotator")
	if stopped := f.work(nil); stopped != nil {
		t.Fatal(stopped)
	}
	secret, _, err := f.Get(t.Context(), name)
	if err != nil || secret.Attempts != 1 || !strings.Contains(secret.LastError, "stage verify: the hook answered with status 418") || secret.RotateAt == nil || !secret.RotateAt.After(time.Now()) {
		t.Errorf("%+v, %v", secret, err)
	}
	if strings.Contains(secret.LastError, "echo") || f.anywhere(s.password) != "" {
		t.Error("an answer of the hook is repeated")
	}
	if got := f.states(); got != "current pending" {
		t.Errorf("states: %s", got)
	}
	fresh, err := f.Freshness(t.Context(), 10)
	if err != nil || fresh.Failing != 1 || fresh.Overdue != 1 {
		t.Errorf("%+v, %v", fresh, err)
	}
	// Not for ever, and ever more slowly.
	var last time.Duration
	for range secrets.MaxAttempts - 1 {
		f.exec(`UPDATE secrets SET rotate_at = now()`)
		if stopped := f.work(nil); stopped != nil {
			t.Fatal(stopped)
		}
		if secret, _, err = f.Get(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		if secret.RotateAt == nil {
			break
		}
		pause := time.Until(*secret.RotateAt)
		if pause > time.Hour || pause < last-time.Minute {
			t.Errorf("after %d attempts a pause of %s, after %s", secret.Attempts, pause, last)
		}
		last = pause
	}
	if secret.RotateAt != nil || secret.Attempts != secrets.MaxAttempts || secret.LastError == "" {
		t.Errorf("it doesn't wait for a person: %+v", secret)
	}
	s.mu.Lock()
	s.answer = nil
	s.mu.Unlock()
	if _, err := f.Rotate(t.Context(), name, actor); err != nil {
		t.Fatal(err)
	}
	if f.work(nil) != nil || f.states() != "retired current" {
		t.Errorf("states: %s", f.states())
	}
}

func TestRotationByTwo(t *testing.T) {
	t.Parallel()
	s := &target{}
	f := rotating(t, s, "rotator")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if stopped := f.work(nil); stopped != nil {
				t.Error(stopped)
			}
		})
	}
	wg.Wait()
	if got := f.states(); got != "retired current" {
		t.Errorf("states: %s", got)
	}
	if got := strings.Join(s.calls, " "); got != "set verify" {
		t.Errorf("called: %s", got)
	}
}

func TestRotationLeavesWhatWasPutAlone(t *testing.T) {
	t.Parallel()
	s := &target{}
	f := rotating(t, s, "rotator")
	if _, err := f.Put(t.Context(), secrets.PutRequest{Name: name, Values: login("by-hand-12345"), Actor: actor}); err != nil {
		t.Fatal(err)
	}
	if stopped := f.work(nil); stopped != nil {
		t.Fatal(stopped)
	}
	secret, _, err := f.Get(t.Context(), name)
	if err != nil || !strings.Contains(secret.LastError, "put by hand") || len(s.calls) != 0 || f.states() != "current pending" {
		t.Errorf("%+v, %v, %v", secret, s.calls, err)
	}
}

// TestGenerate has no hook: a job with the right role gets the new value, and a
// person promotes it.
func TestGenerate(t *testing.T) {
	t.Parallel()
	f := rotating(t, &target{}, secrets.HookGenerate)
	if stopped := f.work(nil); stopped != nil {
		t.Fatal(stopped)
	}
	if got := f.states(); got != "current pending" {
		t.Fatalf("states: %s", got)
	}
	next, err := f.Read(t.Context(), newLease(), sealed.Wanted{Secret: name, Pending: true, Fields: []string{"password"}})
	if err != nil || next.Number != 2 || next.Values["password"].Secret.Reveal() == "first-password" {
		t.Fatalf("%v", err)
	}
	var state *secrets.StateError
	if _, err := f.Rotate(t.Context(), name, actor); !errors.As(err, &state) {
		t.Errorf("rotating beside a pending version: %v", err)
	}
	f.promote(2)
	if got := f.current()["password"].Secret.Reveal(); got != next.Values["password"].Secret.Reveal() {
		t.Error("what became current isn't what was handed out")
	}
	// By hand nothing is rotated at all.
	if _, err := f.Put(t.Context(), secrets.PutRequest{Name: name, Settings: secrets.Settings{Hook: new("")}, Actor: actor}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Rotate(t.Context(), name, actor); !errors.Is(err, secrets.ErrNoHook) {
		t.Errorf("%v", err)
	}
}

func TestRollbackStopsTheSchedule(t *testing.T) {
	t.Parallel()
	s := &target{}
	f := rotating(t, s, "rotator")
	if stopped := f.work(nil); stopped != nil {
		t.Fatal(stopped)
	}
	f.exec(`UPDATE secret_versions SET created_at = now() - interval '1 year' WHERE version = 1`)
	if _, err := f.Rollback(t.Context(), change(1)); err != nil {
		t.Fatal(err)
	}
	if f.work(nil) != nil || f.states() != "current retired" {
		t.Errorf("states: %s", f.states())
	}
	if secret, _, err := f.Get(t.Context(), name); err != nil || !secret.DueAt.Before(time.Now()) {
		t.Errorf("it isn't overdue: %+v, %v", secret, err)
	}
}

func TestHookRefuses(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"", "http://rotator.example.com/", "ftp://rotator.example.com", "https://", "https://user:pw@rotator.example.com/", "https://rotator.example.com/#x", "http://10.0.0.1/"} {
		if _, err := secrets.NewHTTPHook(secrets.HTTPHookConfig{URL: url}); err == nil {
			t.Errorf("%q is a hook", url)
		}
	}
	call := &secrets.HookCall{Stage: secrets.StageSet, Secret: name, Version: 2, Values: value("confidential-value")}
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("a redirect was followed: %s", r.URL)
	}))
	defer elsewhere.Close()
	redirects := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	defer redirects.Close()
	private := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a private address was reached") }))
	defer private.Close()
	for url, want := range map[string]string{redirects.URL: "status 307", private.URL: "address is not public", "http://127.0.0.1:1/": "calling the hook"} {
		hook, err := secrets.NewHTTPHook(secrets.HTTPHookConfig{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		if err := hook.Call(t.Context(), call); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "confidential") {
			t.Errorf("%s: %v, want %q", url, err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	hook, err := secrets.NewHTTPHook(secrets.HTTPHookConfig{URL: redirects.URL})
	if err != nil {
		t.Fatal(err)
	}
	if err := hook.Call(ctx, call); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
