// Package catalogue knows what the providers of job tokens put into them: which
// claims there are and of what type, which of them are ids that are never given
// to somebody else and which are names that can be, whose job a token is, and
// which tokens are of one job.
//
// It is data, and imports nothing of ours. The linter asks it about what a policy
// names, the policies about whose job a token is, and the broker about which
// tokens are of one job.
package catalogue

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
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
	Kind     Kind
	Nature   Nature
	ID       string   // of a name: the claim that holds the id of the same thing; else ""
	Optional bool     // not in every token
	Values   []string // all values that there are; nil: not a closed list
	Fields   []Claim  // of an Object
	Doc      string   // one line
	// Unchecked: from documentation or hearsay, not seen in a live token.
	Unchecked bool
}

// Provider is one type of provider. Paths of claims within it name the claim,
// and its fields behind a |: kubernetes.io|serviceaccount|uid.
type Provider struct {
	Type   string // as in the server's configuration: github
	Title  string // GitHub Actions
	Claims []Claim
	// Prefixes begin the names of claims that tenants define themselves, all texts:
	// repo_property_.
	Prefixes []string
	// Open says that tokens may hold claims that no list can name.
	Open bool
	// Tenant are paths of the ids that say whose job it is, most narrow first.
	Tenant []string
	// JobKey are paths of the claims that together name one job. A token that lacks
	// one of them is a job of its own.
	JobKey []string
	// SharedIssuers are the `iss` values at which any stranger can have an account.
	SharedIssuers []string
	// HasJTI says that its tokens carry a `jti`.
	HasJTI bool
	// Docs is where the provider describes its tokens.
	Docs string
}

// Lookup finds a type of provider; false where the catalogue knows nothing of it.
func Lookup(typ string) (*Provider, bool) {
	for _, p := range providers() {
		if p.Type == typ {
			return p, true
		}
	}
	return nil, false
}

// Types lists the types, in the order of the alphabet.
func Types() []string {
	var list []string
	for _, p := range providers() {
		list = append(list, p.Type)
	}
	slices.Sort(list)
	return list
}

// Claim finds a claim by its path.
func (p *Provider) Claim(path string) (*Claim, bool) {
	name, rest, nested := strings.Cut(path, "|")
	list := p.Claims
	for {
		i := slices.IndexFunc(list, func(c Claim) bool { return c.Name == name })
		if i < 0 {
			return nil, false
		}
		if !nested {
			return &list[i], true
		}
		list = list[i].Fields
		name, rest, nested = strings.Cut(rest, "|")
	}
}

// Job is what all tokens of one job have in common and no others: empty where a
// claim of the key is missing, so that the token is a job of its own.
func (p *Provider) Job(claims map[string]any) string { return join(claims, p.JobKey) }

// Whose is what all tokens of one tenant have in common: the widest id of Tenant
// that the token has. Empty where it has none.
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
	parts := make([]string, len(paths))
	for i, path := range paths {
		text, ok := scalar(Value(claims, path))
		if !ok {
			return ""
		}
		parts[i] = path + "=" + strconv.Quote(text)
	}
	return strings.Join(parts, " ")
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
