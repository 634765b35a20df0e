package main

import (
	"context"
	"fmt"
	"time"

	"github.com/daypass/daypass/broker/config"
	"github.com/daypass/daypass/broker/secrets"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/sealed"
)

// secretHooks makes the hooks that rotate static secrets. It calls none.
func secretHooks(settings *config.Config) (map[string]secrets.Hook, error) {
	hooks := map[string]secrets.Hook{}
	for _, h := range settings.Secrets.Hooks {
		c := secrets.HTTPHookConfig{URL: h.URL, CAFile: h.CAFile, AllowPrivateAddress: h.AllowPrivateAddress}
		if h.TokenFile != "" {
			c.Token = func() (issuers.Secret, error) { return readSecretFile(h.TokenFile) }
		}
		hook, err := secrets.NewHTTPHook(c)
		if err != nil {
			return nil, fmt.Errorf("secrets.hooks.%s: %w", h.Name, err)
		}
		hooks[h.Name] = hook
	}
	return hooks, nil
}

func sealedConfig(c *config.Issuer, vault sealed.Vault) *sealed.Config {
	out := &sealed.Config{Vault: vault, Roles: map[string]sealed.Role{}, DefaultTTL: time.Duration(c.DefaultTTL)}
	for name, r := range c.Roles {
		out.Roles[name] = sealed.Role{Secret: r.Secret, Pending: r.Version == config.VersionPending, Fields: r.Fields, Visible: r.Visible, Env: r.Env}
	}
	return out
}

// noVault is where there is no database: for issuers that are asked about their
// roles alone.
type noVault struct{}

// Read implements sealed.Vault.
func (noVault) Read(context.Context, issuers.Lease, sealed.Wanted) (*sealed.Version, error) {
	return nil, fmt.Errorf("%w: there is no database", issuers.ErrUnavailable)
}

// End implements sealed.Vault.
func (noVault) End(context.Context, issuers.Lease) (bool, error) {
	return false, fmt.Errorf("%w: there is no database", issuers.ErrUnavailable)
}
