package httpapi_test

import (
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/daypass/daypass/broker/admin"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/brokertest"
	"github.com/daypass/daypass/issuers"
)

// awkward are values that have broken shells, dotenv readers and $GITHUB_ENV.
var awkward = map[string]string{
	"plain":         "hunter2-and-more",
	"empty":         "",
	"single quotes": `it's 'quoted' ''`,
	"double quotes": `say "no" \"`,
	"newlines":      "one\ntwo\r\nthree\n",
	"many newlines": "\n\n\n0 1 2\n\n\n",
	"expansions":    "$HOME ${HOME} $(id) `id` $((1+1)) !! ~ * ? [a-z]",
	"backslashes":   `a\nb\\c\`,
	"separators":    "a; exit 1 && exit 2 | cat > /dev/null # comment",
	"github":        "x\nEOF\nPGUSER<<EOF\nroot\nEOF\n",
	"blanks":        "  \t in and around \t ",
	"unicode":       "žluťoučký kůň 🐎 \u2028 \u00a0",
	"equals":        "a=b\nPGUSER=root",
	"control":       "\x01\x02\x1b[31m\x7f",
}

// give makes the target mint that value as a password.
func give(b *brokertest.Broker, password string) {
	b.DB.Set(brokertest.Hooks{Values: func(lease issuers.Lease) []issuers.Value {
		return []issuers.Value{
			{Name: "username", Value: issuers.NewSecret("dp_" + lease.ID)},
			{Name: "password", Value: issuers.NewSecret(password), Sensitive: true},
		}
	}})
}

func TestEnvForShells(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	shells := map[string]string{}
	for _, shell := range []string{"sh", "dash", "bash", "busybox", "zsh", "ksh"} {
		if program, err := exec.LookPath(shell); err == nil {
			target, err := filepath.EvalSymlinks(program)
			if err != nil {
				t.Fatal(err)
			}
			shells[target] = shell // sh is often one of the others
		}
	}
	token := b.Job()
	for name, password := range awkward {
		t.Run(name, func(t *testing.T) {
			give(b, password)
			a := b.Do(http.MethodPost, api.PathExchange+"?grant=payments/deploy-db&format=env", token, nil)
			if a.Status != 200 || a.Header.Get("Cache-Control") != "no-store" || !strings.HasPrefix(a.Header.Get("Content-Type"), "text/plain") {
				t.Fatalf("%d %v", a.Status, a.Header)
			}
			if strings.Contains(string(a.Body), "DAYPASS_SESSION_TOKEN") {
				t.Error("the session token is handed out unasked")
			}
			for _, shell := range shells {
				arguments := []string{"-c", `eval "$1"; printf %s "$PGPASSWORD"; sh -c 'printf "|%s" "$PGPASSWORD"'`, "-", string(a.Body)}
				if shell == "busybox" {
					arguments = append([]string{"sh"}, arguments...)
				}
				out, err := exec.CommandContext(t.Context(), shell, arguments...).CombinedOutput()
				if want := password + "|" + password; err != nil || string(out) != want {
					t.Errorf("%v: %s has %q, want %q, of\n%s", err, shell, out, want, a.Body)
				}
			}
		})
	}
}

func TestValue(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	for name, password := range awkward {
		t.Run(name, func(t *testing.T) {
			give(b, password)
			// One secret needs no field, and username may be asked for.
			for field, want := range map[string]string{"": password, "&field=password": password} {
				a := b.Do(http.MethodPost, api.PathExchange+"?grant=payments/deploy-db&format=value"+field, b.Job(), nil)
				if a.Status != 200 || string(a.Body) != want || a.Header.Get("Cache-Control") != "no-store" {
					t.Errorf("%d %q, want %q", a.Status, a.Body, want)
				}
			}
		})
	}
	b.DB.Set(brokertest.Hooks{})
	token := b.Job()
	before := len(b.DB.Seen("Issue"))
	for _, query := range []string{"", "&field=pasword"} {
		a := b.Do(http.MethodPost, api.PathExchange+"?grant=payments/deploy-db&format=value"+query, token, nil)
		wantProblem(t, a, 400, api.CodeInvalidRequest)
		if !strings.Contains(a.Problem.Detail, "password, u") {
			t.Errorf("the answer doesn't say which fields there are: %s", a.Problem.Detail)
		}
	}
	if calls := len(b.DB.Seen("Issue")); calls != before {
		t.Errorf("%d credentials were made for what can't be answered", calls-before)
	}
	// The mistake cost the job nothing: its token still works.
	if a := b.Do(http.MethodPost, api.PathExchange+"?grant=payments/deploy-db&format=value&field=password", token, nil); a.Status != 200 || len(a.Body) != issuers.GeneratedLength {
		t.Errorf("the token was used up by a wrong field: %d %s", a.Status, a.Body)
	}
}

func TestDotenv(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	for name, password := range awkward {
		t.Run(name, func(t *testing.T) {
			give(b, password)
			a := b.Do(http.MethodPost, api.PathExchange+"?grant=payments/deploy-db&format=dotenv", b.Job(), nil)
			lines := strings.Split(strings.TrimSuffix(string(a.Body), "\n"), "\n")
			if a.Status != 200 || len(lines) != 2 {
				t.Fatalf("%d: %d lines, want one for each variable:\n%s", a.Status, len(lines), a.Body)
			}
			value, found := strings.CutPrefix(lines[0], "PGPASSWORD=")
			if !found || readDotenv(t, value) != password {
				t.Errorf("%s reads as %q, want %q", value, readDotenv(t, value), password)
			}
		})
	}
}

// readDotenv reads a value as the usual readers do: single quotes take all as it
// is, double quotes know a few escapes.
func readDotenv(t *testing.T, s string) string {
	t.Helper()
	if inner, ok := strings.CutPrefix(s, "'"); ok {
		inner, ok = strings.CutSuffix(inner, "'")
		if !ok || strings.ContainsAny(inner, "'\n\r") {
			t.Errorf("a single-quoted value with a quote in it: %s", s)
		}
		return inner
	}
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		t.Fatalf("not quoted: %s", s)
	}
	var b strings.Builder
	for i := 1; i < len(s)-1; i++ {
		switch c := s[i]; c {
		case '\\':
			i++
			b.WriteByte(map[byte]byte{'n': '\n', 'r': '\r', '\\': '\\', '"': '"', '$': '$', '`': '`'}[s[i]])
		case '"', '$', '`':
			t.Errorf("%c stands bare in %s", c, s)
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

func TestGitHub(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	delimiters := map[string]bool{}
	for name, password := range awkward {
		t.Run(name, func(t *testing.T) {
			give(b, password)
			a := b.Do(http.MethodPost, api.PathExchange+"?grant=payments/deploy-db&format=github&session=true", b.Job(), nil)
			if a.Status != 200 {
				t.Fatalf("%d %s", a.Status, a.Body)
			}
			got, delimiter := readGitHub(t, string(a.Body))
			if len(got) != 3 || got["PGPASSWORD"] != password || !strings.HasPrefix(got["PGUSER"], "dp_lse_") || !strings.HasPrefix(got["DAYPASS_SESSION_TOKEN"], "dps_") {
				t.Errorf("read %d variables; PGPASSWORD is %q, want %q", len(got), got["PGPASSWORD"], password)
			}
			if delimiters[delimiter] || len(delimiter) < 26 {
				t.Errorf("delimiter %q was used before, or can be guessed", delimiter)
			}
			delimiters[delimiter] = true
		})
	}
}

// readGitHub reads what GitHub's runner reads from $GITHUB_ENV: NAME<<DELIMITER,
// lines, DELIMITER.
func readGitHub(t *testing.T, text string) (variables map[string]string, delimiter string) {
	t.Helper()
	variables = map[string]string{}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for len(lines) > 0 {
		name, end, ok := strings.Cut(lines[0], "<<")
		if !ok {
			t.Fatalf("no name and delimiter in %q", lines[0])
		}
		delimiter = end
		closing := 1
		for closing < len(lines) && lines[closing] != delimiter {
			closing++
		}
		if closing == len(lines) {
			t.Fatalf("%s is never closed", name)
		}
		variables[name] = strings.Join(lines[1:closing], "\n")
		lines = lines[closing+1:]
	}
	return variables, delimiter
}

func TestSessionTokenInText(t *testing.T) {
	t.Parallel()
	b := brokertest.New(t, brokertest.Options{})
	for _, format := range []string{"env", "dotenv"} {
		a := b.Do(http.MethodPost, api.PathExchange+"?grant=payments/deploy-db&session=true&format="+format, b.Job(), nil)
		_, rest, found := strings.Cut(string(a.Body), "DAYPASS_SESSION_TOKEN='")
		token, _, closed := strings.Cut(rest, "'")
		if !found || !closed {
			t.Fatalf("%s: no session token in\n%s", format, a.Body)
		}
		if a := b.Do(http.MethodPost, api.PathSessionRevoke, token, nil); a.Status != 200 {
			t.Errorf("%s: giving back: %d %s", format, a.Status, a.Body)
		}
	}
	if live := b.DB.Live(); len(live) != 0 {
		t.Errorf("%d credentials left", len(live))
	}
	a := b.Do(http.MethodPost, api.PathExchange+"?grant=payments/sign&format=value", b.Job(), nil)
	if a.Status != 200 || strings.Count(string(a.Body), ".") != 2 || strings.ContainsAny(string(a.Body), "\n ") {
		t.Errorf("the value of a JWT: %d %q", a.Status, a.Body)
	}
	viewer := b.Admin(admin.Viewer)
	if n := b.Do(http.MethodGet, api.PathLeases+"?state=revoked&limit="+strconv.Itoa(10), viewer, nil); strings.Count(string(n.Body), `"state":"revoked"`) != 2 {
		t.Errorf("leases: %s", n.Body)
	}
}
