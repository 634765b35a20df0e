package main

import (
	"encoding/hex"

	"github.com/daypass/daypass/broker/config"
	"github.com/daypass/daypass/broker/httpapi"
	"github.com/daypass/daypass/issuers/apitoken"
)

func apitokenConfig(c *config.Issuer) *apitoken.Config {
	out := &apitoken.Config{Roles: map[string]apitoken.Role{}, DefaultTTL: c.DefaultTTL.Std()}
	for name, r := range c.Roles {
		out.Roles[name] = apitoken.Role{Audiences: r.Audiences, Scopes: r.Scopes, Env: r.Env, DefaultTTL: r.DefaultTTL.Std(), BoundOnly: r.DPoP == config.DPoPRequired}
	}
	return out
}

func oauth(settings *config.Config) httpapi.OAuth {
	out := httpapi.OAuth{Resources: settings.OAuth.Resources}
	for i := range settings.ResourceServers {
		r := &settings.ResourceServers[i]
		out.Servers = append(out.Servers, httpapi.ResourceServer{
			Name: r.Name, Secret: sum(r.SecretSHA256), Certificate: sum(r.ClientCertificateSHA256), Audiences: r.Audiences,
		})
	}
	return out
}

// sum reads a hash that the configuration has checked; zero where there is none.
func sum(text string) (out [32]byte) {
	decoded, err := hex.DecodeString(text)
	if err == nil {
		copy(out[:], decoded)
	}
	return out
}
