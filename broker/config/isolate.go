package config

import (
	"regexp"
	"slices"
	"strings"
)

// isolation checks what says that a key's module runs in a process of its own.
func (l *loader) isolation(k *Key) {
	switch {
	case k.Isolate && k.Type == KeySoftware:
		l.add(k.At.Of("isolate"), "take it out", "a key of type %s has no module to isolate", k.Type)
	case len(k.IsolateEnv) > 0 && !k.Isolate:
		l.add(k.At.Of("isolate_env"), "say isolate: true, or take it out", "isolate_env without isolate: the module has the whole environment")
	}
	form := regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	for i, name := range k.IsolateEnv {
		switch {
		case !form.MatchString(name):
			l.add(k.At.Of("isolate_env"), "names alone, without values", "%q can't be the name of an environment variable", name)
		case strings.HasPrefix(name, "DAYPASS"):
			l.add(k.At.Of("isolate_env"), "take it out", "%s is the server's own, and is not given to a module", name)
		case slices.Contains(k.IsolateEnv[:i], name):
			l.add(k.At.Of("isolate_env"), "", "%s stands here twice", name)
		}
	}
}

// isolatedAlike refuses a module that is isolated for one key, and runs in the
// server's own process for another: then it isn't.
func (l *loader) isolatedAlike() {
	first := map[string]*Key{}
	check := func(k *Key) {
		if k == nil || k.Type != KeyPKCS11 {
			return
		}
		other, seen := first[k.Module]
		if !seen {
			first[k.Module] = k
			return
		}
		if other.Isolate != k.Isolate || !slices.Equal(other.IsolateEnv, k.IsolateEnv) {
			l.add(k.At.Pos, "say the same at all keys of a module", "isolate and isolate_env of this key differ from another's of the same module %s", k.Module)
		}
	}
	check(&l.config.Keys.Signing)
	check(&l.config.Keys.Sealing)
	check(l.config.Keys.Audit)
	for i := range l.config.Keys.Opening {
		check(&l.config.Keys.Opening[i])
	}
	for _, issuer := range l.config.Issuers {
		check(issuer.Key)
	}
}
