package config

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/daypass/daypass/policies/strictyaml"
)

// Vault is the façade for existing clients of Vault, below /vault. Without mounts
// there is none.
type Vault struct {
	At     strictyaml.Where  `yaml:"-"`
	Mounts []VaultMount      `yaml:"mounts"`
	Paths  map[string]string `yaml:"paths"` // what clients read → POLICY/GRANT
}

// VaultMount is where clients log in: auth/PATH/login.
type VaultMount struct {
	At          strictyaml.Where     `yaml:"-"`
	Path        string               `yaml:"path,required"`
	DefaultRole string               `yaml:"default_role"` // of a login that names none; absent: it has to
	Roles       map[string]VaultRole `yaml:"roles"`
}

// VaultRole is what a client may log in as. Whether a job gets a grant is the
// policies' to say, at the login and at each read.
type VaultRole struct {
	At     strictyaml.Where `yaml:"-"`
	Grants []string         `yaml:"grants"` // POLICY/GRANT: what its tokens may read, by the paths
}

var (
	vaultPath = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$`)
	})
	vaultRole = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	})
	vaultGrant = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}/[a-z0-9][a-z0-9-]{0,62}$`)
	})
)

const (
	maxVaultPath = 256
	mostOfVault  = 1000 // paths, and roles of a mount
	mostPerRole  = 64   // grants: all are decided on at a login
)

func (l *loader) vault() {
	v := &l.config.Vault
	if !l.config.At.Has("vault") {
		return
	}
	if len(v.Mounts) == 0 && l.fresh(v.At, "mounts") {
		l.add(v.At.Of("mounts"), "add one: mounts: [{path: jwt, roles: {deploy: {grants: [payments/deploy-db]}}}]", "a façade for Vault's clients at which nobody can log in")
	}
	readable := map[string]bool{}
	for _, grant := range v.Paths {
		readable[grant] = true
	}
	granted := map[string]bool{}
	for i := range v.Mounts {
		m := &v.Mounts[i]
		if m.At.Line == 0 {
			continue // not read
		}
		l.vaultMount(m, v.Mounts[:i])
		for _, name := range slices.Sorted(maps.Keys(m.Roles)) {
			l.vaultRole(name, m.Roles[name], readable, granted)
		}
	}
	l.vaultPaths(granted)
	for i := range l.config.Providers {
		if p := &l.config.Providers[i]; p.Replay == ReplayOnce {
			l.warn(p.At.Of("replay"), "write replay: session where the GitLab runner logs in: it does so once for each secret",
				"a job token of provider %s can log in once at the façade for Vault's clients", p.Name)
		}
	}
}

func (l *loader) vaultMount(m *VaultMount, before []VaultMount) {
	switch {
	case m.Path == "": // reported when it was read
	case !vaultPath().MatchString(m.Path) || len(m.Path) > maxVaultPath:
		l.add(m.At.Of("path"), "write jwt, without auth/ and without slashes at its ends", "%q can't be the path of a mount", m.Path)
	case m.Path == "token" || strings.HasPrefix(m.Path, "token/") || strings.HasPrefix(m.Path, "auth/"):
		l.add(m.At.Of("path"), "write jwt", "a mount can't be at %s", m.Path)
	case slices.ContainsFunc(before, func(other VaultMount) bool { return other.Path == m.Path }):
		l.add(m.At.Of("path"), "", "there are two mounts %s", m.Path)
	}
	if len(m.Roles) == 0 && l.fresh(m.At, "roles") {
		l.add(m.At.Of("roles"), "add one: roles: {deploy: {grants: [payments/deploy-db]}}", "mount %s has no roles", m.Path)
	}
	if len(m.Roles) > mostOfVault {
		l.add(m.At.Of("roles"), "", "a mount has at most %d roles", mostOfVault)
	}
	if _, known := m.Roles[m.DefaultRole]; m.DefaultRole != "" && !known {
		l.add(m.At.Of("default_role"), strictyaml.Suggest(m.DefaultRole, slices.Sorted(maps.Keys(m.Roles))), "mount %s has no role %q", m.Path, m.DefaultRole)
	}
}

func (l *loader) vaultRole(name string, r VaultRole, readable, granted map[string]bool) {
	if r.At.Line == 0 {
		return // not read
	}
	if !vaultRole().MatchString(name) {
		l.add(r.At.Pos, "letters, digits, . _ and -", "%q can't be the name of a role", name)
	}
	if len(r.Grants) == 0 && l.fresh(r.At, "grants") {
		l.add(r.At.Of("grants"), "write grants: [payments/deploy-db]", "role %s has no grants", name)
	}
	if len(r.Grants) > mostPerRole {
		l.add(r.At.Of("grants"), "make several roles", "role %s has more than %d grants", name, mostPerRole)
	}
	for i, grant := range r.Grants {
		granted[grant] = true
		switch {
		case !vaultGrant().MatchString(grant):
			l.add(r.At.Of("grants"), "a grant is written POLICY/GRANT", "role %s: %q is no grant", name, grant)
		case slices.Contains(r.Grants[:i], grant):
			l.add(r.At.Of("grants"), "", "role %s: the grant %s stands twice", name, grant)
		case !readable[grant]:
			l.warn(r.At.Of("grants"), "give it one under vault.paths", "role %s: no path stands for the grant %s, so nobody can read it", name, grant)
		}
	}
}

func (l *loader) vaultPaths(granted map[string]bool) {
	v := &l.config.Vault
	at := v.At.Of("paths")
	if len(v.Paths) == 0 && l.fresh(v.At, "paths") {
		l.add(at, "write paths: {database/creds/deploy: payments/deploy-db}", "no path stands for a grant")
	}
	if len(v.Paths) > mostOfVault {
		l.add(at, "", "there are at most %d paths", mostOfVault)
	}
	for _, path := range slices.Sorted(maps.Keys(v.Paths)) {
		grant := v.Paths[path]
		first, _, deep := strings.Cut(path, "/")
		switch {
		case !deep || !vaultPath().MatchString(path) || len(path) > maxVaultPath:
			l.add(at, "write database/creds/deploy, or secret/data/payments/registry, without v1/ and without slashes at its ends", "%q can't be the path of a secret", path)
		case slices.Contains([]string{"auth", "sys", "identity", "cubbyhole"}, first):
			l.add(at, "take another first part", "no secret can be at %s: what is below %s/ has its meaning", path, first)
		case !vaultGrant().MatchString(grant):
			l.add(at, "a grant is written POLICY/GRANT", "%s: %q is no grant", path, grant)
		case !granted[grant]:
			l.warn(at, "add the grant to a role of a mount", "%s: no role has the grant %s, so nobody can read it", path, grant)
		}
	}
}
