// Package vaultapi is the façade for clients of Vault and OpenBao, below /vault: the
// part of their API that gets a job its credentials, with the same policies, leases,
// limits and audit log as the native one. What clients send, and what they need to
// see, was taken from their traffic and their source:
//
//   - A login turns a job token into a token of this façade, which reads the grants
//     of its role and nothing else, and is good nowhere else.
//   - A path stands for a grant, by the configuration. Each read of it is a new lease
//     that belongs to the token, as with Vault's own dynamic secrets.
//   - A 404 is {"errors":[]} to the byte: with another body Vault's Go client reports
//     success and takes the error for the secret.
//   - That client tries three times on 412, 429, 500, 502 and 503, logins included.
//     Such an answer means here, as in the whole broker, that no credential stays alive.
//   - PUT and POST are one. Bodies are JSON, whatever their content type says.
//
// What is not supported is refused rather than ignored where a client would take the
// answer for more than it is: response wrapping, namespaces, lists.
package vaultapi

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/policies"
)

// Prefix is the path below which the façade stands: a client's address is the
// broker's URL with it behind.
const Prefix = "/vault"

// Version is that of the Vault whose API this is like, as clients are told.
const Version = "1.16.0"

// Config of a Server. Every field is required.
type Config struct {
	Broker  *broker.Broker
	Ready   func(ctx context.Context) bool // whether the broker can issue
	Mapping Mapping
}

// Mapping says what there is. The zero value is nothing: no façade.
type Mapping struct {
	Mounts []Mount
	Paths  map[string]string // path of a secret → POLICY/GRANT
}

// Mount is where clients log in: auth/PATH/login.
type Mount struct {
	Path        string
	DefaultRole string              // of a login that names none; "": it has to
	Roles       map[string][]string // name → POLICY/GRANT, what its tokens may read
}

// Enabled says that there is a façade.
func (m *Mapping) Enabled() bool { return len(m.Mounts) > 0 }

// Unknown are the grants that the mapping names and the policies don't have, in
// order: nobody gets them, and somebody should be told.
func (m *Mapping) Unknown(known []policies.GrantInfo) []string {
	names := slices.Collect(maps.Values(m.Paths))
	for _, mount := range m.Mounts {
		for _, grants := range mount.Roles {
			names = append(names, grants...)
		}
	}
	for _, grant := range known {
		names = slices.DeleteFunc(names, func(name string) bool { return name == grant.Name })
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Server answers the clients of Vault. It is a guest of httpapi's server.
type Server struct {
	config Config
	mounts map[string]Mount
}

// New checks the configuration.
func New(config Config) (*Server, error) {
	if config.Broker == nil || config.Ready == nil || !config.Mapping.Enabled() {
		return nil, errors.New("making the Vault façade: a required field of its configuration is missing")
	}
	s := &Server{config: config, mounts: map[string]Mount{}}
	for _, m := range config.Mapping.Mounts {
		s.mounts[m.Path] = m
	}
	return s, nil
}

// Prefix implements httpapi.Guest.
func (*Server) Prefix() string { return Prefix }

// call is one request on its way.
type call struct {
	w     http.ResponseWriter
	r     *http.Request
	visit *broker.Visit
	path  string // below /vault/v1/, decoded
	sent  fields // of the body, once it was read
}

// The routes, as log and metrics call them.
const (
	routeHealth  = "/vault/v1/sys/health"
	routeInit    = "/vault/v1/sys/init"
	routeSeal    = "/vault/v1/sys/seal-status"
	routeLeader  = "/vault/v1/sys/leader"
	routeLogin   = "/vault/v1/auth/:mount/login"
	routeToken   = "/vault/v1/auth/token/:call" //nolint:gosec // a path
	routeLeases  = "/vault/v1/sys/leases/:call"
	routeMounts  = "/vault/v1/sys/internal/ui/mounts/:path"
	routeSecret  = "/vault/v1/:path" //nolint:gosec // a path
	routeNothing = "/vault/*"
)

// Serve implements httpapi.Guest.
func (s *Server) Serve(w http.ResponseWriter, r *http.Request, visit *broker.Visit) error {
	visit.Route = routeNothing
	w.Header().Set("Cache-Control", "no-store")
	visit.Note(slog.String("vault_request_id", uuid(visit.RequestID)))
	path, ok := pathOf(r.URL)
	c := &call{w: w, r: r, visit: visit, path: path}
	if err := checkHeaders(r.Header); err != nil {
		return err
	}
	if !ok {
		return s.nothing(c)
	}
	switch path {
	case "sys/health":
		return s.health(c)
	case "sys/init":
		return s.initialized(c)
	case "sys/seal-status":
		return s.sealStatus(c)
	case "sys/leader":
		return s.leader(c)
	}
	if mount, ok := strings.CutPrefix(path, "auth/"); ok {
		if mount, ok := strings.CutSuffix(mount, "/login"); ok {
			return s.login(c, mount)
		}
	}
	if name, ok := strings.CutPrefix(path, "auth/token/"); ok {
		return s.own(c, name)
	}
	if rest, ok := strings.CutPrefix(path, "sys/leases/"); ok {
		return s.leases(c, rest)
	}
	if of, ok := strings.CutPrefix(path, "sys/internal/ui/mounts/"); ok {
		return s.mount(c, of)
	}
	if grant, known := s.config.Mapping.Paths[path]; known {
		return s.secret(c, grant)
	}
	return s.nothing(c)
}

// maxPath is longer than any path that a configuration may have, with a lease's id.
const maxPath = 1024

// pathOf is what stands below /vault/v1/. It is compared as it came: nothing is
// cleaned, and a slash that was encoded is none of ours.
func pathOf(u *url.URL) (string, bool) {
	path, ok := strings.CutPrefix(u.Path, Prefix+"/v1/")
	escaped := strings.ToLower(u.EscapedPath())
	if !ok || path == "" || len(path) > maxPath || strings.Contains(escaped, "%2f") || strings.Contains(escaped, "%5c") {
		return "", false
	}
	return path, true
}

// nothing answers for a path that stands for nothing: who may know so is told.
func (s *Server) nothing(c *call) error {
	if _, err := s.held(c, false); err != nil {
		return err
	}
	return notFound()
}

// held is the token of a request, looked up. gone: see broker.AdmitVault.
func (s *Server) held(c *call, gone bool) (*leases.Held, error) {
	token, err := tokenOf(c.r.Header)
	if err != nil {
		return nil, err
	}
	held, err := s.config.Broker.AdmitVault(c.r.Context(), c.visit, token, gone)
	if err != nil {
		return nil, err
	}
	c.visit.Note(slog.String("session", held.ID))
	return held, nil
}

// tokenOf is the façade's token of a request. Every other kind is refused as none
// is, without a look at it.
func tokenOf(header http.Header) (broker.VaultToken, error) {
	values := header.Values("X-Vault-Token")
	if len(values) == 0 {
		for _, value := range header.Values("Authorization") {
			if scheme, token, _ := strings.Cut(value, " "); strings.EqualFold(scheme, "Bearer") {
				values = append(values, token)
			}
		}
	}
	if len(values) == 1 && len(values[0]) <= api.MaxToken {
		if parsed, err := broker.ParseToken(strings.TrimSpace(values[0])); err == nil {
			if token, ok := parsed.(broker.VaultToken); ok {
				return token, nil
			}
		}
	}
	return "", denied("no token of this façade: it takes what auth/MOUNT/login gave out, in one X-Vault-Token or Authorization header")
}

// checkHeaders refuses what would be wrong to ignore.
func checkHeaders(header http.Header) error {
	if header.Get("X-Vault-Wrap-TTL") != "" {
		return badRequest("response wrapping is not supported here: leave X-Vault-Wrap-TTL out")
	}
	if len(header.Values(api.HeaderDPoP)) > 0 {
		// Whoever sends a proof wants a token that is bound to its key.
		return badRequest("tokens here are not bound to keys: leave the header DPoP out, or use the broker's own API (POST /v1/exchange)")
	}
	for _, name := range []string{"X-Vault-Namespace", headerInlineNamespace} {
		for _, value := range header.Values(name) {
			if space := strings.Trim(value, "/ "); space != "" && space != "root" {
				return badRequest("there are no namespaces here: leave " + name + " out, or say root")
			}
		}
	}
	return nil
}

// takes refuses other methods. PUT stands for POST.
func takes(c *call, methods ...string) error {
	method := c.r.Method
	if method == http.MethodPut {
		method = http.MethodPost
	}
	if slices.Contains(methods, method) {
		return nil
	}
	return unsupported()
}
