package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/policies"
	"github.com/daypass/daypass/policies/lint"
	"github.com/daypass/daypass/policies/strictyaml"
)

// Load reads the configuration and looks whether the files that it names are
// there. env is the environment as os.Environ gives it. The mistakes come in the
// order of the file; with any, the Config is only good for showing.
func Load(path string, env []string) (*Config, []strictyaml.Mistake) {
	data, err := readLimited(path)
	if err != nil {
		return &Config{}, []strictyaml.Mistake{{File: path, Text: err.Error(), Hint: "a complete example is daypass.example.yaml"}}
	}
	c, mistakes := Parse(path, data, env)
	return c, strictyaml.Sort(append(mistakes, c.CheckFiles(nil)...))
}

func readLimited(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("reading configuration: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > strictyaml.MaxSize {
		return nil, fmt.Errorf("reading configuration: no ordinary file, or larger than %d bytes", strictyaml.MaxSize)
	}
	data, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return nil, fmt.Errorf("reading configuration: %w", err)
	}
	return data, nil
}

// Parse reads the configuration's text and checks all but the files it names.
func Parse(filename string, data []byte, env []string) (*Config, []strictyaml.Mistake) {
	c := &Config{}
	l := &loader{config: c, env: make(map[string]string, len(env)), set: make(map[string]bool)}
	l.mistakes = strictyaml.Decode(filename, data, c)
	for _, entry := range env {
		if name, value, ok := strings.Cut(entry, "="); ok {
			l.env[name] = value
		}
	}
	l.environment()
	if c.At.Line > 0 {
		l.check()
	}
	c.Warnings = strictyaml.Sort(c.Warnings)
	return c, strictyaml.Sort(l.mistakes)
}

// loader collects what is wrong while the configuration is read.
type loader struct {
	config   *Config
	env      map[string]string
	set      map[string]bool // settings that an environment variable gave: database.url
	mistakes []strictyaml.Mistake
	// lenient says that this is not for a server, but for what policies are
	// checked against: nothing has to be there besides, no secret above all.
	lenient bool
}

// add records a mistake; where nothing of the file is to blame, at its beginning.
func (l *loader) add(at strictyaml.Pos, hint, format string, args ...any) {
	if at.Line == 0 {
		at = l.config.At.Pos
	}
	l.mistakes = append(l.mistakes, at.Mistake(hint, format, args...))
}

func (l *loader) warn(at strictyaml.Pos, hint, format string, args ...any) {
	l.config.Warnings = append(l.config.Warnings, at.Mistake(hint, format, args...))
}

// reported says whether something is known to be wrong at this place.
func (l *loader) reported(at strictyaml.Pos) bool {
	return slices.ContainsFunc(l.mistakes, func(m strictyaml.Mistake) bool { return m.Line == at.Line && m.Col == at.Col })
}

// fresh says whether nothing is known to be wrong with a key yet.
func (l *loader) fresh(at strictyaml.Where, key string) bool {
	return !at.Has(key) || !l.reported(at.Of(key))
}

// need reports a setting that is empty.
func (l *loader) need(at strictyaml.Where, key, value, hint string) bool {
	if value != "" || l.lenient {
		return true
	}
	if l.fresh(at, key) {
		l.add(at.Of(key), hint, "the key %s is missing or empty", key)
	}
	return false
}

// unused refuses what this version doesn't enforce.
func (l *loader) unused(key string, v *strictyaml.Value, hint string) {
	if v != nil {
		l.add(v.Pos, hint, "%s is not enforced by this version", key)
	}
}

var (
	reference = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^\$\{([A-Za-z_][A-Za-z0-9_]*)\}$`)
	})
	nameForm = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	})
)

// secretAt is one secret setting, beside the file that it may stand in instead.
type secretAt struct {
	at        strictyaml.Where
	key, path string // its key there, and all of it: database.url
	raw       *string
	file      string // the value of its …_file key
	fileKey   string
}

// secret reads a secret of the configuration and empties where it was written.
func (l *loader) secret(s secretAt) issuers.Secret {
	raw := *s.raw
	*s.raw = ""
	pos := s.at.Of(s.key)
	switch {
	case l.lenient:
		return issuers.Secret{}
	case raw == "" && s.file == "":
		l.need(s.at, s.fileKey, "", "name the file that holds it, or write "+s.key+": ${NAME}")
		return issuers.Secret{}
	case raw == "":
		return issuers.Secret{}
	case s.file != "":
		l.add(pos, "leave one of them out", "both %s and %s", s.key, s.fileKey)
		return issuers.Secret{}
	case l.set[s.path]: // an environment variable of its own
		return issuers.NewSecret(raw)
	}
	m := reference().FindStringSubmatch(raw)
	if m == nil {
		l.add(pos, "use "+s.fileKey+", or write ${NAME} for an environment variable", "a secret in the file")
		return issuers.Secret{}
	}
	value, ok := l.env[m[1]]
	if !ok || value == "" {
		l.add(pos, "set it where the server is started", "the environment variable %s is not set", m[1])
	}
	return issuers.NewSecret(value)
}

// PolicyProviders is what policies are checked against.
func (c *Config) PolicyProviders() map[string]lint.Provider {
	providers := make(map[string]lint.Provider, len(c.Providers))
	for i := range c.Providers {
		p := &c.Providers[i]
		providers[p.Name] = lint.Provider{
			Type: p.Type, Issuer: p.Issuer, Audience: p.Audience, SessionTTL: p.SessionTTL.Std(),
			ReplayOnce: p.Replay == ReplayOnce, MaxTokenAge: p.MaxTokenAge.Std(), Private: p.CAFile != "" || p.AllowPrivateAddress,
		}
	}
	return providers
}

// Issuer finds an issuer by its name; nil when there is none.
func (c *Config) Issuer(name string) *Issuer {
	for i := range c.Issuers {
		if c.Issuers[i].Name == name {
			return &c.Issuers[i]
		}
	}
	return nil
}

var _ policies.IssuerChecker = (*Config)(nil)

// CheckGrant says whether the issuer and the role exist and `used_by` names the
// policy and its environment. Parameters are the issuer's to check.
func (c *Config) CheckGrant(use policies.GrantUse) error {
	issuer := c.Issuer(use.Issuer)
	if issuer == nil {
		names := make([]string, 0, len(c.Issuers))
		for i := range c.Issuers {
			names = append(names, c.Issuers[i].Name)
		}
		return withHint(strictyaml.Suggest(use.Issuer, names), "no issuer %q in the server's configuration", use.Issuer)
	}
	usedBy := issuer.UsedBy
	if use.Role != "" || len(issuer.Roles) > 0 {
		role, ok := issuer.Roles[use.Role]
		if !ok {
			return withHint(strictyaml.Suggest(use.Role, slices.Collect(maps.Keys(issuer.Roles))), "issuer %s has no role %q", use.Issuer, use.Role)
		}
		usedBy = role.UsedBy
	}
	for _, u := range usedBy {
		if u.Policy == use.Policy && u.Environment == use.Environment {
			return nil
		}
	}
	what := "issuer " + use.Issuer
	if use.Role != "" {
		what = "role " + use.Role + " of " + what
	}
	return fmt.Errorf("%s may not be used by policy %s in %s: its used_by in the server's configuration doesn't name them", what, use.Policy, use.Environment)
}

func withHint(hint, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	if hint != "" {
		text += ": " + hint
	}
	return errors.New(text)
}

const (
	minSessionTTL = time.Minute
	maxTTL        = 24 * time.Hour
)
