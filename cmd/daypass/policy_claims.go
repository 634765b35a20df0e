//go:build !packed

package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/config"
	"github.com/daypass/daypass/policies"
	"github.com/daypass/daypass/policies/catalogue"
	"github.com/daypass/daypass/policies/strictyaml"
)

// tokenLife is how long the token of claims without an `exp` still lives: as in
// the tests of policies.
const tokenLife = time.Hour

// asking is who asks for what, as the flags of `policy explain` say it.
type asking struct {
	grant, provider string
	token           string // a file
	claimsFile      string
	claims          []string // k=v, k:=json
	at, ip, ttl     string
}

// given says whether there is a token or a claim.
func (a *asking) given() bool { return a.token != "" || a.claimsFile != "" || len(a.claims) > 0 }

// read reads the claims that the flags give; token is the job token as it is, ""
// where there is none.
func (a *asking) read(p *program) (claims api.Claims, token string, err error) {
	claims = api.Claims{}
	switch {
	case a.token != "" && a.claimsFile != "":
		return nil, "", usage("--token and --claims-file are both set")
	case a.token != "":
		if token, err = p.readToken(a.token); err != nil {
			return nil, "", err
		}
		if claims, err = unverified(token); err != nil {
			return nil, "", err
		}
	case a.claimsFile != "":
		if claims, err = p.readClaims(a.claimsFile); err != nil {
			return nil, "", err
		}
	}
	given, err := parseClaims(a.claims)
	if err != nil {
		return nil, "", err
	}
	maps.Copy(claims, given)
	return claims, token, nil
}

// unverified decodes the claims of a token without looking at its signature.
func unverified(token string) (api.Claims, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 || len(token) > api.MaxToken {
		return nil, fmt.Errorf("reading token: this is no JWT of at most %d bytes (hint: three parts with dots between them)", api.MaxToken)
	}
	payload, err := base64.RawURLEncoding.Strict().DecodeString(parts[1])
	if err != nil {
		return nil, errors.New("reading token: its payload is not base64url")
	}
	var claims api.Claims
	if err := json.Unmarshal(payload, &claims); err != nil || claims == nil {
		return nil, errors.New("reading token: its payload is no JSON object")
	}
	return claims, nil
}

func (p *program) readClaims(file string) (api.Claims, error) {
	from := io.Reader(p.stdin)
	if file != "-" {
		f, err := os.Open(file) //nolint:gosec // the file that the caller names is the one to read
		if err != nil {
			return nil, fmt.Errorf("reading claims: %w", err)
		}
		defer f.Close() //nolint:errcheck // it was only read
		from = f
	}
	data, err := io.ReadAll(io.LimitReader(from, api.MaxBody+1))
	if err != nil {
		return nil, fmt.Errorf("reading claims: %w", err)
	}
	var claims api.Claims
	if len(data) > api.MaxBody || json.Unmarshal(data, &claims) != nil || claims == nil {
		return nil, fmt.Errorf("reading claims: %s is no JSON object of at most %d bytes", file, api.MaxBody)
	}
	return claims, nil
}

// parseClaims reads k=v, which is a text whatever it looks like, and k:=json.
func parseClaims(list []string) (api.Claims, error) {
	claims := api.Claims{}
	for _, item := range list {
		name, value, ok := strings.Cut(item, "=")
		name, isJSON := strings.CutSuffix(name, ":")
		if !ok || name == "" {
			return nil, usage("--claims %q: want name=text or name:=json", item)
		}
		if _, found := claims[name]; found {
			return nil, usage("--claims: %s is given twice", name)
		}
		if !isJSON {
			claims[name] = value
			continue
		}
		var one api.Claims
		if err := json.Unmarshal(fmt.Appendf(nil, `{"v":%s}`, value), &one); err != nil || len(one) != 1 {
			return nil, usage("--claims %s: %q is not JSON (hint: %s=… gives a text)", name, value, name)
		}
		claims[name] = one["v"]
	}
	return claims, nil
}

// request reads when, from where and for how long.
func (a *asking) request(now time.Time) (policies.Request, time.Time, error) {
	req, at := policies.Request{Grant: a.grant}, now
	var err error
	if a.ttl != "" {
		if req.TTL, err = strictyaml.ParseDuration(a.ttl); err != nil {
			return req, at, usage("--ttl: %w", err)
		}
	}
	if a.ip != "" {
		if req.IP, err = netip.ParseAddr(a.ip); err != nil {
			return req, at, usage("--ip: %q is no address", a.ip)
		}
	}
	if a.at != "" {
		if at, err = time.Parse(time.RFC3339, a.at); err != nil {
			return req, at, usage("--at: %q is no time (hint: 2026-11-23T10:00:00Z)", a.at)
		}
	}
	return req, at, nil
}

// identity is whose token it is. c is the server's configuration; nil: not known.
func (a *asking) identity(claims api.Claims, c *config.Config, at time.Time) (policies.Identity, error) {
	id := policies.Identity{Provider: a.provider, Claims: claims, Expiry: at.Add(tokenLife)}
	id.Subject, _ = claims["sub"].(string)
	switch exp := claims["exp"].(type) {
	case int64:
		id.Expiry = time.Unix(exp, 0)
	case float64:
		id.Expiry = time.Unix(int64(exp), 0)
	}
	if c == nil {
		if id.Provider == "" {
			return id, usage("which provider's token is this? (hint: --provider NAME, or --config FILE to find it by its iss)")
		}
		if _, known := catalogue.Lookup(id.Provider); known {
			id.ProviderType = id.Provider
		}
		return id, nil
	}
	if id.Provider == "" {
		var err error
		if id.Provider, err = providerOf(claims, c); err != nil {
			return id, err
		}
	}
	known, ok := c.PolicyProviders()[id.Provider]
	if !ok {
		names := slices.Collect(maps.Keys(c.PolicyProviders()))
		return id, usage("no provider %q in the configuration (hint: %s)", id.Provider, strictyaml.Suggest(id.Provider, names))
	}
	id.ProviderType = known.Type
	return id, nil
}

// providerOf finds the provider by `iss`, and by `aud` where several have it.
func providerOf(claims api.Claims, c *config.Config) (string, error) {
	iss, ok := claims["iss"].(string)
	if !ok {
		return "", usage("the claims have no iss to find the provider by (hint: --provider NAME)")
	}
	var byIssuer, byBoth []string
	for i := range c.Providers {
		if c.Providers[i].Issuer != iss {
			continue
		}
		byIssuer = append(byIssuer, c.Providers[i].Name)
		if hasAudience(claims["aud"], c.Providers[i].Audience) {
			byBoth = append(byBoth, c.Providers[i].Name)
		}
	}
	switch {
	case len(byIssuer) == 1:
		return byIssuer[0], nil
	case len(byBoth) == 1:
		return byBoth[0], nil
	case len(byIssuer) == 0:
		return "", usage("no provider of the configuration has the issuer %q", iss)
	}
	return "", usage("several providers have the issuer %q (hint: --provider with one of %s)", iss, strings.Join(byIssuer, ", "))
}

func hasAudience(aud any, want string) bool {
	list, isList := aud.([]any)
	if !isList {
		list = []any{aud}
	}
	return slices.Contains(list, any(want))
}
