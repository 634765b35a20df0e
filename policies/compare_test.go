package policies_test

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/daypass/daypass/policies"
)

const small = `policy: NAME
owner: team@example.com
environment: production
jobs: [{name: release, provider: github, claims: {repository_id: "1", repository_owner_id: "2", ref: refs/heads/main, event_name: push}}]
grants: [{name: a, issuer: db, role: deployer, ttl: 5m}, {name: b, issuer: db, role: deployer, ttl: 5m}]
`

func setOf(t *testing.T, files map[string]string) (*policies.Set, policies.Source) {
	t.Helper()
	folder := fstest.MapFS{}
	for name, text := range files {
		folder[name] = &fstest.MapFile{Data: []byte(text)}
	}
	src := policies.Source{FS: folder}
	set, err := policies.Load(t.Context(), src, policies.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return set, src
}

func TestCompare(t *testing.T) {
	t.Parallel()
	named := func(name string) string { return strings.ReplaceAll(small, "NAME", name) }
	before, src := setOf(t, map[string]string{"a.yaml": named("a"), "b.yaml": named("b"), "c.yaml": named("c")})
	if n, grants := before.Size(); n != 3 || grants != 6 {
		t.Errorf("%d policies, %d grants", n, grants)
	}
	if digest, err := policies.Digest(t.Context(), src); err != nil || digest != before.Digest() {
		t.Errorf("the files' digest is %q, the set's %q: %v", digest, before.Digest(), err)
	}
	after, _ := setOf(t, map[string]string{"moved/a.yaml": named("a"), "b.yaml": strings.ReplaceAll(named("b"), "5m", "6m"), "d.yaml": named("d")})
	got := before.Compare(after)
	if !slices.Equal(got.Added, []string{"d"}) || !slices.Equal(got.Removed, []string{"c"}) || !slices.Equal(got.Changed, []string{"b"}) {
		t.Errorf("%+v", got)
	}
	if got := before.Compare(before); len(got.Added)+len(got.Removed)+len(got.Changed) != 0 {
		t.Errorf("a set differs from itself: %+v", got)
	}
	if got := (&policies.Set{}).Compare(before); len(got.Added) != 3 {
		t.Errorf("from nothing: %+v", got)
	}
	if digest, err := policies.Digest(t.Context(), policies.Source{FS: fstest.MapFS{"broken.yaml": {Data: []byte("{")}}}); err != nil || digest == before.Digest() {
		t.Errorf("files that are wrong have a digest too: %q, %v", digest, err)
	}
}
