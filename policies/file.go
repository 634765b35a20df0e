package policies

import "github.com/daypass/daypass/policies/strictyaml"

// file is one policy file as it stands on disk. Fields of type *strictyaml.Value
// are parts of the format that this version refuses, since it doesn't enforce them.
type file struct {
	At          strictyaml.Where  `yaml:"-"`
	Policy      string            `yaml:"policy,required"`
	Owner       string            `yaml:"owner,required"`
	Description string            `yaml:"description"`
	Environment string            `yaml:"environment,required"`
	Jobs        []jobEntry        `yaml:"jobs,required"`
	Grants      []grantEntry      `yaml:"grants,required"`
	Exceptions  *strictyaml.Value `yaml:"exceptions"`
	Tests       []testEntry       `yaml:"tests"`
	Session     *strictyaml.Value `yaml:"session"`
}

type jobEntry struct {
	At        strictyaml.Where            `yaml:"-"`
	Name      string                      `yaml:"name,required"`
	Provider  string                      `yaml:"provider,required"`
	Claims    map[string]strictyaml.Value `yaml:"claims,required"`
	Condition string                      `yaml:"condition"`
}

type grantEntry struct {
	At              strictyaml.Where            `yaml:"-"`
	Name            string                      `yaml:"name,required"`
	Jobs            []string                    `yaml:"jobs"`
	Issuer          string                      `yaml:"issuer,required"`
	Role            string                      `yaml:"role"`
	TTL             strictyaml.Duration         `yaml:"ttl"`
	MaxTTL          strictyaml.Duration         `yaml:"max_ttl"`
	MaxActive       int                         `yaml:"max_active"`
	MaxActivePerJob *strictyaml.Value           `yaml:"max_active_per_job"`
	Redact          []redactEntry               `yaml:"redact"`
	Env             map[string]string           `yaml:"env"`
	With            map[string]strictyaml.Value `yaml:"with"`
	Requires        *strictyaml.Value           `yaml:"requires"`
	Session         *strictyaml.Value           `yaml:"session"`
}

type redactEntry struct {
	At      strictyaml.Where `yaml:"-"`
	Pattern string           `yaml:"pattern,required"`
}
