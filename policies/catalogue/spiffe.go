package catalogue

// spiffe is a trust domain that issues JWT-SVIDs, such as SPIRE. The standard
// allows further claims and says nothing of them, so that the list is open.
func spiffe() *Provider {
	return &Provider{
		Type: "spiffe", Title: "SPIFFE JWT-SVID",
		Claims: []Claim{
			{Name: "sub", Kind: Text, Nature: ID, Doc: "the SPIFFE ID: spiffe://TRUST_DOMAIN/PATH; whom it names is for the trust domain to say"},
			{Name: "aud", Kind: List, Nature: Free, Doc: "for whom the token is, one or more; SPIRE always sends a list"},
		},
		Open:     true,
		Tenant:   []string{"sub"},
		Issuers:  []string{"https://HOST"},
		Lifetime: "as the trust domain says; 5 minutes in SPIRE by default",
		Docs:     "https://github.com/spiffe/spiffe/blob/main/standards/JWT-SVID.md",
	}
}
