package vaultapi

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// clusterName is what clients print of the server.
const clusterName = "daypass"

// health is GET sys/health: open to everybody. A broker that can't issue now is
// "sealed".
func (s *Server) health(c *call) error {
	c.visit.Route = routeHealth
	if err := takes(c, http.MethodGet, http.MethodHead); err != nil {
		return err
	}
	sealed := c.visit.Stopping || !s.config.Ready(c.r.Context())
	// Clients choose the status of a state that they can live with.
	codes := map[string]int{"activecode": http.StatusOK, "sealedcode": http.StatusServiceUnavailable}
	for _, name := range []string{"activecode", "sealedcode", "standbycode", "uninitcode", "drsecondarycode", "performancestandbycode"} {
		text := c.r.URL.Query().Get(name)
		if text == "" {
			continue
		}
		code, err := strconv.Atoi(text)
		if err != nil || code < 200 || code > 599 {
			return badRequest("bad status code: " + name + " is a number from 200 to 599")
		}
		codes[name] = code
	}
	status := codes["activecode"]
	if sealed {
		status = codes["sealedcode"]
	}
	return c.json(status, map[string]any{
		"initialized": true, "sealed": sealed, "standby": false, "performance_standby": false, "replication_performance_mode": "disabled",
		"replication_dr_mode": "disabled", "server_time_utc": s.config.Broker.Now().Unix(), "version": Version, "enterprise": false,
		"cluster_name": clusterName, "cluster_id": clusterName,
	})
}

// initialized is GET sys/init, which Python's hvac asks for.
func (*Server) initialized(c *call) error {
	c.visit.Route = routeInit
	if err := takes(c, http.MethodGet); err != nil {
		return err
	}
	return c.json(http.StatusOK, map[string]any{"initialized": true})
}

// sealStatus is GET sys/seal-status, which `bao status` shows.
func (s *Server) sealStatus(c *call) error {
	c.visit.Route = routeSeal
	if err := takes(c, http.MethodGet); err != nil {
		return err
	}
	return c.json(http.StatusOK, map[string]any{
		"type": "shamir", "initialized": true, "sealed": c.visit.Stopping || !s.config.Ready(c.r.Context()), "t": 1, "n": 1, "progress": 0, "nonce": "",
		"version": Version, "build_date": "", "migration": false, "cluster_name": clusterName, "cluster_id": clusterName, "recovery_seal": false, "storage_type": "postgresql",
	})
}

// leader is GET sys/leader, which `bao status` asks for too.
func (*Server) leader(c *call) error {
	c.visit.Route = routeLeader
	if err := takes(c, http.MethodGet); err != nil {
		return err
	}
	return c.json(http.StatusOK, map[string]any{
		"ha_enabled": false, "is_self": false, "leader_address": "", "leader_cluster_address": "", "performance_standby": false,
	})
}

// engine is what a path looks like it is of.
type engine struct {
	mount string // without a slash at its end
	kind  string
}

// The kinds of engine, as clients know them.
const (
	kindKV       = "kv"       // MOUNT/data/…: version 2
	kindDatabase = "database" // MOUNT/creds/…
	kindGeneric  = "generic"  // all else
)

// engineOf tells by its segments what a path is read as.
func engineOf(path string) engine {
	segments := strings.Split(path, "/")
	for i, segment := range segments {
		switch {
		case i == 0 || i == len(segments)-1:
		case segment == "data":
			return engine{strings.Join(segments[:i], "/"), kindKV}
		case segment == "creds":
			return engine{strings.Join(segments[:i], "/"), kindDatabase}
		}
	}
	return engine{segments[0], kindGeneric}
}

// mount is GET sys/internal/ui/mounts/{path}, by which clients find out whether a
// store has versions. A token is told of the mounts that it may read something of.
func (s *Server) mount(c *call, of string) error {
	c.visit.Route = routeMounts
	if err := takes(c, http.MethodGet); err != nil {
		return err
	}
	held, err := s.held(c, false)
	if err != nil {
		return err
	}
	of = strings.Trim(of, "/")
	var found engine
	for _, path := range slices.Sorted(maps.Keys(s.config.Mapping.Paths)) {
		e := engineOf(path)
		if slices.Contains(held.Grants, s.config.Mapping.Paths[path]) && (of == e.mount || strings.HasPrefix(of, e.mount+"/")) && len(e.mount) > len(found.mount) {
			found = e
		}
	}
	if found.mount == "" {
		return notFound()
	}
	var options map[string]string
	if found.kind == kindKV {
		options = map[string]string{"version": "2"}
	}
	return c.answer(&envelope{Data: map[string]any{
		"path": found.mount + "/", "type": found.kind, "options": options, "description": "", "accessor": found.kind + "_" + strings.ReplaceAll(found.mount, "/", "_"),
		"config": map[string]any{}, "local": false, "seal_wrap": false, "external_entropy_access": false, "uuid": "",
	}})
}
