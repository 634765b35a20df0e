package e2e

import (
	"context"
	"debug/buildinfo"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func itoa(n int) string { return strconv.Itoa(n) }

func command(ctx context.Context, program string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, program, args...)
}

const module = "github.com/daypass/daypass/"

// imports lists, for each package below a pattern, all that it is built from.
func imports(t *testing.T, pattern string, env ...string) map[string][]string {
	t.Helper()
	cmd := command(t.Context(), "go", "list", "-f", `{{.ImportPath}} {{join .Deps " "}}`, pattern)
	cmd.Dir = ".."
	cmd.Env = append(cmd.Environ(), env...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		found[fields[0]] = fields[1:]
	}
	if len(found) == 0 {
		t.Fatalf("%s names no package", pattern)
	}
	return found
}

// TestImportsGoOneWay: the top-level folders are a DAG, so that the direction of
// an import can be read from its path.
func TestImportsGoOneWay(t *testing.T) {
	for pattern, forbidden := range map[string][]string{
		"./issuers/...":    {"broker", "policies", "migrations", "cmd", "e2e"},
		"./policies/...":   {"broker", "migrations", "cmd", "e2e"},
		"./migrations/...": {"broker", "policies", "issuers", "cmd", "e2e"},
		"./broker/...":     {"cmd", "e2e"},
	} {
		for pkg, deps := range imports(t, pattern) {
			for _, dep := range deps {
				for _, folder := range forbidden {
					if strings.HasPrefix(dep, module+folder+"/") || dep == module+folder {
						t.Errorf("%s is built from %s", pkg, dep)
					}
				}
			}
		}
	}
}

func TestWireTypesImportTheStandardLibraryOnly(t *testing.T) {
	for _, dep := range imports(t, "./broker/api")[module+"broker/api"] {
		if strings.Contains(dep, ".") {
			t.Errorf("broker/api is built from %s", dep)
		}
	}
}

func TestClientIsSmall(t *testing.T) {
	for _, dep := range imports(t, "./cmd/daypass", "CGO_ENABLED=0")[module+"cmd/daypass"] {
		for _, heavy := range []string{"jackc/pgx", "labstack/echo", "miekg/pkcs11", "hashicorp/go-plugin", "runtime/cgo"} {
			if strings.Contains(dep, heavy) {
				t.Errorf("daypass is built from %s", dep)
			}
		}
	}
	// What is linked in prepares itself at every start: only the whole program, which
	// `daypass policy` becomes, may have what only that needs.
	for _, dep := range imports(t, "./cmd/daypass", "CGO_ENABLED=0", "GOFLAGS="+os.Getenv("GOFLAGS")+" -tags=packed -e")[module+"cmd/daypass"] {
		for _, slow := range []string{"cel.dev/", "google.golang.org/", "antlr", "yaml", module + "policies", module + "issuers/", module + "broker/config", "time/tzdata"} {
			if strings.Contains(dep, slow) {
				t.Errorf("daypass is built from %s, which only `daypass policy` may need", dep)
			}
		}
	}
	info, err := buildinfo.ReadFile(filepath.Join(programs, "daypass"))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(info.Settings, debug.BuildSetting{Key: "CGO_ENABLED", Value: "0"}) {
		t.Errorf("the daypass that the tests run was not built without cgo: %v", info.Settings)
	}
}

func TestOnlyOneRoomNeedsCgo(t *testing.T) {
	cmd := command(t.Context(), "go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		for _, dep := range fields[1:] {
			if dep == "github.com/miekg/pkcs11" && fields[0] != module+"broker/keys/pkcs11" {
				t.Errorf("%s imports PKCS#11", fields[0])
			}
		}
	}
}

// TestEveryPackageStandsInTheDiagram of docs/architecture.md, by its path or, in a
// list of neighbours, by its last element.
func TestEveryPackageStandsInTheDiagram(t *testing.T) {
	page, err := os.ReadFile("../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, diagram, _ := strings.Cut(string(page), "```\n")
	diagram, _, found := strings.Cut(diagram, "```\n")
	if !found {
		t.Fatal("docs/architecture.md has no diagram")
	}
	words := map[string]bool{}
	for _, word := range strings.FieldsFunc(diagram, func(r rune) bool { return strings.ContainsRune(" \n(),►◄│├└─┐┘▼▲", r) }) {
		words[word] = true
	}
	for _, pattern := range []string{"./broker/...", "./cmd/...", "./e2e/...", "./issuers/...", "./migrations/...", "./policies/..."} {
		for pkg := range imports(t, pattern) {
			name := strings.TrimPrefix(pkg, module)
			if !words[name] && (!strings.HasPrefix(name, "e2e/bench/") || !words[strings.TrimPrefix(name, "e2e/bench/")]) {
				t.Errorf("the package %s stands nowhere in the diagram", name)
			}
		}
	}
}
