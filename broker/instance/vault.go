package instance

import (
	"context"

	"github.com/daypass/daypass/broker/httpapi"
	"github.com/daypass/daypass/broker/vaultapi"
)

// openVault makes the façade for Vault's clients; nil where none is configured.
func (i *Instance) openVault(ctx context.Context) (httpapi.Guest, error) {
	mapping := i.config.Vault
	if !mapping.Enabled() {
		return nil, nil //nolint:nilnil // there is none
	}
	if unknown := mapping.Unknown(i.reloads.Set().Grants()); len(unknown) > 0 {
		i.config.Logger.WarnContext(ctx, "the Vault façade names grants that the policies don't have; nobody can read them", "grants", unknown)
	}
	return vaultapi.New(vaultapi.Config{
		Broker: i.broker, Mapping: mapping, Ready: func(ctx context.Context) bool { return i.ready(ctx).Ready },
	})
}
