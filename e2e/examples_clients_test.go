package e2e

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/daypass/daypass/e2e/pages"
)

// jobLogs gives logs of jobs as their providers do.
func (w *world) jobLogs(e pages.Example) {
	t := w.f.t
	t.Helper()
	secret := w.leaked("downloaded.log")
	var archive bytes.Buffer
	z := zip.NewWriter(&archive)
	f, err := z.Create("0_deploy.txt")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.Write([]byte(w.read("downloaded.log")))
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	provider := httptest.NewServer(mux)
	defer provider.Close()
	mux.HandleFunc("GET /api/v3/repos/acme/payments/actions/runs/4711/attempts/1/logs", func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, provider.URL+"/archive", http.StatusFound)
	})
	mux.HandleFunc("GET /archive", func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write(archive.Bytes()) })
	mux.HandleFunc("GET /api/v4/projects/{project}/jobs/4711/trace", func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write([]byte(w.read("downloaded.log"))) })
	servers := "export GITHUB_SERVER_URL=" + provider.URL + " CI_SERVER_URL=" + provider.URL + "\n"
	out := w.sh(servers+e.Text, "https://github.com", provider.URL, "https://gitlab.com", provider.URL)
	if strings.Contains(w.read("clean.log")+out, secret) || !strings.Contains(out, "postgres") {
		t.Errorf("the copy or the report:\n%s\n%s", w.read("clean.log"), out)
	}
}

// ofClients are the steps of clients that were not written here.
func ofClients() []step {
	return []step{
		{"docs/vault.md", "auth/jwt/login", func(w *world, e pages.Example) {
			w.env["JOB_TOKEN"] = w.jobToken()
			out := w.sh(e.Text)
			if !strings.Contains(out, `"password"`) {
				w.f.t.Errorf("%s", out)
			}
		}},
		{"docs/vault.md", "hashicorp/vault-action", func(w *world, e pages.Example) {
			var page struct {
				Steps []struct{ With map[string]string }
			}
			if err := yaml.Unmarshal([]byte(w.local(e.Text)), &page); err != nil {
				w.f.t.Fatal(err)
			}
			with := page.Steps[0].With
			read := w.vaultLogin(with["url"], with["path"], with["role"])
			for selector := range strings.SplitSeq(with["secrets"], ";") {
				words := strings.Fields(selector) // PATH FIELD | VARIABLE
				if read(words[0])[words[1]] == "" {
					w.f.t.Errorf("%s has no %s", words[0], words[1])
				}
			}
			if with["jwtGithubAudience"] != exampleAudience {
				w.f.t.Error("the token is for somebody else")
			}
		}},
		{"docs/vault.md", "VAULT_SERVER_URL", func(w *world, e pages.Example) {
			var page struct {
				Deploy struct {
					Variables map[string]string
					Secrets   map[string]struct {
						Vault struct {
							Engine      struct{ Name, Path string }
							Path, Field string
						}
					}
					Script []string
				}
			}
			if err := yaml.Unmarshal([]byte(w.local(e.Text)), &page); err != nil {
				w.f.t.Fatal(err)
			}
			v := page.Deploy.Variables
			read := w.vaultLogin(v["VAULT_SERVER_URL"], v["VAULT_AUTH_PATH"], v["VAULT_AUTH_ROLE"])
			script := ""
			for name, s := range page.Deploy.Secrets {
				value := read(s.Vault.Engine.Path + "/" + s.Vault.Path)[s.Vault.Field]
				leaks.secret("URL with a password", value)
				script += "export " + name + "='" + value + "'\n"
			}
			w.sh(script + strings.Join(page.Deploy.Script, "\n"))
		}},
		{"docs/oauth.md", "external_account", func(w *world, e pages.Example) {
			// As Google's libraries do.
			var file struct {
				Audience         string
				SubjectTokenType string                `json:"subject_token_type"`
				TokenURL         string                `json:"token_url"`
				CredentialSource struct{ File string } `json:"credential_source"`
			}
			if err := json.Unmarshal([]byte(w.local(e.Text)), &file); err != nil || file.CredentialSource.File == "" {
				w.f.t.Fatal(err)
			}
			w.f.write("id-token", w.jobToken())
			w.sh("curl -fsS " + file.TokenURL + " -d grant_type=urn:ietf:params:oauth:grant-type:token-exchange -d requested_token_type=urn:ietf:params:oauth:token-type:access_token " +
				"-d audience=" + file.Audience + " -d scope= -d subject_token_type=" + file.SubjectTokenType + " --data-urlencode subject_token@id-token")
			if !strings.Contains(w.said, `"access_token":"dpt_`) {
				w.f.t.Errorf("%s", w.said)
			}
		}},
		{"docs/jwt.md", "create-open-id-connect-provider", func(w *world, e pages.Example) {
			w.program("aws", `[ "$1" = iam ] && case "$2" in create-role|create-open-id-connect-provider) ;; *) exit 1 ;; esac`)
			w.sh(e.Text, "https://daypass.example.com", "https://daypass.example.org")
			var trust any
			if err := json.Unmarshal([]byte(w.read("trust.json")), &trust); err != nil {
				w.f.t.Error(err)
			}
		}},
		{"docs/jwt.md", "AWS_WEB_IDENTITY_TOKEN_FILE", tokenOf("aws", `cat "$AWS_WEB_IDENTITY_TOKEN_FILE" > got.jwt`)},
		{"docs/jwt.md", "workload-identity-pools create ci", func(w *world, e pages.Example) {
			w.program("gcloud", `for a; do last=$a; done; case "$*" in *create-cred-config*) echo '{}' > google.json ;; esac; [ -n "$last" ]`)
			w.sh(e.Text)
		}},
		{"docs/jwt.md", "gcloud auth login", tokenOf("gcloud", `[ "$1" != auth ] || { cat google.json > /dev/null; cp token got.jwt; }`)},
		{"docs/jwt.md", "federated-credential", func(w *world, e pages.Example) {
			w.program("az", `case "$*" in *--parameters*) for a; do last=$a; done; printf %s "$last" > az.json ;; esac`)
			w.sh(e.Text)
			var credential map[string]any
			if err := json.Unmarshal([]byte(w.read("az.json")), &credential); err != nil || credential["subject"] != "daypass:main/storefront/upload:74" {
				w.f.t.Errorf("%v, %v", credential, err)
			}
		}},
		{"docs/jwt.md", "az login", tokenOf("az", `for a; do last=$a; done; printf %s "$last" > got.jwt`)},
		{"docs/jwt.md", "kubectl create rolebinding", tokenOf("kubectl", `[ "$1" != --token ] || printf %s "$2" > got.jwt`)},
		{"docs/jwt.md", "vault write", tokenOf("vault", `case "$*" in *jwt=-) cat > got.jwt ;; esac`)},
		{"docs/jwt.md", `"jti"`, func(w *world, e pages.Example) {
			parts := strings.SplitN(strings.TrimSpace(w.words["jwt"]), ".", 3)
			for i, shown := range strings.SplitN(e.Text, "}\n{", 2) {
				shown = strings.Trim(shown, "{}\n ")
				w.said = decoded(w, parts[i])
				answers(w, pages.Example{Text: "{" + shown + "}"})
			}
		}},
		{"docs/jwt.md", "AuthenticationConfiguration", func(w *world, e pages.Example) {
			var page struct {
				APIVersion, Kind string
				JWT              []struct {
					Issuer struct{ URL string }
				}
			}
			if err := yaml.Unmarshal([]byte(e.Text), &page); err != nil || len(page.JWT) != 1 || page.JWT[0].Issuer.URL == "" {
				w.f.t.Errorf("%+v, %v", page, err)
			}
		}},
		{"docs/policy-tools.md", "codeql-action", func(w *world, e pages.Example) {
			for _, line := range regexp.MustCompile(`- run: ([^#\n]+)`).FindAllStringSubmatch(e.Text, -1) {
				w.sh(line[1])
			}
			w.said = w.read("daypass.sarif")
			w.json()
		}},
	}
}

func (w *world) jobToken() string {
	w.f.t.Helper()
	token, err := w.f.provider.Token("github", exampleAudience, nil)
	if err != nil {
		w.f.t.Fatal(err)
	}
	leaks.secret("job token", token)
	return token
}

// tokenOf is the step of a job whose JWT goes to a program that isn't here: what
// stands in for it takes it from where that would.
func tokenOf(program, script string) func(*world, pages.Example) {
	return func(w *world, e pages.Example) {
		w.f.t.Helper()
		w.program(program, script)
		_ = os.Remove(w.path("got.jwt")) // of the one before
		w.sh(e.Text)
		token := w.read("got.jwt")
		leaks.secret("jwt", token)
		parts := strings.Split(token, ".")
		if len(parts) != 3 || !strings.Contains(decoded(w, parts[1]), `"daypass:main/storefront/`) {
			w.f.t.Errorf("it got %d parts", len(parts))
		}
		if strings.Contains(e.Text, "storefront/upload") {
			w.words["jwt"] = token
		}
	}
}

// vaultLogin logs in as Vault's clients do, and reads paths.
func (w *world) vaultLogin(url, mount, role string) func(path string) map[string]string {
	w.f.t.Helper()
	if !strings.HasPrefix(url, w.b.url) {
		w.f.t.Fatalf("the page's URL is %s", url)
	}
	prefix := strings.TrimPrefix(url, w.b.url) + "/v1/"
	status, body, err := w.b.call(http.MethodPost, prefix+"auth/"+mount+"/login", "", map[string]string{"jwt": w.jobToken(), "role": role})
	var login struct {
		Auth struct {
			Token string `json:"client_token"`
		}
	}
	if err != nil || status != http.StatusOK || json.Unmarshal(body, &login) != nil {
		w.f.t.Fatalf("%d %s %v", status, body, err)
	}
	leaks.secret("token of the façade", login.Auth.Token)
	read := map[string]map[string]string{}
	return func(path string) map[string]string {
		w.f.t.Helper()
		if read[path] == nil {
			status, body, err := w.b.call(http.MethodGet, prefix+path, login.Auth.Token, nil)
			var answer struct{ Data map[string]string }
			if err != nil || status != http.StatusOK || json.Unmarshal(body, &answer) != nil {
				w.f.t.Fatalf("%s: %d %s %v", path, status, body, err)
			}
			leaks.secret("password", answer.Data["password"])
			read[path] = answer.Data
		}
		return read[path]
	}
}

func decoded(w *world, part string) string {
	w.f.t.Helper()
	return w.sh(fmt.Sprintf("printf '%%s===' '%s' | tr '_-' '/+' | base64 -d 2>/dev/null || :", part))
}
