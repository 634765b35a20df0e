package history

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// git runs git in a folder and gives what it writes.
func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
}

// repository makes one with a deleted file, an amended commit and a tag.
func repository(t *testing.T) (dir, added string) {
	t.Helper()
	dir = t.TempDir()
	git(t, dir, "init", "-q")
	write(t, filepath.Join(dir, "kept"), "kept")
	write(t, filepath.Join(dir, "a path"), "deleted later")
	git(t, dir, "add", ".")
	git(t, dir, "commit", "-qm", "first message")
	added = git(t, dir, "rev-parse", "HEAD")
	git(t, dir, "rm", "-q", "a path")
	git(t, dir, "commit", "-qm", "second message")
	git(t, dir, "commit", "-q", "--amend", "-m", "amended message")
	git(t, dir, "tag", "-a", "v1", "-m", "tag message")
	cmd := exec.Command("git", "-C", dir, "hash-object", "-w", "--stdin")
	cmd.Stdin = strings.NewReader("never committed")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir, added
}

func TestEverythingInTheStoreIsRead(t *testing.T) {
	dir, added := repository(t)
	marker := filepath.Join(t.TempDir(), "ran")
	script := filepath.Join(dir, ".git", "evil")
	write(t, script, "#!/bin/sh\ntouch '"+marker+"'\n")
	// What a stranger's repository may have in its configuration.
	for _, set := range [][2]string{
		{"core.fsmonitor", script},
		{"core.sshCommand", script},
		{"core.pager", script},
		{"pager.log", script},
		{"log.showSignature", "true"},
		{"gpg.program", script},
		{"diff.external", script},
		{"diff.x.textconv", script},
		{"core.alternateRefsCommand", script},
		{"remote.origin.url", "ext::" + script},
		{"protocol.ext.allow", "always"},
		{"remote.origin.promisor", "true"},
		{"extensions.partialClone", "origin"},
		{"core.repositoryFormatVersion", "1"},
		{"filter.x.smudge", script},
	} {
		git(t, dir, "config", set[0], set[1])
	}
	write(t, filepath.Join(dir, ".git", "info", "attributes"), "* diff=x filter=x\n")
	t.Setenv("GIT_DIR", "/nonexistent")
	t.Setenv("GIT_EXTERNAL_DIFF", script)
	found := map[string]Object{}
	repo := Open(dir)
	err := repo.Read(t.Context(), func(o Object, r io.Reader) error {
		text, err := io.ReadAll(r)
		if o.Size != int64(len(text)) {
			t.Errorf("%v has %d bytes", o, len(text))
		}
		for _, want := range []string{"kept", "deleted later", "never committed", "first message", "second message", "amended message", "tag message"} {
			if strings.Contains(string(text), want) {
				found[want] = o
			}
		}
		return err
	})
	if err != nil || len(found) != 7 {
		t.Fatalf("%v, %v", found, err)
	}
	deleted, never := found["deleted later"].ID, found["never committed"].ID
	places := repo.Places(t.Context(), []string{deleted, never})
	if want := (Place{"a path", added}); places[deleted] != want || places[never] != (Place{}) {
		t.Errorf("%v, want %v", places, want)
	}
	if _, err := os.Stat(marker); err == nil {
		t.Error("something that the repository configures was run")
	}
}

func TestErrors(t *testing.T) {
	dir, _ := repository(t)
	own := errors.New("enough")
	n := 0
	err := Open(dir).Read(t.Context(), func(Object, io.Reader) error {
		n++
		return own
	})
	if !errors.Is(err, own) || n != 1 {
		t.Errorf("%d calls, %v", n, err)
	}
	err = Open(t.TempDir()).Read(t.Context(), func(Object, io.Reader) error { return nil })
	if !errors.Is(err, ErrGit) || !strings.Contains(err.Error(), "not a git repository") {
		t.Errorf("no repository: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	if err := Open(dir).Read(t.Context(), func(Object, io.Reader) error { return nil }); !errors.Is(err, ErrGit) || !strings.Contains(err.Error(), "hint: install git") {
		t.Errorf("no git: %v", err)
	}
}
