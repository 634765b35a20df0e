package config

import (
	"time"

	"github.com/daypass/daypass/policies/strictyaml"
)

// Retention says how long what happened is kept. Partitions of a week go as a
// whole, so that something may stay a week longer.
type Retention struct {
	At      strictyaml.Where    `yaml:"-"`
	Leases  strictyaml.Duration `yaml:"leases"`  // absent: 90d; those that have not ended stay
	Audit   strictyaml.Duration `yaml:"audit"`   // absent: 400d; at least as long as leases
	Archive bool                `yaml:"archive"` // detaches partitions instead of dropping them
}

// leastRetention is longer than anything that is decided on leases that have ended.
const leastRetention = 7 * 24 * time.Hour

func (l *loader) retention() {
	c := &l.config.Retention
	if c.Leases == 0 {
		c.Leases = strictyaml.Duration(90 * 24 * time.Hour)
	}
	if c.Audit == 0 {
		c.Audit = max(strictyaml.Duration(400*24*time.Hour), c.Leases)
	}
	if c.Leases.Std() < leastRetention {
		l.add(c.At.Of("leases"), "leave it out for 90d", "retention of leases is 7d or longer")
	}
	if c.Audit < c.Leases {
		l.add(c.At.Of("audit"), "leave it out for 400d", "audit events are kept as long as leases, or longer")
	}
}
