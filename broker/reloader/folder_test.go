package reloader_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/daypass/daypass/broker/reloader"
	"github.com/daypass/daypass/policies"
)

const policy = `policy: NAME
owner: team@example.com
environment: production
jobs: [{name: release, provider: github, claims: {repository_id: "1", repository_owner_id: "2", ref: refs/heads/main, event_name: push}}]
grants: [{name: a, issuer: db, role: deployer, ttl: 5m}]
`

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func named(name string) string { return strings.ReplaceAll(policy, "NAME", name) }

// switchLink does what a deployment does: a new link beside it, moved over it.
func switchLink(t *testing.T, link, to string) {
	t.Helper()
	if err := os.Symlink(to, link+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link+".new", link); err != nil {
		t.Fatal(err)
	}
}

// TestStampShowsChanges of all kinds, and stays where there is none.
func TestStampShowsChanges(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "v1/a.yaml"), named("a"))
	write(t, filepath.Join(dir, "v1/deep/er/b.yaml"), named("b"))
	write(t, filepath.Join(dir, "v2/a.yaml"), named("a"))
	write(t, filepath.Join(dir, "elsewhere.yaml"), named("c"))
	switchLink(t, filepath.Join(dir, "link"), "v1")
	folder := reloader.Folder{Path: filepath.Join(dir, "link")}
	last := ""
	at := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	for _, step := range []struct {
		name    string
		change  func() error
		changes bool
	}{
		{"the beginning", func() error { return nil }, true},
		{"nothing", func() error { return nil }, false},
		{"the same content, written again", func() error { return os.Chtimes(filepath.Join(dir, "v1/a.yaml"), at, at) }, true},
		{"a file deep below", func() error {
			return os.WriteFile(filepath.Join(dir, "v1/deep/er/b.yaml"), []byte(named("bb")), 0o600)
		}, true},
		{"a new file", func() error { return os.WriteFile(filepath.Join(dir, "v1/new.yaml"), nil, 0o600) }, true},
		{"a file that went", func() error { return os.Remove(filepath.Join(dir, "v1/new.yaml")) }, true},
		{"a symlink to a file", func() error { return os.Symlink("../elsewhere.yaml", filepath.Join(dir, "v1/c.yaml")) }, true},
		{"what the symlink leads to", func() error { return os.Chtimes(filepath.Join(dir, "elsewhere.yaml"), at, at) }, true},
		{"the link", func() error { switchLink(t, filepath.Join(dir, "link"), "v2"); return nil }, true},
		{"what the link led to before", func() error { return os.Remove(filepath.Join(dir, "v1/a.yaml")) }, false},
	} {
		if err := step.change(); err != nil {
			t.Fatal(err)
		}
		stamp, err := folder.Stamp(t.Context())
		if err != nil || (stamp != last) != step.changes {
			t.Errorf("%s: changed is %t, %v", step.name, stamp != last, err)
		}
		last = stamp
	}
	if err := os.Remove(filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := folder.Stamp(t.Context()); err == nil {
		t.Error("a folder that went has a stamp")
	}
	if _, err := folder.Load(t.Context(), policies.Config{}); err == nil {
		t.Error("a folder that went has policies")
	}
}

// TestFolderMustBeStill: a plain folder is read twice with a pause between, one
// behind a link once.
func TestFolderMustBeStill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	plain, link := filepath.Join(dir, "plain"), filepath.Join(dir, "link")
	write(t, filepath.Join(plain, "a.yaml"), named("a"))
	switchLink(t, link, "plain")
	synctest.Test(t, func(t *testing.T) {
		load := func(path string, meanwhile func()) (*policies.Set, time.Duration, error) {
			began := time.Now()
			type result struct {
				set *policies.Set
				err error
			}
			done := make(chan result, 1)
			go func() {
				set, err := reloader.Folder{Path: path, Still: 2 * time.Second}.Load(context.Background(), policies.Config{})
				done <- result{set, err}
			}()
			synctest.Wait() // it waits for the folder to be still, or is done
			meanwhile()
			r := <-done
			return r.set, time.Since(began), r.err
		}
		set, took, err := load(plain, func() {})
		if err != nil || took != 2*time.Second {
			t.Errorf("a still folder: after %s, %v", took, err)
		}
		if linked, took, err := load(link, func() {}); err != nil || took != 0 || linked.Digest() != set.Digest() {
			t.Errorf("a link: after %s, %v", took, err)
		}
		if _, _, err := load(plain, func() { write(t, filepath.Join(plain, "b.yaml"), named("b")) }); !errors.Is(err, policies.ErrChanging) {
			t.Errorf("a folder in which somebody writes: %v", err)
		}
		if _, _, err := load(plain, func() { write(t, filepath.Join(plain, "b.yaml"), named("c")) }); !errors.Is(err, policies.ErrChanging) {
			t.Errorf("a file that is replaced by one of the same size: %v", err)
		}
		if digest, err := (reloader.Folder{Path: plain}).Digest(context.Background()); err != nil || digest == set.Digest() {
			t.Errorf("another content has digest %s: %v", digest, err)
		}
	})
}

// TestConfigMap: Kubernetes shows each file through a hidden link, and switches that.
func TestConfigMap(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "..v1/a.yaml"), named("a"))
	write(t, filepath.Join(dir, "..v2/a.yaml"), named("b"))
	switchLink(t, filepath.Join(dir, "..data"), "..v1")
	if err := os.Symlink("..data/a.yaml", filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	folder := reloader.Folder{Path: dir}
	look := func() (stamp, digest string) {
		t.Helper()
		stamp, err := folder.Stamp(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		set, err := folder.Load(t.Context(), policies.Config{})
		if err != nil {
			t.Fatal(err)
		}
		if n, _ := set.Size(); n != 1 {
			t.Errorf("%d policies", n)
		}
		return stamp, set.Digest()
	}
	stamp, digest := look()
	switchLink(t, filepath.Join(dir, "..data"), "..v2")
	if newStamp, newDigest := look(); newStamp == stamp || newDigest == digest {
		t.Errorf("after a switch: stamp %t, digest %t", newStamp != stamp, newDigest != digest)
	}
}

// TestStillFolderIsNotWaitedFor: one that last changed long ago, by times that nobody
// can set, is read at once. Else the test would take an hour, or end with its context.
func TestStillFolderIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("no such times here")
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "a.yaml")
	write(t, file, named("a"))
	later := func() time.Time { return time.Now().Add(2 * time.Hour) }
	folder := reloader.Folder{Path: dir, Still: time.Hour, Now: later}
	if _, err := folder.Load(t.Context(), policies.Config{}); err != nil {
		t.Errorf("a folder that nobody touched: %v", err)
	}
	// A copy that keeps its times is as new as it is.
	old := time.Now().Add(-24 * time.Hour)
	if err := os.Chtimes(file, old, old); err != nil {
		t.Fatal(err)
	}
	folder.Now = time.Now
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := folder.Load(ctx, policies.Config{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a folder that was just copied, with old times: %v, want it waited for", err)
	}
}
