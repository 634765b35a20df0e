package config

import (
	"maps"
	"slices"
	"strings"

	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/jwt"
	"github.com/daypass/daypass/policies/strictyaml"
)

func (l *loader) issuers() {
	c := l.config
	for i := range c.Issuers {
		issuer := &c.Issuers[i]
		if issuer.At.Line == 0 {
			continue // not read
		}
		l.name(issuer.At, "issuer", issuer.Name)
		for j := range c.Issuers[:i] {
			if issuer.Name != "" && c.Issuers[j].Name == issuer.Name {
				l.add(issuer.At.Of("name"), "", "there are two issuers %s", issuer.Name)
			}
		}
		if at := issuer.At.Of("default_ttl"); issuer.At.Has("default_ttl") && !l.reported(at) && (issuer.DefaultTTL <= 0 || issuer.DefaultTTL.Std() > maxTTL) {
			l.add(at, "", "default_ttl is between 1s and 24h")
		}
		l.fitting(issuer)
		switch issuer.Type {
		case IssuerPostgres:
			l.postgres(issuer)
		case IssuerJWT:
			l.jwt(issuer)
		case IssuerX509:
			l.x509(issuer)
		case IssuerSealed:
			l.sealed(issuer)
		case IssuerSSH:
			l.ssh(issuer)
		case IssuerAPIToken:
			l.apitoken(issuer)
		case "": // reported when it was read
		default:
			l.add(issuer.At.Of("type"), strictyaml.Suggest(issuer.Type, IssuerTypes()), "unknown type of issuer %q", issuer.Type)
		}
	}
}

func (l *loader) postgres(issuer *Issuer) {
	t := &issuer.Target
	at := issuer.At
	if t.At.Line > 0 {
		at = t.At
	}
	l.need(at, "host", t.Host, "write target: {host: db.internal, database: …}")
	if t.Database == "" && len(t.Databases) > 0 {
		t.Database = t.Databases[0]
	}
	l.need(at, "database", t.Database, "the database that jobs are sent to")
	l.port(at, "port", &t.Port, 5432)
	l.port(at, "public_port", &t.PublicPort, 0)
	if t.SSLMode == "" {
		t.SSLMode = "verify-full"
	}
	modes := []string{"verify-full", "verify-ca", "require", "disable"}
	switch {
	case !slices.Contains(modes, t.SSLMode):
		l.add(at.Of("sslmode"), strictyaml.Suggest(t.SSLMode, modes), "unknown sslmode %q", t.SSLMode)
	case (t.SSLMode == "disable" || t.SSLMode == "require") && !loopbackHost(t.Host):
		l.warn(at.Of("sslmode"), "use verify-full, with ca_file where the authority is your own", "sslmode %s: whoever stands between could be the server", t.SSLMode)
	}
	adminAt := issuer.At
	if issuer.Admin.At.Line > 0 {
		adminAt = issuer.Admin.At
	}
	l.need(adminAt, "user", issuer.Admin.User, "write admin: {user: daypass, password_file: …}")
	issuer.Admin.Password = l.secret(secretAt{at: adminAt, key: "password", raw: &issuer.Admin.RawPassword, file: issuer.Admin.PasswordFile, fileKey: "password_file"})
	if issuer.MaxConnections < 0 || issuer.MaxConnections > 1000 {
		l.add(issuer.At.Of("max_connections"), "", "max_connections is between 1 and 1000")
	}
	if len(issuer.Roles) == 0 && l.fresh(issuer.At, "roles") {
		l.add(issuer.At.Of("roles"), "add one: roles: {reader: {member_of: […], used_by: […]}}", "an issuer of type postgres without roles")
	}
	for _, name := range slices.Sorted(maps.Keys(issuer.Roles)) {
		role := issuer.Roles[name]
		if role.At.Line == 0 {
			continue // not read
		}
		l.role(issuer, name, &role)
		if len(role.MemberOf) == 0 && role.At.Line > 0 && l.fresh(role.At, "member_of") {
			l.add(role.At.Of("member_of"), "name the groups that hold the rights", "role %s: member_of is missing or empty", name)
		}
		if role.SCRAMIterations < 0 || role.SCRAMIterations > 100_000 || (role.SCRAMIterations == 0 && role.At.Has("scram_iterations")) {
			l.add(role.At.Of("scram_iterations"), "leave it out for 4096", "scram_iterations is between 1 and 100000")
		}
		if role.ConnectionLimit < 0 || (role.ConnectionLimit == 0 && role.At.Has("connection_limit")) {
			l.add(role.At.Of("connection_limit"), "leave it out for 20", "connection_limit is at least 1")
		}
		l.roleEnv(role, "username", "password", "host", "port", "database", "url")
	}
}

func (l *loader) port(at strictyaml.Where, key string, port *int, standard int) {
	if *port == 0 && !at.Has(key) {
		*port = standard
		return
	}
	if (*port < 1 || *port > 65535) && l.fresh(at, key) {
		l.add(at.Of(key), "", "%s is between 1 and 65535", key)
	}
}

func (l *loader) jwt(issuer *Issuer) {
	if len(issuer.Roles) > 0 {
		if issuer.At.Has("used_by") {
			l.add(issuer.At.Of("used_by"), "write it in each role", "used_by beside roles")
		}
	} else {
		l.usedBy(issuer.At, "issuer "+issuer.Name, issuer.UsedBy)
	}
	for _, name := range slices.Sorted(maps.Keys(issuer.Roles)) {
		role := issuer.Roles[name]
		if role.At.Line == 0 {
			continue // not read
		}
		l.role(issuer, name, &role)
		for _, audience := range role.Audiences {
			if audience == "" && l.fresh(role.At, "audiences") {
				l.add(role.At.Of("audiences"), "", "role %s: an empty audience", name)
			}
			if sameURL(audience, l.config.ExternalURL) {
				l.add(role.At.Of("audiences"), "name those who are to accept the tokens", "role %s: an audience is this server's external_url: the tokens would come back as job tokens", name)
			}
		}
		if at := role.At.Of("default_ttl"); role.At.Has("default_ttl") && !l.reported(at) && (role.DefaultTTL <= 0 || role.DefaultTTL.Std() > maxTTL) {
			l.add(at, "", "default_ttl is between 1s and 24h")
		}
		l.profile(role)
		l.roleEnv(role, "token")
	}
}

// profile checks that the verifier a role names would take what is signed here.
func (l *loader) profile(role Role) {
	at := role.At.Of("profile")
	if !role.At.Has("profile") || l.reported(at) {
		return
	}
	if !slices.Contains(jwt.Profiles(), role.Profile) {
		l.add(at, strictyaml.Suggest(role.Profile, jwt.Profiles()), "unknown profile %q", role.Profile)
		return
	}
	algorithm := l.config.Keys.Signing.Algorithm
	if !slices.Contains(keys.Algorithms(), algorithm) || badURL(l.config.ExternalURL) != "" {
		return // reported where it stands
	}
	if err := jwt.CheckProfile(role.Profile, algorithm, l.config.ExternalURL); err != nil {
		why, hint, _ := strings.Cut(err.Error(), "\nhint: ")
		l.add(at, hint, "%s", why)
	}
}

// role checks what roles of all kinds have.
func (l *loader) role(issuer *Issuer, name string, role *Role) {
	if !nameForm().MatchString(name) {
		l.add(role.At.Pos, "small letters, digits and -, at most 63", "%q can't be the name of a role", name)
	}
	l.usedBy(role.At, "role "+name+" of issuer "+issuer.Name, role.UsedBy)
}

func (l *loader) usedBy(at strictyaml.Where, what string, uses []Use) {
	if at.Line == 0 {
		return
	}
	if len(uses) == 0 && l.fresh(at, "used_by") {
		l.warn(at.Of("used_by"), "write used_by: [{policy: …, environment: …}]", "%s can be used by no policy", what)
	}
	for i, use := range uses {
		if use.Policy != "" && !nameForm().MatchString(use.Policy) {
			l.add(use.At.Of("policy"), "", "%q can't be the name of a policy", use.Policy)
		}
		if use.Environment != "" && !slices.Contains(l.config.Environments, use.Environment) {
			l.add(use.At.Of("environment"), strictyaml.Suggest(use.Environment, l.config.Environments), "unknown environment %q", use.Environment)
		}
		for _, other := range uses[:i] {
			if use.Policy != "" && use.Policy == other.Policy && use.Environment == other.Environment {
				l.add(use.At.Pos, "", "%s in %s stands here twice", use.Policy, use.Environment)
			}
		}
	}
}

// roleEnv checks the environment variables of a role.
func (l *loader) roleEnv(role Role, values ...string) {
	at := role.At.Of("env")
	used := make(map[string]string, len(role.Env))
	for _, value := range slices.Sorted(maps.Keys(role.Env)) {
		name := role.Env[value]
		if !slices.Contains(values, value) {
			l.add(at, strictyaml.Suggest(value, values), "env: there is no value %q", value)
		}
		if err := issuers.CheckEnvName(name); err != nil {
			l.add(at, "", "env: %v", err)
		}
		if other, found := used[name]; found {
			l.add(at, "", "env: %s and %s would both be %s", other, value, name)
		}
		used[name] = value
	}
}
