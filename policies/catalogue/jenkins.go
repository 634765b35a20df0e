package catalogue

// jenkins is Jenkins with the plugin oidc-provider. Whoever runs the controller
// makes the claims from templates, so that no list can name them, and a template
// that holds a build's variable holds what its author wants: there is no key of
// jobs.
func jenkins() *Provider {
	return &Provider{
		Type: "jenkins", Title: "Jenkins (oidc-provider plugin)",
		Claims: []Claim{
			{Name: "sub", Kind: Text, Nature: Name, Doc: "by default the URL of the job; whatever the template says"},
			{Name: "build_number", Kind: Number, Nature: Free, Optional: true, Doc: "by default the number of the build"},
		},
		Open:     true,
		Issuers:  []string{"https://HOST/oidc", "https://HOST/job/FOLDER/oidc", "any URL that serves the two files"},
		Lifetime: "1 hour, or as configured",
		Docs:     "https://plugins.jenkins.io/oidc-provider/",
	}
}
