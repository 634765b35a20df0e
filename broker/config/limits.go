package config

import (
	"slices"
	"time"

	"github.com/daypass/daypass/policies/strictyaml"
)

// Limits keep one sender, one job and one tenant (repository owner, group,
// organisation) from taking what is everybody's. A key that is absent or 0 has
// its default.
type Limits struct {
	At             strictyaml.Where `yaml:"-"`
	FailedTokens   int              `yaml:"failed_tokens"`   // bad tokens a minute from one address before they cost it more; absent: 60
	JobRequests    int              `yaml:"job_requests"`    // exchanges a minute of one job; absent: 120
	TenantRequests int              `yaml:"tenant_requests"` // exchanges a minute of one tenant; absent: 6000
	JobLeases      int              `yaml:"job_leases"`      // live leases of one job; absent: 100
	TenantLeases   int              `yaml:"tenant_leases"`   // live leases of one tenant; absent: 50000
	LeakRequests   int              `yaml:"leak_requests"`   // texts a minute that one caller has masked or searched; absent: 60
}

// The settings of Provider.Replay.
const (
	ReplaySession = "session" // a job token may come again while its session lives
	ReplayOnce    = "once"    // it opens a session, and what is wanted beyond comes by the session token
)

const mostOfALimit = 1_000_000_000

func (l *loader) limits() {
	if r := &l.config.Revoker; r.Grace != 0 && (r.Grace.Std() < time.Minute || r.Grace.Std() > 24*time.Hour) {
		l.add(r.At.Of("grace"), "leave it out for its default", "grace is a duration between 1m and 24h")
	}
	c := &l.config.Limits
	for _, limit := range []struct {
		key      string
		value    *int
		fallback int
	}{
		{"failed_tokens", &c.FailedTokens, 60},
		{"job_requests", &c.JobRequests, 120},
		{"tenant_requests", &c.TenantRequests, 6000},
		{"job_leases", &c.JobLeases, 100},
		{"tenant_leases", &c.TenantLeases, 50_000},
		{"leak_requests", &c.LeakRequests, 60},
	} {
		if *limit.value == 0 {
			*limit.value = limit.fallback
		}
		if *limit.value < 0 || *limit.value > mostOfALimit {
			l.add(c.At.Of(limit.key), "leave it out for its default", "%s is a number from 1 to %d", limit.key, mostOfALimit)
		}
	}
}

func (l *loader) replay(p *Provider) {
	if p.Replay == "" {
		p.Replay = ReplaySession
	}
	if known := []string{ReplaySession, ReplayOnce}; !slices.Contains(known, p.Replay) {
		l.add(p.At.Of("replay"), strictyaml.Suggest(p.Replay, known), "replay is session or once, not %q", p.Replay)
	}
}

// Once are the names of the providers whose job tokens may come once.
func (c *Config) Once() map[string]bool {
	once := map[string]bool{}
	for i := range c.Providers {
		if c.Providers[i].Replay == ReplayOnce {
			once[c.Providers[i].Name] = true
		}
	}
	return once
}
