package config

import (
	"regexp"
	"slices"
	"time"

	"github.com/daypass/daypass/policies/strictyaml"
)

// Redaction says what is masked in logs beside what policies say, how long it is
// known what stood in them, and how much of them may be sent here. A key that is
// absent or 0 has its default.
type Redaction struct {
	At           strictyaml.Where    `yaml:"-"`
	Keep         strictyaml.Duration `yaml:"keep"` // as long as logs are kept; absent: 400d, or retention.leases where that is longer
	Patterns     []Pattern           `yaml:"patterns"`
	MaxMegabytes int                 `yaml:"max_megabytes"` // of one stream that is masked or searched; absent: 1024
	MaxTime      strictyaml.Duration `yaml:"max_time"`      // of one; absent: 1h
	Idle         strictyaml.Duration `yaml:"idle"`          // how long nothing may come; absent: 2m
	Streams      int                 `yaml:"streams"`       // at once; absent: 16
}

// Pattern is one that is masked in all logs.
type Pattern struct {
	At      strictyaml.Where `yaml:"-"`
	Name    string           `yaml:"name,required"`
	Pattern string           `yaml:"pattern,required"` // RE2
	Owner   string           `yaml:"owner"`            // who answers for it; may be empty
	Until   strictyaml.Date  `yaml:"until"`            // absent: it doesn't end
}

// Leaks says who may report what leaked, besides the callers of the API.
type Leaks struct {
	At         strictyaml.Where `yaml:"-"`
	MaxAnchors int              `yaml:"max_anchors"` // values without a shape of their own that are looked for, the latest; absent: 1000000
	GitHub     GitHubLeaks      `yaml:"github"`
	GitLab     GitLabLeaks      `yaml:"gitlab"`
}

// GitHubLeaks takes reports in the format of GitHub's secret scanning partner program.
type GitHubLeaks struct {
	At                  strictyaml.Where `yaml:"-"`
	KeysURL             string           `yaml:"keys_url"` // of the keys that sign reports; absent: none is taken
	CAFile              string           `yaml:"ca_file"`  // absent: the system's authorities
	AllowPrivateAddress bool             `yaml:"allow_private_address"`
}

// GitLabLeaks takes reports in the format of GitLab's token revocation API.
type GitLabLeaks struct {
	At        strictyaml.Where `yaml:"-"`
	TokenFile string           `yaml:"token_file"` // what GitLab sends to be known by; absent: no report is taken
	Types     []string         `yaml:"types"`      // of tokens, as GitLab calls them; absent: gitleaks_rule_id_daypass_token
}

const (
	maxPattern  = 256 // bytes, as in a policy
	maxPatterns = 1000
	maxStream   = 1 << 20 // megabytes
	maxText     = 200

	// gitLabType is what GitLab calls a finding of a rule with the id daypass_token.
	gitLabType = "gitleaks_rule_id_daypass_token"
)

func (l *loader) redaction() {
	c := &l.config.Redaction
	if c.Keep == 0 {
		c.Keep = max(strictyaml.Duration(400*24*time.Hour), l.config.Retention.Leases)
	}
	if c.Keep < l.config.Retention.Leases {
		l.add(c.At.Of("keep"), "leave it out for 400d", "what stood in logs is known as long as leases are kept (retention.leases), or longer")
	}
	l.number(c.At, "max_megabytes", &c.MaxMegabytes, bounds{1024, maxStream})
	l.number(c.At, "streams", &c.Streams, bounds{16, 1000})
	l.length(c.At, "max_time", &c.MaxTime, bounds{int(time.Hour), int(7 * 24 * time.Hour)})
	l.length(c.At, "idle", &c.Idle, bounds{int(2 * time.Minute), int(time.Hour)})
	if len(c.Patterns) > maxPatterns {
		l.add(c.At.Of("patterns"), "put some of them together with |", "more than %d patterns", maxPatterns)
	}
	for i := range c.Patterns {
		if p := &c.Patterns[i]; p.At.Line > 0 {
			l.pattern(p, c.Patterns[:i])
		}
	}
	l.leaks()
}

func (l *loader) pattern(p *Pattern, before []Pattern) {
	l.name(p.At, "pattern", p.Name)
	if slices.ContainsFunc(before, func(other Pattern) bool { return p.Name != "" && other.Name == p.Name }) {
		l.add(p.At.Of("name"), "", "there are two patterns %s", p.Name)
	}
	if len(p.Owner) > maxText {
		l.add(p.At.Of("owner"), "", "owner has more than %d bytes", maxText)
	}
	at := p.At.Of("pattern")
	if p.Pattern == "" || len(p.Pattern) > maxPattern {
		if l.fresh(p.At, "pattern") {
			l.add(at, "", "a pattern has between 1 and %d bytes", maxPattern)
		}
		return
	}
	switch read, err := regexp.Compile(p.Pattern); {
	case err != nil:
		l.add(at, "", "the pattern is no RE2 regular expression: %v", err)
	case read.MatchString(""):
		l.add(at, "let it match at least one character", "the pattern matches an empty text, and so everywhere")
	}
}

func (l *loader) leaks() {
	c := &l.config.Leaks
	l.number(c.At, "max_anchors", &c.MaxAnchors, bounds{1_000_000, 50_000_000})
	if c.GitHub.KeysURL != "" {
		if why := badURL(c.GitHub.KeysURL); why != "" {
			l.add(c.GitHub.At.Of("keys_url"), "write https://api.github.com/meta/public_keys/secret_scanning", "the keys_url %s", why)
		}
	}
	if len(c.GitLab.Types) == 0 {
		c.GitLab.Types = []string{gitLabType}
	}
	for _, kind := range c.GitLab.Types {
		if kind == "" || len(kind) > maxText {
			l.add(c.GitLab.At.Of("types"), "", "a type has between 1 and %d bytes", maxText)
		}
	}
}

// bounds are what a setting is when it is absent, and the most that it can be.
type bounds struct{ fallback, most int }

func (l *loader) number(at strictyaml.Where, key string, value *int, b bounds) {
	if *value == 0 {
		*value = b.fallback
	}
	if *value < 0 || *value > b.most {
		l.add(at.Of(key), "leave it out for its default", "%s is a number from 1 to %d", key, b.most)
	}
}

func (l *loader) length(at strictyaml.Where, key string, value *strictyaml.Duration, b bounds) {
	if *value == 0 {
		*value = strictyaml.Duration(b.fallback)
	}
	if value.Std() < time.Second || value.Std() > time.Duration(b.most) {
		l.add(at.Of(key), "leave it out for its default", "%s is between 1s and %s", key, time.Duration(b.most))
	}
}
