package policies

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/daypass/daypass/policies/document"
	"github.com/daypass/daypass/policies/lint"
)

var update = flag.Bool("update", false, "write the golden file anew")

func testConfig() Config {
	return Config{
		Providers: map[string]lint.Provider{"github": {Type: "github"}, "gitlab": {Type: "gitlab"}, "oidc": {Type: "oidc"}, "buildkite": {Type: "buildkite"}, "other": {Type: "oidc"}},
		Issuers: checker(func(use GrantUse) error {
			if use.Issuer != "db" && use.Issuer != "jwt" {
				return fmt.Errorf("no issuer %q", use.Issuer)
			}
			return nil
		}),
	}
}

type checker func(use GrantUse) error

func (c checker) CheckGrant(use GrantUse) error { return c(use) }

func loadText(t tester, texts ...string) (*Set, error) {
	t.Helper()
	files := fstest.MapFS{}
	for i, text := range texts {
		files[fmt.Sprintf("f%d.yaml", i)] = &fstest.MapFile{Data: []byte(text)}
	}
	return Load(t.Context(), Source{FS: files}, testConfig())
}

func mustLoad(t testing.TB, texts ...string) *Set {
	t.Helper()
	set, err := loadText(t, texts...)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// TestGolden: all mistakes of all files, at once and in order.
func TestGolden(t *testing.T) {
	_, err := Load(t.Context(), Source{FS: os.DirFS("testdata/bad")}, testConfig())
	var bad *LoadError
	if !errors.As(err, &bad) {
		t.Fatalf("no LoadError: %v", err)
	}
	golden := filepath.Join("testdata", "bad.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(bad.Error()+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got := bad.Error() + "\n"; got != string(want) {
		t.Errorf("mistakes are\n%s\nwant\n%s", got, want)
	}
}

const minimal = `policy: p
owner: a@example.com
environment: test
jobs: [{name: j, provider: github, claims: {repository_id: "1"}}]
grants: [{name: g, issuer: db}]
`

func TestLoadReadsTheFolder(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "real")
	for name, text := range map[string]string{
		"a.yaml": minimal, "sub/b.yml": strings.Replace(minimal, "policy: p", "policy: q", 1),
		"README.md": "no policy", ".hidden.yaml": "{{{", ".git/c.yaml": "{{{",
	} {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(dir, "current")
	if err := os.Symlink(folder, link); err != nil {
		t.Fatal(err)
	}
	set, err := LoadDir(t.Context(), link, testConfig())
	if err != nil {
		t.Fatal(err)
	}
	if got := set.Grants(); len(got) != 2 || got[0].Name != "p/g" || got[1].Name != "q/g" {
		t.Errorf("grants are %+v", got)
	}
	direct, err := LoadDir(t.Context(), folder, testConfig())
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Digest()) != 64 || set.Digest() != direct.Digest() {
		t.Errorf("digests %s and %s", set.Digest(), direct.Digest())
	}
	if err := os.Symlink(filepath.Join(folder, "sub"), filepath.Join(folder, "other")); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadDir(t.Context(), link, testConfig()); err == nil || !strings.Contains(err.Error(), "other") {
		t.Errorf("a folder behind a symlink was left out unseen: %v", err)
	}
	if _, err := LoadDir(t.Context(), filepath.Join(dir, "absent"), testConfig()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an absent folder: %v", err)
	}
}

func TestLoadSettles(t *testing.T) {
	files := fstest.MapFS{"a.yaml": {Data: []byte(minimal)}}
	calls := 0
	src := Source{FS: files, Settle: func(context.Context) error { calls++; return nil }}
	if _, err := Load(t.Context(), src, testConfig()); err != nil || calls != 1 {
		t.Fatalf("%d calls, %v", calls, err)
	}
	src.Settle = func(context.Context) error {
		files["b.yaml"] = &fstest.MapFile{Data: []byte("half a file")}
		return nil
	}
	if _, err := Load(t.Context(), src, testConfig()); !errors.Is(err, ErrChanging) {
		t.Errorf("a folder that changed: %v", err)
	}
	src.Settle = func(context.Context) error { return context.Canceled }
	if _, err := Load(t.Context(), src, testConfig()); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled wait: %v", err)
	}
}

func TestLoadSaysWhatItSkipped(t *testing.T) {
	set, err := Load(t.Context(), Source{FS: fstest.MapFS{"a.yaml": {Data: []byte(strings.ReplaceAll(minimal, "db", "any"))}}}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Skipped()) != 2 {
		t.Errorf("skipped %q", set.Skipped())
	}
	if set := mustLoad(t); len(set.Grants()) != 0 || len(set.Skipped()) != 0 {
		t.Errorf("an empty folder gave %v, %v", set.Grants(), set.Skipped())
	}
}

func TestDigestTellsSetsApart(t *testing.T) {
	digests := map[string]bool{}
	for _, files := range [][]named{
		nil, {{"a", nil}}, {{"a", []byte("b")}}, {{"ab", nil}}, {{"a", nil}, {"b", nil}}, {{"a", []byte("\x00")}}, {{"b", []byte("a")}},
	} {
		digests[digest(files)] = true
	}
	if len(digests) != 7 {
		t.Errorf("%d digests of 7 sets", len(digests))
	}
}

func TestIssuerCheckSeesTheGrant(t *testing.T) {
	var got []GrantUse
	cfg := testConfig()
	cfg.Issuers = checker(func(use GrantUse) error { got = append(got, use); return nil })
	text := strings.Replace(minimal, "{name: g, issuer: db}", `{name: g, issuer: jwt, role: r, ttl: 5m, max_ttl: 10m, with: {audience: a, claims: {ref: "{{ claims.ref }}"}}}`, 1)
	if _, err := Load(t.Context(), Source{FS: fstest.MapFS{"a.yaml": {Data: []byte(text)}}}, cfg); err != nil {
		t.Fatal(err)
	}
	want := GrantUse{Issuer: "jwt", Role: "r", Policy: "p", Grant: "g", Environment: "test", TTL: 10 * time.Minute}
	if len(got) != 1 || string(got[0].With) != `{"audience":"a","claims":{"ref":"{{ claims.ref }}"}}` {
		t.Fatalf("asked about %+v", got)
	}
	got[0].With = nil
	if fmt.Sprint(got[0]) != fmt.Sprint(want) {
		t.Errorf("asked about %+v, want %+v", got[0], want)
	}
}

func TestCheckEnvName(t *testing.T) {
	for _, name := range []string{"PGPASSWORD", "A", "DB_URL_2", "DAYPASS_JWT", "DAYPASS_API_TOKEN", "ENVIRONMENT"} {
		if err := CheckEnvName(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{
		"", "a", "1A", "_A", "A-B", "A B", "A=B", "A\n", "Ä", "LD_PRELOAD", "DYLD_INSERT_LIBRARIES", "BASH_ENV", "ENV", "PATH", "IFS", "PS4", "PROMPT_COMMAND", "SHELLOPTS",
		"BASHOPTS", "BASH_FUNC_X", "NODE_OPTIONS", "PYTHONPATH", "PYTHONSTARTUP", "PERL5LIB", "PERL5OPT", "RUBYOPT", "RUBYLIB", "JAVA_TOOL_OPTIONS", "GIT_SSH_COMMAND", "HOME",
		"SHELL", "EDITOR", "PAGER", "GITHUB_ENV", "RUNNER_TEMP", "DAYPASS_URL", "DAYPASS_SESSION_TOKEN", "DAYPASS_JWT2", strings.Repeat("A", 129),
	} {
		if CheckEnvName(name) == nil {
			t.Errorf("%q was accepted", name)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add([]byte(strings.Replace(minimal, `repository_id: "1"`, `ref: [main, {glob: v*}, {regex: "A|B"}, {contains: x}]`, 1) + "tests: [{name: t, at: 2026-11-23T10:00:00Z, job: {provider: github, claims: {ref: A}}, allow: [g]}]\n"))
	for _, dir := range []string{"testdata/bad", "examples"} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			f.Fatal(err)
		}
		for _, entry := range entries {
			if ext := filepath.Ext(entry.Name()); ext != ".yaml" && ext != ".yml" {
				continue
			}
			data, err := os.ReadFile(filepath.Join(dir, entry.Name()))
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := loadText(t, string(data))
		if err != nil {
			var bad *LoadError
			if !errors.As(err, &bad) || len(bad.Mistakes) == 0 || set != nil {
				t.Fatalf("no list of mistakes: %v", err)
			}
			for _, m := range bad.Mistakes {
				if m.File != "f0.yaml" || m.Text == "" {
					t.Fatalf("a mistake without a place or text: %+v", m)
				}
			}
			return
		}
		for _, g := range set.Grants() {
			if _, err := set.Decide(Identity{Provider: "github", ProviderType: "github"}, Request{Grant: g.Name}, noon); err == nil {
				t.Fatalf("%s was given to a token without claims", g.Name)
			}
		}
		if _, mistakes := document.Read("f0.yaml", data); len(mistakes) > 0 {
			t.Fatalf("loaded in spite of %v", mistakes)
		}
	})
}

// A condition that uses a claim as what the provider never sends is refused.
func TestConditionsAreTyped(t *testing.T) {
	load := func(provider, claims, condition string) error {
		_, err := loadText(t, strings.NewReplacer("github", provider, `claims: {repository_id: "1"}`, "claims: {"+claims+"}, condition: '"+condition+"'").Replace(minimal))
		return err
	}
	for _, tc := range []struct{ provider, claims, condition, want string }{
		{"github", `repository_id: "1"`, `claims.run_attempt <= 3`, "claim run_attempt is a text from this provider, and used as a number (hint: write int(claims.run_attempt), or compare it with a text)"},
		{"github", `repository_id: "1"`, `claims.ref_protected == true`, `claim ref_protected is a text from this provider, and used as a truth value (hint: compare it with "true")`},
		{"github", `repository_id: "1"`, `"main" in claims.ref`, "claim ref is a text from this provider, and used as a list"},
		{"gitlab", `project_id: "1", namespace_id: "2"`, `claims.runner_id == "1"`, "claim runner_id is a number from this provider, and used as a text"},
		{"gitlab", `project_id: "1", namespace_id: "2"`, `claims.groups_direct == "x"`, "claim groups_direct is a list from this provider, and used as a text"},
	} {
		if err := load(tc.provider, tc.claims, tc.condition); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", tc.condition, err)
		}
	}
	for _, tc := range []struct{ provider, claims, condition string }{
		{"github", `repository_id: "1"`, `int(claims.run_attempt) <= 3 && claims.ref_protected == "true" && claims.ref.startsWith("refs/")`},
		{"gitlab", `project_id: "1", namespace_id: "2"`, `claims.runner_id == 1 && "x" in claims.groups_direct`},
		{"oidc", `team: x`, `claims.made_up == 3 || claims.made_up == "3"`},
	} {
		if err := load(tc.provider, tc.claims, tc.condition); err != nil {
			t.Errorf("%s: %v", tc.condition, err)
		}
	}
}
