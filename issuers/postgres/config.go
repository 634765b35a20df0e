package postgres

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/daypass/daypass/issuers"
)

// Config describes one target server and what may be made on it.
type Config struct {
	// Installation is the broker's random id, 12 characters [0-9a-z]. Required.
	Installation string
	// Epoch is the installation's, as the broker's own database has it: the target
	// refuses a lower one than it has seen. Each connection says it once, so that
	// no call costs a round trip more. Zero: none was ever raised.
	Epoch int64
	// Target is the server. Host and Database are required.
	Target Target
	// Admin is the broker's account on the target. User is required.
	Admin Admin
	// Schema is where the functions stand. Empty: "daypass".
	Schema string
	// Roles is what grants may name. At least one.
	Roles map[string]Role
	// PublicHost and PublicPort are what jobs are told, where that differs from
	// what the broker itself dials. Zero: the target's.
	PublicHost string
	PublicPort int
	// DefaultTTL is for grants that say none. Zero: 1 hour.
	DefaultTTL time.Duration
	// MaxConnections bounds the connections to the first database. Zero: 8. The
	// other databases get two at most.
	MaxConnections int
	// StatementTimeout bounds every call on the target. Zero: 10 s.
	StatementTimeout time.Duration
	// LockTimeout is how long handing over waits for a lock that somebody else
	// holds. Zero: 3 s.
	LockTimeout time.Duration
	// Now is the clock for waits. Nil: the system's.
	Now func() time.Time
	// Logger gets what an operator should see. Nil: nothing is logged.
	Logger *slog.Logger
	// Checkpoint is called between steps, so that a test can stop the process
	// exactly there: see the Step constants. Nil in production.
	Checkpoint func(step string)
}

// Target is a PostgreSQL server, version 15 or later.
type Target struct {
	// Host is a name, an address, or the folder of a Unix socket.
	Host string
	// Port. Zero: 5432.
	Port int
	// Database is the one that jobs are sent to.
	Database string
	// SSLMode is verify-full, verify-ca, require or disable. Empty: verify-full,
	// and disable for a Unix socket. "prefer" and "allow" don't exist here: they
	// fall back to plain text when somebody in between asks for it.
	SSLMode string
	// CAFile holds the certificates that the server's chain must end in. Empty:
	// the system's.
	CAFile string
	// Databases are all in which jobs may own things; in each of them the set-up
	// must have been run. The first keeps the record of users: it stays the first.
	// Empty: Database alone.
	Databases []string
}

// Admin is the broker's account on the target: it can call the functions of the
// set-up, and nothing else.
type Admin struct {
	// User is the account's name.
	User string
	// PasswordFile is read at every new connection, so that a password changed
	// behind the broker's back is picked up. A newline at its end is dropped.
	PasswordFile string
	// Password is used where there is no file.
	Password issuers.Secret
}

// Role is one kind of user that grants may ask for.
type Role struct {
	// MemberOf lists the groups that hold the rights. At least one.
	MemberOf []string
	// Owner is who inherits what users of this role leave behind: NOLOGIN, no
	// superuser, and one of the groups must be a member of it, so that code that a
	// job planted can do nothing as its heir that the job couldn't. Empty: users
	// may own nothing, and a revocation that finds something is blocked.
	Owner string
	// Allow lists what may be handed over although others run or use it with its
	// owner's rights: see the Allow constants. Empty: none, which is safest.
	Allow []string
	// SCRAMIterations is the verifier's cost, 1 to 100,000. Zero: 4,096, which
	// every client accepts. 1 is the fast setting: some twenty times cheaper for
	// the target, and sound, since passwords here hold 160 random bits; but some
	// clients refuse it.
	SCRAMIterations int
	// ConnectionLimit is how many sessions one user may have. Zero: 20.
	ConnectionLimit int
	// Env maps a value's name to an environment variable. Nil: username → PGUSER,
	// password → PGPASSWORD, host → PGHOST, port → PGPORT, database → PGDATABASE.
	Env map[string]string
}

// What Role.Allow may name.
const (
	AllowSecurityDefiner = "security_definer"
	AllowForeignServer   = "foreign_server"
	AllowUserMapping     = "user_mapping"
	AllowPublication     = "publication"
)

// The steps that Config.Checkpoint hears of.
const (
	StepIssueBefore         = "issue.before"
	StepIssueAfter          = "issue.after"
	StepRevokeAfterBar      = "revoke.after_bar"
	StepRevokeAfterCut      = "revoke.after_cut"
	StepRevokeAfterHandOver = "revoke.after_hand_over"
	StepRevokeAfterDrop     = "revoke.after_drop"
)

const (
	defaultPort             = 5432
	defaultSchema           = "daypass"
	defaultTTL              = time.Hour
	defaultIterations       = 4096
	maxIterations           = 100_000
	defaultConnectionLimit  = 20
	defaultMaxConnections   = 8
	otherMaxConnections     = 2
	defaultStatementTimeout = 10 * time.Second
	defaultLockTimeout      = 3 * time.Second
)

var (
	installationPattern = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[0-9a-z]{12}$`)
	})
	// Names of databases, roles and schemas that the set-up and the broker accept:
	// a part of what PostgreSQL allows, so that no quoting can go wrong.
	namePattern = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,62}$`)
	})
)

func checkName(what, name string) error {
	if !namePattern().MatchString(name) {
		return fmt.Errorf("%s %q: a name has 1 to 63 letters, digits, '_', '-' or '.', and begins with a letter or '_'", what, name)
	}
	return nil
}

// withDefaults fills zero values and refuses what can't work.
func (c Config) withDefaults() (Config, error) {
	if !installationPattern().MatchString(c.Installation) {
		return c, fmt.Errorf("installation %q: 12 characters [0-9a-z] are needed", c.Installation)
	}
	if c.Schema == "" {
		c.Schema = defaultSchema
	}
	if c.DefaultTTL <= 0 {
		c.DefaultTTL = defaultTTL
	}
	if c.MaxConnections <= 0 {
		c.MaxConnections = defaultMaxConnections
	}
	if c.StatementTimeout <= 0 {
		c.StatementTimeout = defaultStatementTimeout
	}
	if c.LockTimeout <= 0 {
		c.LockTimeout = min(defaultLockTimeout, c.StatementTimeout/2)
	}
	if c.LockTimeout >= c.StatementTimeout {
		return c, errors.New("lock timeout must be shorter than the statement timeout, or no error could say which lock it was")
	}
	if c.Now == nil {
		c.Now = time.Now //nolint:forbidigo // the default of an argument: nothing else here reads the system's clock
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Checkpoint == nil {
		c.Checkpoint = func(string) {}
	}
	var err error
	if c.Target, err = c.Target.withDefaults(); err != nil {
		return c, fmt.Errorf("target: %w", err)
	}
	if c.PublicHost == "" {
		c.PublicHost = c.Target.Host
	}
	if c.PublicPort == 0 {
		c.PublicPort = c.Target.Port
	}
	if err := errors.Join(checkName("schema", c.Schema), checkName("admin user", c.Admin.User)); err != nil {
		return c, err
	}
	c.Roles, err = rolesWithDefaults(c.Roles, c.Admin.User)
	return c, err
}

func (t Target) withDefaults() (Target, error) {
	if t.Host == "" || strings.ContainsAny(t.Host, ", \x00\n") {
		return t, fmt.Errorf("host %q: one name, address or socket folder is needed", t.Host)
	}
	if t.Port == 0 {
		t.Port = defaultPort
	}
	if t.Port < 1 || t.Port > 65535 {
		return t, fmt.Errorf("port %d is out of range", t.Port)
	}
	socket := filepath.IsAbs(t.Host)
	switch t.SSLMode {
	case "":
		t.SSLMode = "verify-full"
		if socket {
			t.SSLMode = "disable"
		}
	case "verify-full", "verify-ca", "require", "disable":
	default:
		return t, fmt.Errorf("sslmode %q: use verify-full, verify-ca, require or disable", t.SSLMode)
	}
	if len(t.Databases) == 0 {
		t.Databases = []string{t.Database}
	}
	for _, db := range append([]string{t.Database}, t.Databases...) {
		if err := checkName("database", db); err != nil {
			return t, err
		}
	}
	if !slices.Contains(t.Databases, t.Database) {
		return t, fmt.Errorf("database %q is not among the databases listed", t.Database)
	}
	if sorted := slices.Sorted(slices.Values(t.Databases)); len(slices.Compact(sorted)) != len(t.Databases) {
		return t, errors.New("databases lists one twice")
	}
	return t, nil
}

func rolesWithDefaults(roles map[string]Role, account string) (map[string]Role, error) {
	if len(roles) == 0 {
		return nil, errors.New("no role is configured: a grant has nothing to name")
	}
	out := make(map[string]Role, len(roles))
	for _, name := range slices.Sorted(maps.Keys(roles)) {
		role, err := roles[name].withDefaults(account)
		if err == nil {
			err = checkName("role", name)
		}
		if err != nil {
			return nil, fmt.Errorf("role %q: %w", name, err)
		}
		out[name] = role
	}
	return out, nil
}

func (r Role) withDefaults(account string) (Role, error) {
	if len(r.MemberOf) == 0 {
		return r, errors.New("member_of is empty: a user without a group can do nothing")
	}
	for _, group := range r.MemberOf {
		if err := checkGroup(group, account); err != nil {
			return r, err
		}
	}
	if r.Owner != "" {
		if err := checkGroup(r.Owner, account); err != nil {
			return r, fmt.Errorf("owner: %w", err)
		}
	}
	for _, kind := range r.Allow {
		switch kind {
		case AllowSecurityDefiner, AllowForeignServer, AllowUserMapping, AllowPublication:
		default:
			return r, fmt.Errorf("allow %q: use %s, %s, %s or %s", kind, AllowSecurityDefiner, AllowForeignServer, AllowUserMapping, AllowPublication)
		}
	}
	if r.SCRAMIterations == 0 {
		r.SCRAMIterations = defaultIterations
	}
	if r.SCRAMIterations < 1 || r.SCRAMIterations > maxIterations {
		return r, fmt.Errorf("scram_iterations %d: 1 to %d", r.SCRAMIterations, maxIterations)
	}
	if r.ConnectionLimit == 0 {
		r.ConnectionLimit = defaultConnectionLimit
	}
	if r.ConnectionLimit < 1 || r.ConnectionLimit > 10_000 {
		return r, fmt.Errorf("connection_limit %d: 1 to 10000", r.ConnectionLimit)
	}
	if r.Env == nil {
		r.Env = map[string]string{"username": "PGUSER", "password": "PGPASSWORD", "host": "PGHOST", "port": "PGPORT", "database": "PGDATABASE"}
	}
	return r, checkEnv(r.Env)
}

func checkGroup(name, account string) error {
	if err := checkName("group", name); err != nil {
		return err
	}
	if name == account {
		return fmt.Errorf("group %q is the broker's own account", name)
	}
	if strings.HasPrefix(name, "pg_") {
		return fmt.Errorf("group %q is one of PostgreSQL's own: grant it to a group of yours where it is really needed", name)
	}
	return nil
}

func checkEnv(env map[string]string) error {
	seen := make(map[string]string, len(env))
	for _, value := range slices.Sorted(maps.Keys(env)) {
		name := env[value]
		switch value {
		case "username", "password", "host", "port", "database", "url":
		default:
			return fmt.Errorf("env: there is no value %q: use username, password, host, port, database or url", value)
		}
		if err := issuers.CheckEnvName(name); err != nil {
			return fmt.Errorf("env of %q: %w", value, err)
		}
		if other, taken := seen[name]; taken {
			return fmt.Errorf("env: %s and %s both want %s", other, value, name)
		}
		seen[name] = value
	}
	return nil
}
