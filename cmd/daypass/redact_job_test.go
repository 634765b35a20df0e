package main

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/daypass/daypass/broker/api"
)

// provider is a fake of GitHub's and GitLab's API, the store that GitHub's logs lie
// in, and a broker.
type provider struct {
	t       *testing.T
	url     string
	store   *httptest.Server // of another host
	asked   bytes.Buffer
	refuses int // status of all answers; none when 0
}

const jobLogText = "2026-11-27T08:00:00Z a broker-secret\nand order-4711\n"

func newProvider(t *testing.T) *provider {
	t.Helper()
	p := &provider{t: t}
	p.store = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.Header.Values("Authorization"))+len(r.Header.Values("Private-Token")) > 0 || r.URL.Query().Get("sig") != "s1gned" {
			t.Errorf("the store was sent a token, or no signature: %s %v", r.URL, r.Header)
		}
		if r.URL.Path == "/zip" {
			_, _ = w.Write(zipped(t))
			return
		}
		_, _ = io.WriteString(w, jobLogText)
	}))
	t.Cleanup(p.store.Close)
	mux := http.NewServeMux()
	redactRoutes(mux)
	mux.HandleFunc("POST "+api.PathLeaks, func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		if source := r.URL.Query().Get("source"); source != "github:acme/pay/4711" && source != "gitlab:acme/sub/pay/33" {
			t.Errorf("the source of a log is %q", source)
		}
		found := api.LeaksResponse{Bytes: int64(len(text)), Leaks: []api.Leak{}}
		if at := bytes.Index(text, []byte("broker-secret")); at >= 0 {
			found.Leaks = append(found.Leaks, api.Leak{
				LeaseID: "lse_1", Kind: "postgres", Grant: "payments/deploy-db", Field: "password", Run: "https://github.com/acme/pay/actions/runs/1",
				Live: true, Offset: int64(at), Length: 13, Revoked: r.URL.Query().Get("revoke") == "true",
			})
		}
		reply(w, 200, found)
	})
	redirect := func(to string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer github-token-of-the-test" {
				t.Errorf("%s: %v", r.URL, r.Header)
			}
			w.Header().Set("Location", p.store.URL+to+"?sig=s1gned")
			w.WriteHeader(302)
		}
	}
	const repo = "/api/v3/repos/acme/pay/actions/"
	mux.HandleFunc("GET "+repo+"jobs/22/logs", redirect("/text"))
	mux.HandleFunc("GET "+repo+"runs/4711/logs", redirect("/zip"))
	mux.HandleFunc("GET "+repo+"runs/4711/attempts/2/logs", redirect("/zip"))
	mux.HandleFunc("DELETE "+repo+"runs/4711/logs", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) })
	mux.HandleFunc("GET /api/v4/projects/{project}/jobs/{job}/trace", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("project") != "acme/sub/pay" || r.Header.Get("Private-Token") != "gitlab-token-of-the-test" {
			t.Errorf("%s: %v", r.URL, r.Header)
		}
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, jobLogText)
	})
	mux.HandleFunc("POST /api/v4/projects/{project}/jobs/{job}/erase", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201) })
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.asked.WriteString(r.Method + " " + r.URL.EscapedPath() + "\n")
		if p.refuses > 0 && strings.HasPrefix(r.URL.Path, "/api/") {
			w.WriteHeader(p.refuses)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	p.url = server.URL
	for name, value := range map[string]string{
		"GITHUB_SERVER_URL": p.url, "CI_SERVER_URL": p.url, "GITHUB_TOKEN": "github-token-of-the-test", "GITLAB_TOKEN": "gitlab-token-of-the-test",
		"DAYPASS_URL": p.url, "DAYPASS_SESSION_TOKEN": sessionToken, "DAYPASS_ADMIN_TOKEN_FILE": "", "DAYPASS_TOKEN_FILE": "",
	} {
		t.Setenv(name, value)
	}
	return p
}

// zipped is the archive of a run of two jobs.
func zipped(t *testing.T) []byte {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, file := range []struct{ name, text string }{{"0_build.txt", "building\n"}, {"1_deploy.txt", jobLogText}, {"deploy/1_Set up job.txt", jobLogText}} {
		f, err := w.Create(file.name)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(f, file.text)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// redactJobOf runs the command and gives what it printed.
func redactJobOf(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, said bytes.Buffer
	p := &program{stdin: os.Stdin, stdout: &out, stderr: &said}
	code = p.main(t.Context(), append([]string{"redact", "--pattern", `order-\d+`}, args...))
	return code, out.String(), said.String()
}

func TestRedactJob(t *testing.T) {
	const clean = "2026-11-27T08:00:00Z a [by the broker]\nand [daypass:redacted]\n"
	const run = "==> 0_build.txt <==\nbuilding\n==> 1_deploy.txt <==\n" + clean
	p := newProvider(t)
	for name, test := range map[string]struct{ job, want string }{
		"a run":               {p.url + "/acme/pay/actions/runs/4711", run},
		"a run as recorded":   {p.url + "/acme/pay/actions/runs/4711/attempts/2", run},
		"a run by name":       {"github:acme/pay/4711", run},
		"a job of GitHub's":   {p.url + "/acme/pay/actions/runs/4711/job/22?pr=1#step:3:1", clean},
		"a job of GitLab's":   {p.url + "/acme/sub/pay/-/jobs/33", clean},
		"GitLab's, by name":   {"gitlab:acme/sub/pay/33", clean},
		"GitLab's, its trace": {p.url + "/acme/sub/pay/-/jobs/33/raw", clean},
	} {
		code, out, said := redactJobOf(t, "--job", test.job)
		if code != 0 || out != test.want {
			t.Errorf("%s: code %d, %q\n%s", name, code, out, said)
		}
		if !strings.Contains(said, "lse_1") || !strings.Contains(said, "STILL WORKS") || !strings.Contains(said, "1 secrets stood in") || strings.Contains(said, "broker-secret") {
			t.Errorf("%s: reported:\n%s", name, said)
		}
	}
	if strings.Contains(p.asked.String(), "DELETE") || strings.Contains(p.asked.String(), "erase") {
		t.Errorf("something was deleted:\n%s", p.asked.String())
	}
}

// A copy that is written to a file leaves standard output to the report; only then
// may the log be deleted.
func TestRedactJobToAFile(t *testing.T) {
	p := newProvider(t)
	for job, deleted := range map[string]string{
		p.url + "/acme/pay/actions/runs/4711/attempts/2": "DELETE /api/v3/repos/acme/pay/actions/runs/4711/logs\n",
		p.url + "/acme/sub/pay/-/jobs/33":                "POST /api/v4/projects/acme%2Fsub%2Fpay/jobs/33/erase\n",
	} {
		file := filepath.Join(t.TempDir(), "clean.log")
		code, out, said := redactJobOf(t, "--job", job, "--out", file, "--revoke", "--erase", "--output", "json")
		var found api.LeaksResponse
		if err := json.Unmarshal([]byte(out), &found); code != 0 || err != nil || len(found.Leaks) != 1 || !found.Leaks[0].Revoked {
			t.Errorf("code %d, %v, %s\n%s", code, err, out, said)
		}
		text, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(text), "a [by the broker]\n") || strings.Contains(string(text), "4711\n") {
			t.Errorf("%q, %v", text, err)
		}
		if !strings.HasSuffix(p.asked.String(), deleted) {
			t.Errorf("deleted at last: want %s in\n%s", deleted, p.asked.String())
		}
	}
	code, _, said := redactJobOf(t, "--job", p.url+"/acme/pay/actions/runs/4711/job/22", "--out", filepath.Join(t.TempDir(), "x"), "--erase")
	if code != exitUsage || !strings.Contains(said, "whole run") {
		t.Errorf("code %d: %s", code, said)
	}
}

// A log that was uploaded is masked without its provider; without a broker nobody looks for leaks.
func TestRedactJobFromAFile(t *testing.T) {
	p := newProvider(t)
	log := filepath.Join(t.TempDir(), "job.log")
	if err := os.WriteFile(log, []byte(jobLogText+"github-token-of-the-test\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, said := redactJobOf(t, "--job", "github:acme/pay/4711", "--job-log", log)
	if code != 0 || !strings.HasSuffix(out, "[daypass:redacted]\n[daypass:redacted]\n") || !strings.Contains(said, "lse_1") {
		t.Errorf("code %d, %q\n%s", code, out, said)
	}
	code, out, said = redactJobOf(t, "--job", "github:acme/pay/4711", "--job-log", log, "--offline")
	if code != 0 || !strings.Contains(out, "broker-secret\nand [daypass:redacted]\n") || !strings.Contains(said, "looked for by nobody") {
		t.Errorf("code %d, %q\n%s", code, out, said)
	}
	if strings.Contains(p.asked.String(), "/api/") {
		t.Errorf("the provider was asked:\n%s", p.asked.String())
	}
}

// What fails leaves nothing half done: no copy, nothing deleted.
func TestRedactJobFails(t *testing.T) {
	p := newProvider(t)
	file := filepath.Join(t.TempDir(), "clean.log")
	for status, want := range map[int]string{401: "GITHUB_TOKEN needs `actions: read`", 410: "the log is gone", 500: "500 Internal Server Error"} {
		p.refuses = status
		code, out, said := redactJobOf(t, "--job", "github:acme/pay/4711", "--out", file, "--erase")
		if code != exitFailed || out != "" || !strings.Contains(said, want) {
			t.Errorf("%d: code %d, %q, %s", status, code, out, said)
		}
	}
	p.refuses = 0
	log := filepath.Join(t.TempDir(), "job.log")
	if err := os.WriteFile(log, []byte("cut here"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, said := redactJobOf(t, "--job", "github:acme/pay/4711", "--job-log", log, "--out", file); code != exitFailed || !strings.Contains(said, "nothing behind them") {
		t.Errorf("code %d: %s", code, said)
	}
	left, err := os.ReadDir(filepath.Dir(file))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if strings.Contains(p.asked.String(), "DELETE") {
		t.Errorf("something was deleted:\n%s", p.asked.String())
	}
}

func TestParseRun(t *testing.T) {
	t.Setenv("GITHUB_SERVER_URL", "")
	t.Setenv("CI_SERVER_URL", "https://git.example.com/gitlab")
	for text, want := range map[string]string{
		"https://github.com/acme/pay/actions/runs/1/attempts/3": "https://api.github.com/repos/acme/pay",
		"https://acme.ghe.com/acme/pay/actions/runs/1":          "https://api.acme.ghe.com/repos/acme/pay",
		"github:acme/pay/1":                                       "https://api.github.com/repos/acme/pay",
		"https://gitlab.com/a/b/c/-/jobs/2":                       "https://gitlab.com/api/v4/projects/a%2Fb%2Fc",
		"https://git.example.com/gitlab/a/b/-/jobs/2":             "https://git.example.com/gitlab/api/v4/projects/a%2Fb",
		"gitlab:a/b/2":                                            "https://git.example.com/gitlab/api/v4/projects/a%2Fb",
		"https://ghe.example.com/acme/pay/actions/runs/1":         "",
		"https://github.com.evil.example/acme/pay/actions/runs/1": "",
		"https://u:p@github.com/acme/pay/actions/runs/1":          "",
		"http://github.com/acme/pay/actions/runs/1":               "",
		"https://github.com/../pay/actions/runs/1":                "",
		"https://gitlab.com/a/%2e%2e/b/-/jobs/2":                  "",
		"https://github.com/acme/pay":                             "",
		"github:acme/pay/x":                                       "",
		"":                                                        "",
	} {
		at, err := parseRun(text)
		if got := map[bool]func() string{true: func() string { return at.api() }, false: func() string { return "" }}[err == nil](); got != want {
			t.Errorf("%s: %q, %v; want %q", text, got, err, want)
		}
	}
}
