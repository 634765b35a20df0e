// Package scaffold writes a first policy for one repository: with the claims that
// its provider's jobs have to be pinned by, and with tests, so that it loads and
// passes the linter as it is.
package scaffold

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing/fstest"

	"github.com/daypass/daypass/policies"
	"github.com/daypass/daypass/policies/catalogue"
	"github.com/daypass/daypass/policies/format"
	"github.com/daypass/daypass/policies/lint"
)

// Options is what a policy is written from.
type Options struct {
	Provider     string // its name in the server's configuration
	Type         string // its type; the name where that is one
	Name         string // of the policy; the repository's own when empty
	Repository   string // its name, for people: acme/payments
	RepositoryID string // the narrowest id of the provider's tenants
	OwnerID      string // the next wider one, where there is one
	// Claims are more of what the job's token must say, by paths of the catalogue.
	// They win over what is written by itself.
	Claims      map[string]any
	Owner       string // who answers for the policy
	Environment string
	Grant       string // its name within the policy
	Issuer      string
	Role        string // may be empty
	TTL         string // 15m when empty
}

// provider finds the type.
func (o *Options) provider() (*catalogue.Provider, error) {
	typ := o.Type
	if typ == "" {
		typ = o.Provider
	}
	known, ok := catalogue.Lookup(typ)
	if !ok {
		return nil, fmt.Errorf("%q is no type of provider (hint: one of %s)", typ, strings.Join(catalogue.Types(), ", "))
	}
	return known, nil
}

// Tenants are the paths of the ids that a policy for this type of provider names:
// those that every token has, or else all that a job can ask for.
func Tenants(p *catalogue.Provider) []string {
	switch p.Type {
	case "azure":
		return []string{"prj_id", "def_id", "org_id"}
	case "terraform":
		return []string{"terraform_workspace_id", "terraform_organization_id"}
	}
	always := slices.DeleteFunc(slices.Clone(p.Tenant), func(path string) bool {
		c, ok := p.Claim(path)
		return ok && c.Optional
	})
	if len(always) == 0 {
		return p.Tenant
	}
	return always
}

// pins are what else a job entry should ask for, with a value to begin with.
func pins(typ, repository string) map[string]any {
	return map[string]map[string]any{
		"github":    {"ref": "refs/heads/main", "event_name": "push", "runner_environment": "github-hosted"},
		"gitlab":    {"ref": "main", "ref_type": "branch", "ref_protected": "true", "pipeline_source": "push"},
		"buildkite": {"build_branch": "main", "build_source": "webhook"},
		"circleci":  {"oidc.circleci.com/vcs-origin": "github.com/" + repository, "oidc.circleci.com/vcs-ref": "refs/heads/main", "oidc.circleci.com/ssh-rerun": false},
		"terraform": {"terraform_run_phase": "apply"},
		"bitbucket": {"branchName": "main"},
		"azure":     {"rpo_ref": "refs/heads/main"},
	}[typ]
}

// Hint says how to find the ids.
func (o *Options) Hint() string {
	name := o.Repository
	if name == "" {
		name = "OWNER/REPO"
	}
	typ := o.Type
	if typ == "" {
		typ = o.Provider
	}
	switch typ {
	case "github":
		return "gh api repos/" + name + " --jq '.id, .owner.id'"
	case "gitlab":
		return "glab api projects/" + strings.ReplaceAll(name, "/", "%2F") + " | jq '.id, .namespace.id'"
	default:
		return "a token of one of its jobs has them: --from-token FILE"
	}
}

// claims are those of the job entry.
func (o *Options) claims(p *catalogue.Provider) (map[string]any, error) {
	claims := maps.Clone(pins(p.Type, o.Repository))
	if claims == nil {
		claims = map[string]any{}
	}
	for i, path := range Tenants(p) {
		if i == 0 && o.RepositoryID != "" {
			claims[path] = o.RepositoryID
		}
		if i == 1 && o.OwnerID != "" {
			claims[path] = o.OwnerID
		}
	}
	for path, value := range o.Claims {
		if !p.Knows(path) {
			hint := p.Suggest(path)
			if hint != "" {
				hint = " (hint: did you mean " + hint + "?)"
			}
			return nil, fmt.Errorf("tokens of %s have no claim %s%s", p.Title, path, hint)
		}
		claims[path] = value
	}
	for _, path := range Tenants(p) {
		if claims[path] == nil {
			return nil, fmt.Errorf("the id %s is missing (hint: %s)", path, o.Hint())
		}
	}
	if len(claims) == 0 {
		return nil, fmt.Errorf("tokens of %s have no ids of their own: name at least one claim (hint: --claim sub=…)", p.Title)
	}
	return claims, nil
}

// Policy writes the policy. It has been loaded, its tests have run and the linter
// has found nothing in it.
func (o *Options) Policy(ctx context.Context) ([]byte, error) {
	p, err := o.provider()
	if err != nil {
		return nil, err
	}
	claims, err := o.claims(p)
	if err != nil {
		return nil, err
	}
	name := o.Name
	if name == "" {
		name = slug(o.Repository)
	}
	laid, err := format.Format(name+".yaml", []byte(o.text(p, name, claims)))
	if err != nil {
		return nil, fmt.Errorf("writing the policy: %w", err)
	}
	set, err := policies.Load(ctx, policies.Source{FS: fstest.MapFS{name + ".yaml": {Data: laid}}}, policies.Config{
		Environments: []string{o.Environment}, Providers: map[string]lint.Provider{o.Provider: {Type: p.Type}},
	})
	if err != nil {
		return nil, fmt.Errorf("the policy would not load: %w", err)
	}
	for _, f := range set.Findings() {
		if f.Severity == lint.Warning {
			return nil, fmt.Errorf("the policy would not pass the linter: [%s] %s", f.Rule, f.Text)
		}
	}
	return laid, nil
}

// slug makes a name of a policy from that of a repository.
func slug(repository string) string {
	last := strings.ToLower(repository[strings.LastIndex(repository, "/")+1:])
	mapped := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, last)
	mapped = strings.Trim(mapped, "-")
	return mapped[:min(len(mapped), 63)]
}

// FromToken fills what is empty from the claims of a token of the repository.
// Nobody has verified them.
func (o *Options) FromToken(claims map[string]any) error {
	if o.Provider == "" {
		iss, _ := claims["iss"].(string)
		for _, typ := range catalogue.Types() {
			if p, _ := catalogue.Lookup(typ); slices.Contains(p.Issuers, iss) {
				o.Provider = typ
			}
		}
	}
	if o.Provider == "" {
		return errors.New("whose token this is can't be told by its iss (hint: --provider NAME)")
	}
	p, err := o.provider()
	if err != nil {
		return err
	}
	if o.Claims == nil {
		o.Claims = map[string]any{}
	}
	take := func(path string) {
		value := catalogue.Value(claims, path)
		if _, given := o.Claims[path]; value != nil && value != "" && !given {
			o.Claims[path] = value
		}
	}
	for i, path := range Tenants(p) {
		if i == 0 && o.RepositoryID != "" || i == 1 && o.OwnerID != "" {
			continue
		}
		take(path)
	}
	for path := range pins(p.Type, o.Repository) {
		take(path)
	}
	for i := range p.Claims {
		c := &p.Claims[i]
		if name, ok := claims[c.Name].(string); ok && o.Repository == "" && len(p.Tenant) > 0 && c.ID == p.Tenant[0] && c.Name != "sub" {
			o.Repository = name
		}
	}
	return nil
}

var plainForm = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[A-Za-z][A-Za-z0-9/_.@-]*( [A-Za-z0-9/_.@-]+)*$`)
})

// quoted writes a value as YAML: a text that could be taken for something else in
// quotes.
func quoted(value any) string {
	text, ok := value.(string)
	if !ok {
		return fmt.Sprint(value)
	}
	switch strings.ToLower(text) {
	case "yes", "no", "on", "off", "y", "n", "true", "false", "null":
		return strconv.Quote(text)
	}
	if plainForm().MatchString(text) {
		return text
	}
	return strconv.Quote(text)
}
