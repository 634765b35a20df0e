// Package lint judges policies: what in them would let a stranger in, lock
// everybody out, or surprise whoever reads them.
package lint

import (
	"time"

	"github.com/daypass/daypass/policies/document"
	"github.com/daypass/daypass/policies/strictyaml"
)

// Severity says what a finding does.
type Severity string

// The severities.
const (
	Error   Severity = "error"   // the set doesn't load
	Warning Severity = "warning" // it loads
	Info    Severity = "info"
)

// Finding is one place where a rule applies.
type Finding struct {
	strictyaml.Mistake

	Rule     string // GEN-003
	Severity Severity
}

// Provider is what a rule may know of a configured provider.
type Provider struct {
	Type        string // of the catalogue: github
	Issuer      string // its `iss`; "" when it isn't known
	Audience    string // "" when it isn't known
	ReplayOnce  bool   // a token opens one session and is used up
	MaxTokenAge time.Duration
	SessionTTL  time.Duration
}

// Context is what policies are judged against.
type Context struct {
	// Providers by their names in the server's configuration. Nil: there is none,
	// and a provider whose name is a type of the catalogue is taken to be of it.
	Providers map[string]Provider
	// Now is when waivers and exceptions are looked at.
	Now time.Time
	// Conditions lists the claims that a condition speaks of; nil where it doesn't
	// compile.
	Conditions func(text string) []string
}

// Check judges a set.
func Check(_ []*document.File, _ Context) []Finding { return nil }
