package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestQuickstart follows docs/quickstart.md word by word, in a clone of this
// repository. Building what has been built is left out: `make` is one that puts
// the programs under test where it would.
func TestQuickstart(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/quickstart.md")
	if err != nil {
		t.Fatal(err)
	}
	_, script, _ := strings.Cut(string(page), "```sh\n")
	script, _, found := strings.Cut(script, "```\n")
	if lines := strings.Count(script, "\n"); !found || lines > 10 {
		t.Fatalf("the page has %d lines, want ten at most", lines)
	}
	here, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(here + "/.git"); err != nil {
		t.Skip("this tree is no clone, so that nothing can be cloned from it")
	}
	dir, err := os.MkdirTemp("", "daypass-quickstart-") //nolint:usetesting // t.TempDir's parent is closed to the private Postgres
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	build := "#!/bin/sh\n[ \"$*\" = 'deps build' ] && mkdir -p build/bin && cp '" + programs + "/daypassd' '" + programs + "/daypass' build/bin\n"
	if err := os.MkdirAll(dir+"/tools", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/tools/make", []byte(build), 0o755); err != nil {
		t.Fatal(err)
	}
	script = strings.Replace(script, "https://github.com/daypass/daypass ", "--quiet --depth 1 'file://"+here+"' daypass ", 1)
	cmd := command(t.Context(), "sh", "-ec", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+dir+"/tools:"+os.Getenv("PATH"))
	cmd.WaitDelay = 30 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "payments/deploy-db would be given") || !strings.Contains(string(out), "\ndp_") {
		t.Fatalf("%v\n%s", err, out)
	}
}
