package catalogue

// kubernetes is a cluster that issues tokens to its service accounts. One bound to
// a pod is that pod's; the ids of pod and account end with them.
func kubernetes() *Provider {
	ref := func(what string) []Claim {
		return []Claim{
			{Name: "name", Kind: Text, Nature: Name, ID: "kubernetes.io|" + what + "|uid", Doc: "its name, which another can have after it"},
			{Name: "uid", Kind: Text, Nature: ID, Doc: "its id"},
		}
	}
	return &Provider{
		Type: "kubernetes", Title: "Kubernetes service accounts",
		Claims: []Claim{
			{Name: "kubernetes.io", Kind: Object, Nature: Fact, Fields: []Claim{
				{Name: "namespace", Kind: Text, Nature: Name, Doc: "the namespace; its id isn't in the token"},
				{Name: "serviceaccount", Kind: Object, Nature: Fact, Fields: ref("serviceaccount"), Doc: "the service account"},
				{Name: "pod", Kind: Object, Nature: Fact, Optional: true, Fields: ref("pod"), Doc: "the pod, where the token is bound to one"},
				{Name: "node", Kind: Object, Nature: Fact, Optional: true, Fields: ref("node"), Doc: "the node of the pod (since 1.30)"},
				{Name: "secret", Kind: Object, Nature: Fact, Optional: true, Fields: ref("secret"), Doc: "the secret, where the token is bound to one"},
				{Name: "warnafter", Kind: Number, Nature: Fact, Optional: true, Doc: "when the cluster begins to count the token as stale"},
			}, Doc: "what the token is of"},
			{Name: "sub", Kind: Text, Nature: Name, ID: "kubernetes.io|serviceaccount|uid", Doc: "system:serviceaccount:NAMESPACE:NAME"},
			{Name: "aud", Kind: List, Nature: Free, Doc: "for whom the token is, always a list; by default the API server"},
			{Name: "jti", Kind: Text, Nature: ID, Optional: true, Unchecked: true, Doc: "the id of the token itself (since 1.30, or 1.29 with a feature gate)"},
		},
		Tenant:   []string{"kubernetes.io|serviceaccount|uid"},
		JobKey:   []string{"kubernetes.io|pod|uid"},
		Issuers:  []string{"https://kubernetes.default.svc.cluster.local", "https://oidc.eks.REGION.amazonaws.com/id/ID", "https://container.googleapis.com/v1/projects/PROJECT/locations/LOCATION/clusters/NAME", "https://HOST"},
		Lifetime: "as asked for, 10 minutes or more; the one that every pod has by default, up to a year",
		Docs:     "https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/",
	}
}
