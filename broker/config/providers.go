package config

import (
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/daypass/daypass/broker/oidc"
	"github.com/daypass/daypass/policies/lint"
	"github.com/daypass/daypass/policies/strictyaml"
)

// The bounds of max_token_age.
const (
	minTokenAge = time.Minute
	maxTokenAge = 31 * 24 * time.Hour
)

func (l *loader) providers() {
	c := l.config
	if len(c.Providers) == 0 && !c.At.Has("providers") {
		l.warn(c.At.Pos, "add one under providers", "no providers: nobody can get anything")
	}
	for i := range c.Providers {
		p := &c.Providers[i]
		if p.At.Line == 0 {
			continue // not read
		}
		l.name(p.At, "provider", p.Name)
		if p.Type != "" && !slices.Contains(ProviderTypes(), p.Type) {
			l.add(p.At.Of("type"), strictyaml.Suggest(p.Type, ProviderTypes()), "unknown type of provider %q", p.Type)
		}
		if why := badURL(p.Issuer); p.Issuer != "" && why != "" {
			l.add(p.At.Of("issuer"), "write it as it stands in the `iss` of the tokens", "the issuer %s", why)
		}
		if sameURL(p.Issuer, c.ExternalURL) {
			l.add(p.At.Of("issuer"), "name the provider's own issuer", "the issuer is this server's external_url: its own JWTs would be job tokens")
		}
		if p.At.Has("audience") && p.Audience == "" && l.fresh(p.At, "audience") {
			l.add(p.At.Of("audience"), "a name that is this server's alone", "the audience is empty")
		}
		l.tokens(p)
		l.replay(p)
		if p.SessionTTL == 0 && !p.At.Has("session_ttl") {
			p.SessionTTL = strictyaml.Duration(time.Hour)
		}
		if at := p.At.Of("session_ttl"); (p.SessionTTL.Std() < minSessionTTL || p.SessionTTL.Std() > maxTTL) && !l.reported(at) {
			l.add(at, "", "session_ttl is between 1m and 24h")
		}
		for j := range c.Providers[:i] {
			l.twoProviders(p, &c.Providers[j])
		}
	}
	l.lintProviders()
}

// lintProviders asks the linter, whose errors are mistakes of the configuration.
func (l *loader) lintProviders() {
	at := func(name, key string) strictyaml.Pos {
		i := slices.IndexFunc(l.config.Providers, func(p Provider) bool { return p.Name == name })
		return l.config.Providers[i].At.Of(key)
	}
	for _, found := range lint.CheckProviders(lint.Context{Providers: l.config.PolicyProviders()}, at) {
		if found.Line == 0 {
			continue // of one that was not read
		}
		m := found.Mistake
		m.Text = "[" + found.Rule + "] " + m.Text
		switch found.Severity {
		case lint.Error:
			if !l.reported(strictyaml.Pos{Line: m.Line, Col: m.Col}) {
				l.mistakes = append(l.mistakes, m)
			}
		case lint.Warning:
			l.config.Warnings = append(l.config.Warnings, m)
		default:
		}
	}
}

// tokens checks what is asked of a provider's tokens beyond issuer and audience.
func (l *loader) tokens(p *Provider) {
	if at := p.At.Of("max_token_age"); p.At.Has("max_token_age") && (p.MaxTokenAge.Std() < minTokenAge || p.MaxTokenAge.Std() > maxTokenAge) && !l.reported(at) {
		l.add(at, "leave it out for 24h", "max_token_age is between 1m and 31d")
	}
	at := p.At.Of("algorithms")
	if p.At.Has("algorithms") && len(p.Algorithms) == 0 && !l.reported(at) {
		l.add(at, "leave it out for those that the provider declares", "the list of algorithms is empty")
	}
	for _, alg := range p.Algorithms {
		if !slices.Contains(oidc.Algorithms(), alg) {
			l.add(at, "take the `alg` of the tokens' header", "job tokens can't be signed with %q: the algorithms are %s", alg, strings.Join(oidc.Algorithms(), ", "))
		}
	}
}

func (l *loader) twoProviders(p, other *Provider) {
	switch {
	case other.At.Line == 0:
	case p.Name == other.Name && p.Name != "":
		l.add(p.At.Of("name"), "", "there are two providers %s", p.Name)
	case p.Issuer != "" && p.Issuer == other.Issuer && p.Audience == other.Audience:
		l.add(p.At.Of("audience"), "give each an audience of its own", "the providers %s and %s have the same issuer and audience: no token could be told to be one's", other.Name, p.Name)
	case p.Issuer != other.Issuer && sameURL(p.Issuer, other.Issuer):
		l.add(p.At.Of("issuer"), "write it as it stands in the `iss` of the tokens", "the issuers of %s and %s differ by a slash at the end alone", other.Name, p.Name)
	}
}

// sameURL compares two URLs as a person would.
func sameURL(a, b string) bool {
	return a != "" && strings.EqualFold(strings.TrimRight(a, "/"), strings.TrimRight(b, "/"))
}

func (l *loader) name(at strictyaml.Where, what, name string) {
	if at.Has("name") && !nameForm().MatchString(name) && l.fresh(at, "name") {
		l.add(at.Of("name"), "small letters, digits and -, at most 63", "%q can't be the name of a %s", name, what)
	}
}

// references refuses ${…} wherever it isn't read: secrets have been taken out by now.
func (l *loader) references() { l.walk(reflect.ValueOf(l.config).Elem(), l.config.At.Pos) }

func (l *loader) walk(v reflect.Value, at strictyaml.Pos) {
	if v.Type() == reflect.TypeFor[strictyaml.Date]() {
		return // no text, and nothing of its inside can be read
	}
	switch v.Kind() {
	case reflect.String:
		if strings.Contains(v.String(), "${") {
			l.add(at, "write the value itself", "${…} is read in secrets alone: database.url, pin, password")
		}
	case reflect.Slice:
		for i := range v.Len() {
			l.walk(v.Index(i), at)
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			l.walk(v.MapIndex(key), at)
		}
	case reflect.Struct:
		where, _ := reflect.TypeAssert[strictyaml.Where](v.FieldByName("At"))
		for i := range v.NumField() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
			if name == "" || name == "-" {
				continue
			}
			below := at
			if where.Line > 0 {
				below = where.Of(name)
			}
			l.walk(v.Field(i), below)
		}
	default:
	}
}
