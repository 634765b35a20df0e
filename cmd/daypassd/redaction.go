package main

import (
	"fmt"
	"time"

	"github.com/daypass/daypass/broker/config"
	"github.com/daypass/daypass/broker/disclosures"
	"github.com/daypass/daypass/broker/httpapi"
	"github.com/daypass/daypass/broker/instance"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/issuers"
)

// redaction is what is masked in logs, and who may report what stood in them. It asks
// nobody.
func redaction(settings *config.Config) (instance.Redaction, error) {
	c := &settings.Redaction
	out := instance.Redaction{
		Streams: httpapi.Streams{MaxBytes: int64(c.MaxMegabytes) << 20, MaxTime: c.MaxTime.Std(), Idle: c.Idle.Std()},
		AtOnce:  c.Streams, Requests: settings.Limits.LeakRequests, MaxAnchors: settings.Leaks.MaxAnchors,
	}
	for _, p := range c.Patterns {
		rule := leases.ServerRule(p.Name, p.Pattern)
		rule.Owner = p.Owner
		if until := p.Until.Std(); !until.IsZero() {
			rule.Until = &until
		}
		out.Rules = append(out.Rules, rule)
	}
	if from := settings.Leaks.GitHub; from.KeysURL != "" {
		keys, err := disclosures.NewGitHubKeys(disclosures.GitHubKeysConfig{
			URL: from.KeysURL, CAFile: from.CAFile, AllowPrivateAddress: from.AllowPrivateAddress, Now: time.Now,
		})
		if err != nil {
			return out, fmt.Errorf("leaks.github: %w", err)
		}
		out.Reporters.GitHub = keys
	}
	if file := settings.Leaks.GitLab.TokenFile; file != "" {
		out.Reporters.GitLab = func() (issuers.Secret, error) { return readSecretFile(file) }
		out.Reporters.GitLabTypes = settings.Leaks.GitLab.Types
	}
	return out, nil
}
