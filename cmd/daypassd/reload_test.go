package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// newPolicies writes the next version of the policies; a link leads to it from
// here on.
func (p place) newPolicies(t *testing.T, version string, change func(text string) string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(p.dir, "policies", "payments.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(p.dir, version, "payments.yaml"), change(string(text)))
	link := filepath.Join(p.dir, "policies")
	if err := os.Symlink(version, link+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link+".new", link); err != nil {
		t.Fatal(err)
	}
}

// inForce waits for a set that came by a trigger and returns its digest.
func (p *process) inForce(t *testing.T, trigger string) string {
	t.Helper()
	digest := ""
	eventually(t, "policies in force by "+trigger, func() bool {
		for _, e := range p.entries(t, "policies are in force") {
			if e["trigger"] == trigger {
				digest = e.text(t, "digest")
			}
		}
		return digest != ""
	})
	return digest
}

// TestReloading: a switched link is seen by itself, a mistake changes nothing,
// and what is mended comes into force.
func TestReloading(t *testing.T) {
	t.Parallel()
	p, provider := newBroker(t)
	broker, url := p.serve(t)
	started := broker.inForce(t, "start")
	if a := exchange(t, url+deployDB, jobToken(t, provider)); a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	p.newPolicies(t, "policies.bad", func(text string) string { return text + "nonsense: true\n" })
	if mistake := broker.await(t, "a mistake in the policies"); mistake["file"] != "payments.yaml" || !strings.Contains(mistake.text(t, "text"), "nonsense") {
		t.Errorf("%v", mistake)
	}
	if a := exchange(t, url+deployDB, jobToken(t, provider)); a.StatusCode != 200 {
		t.Errorf("after a mistake: %d %s", a.StatusCode, a.body)
	}
	if a := call(t, "GET", url+"/readyz", ""); a.StatusCode != 200 || !strings.Contains(a.body, started) {
		t.Errorf("/readyz: %d %s", a.StatusCode, a.body)
	}
	p.newPolicies(t, "policies.2", func(text string) string {
		return strings.ReplaceAll(strings.ReplaceAll(text, "nonsense: true\n", ""), "refs/heads/main", "refs/heads/release")
	})
	if next := broker.inForce(t, "watch"); next == started {
		t.Error("the same set came into force")
	}
	if a := exchange(t, url+deployDB, jobToken(t, provider)); a.StatusCode != 403 {
		t.Errorf("a job of main: %d %s", a.StatusCode, a.body)
	}
	broker.stop(t, syscall.SIGTERM)
}

// TestHangup: nobody watches, and a signal makes the broker look.
func TestHangup(t *testing.T) {
	t.Parallel()
	p, provider := newBroker(t)
	broker, url := p.serve(t, "DAYPASSD_POLICIES__WATCH=false")
	p.newPolicies(t, "policies.2", func(text string) string { return strings.ReplaceAll(text, "refs/heads/main", "refs/heads/release") })
	if a := exchange(t, url+deployDB, jobToken(t, provider)); a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	broker.signal(t, syscall.SIGHUP)
	broker.inForce(t, "SIGHUP")
	if a := exchange(t, url+deployDB, jobToken(t, provider)); a.StatusCode != 403 {
		t.Errorf("a job of main: %d %s", a.StatusCode, a.body)
	}
	broker.stop(t, syscall.SIGTERM)
}
