package catalogue

// anyOIDC is an issuer that the catalogue has no entry for. It knows the
// registered claims alone, so that nothing says which are ids.
func anyOIDC() *Provider {
	return &Provider{
		Type: "oidc", Title: "Any other OIDC issuer",
		Open:     true,
		Issuers:  []string{"https://HOST"},
		Lifetime: "as the issuer says",
		Docs:     "https://openid.net/specs/openid-connect-core-1_0.html#IDToken",
	}
}
