package catalogue

import (
	"maps"
	"slices"
	"strings"
	"sync"
)

// index is the catalogue, ready to be asked.
type index struct {
	byType map[string]*Provider
	types  []string
}

// all is the catalogue. It is asked in every decision, and never changes.
//
//nolint:gochecknoglobals // a constant table, made at first use
var all = sync.OnceValue(func() *index {
	x := &index{byType: map[string]*Provider{}}
	for _, p := range []*Provider{
		azure(), bitbucket(), buildkite(), circleci(), github(), gitlab(), jenkins(), kubernetes(), anyOIDC(), spiffe(), terraform(),
	} {
		p.complete()
		x.byType[p.Type] = p
	}
	x.types = slices.Sorted(maps.Keys(x.byType))
	return x
})

// complete adds the registered claims that the provider has no own entry for, and
// the index of paths.
func (p *Provider) complete() {
	for _, c := range registered() {
		if !slices.ContainsFunc(p.Claims, func(own Claim) bool { return own.Name == c.Name }) {
			p.Claims = append(p.Claims, c)
		}
	}
	p.byPath = indexOf(p.Claims)
}

// registered are the claims of RFC 7519 §4.1. The broker takes no token without
// `iss`, `sub`, `aud` and `exp`.
func registered() []Claim {
	return []Claim{
		{Name: "iss", Kind: Text, Nature: Fact, Doc: "who issued the token; the server's configuration pins it"},
		{Name: "sub", Kind: Text, Nature: Name, Doc: "the subject; put together of names, so prefer the claims that it is made of"},
		{Name: "aud", Kind: Text, Nature: Free, Doc: "for whom the token is; the server's configuration pins it"},
		{Name: "exp", Kind: Number, Nature: Fact, Doc: "when the token ends, in seconds since 1970"},
		{Name: "iat", Kind: Number, Nature: Fact, Optional: true, Doc: "when the token was issued, in seconds since 1970"},
		{Name: "nbf", Kind: Number, Nature: Fact, Optional: true, Doc: "when the token begins to be valid, in seconds since 1970"},
		{Name: "jti", Kind: Text, Nature: ID, Optional: true, Doc: "the id of the token itself"},
	}
}

// jti is the `jti` of a provider that puts one into every token.
func jti() Claim {
	return Claim{Name: "jti", Kind: Text, Nature: ID, Doc: "the id of the token itself"}
}

// truth are the values of a truth value that is sent as a text.
func truth() []string { return []string{"true", "false"} }

// indexOf lists claims and their fields by path.
func indexOf(list []Claim) map[string]*Claim {
	found := map[string]*Claim{}
	var walk func(prefix string, list []Claim)
	walk = func(prefix string, list []Claim) {
		for i := range list {
			c := &list[i]
			found[prefix+c.Name] = c
			if c.Kind == Object {
				walk(prefix+c.Name+"|", c.Fields)
			}
		}
	}
	walk("", list)
	return found
}

// paths lists the paths of all claims, in the order of the alphabet.
func (p *Provider) paths() []string {
	return slices.SortedFunc(maps.Keys(indexOf(p.Claims)), strings.Compare)
}
