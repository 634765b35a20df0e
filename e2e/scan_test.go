package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestScan: a password in a deleted file of a repository, and a JWT in base64 in a
// packed Kubernetes secret, are found, named, and taken back.
func TestScan(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	b := f.start()
	b.awaitProbe()
	answer := b.mustExchange("10m", "app/db", "app/jwt")
	repo := filepath.Join(f.dir, "repository")
	git := func(args ...string) {
		t.Helper()
		cmd := command(t.Context(), "git", append([]string{"-C", repo, "-c", "user.name=e2e", "-c", "user.email=e2e@example.com"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %s: %v\n%s", args[0], err, out)
		}
	}
	if err := os.Mkdir(repo, 0o700); err != nil {
		t.Fatal(err)
	}
	git("init", "-q")
	password, jwt := answer.Credentials[0].Values["password"], answer.Credentials[1].Values["token"]
	f.write("repository/deploy.sh", "#!/bin/sh\nexport PGPASSWORD="+password+"\n")
	git("add", "deploy.sh")
	git("commit", "-qm", "deploy")
	git("rm", "-qf", "deploy.sh")
	git("commit", "-qm", "no longer")
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err := fmt.Fprintf(z, "kind: Secret\ndata:\n  token: %s\n", base64.StdEncoding.EncodeToString([]byte("token="+jwt)))
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	secret := f.write("secret.yaml.gz", packed.String())
	admin := f.write("admin.token", f.admin)

	// Of what is found, each says where.
	out, err := b.client("scan", "--token-file", admin, "--git", repo, secret, "--revoke", "--source", "run 4711")
	if err == nil {
		t.Error("something was found, and the exit code is 0")
	}
	for _, want := range []string{":deploy.sh:2 ", "secret.yaml.gz:3 ", answer.Credentials[0].LeaseID, answer.Credentials[1].LeaseID, "2 found"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	if strings.Contains(out, password) || strings.Contains(out, jwt) {
		t.Error("a value was printed")
	}
	if out, err := b.client("audit", "ls", "--token-file", admin, "-o", "json"); err != nil || !strings.Contains(out, "run 4711") {
		t.Errorf("the record doesn't say where: %v\n%s", err, out)
	}
	for _, credential := range answer.Credentials {
		out, err := b.client("lease", "show", credential.LeaseID, "--token-file", admin, "-o", "json")
		var lease struct{ State string }
		if err != nil || json.Unmarshal([]byte(out), &lease) != nil || lease.State == "active" {
			t.Errorf("%s, after it was found: %v\n%s", credential.Grant, err, out)
		}
	}

	// What was taken back is found and named all the same, by the session that had it too.
	session := f.write("session.token", answer.Session.Token)
	if out, err := b.client("scan", "--token-file", admin, secret); err == nil || !strings.Contains(out, "1 found, ") {
		t.Errorf("once more: %v\n%s", err, out)
	}
	if out, err := b.client("scan", "--token-file", session, "--tokens", f.write("clean.log", "nothing\n")); err != nil || !strings.Contains(out, "0 found") {
		t.Errorf("a session's: %v\n%s", err, out)
	}
	f.nothingLeft()
}
