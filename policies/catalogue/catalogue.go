// Package catalogue knows what the providers of job tokens put into them: which
// claims there are and of what type, which of them are ids that are never given
// to somebody else and which are names that can be, whose job a token is, and
// which tokens are of one job.
//
// It is data: one file for each type of provider, made into one index at first
// use. The linter asks it about what a policy names, the policies about whose job
// a token is, and the broker about which tokens are of one job. What it hands out
// is shared, and not to be changed.
package catalogue

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/daypass/daypass/policies/strictyaml"
)

// Kind is the JSON type of a claim.
type Kind string

// The kinds.
const (
	Text   Kind = "text"
	Number Kind = "number"
	Bool   Kind = "truth value"
	List   Kind = "list"   // of texts
	Object Kind = "object" // see Claim.Fields
	// Objects is a list of objects, whose Fields are theirs. No value in a policy
	// can be equal to one.
	Objects Kind = "list of objects"
)

// Nature says how far a claim may be trusted to mean the same tomorrow.
type Nature string

// The natures.
const (
	ID   Nature = "id"   // never given to somebody else
	Name Nature = "name" // can be given up, and taken by somebody else
	Free Nature = "free" // chosen by whoever writes or starts the job
	Fact Nature = "fact" // said by the provider about this run: event, ref, times
)

// Claim is one claim of a provider's tokens.
type Claim struct {
	Name     string // as in the token
	Kind     Kind   // `aud` is a list too where a token is for several
	Nature   Nature
	ID       string   // of a name: the path of the claim that holds the id of the same thing; else ""
	Optional bool     // not in every token, or null in some; of a field: not in every such object
	Values   []string // all values that there are; nil: not a closed list
	Fields   []Claim  // of an Object
	Doc      string   // one line
	// Unchecked: from documentation or hearsay, not seen in a live token.
	Unchecked bool
}

// Provider is one type of provider. Paths of claims within it name the claim,
// and its fields behind a |: kubernetes.io|serviceaccount|uid.
type Provider struct {
	Type  string // as in the server's configuration: github
	Title string // GitHub Actions
	// Claims are its own and, behind them, the registered ones (RFC 7519 §4.1). Its
	// own entry for one of those says what is particular here.
	Claims []Claim
	// Prefixes begin the names of claims that tenants define themselves, all texts:
	// repo_property_.
	Prefixes []string
	// Open says that tokens may hold claims that no list can name.
	Open bool
	// Tenant are paths of the ids that say whose job it is, most narrow first. None:
	// its tokens have no id of a tenant, and a whole issuer is one.
	Tenant []string
	// JobKey are paths of the claims that together name one job. A token that lacks
	// one of them is a job of its own, and so is every token where there are none.
	JobKey []string
	// Issuers are the forms of `iss`. Words in capitals stand for what differs.
	Issuers []string
	// SharedIssuers are the `iss` values at which any stranger can have an account.
	SharedIssuers []string
	// HasJTI says that every one of its tokens carries a `jti`.
	HasJTI bool
	// Lifetime is how long its tokens live, in words.
	Lifetime string
	// Docs is where the provider describes its tokens.
	Docs string

	byPath map[string]*Claim // nil in one that isn't of the catalogue
}

// Lookup finds a type of provider; false where the catalogue knows nothing of it.
func Lookup(typ string) (*Provider, bool) {
	p, ok := all().byType[typ]
	return p, ok
}

// Types lists the types, in the order of the alphabet.
func Types() []string { return slices.Clone(all().types) }

// Claim finds a claim by its path.
func (p *Provider) Claim(path string) (*Claim, bool) {
	index := p.byPath
	if index == nil {
		index = indexOf(p.Claims)
	}
	c, ok := index[path]
	return c, ok
}

// Knows says whether a token may hold a claim at that path: one of the list, one
// that tenants define themselves, or any where the provider is Open.
func (p *Provider) Knows(path string) bool {
	if _, ok := p.Claim(path); ok || p.Open {
		return true
	}
	return slices.ContainsFunc(p.Prefixes, func(prefix string) bool {
		return len(path) > len(prefix) && strings.HasPrefix(path, prefix)
	})
}

// Suggest is the path of the claim that somebody meant who wrote name: the one
// that ends in it (project-id for oidc.circleci.com/project-id), else the one
// nearest in spelling. Empty where none is near.
func (p *Provider) Suggest(name string) string {
	paths := p.paths()
	var ends []string
	for _, path := range paths {
		if strings.HasSuffix(path, "|"+name) || strings.HasSuffix(path, "/"+name) {
			ends = append(ends, path)
		}
	}
	if len(ends) == 1 && !slices.Contains(paths, name) {
		return ends[0]
	}
	return strictyaml.Nearest(name, paths)
}

// Job is what all tokens of one job have in common and no others: empty where a
// claim of the key is missing, or there is no key, so that the token is a job of
// its own. It is unique within one issuer.
func (p *Provider) Job(claims map[string]any) string {
	if len(p.JobKey) == 0 {
		return ""
	}
	return join(claims, p.JobKey)
}

// Whose is what all tokens of one tenant have in common: the widest id of Tenant
// that the token has. Empty where it has none. It is unique within one issuer.
func (p *Provider) Whose(claims map[string]any) string {
	for _, path := range slices.Backward(p.Tenant) {
		if key := join(claims, []string{path}); key != "" {
			return key
		}
	}
	return ""
}

// join writes claims as path=value, in quotes, so that no value can pass for two.
func join(claims map[string]any, paths []string) string {
	key := make([]byte, 0, 128)
	for i, path := range paths {
		text, ok := scalar(Value(claims, path))
		if !ok {
			return ""
		}
		if i > 0 {
			key = append(key, ' ')
		}
		key = append(append(key, path...), '=')
		key = strconv.AppendQuote(key, text)
	}
	return string(key)
}

// Value is the claim at a path; nil where there is none.
func Value(claims map[string]any, path string) any {
	name, rest, nested := strings.Cut(path, "|")
	value := claims[name]
	for nested {
		object, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		name, rest, nested = strings.Cut(rest, "|")
		value = object[name]
	}
	return value
}

func scalar(value any) (string, bool) {
	switch v := value.(type) {
	case string:
		return v, v != ""
	case int64:
		return strconv.FormatInt(v, 10), true
	case json.Number:
		return v.String(), true
	default:
		return "", false
	}
}
