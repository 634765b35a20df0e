// Package document is a policy file as it stands on disk: what its keys are
// called, of what type they are, and where each stands. It knows nothing of what
// they mean: package policies compiles documents, package lint judges them.
package document

import (
	"github.com/daypass/daypass/policies/strictyaml"
)

// File is one policy file, read.
type File struct {
	Name   string // below the policy folder, with slashes
	Data   []byte
	Policy Policy
}

// Read reads one file. With mistakes the File is good for showing alone; its
// Policy.At.Line is 0 when nothing could be read at all.
func Read(name string, data []byte) (*File, []strictyaml.Mistake) {
	f := &File{Name: name, Data: data}
	return f, strictyaml.Decode(name, data, &f.Policy)
}

// Policy is the whole of a file. Fields of type *strictyaml.Value are parts of
// the format that this version refuses, since it doesn't enforce them.
type Policy struct {
	At          strictyaml.Where `yaml:"-"`
	Name        string           `yaml:"policy,required"`
	Owner       string           `yaml:"owner,required"`
	Description string           `yaml:"description"`
	Environment string           `yaml:"environment,required"`
	Session     string           `yaml:"session"`
	Jobs        []Job            `yaml:"jobs,required"`
	Grants      []Grant          `yaml:"grants,required"`
	Exceptions  []Exception      `yaml:"exceptions"`
	Tests       []Test           `yaml:"tests"`
}

// Job is one entry of `jobs`.
type Job struct {
	At        strictyaml.Where            `yaml:"-"`
	Name      string                      `yaml:"name,required"`
	Provider  string                      `yaml:"provider,required"`
	Claims    map[string]strictyaml.Value `yaml:"claims,required"`
	Condition string                      `yaml:"condition"`
}

// Grant is one entry of `grants`.
type Grant struct {
	At              strictyaml.Where            `yaml:"-"`
	Name            string                      `yaml:"name,required"`
	Jobs            []string                    `yaml:"jobs"`
	Issuer          string                      `yaml:"issuer,required"`
	Role            string                      `yaml:"role"`
	TTL             string                      `yaml:"ttl"` // a duration, or UntilTokenExpires
	MaxTTL          strictyaml.Duration         `yaml:"max_ttl"`
	MaxActive       int                         `yaml:"max_active"`
	MaxActivePerJob int                         `yaml:"max_active_per_job"`
	Redact          []Redact                    `yaml:"redact"`
	Env             map[string]string           `yaml:"env"`
	With            map[string]strictyaml.Value `yaml:"with"`
	Requires        *strictyaml.Value           `yaml:"requires"`
}

// UntilTokenExpires is the ttl of a grant that ends with the job's own token.
const UntilTokenExpires = "until job token expires"

// Redact is one entry of a grant's `redact`.
type Redact struct {
	At      strictyaml.Where `yaml:"-"`
	Pattern string           `yaml:"pattern,required"`
}

// Exception lets other jobs have a grant until a day.
type Exception struct {
	At     strictyaml.Where `yaml:"-"`
	Grant  string           `yaml:"grant,required"`
	Jobs   []ExceptionJob   `yaml:"jobs,required"`
	Owner  string           `yaml:"owner,required"`
	Reason string           `yaml:"reason,required"`
	Until  strictyaml.Date  `yaml:"until,required"` // 00:00 UTC at the start of that day
}

// ExceptionJob is a job entry without a name.
type ExceptionJob struct {
	At        strictyaml.Where            `yaml:"-"`
	Provider  string                      `yaml:"provider,required"`
	Claims    map[string]strictyaml.Value `yaml:"claims,required"`
	Condition string                      `yaml:"condition"`
}

// Job is the same as a job entry.
func (j *ExceptionJob) Job() *Job {
	return &Job{At: j.At, Provider: j.Provider, Claims: j.Claims, Condition: j.Condition}
}

// Test is one of a policy's own tests. It reads no clock: where the verdict could
// depend on the time, the test gives it (`at`).
type Test struct {
	At    strictyaml.Where    `yaml:"-"`
	Name  string              `yaml:"name,required"`
	Time  strictyaml.Time     `yaml:"at"`
	IP    string              `yaml:"ip"`
	TTL   strictyaml.Duration `yaml:"ttl"`
	Job   TestJob             `yaml:"job,required"`
	Allow []string            `yaml:"allow"`
	Deny  []string            `yaml:"deny"`
}

// TestJob is who asks in a test: a token as its provider might have made it.
type TestJob struct {
	At       strictyaml.Where            `yaml:"-"`
	Provider string                      `yaml:"provider,required"`
	Claims   map[string]strictyaml.Value `yaml:"claims,required"`
}
