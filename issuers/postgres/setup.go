package postgres

import (
	"embed"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/template"

	"github.com/jackc/pgx/v5"
)

// OwnerMode says who owns the functions of the set-up.
type OwnerMode string

// The two choices; the SQL that is printed says what each costs.
const (
	OwnerSuperuser  OwnerMode = "superuser"  // creating a user stays flat, and the functions must be airtight
	OwnerCreateRole OwnerMode = "createrole" // the lesser privilege; slows down with the users alive on PostgreSQL 16 and later
)

// SetupConfig is what `daypassd target setup postgres` needs to know.
type SetupConfig struct {
	// Installation is the broker's random id: the account may act for it alone. Required.
	Installation string
	// BrokerUser is the account that the broker logs in as. Required.
	BrokerUser string
	// Databases are all in which jobs may own things, the one with the record of users first. Required.
	Databases []string
	// Roles as in Config. Required.
	Roles map[string]Role
	// Schema is where the functions stand. Empty: "daypass".
	Schema string
	// Owner. Empty: OwnerSuperuser.
	Owner OwnerMode
	// OwnerRole owns schema and functions. Empty: the schema's name and "_owner".
	OwnerRole string
	// KeepConnect leaves PUBLIC's right to connect to the databases that aren't
	// listed. Jobs can then leave things there, which blocks their revocation.
	KeepConnect bool
}

// Script is SQL to run in one database, as a superuser or as what its first line says.
type Script struct {
	Database string
	SQL      string
}

//go:embed sql/*.sql
var setupFiles embed.FS

// SetupSQL returns what prepares a target, in the order in which it is to be
// run. It may be run any number of times: after a change of roles, databases or
// the program's version, it brings the target up to date. It holds no password:
// the broker's account gets its own from an admin (`\password daypass`).
func SetupSQL(config SetupConfig) ([]Script, error) {
	data, err := newSetup(config)
	if err != nil {
		return nil, fmt.Errorf("preparing the set-up: %w", err)
	}
	files, err := template.New("").Option("missingkey=error").Funcs(template.FuncMap{
		"ident": func(name string) string { return pgx.Identifier{name}.Sanitize() },
		"lit":   literal,
		"names": func(list []string) (string, error) { return array(list, "name") },
		"texts": func(list []string) (string, error) { return array(list, "text") },
	}).ParseFS(setupFiles, "sql/*.sql")
	if err != nil {
		return nil, fmt.Errorf("reading the set-up's SQL: %w", err)
	}
	var scripts []Script
	add := func(file string) error {
		var sql strings.Builder
		if err := files.ExecuteTemplate(&sql, file, data); err != nil {
			return fmt.Errorf("filling %s: %w", file, err)
		}
		scripts = append(scripts, Script{Database: data.Database, SQL: sql.String()})
		return nil
	}
	data.Database = config.Databases[0]
	if err := add("server.sql"); err != nil {
		return nil, err
	}
	for i, database := range config.Databases {
		data.Database, data.Home = database, i == 0
		if err := add("schema.sql"); err != nil {
			return nil, err
		}
		if data.Home {
			if err := add("home.sql"); err != nil {
				return nil, err
			}
		}
	}
	return scripts, nil
}

// SetupScript is SetupSQL as one text for psql.
func SetupScript(config SetupConfig) (string, error) {
	scripts, err := SetupSQL(config)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	out.WriteString("\\set ON_ERROR_STOP on\n")
	for _, script := range scripts {
		fmt.Fprintf(&out, "\\connect %s\n%s\n", pgx.Identifier{script.Database}.Sanitize(), script.SQL)
	}
	fmt.Fprintf(&out, "\\echo 'Done. Set a password for %s with the \\\\password command.'\n", config.BrokerUser)
	return out.String(), nil
}

// setup is what the SQL templates see.
type setup struct {
	SetupConfig
	Database string // the one that the script is for
	Home     bool   // the first database, which keeps the record
	S        string // the schema, quoted
	Groups   []string
	Owners   []string
	Rows     []setupRow
}

type setupRow struct {
	Name string
	Role
}

// CreateRole says that the owner isn't a superuser.
func (s setup) CreateRole() bool { return s.Owner == OwnerCreateRole }

// RoleNames lists the configured roles.
func (s setup) RoleNames() []string { return slices.Sorted(maps.Keys(s.Roles)) }

func newSetup(config SetupConfig) (*setup, error) {
	if config.Schema == "" {
		config.Schema = defaultSchema
	}
	if config.OwnerRole == "" {
		config.OwnerRole = config.Schema + "_owner"
	}
	switch config.Owner {
	case "":
		config.Owner = OwnerSuperuser
	case OwnerSuperuser, OwnerCreateRole:
	default:
		return nil, fmt.Errorf("owner %q: use %s or %s", config.Owner, OwnerSuperuser, OwnerCreateRole)
	}
	if !installationPattern().MatchString(config.Installation) {
		return nil, fmt.Errorf("installation %q: 12 characters [0-9a-z] are needed; `daypassd migrate` makes them", config.Installation)
	}
	if len(config.Databases) == 0 {
		return nil, errors.New("no database is listed")
	}
	if sorted := slices.Sorted(slices.Values(config.Databases)); len(slices.Compact(sorted)) != len(config.Databases) {
		return nil, errors.New("databases lists one twice")
	}
	errs := []error{
		checkName("schema", config.Schema),
		checkName("owner role", config.OwnerRole),
		checkName("account", config.BrokerUser),
	}
	for _, database := range config.Databases {
		errs = append(errs, checkName("database", database))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if config.OwnerRole == config.BrokerUser {
		return nil, errors.New("the broker's account can't own the functions that limit it")
	}
	roles, err := rolesWithDefaults(config.Roles, config.BrokerUser)
	if err != nil {
		return nil, err
	}
	config.Roles = roles
	data := &setup{SetupConfig: config, S: pgx.Identifier{config.Schema}.Sanitize()}
	for _, name := range data.RoleNames() {
		role := roles[name]
		data.Rows = append(data.Rows, setupRow{Name: name, Role: role})
		data.Groups = append(data.Groups, role.MemberOf...)
		if role.Owner != "" {
			data.Owners = append(data.Owners, role.Owner)
		}
	}
	slices.Sort(data.Groups)
	slices.Sort(data.Owners)
	data.Groups, data.Owners = slices.Compact(data.Groups), slices.Compact(data.Owners)
	return data, nil
}

// literal quotes what checkName let through, and refuses all else: no escape is
// needed, so none can go wrong.
func literal(s string) (string, error) {
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' || r == '\'' || r == '\\' }) {
		return "", fmt.Errorf("%q can't stand in the set-up's SQL", s)
	}
	return "'" + s + "'", nil
}

func array(list []string, of string) (string, error) {
	quoted := make([]string, len(list))
	for i, s := range list {
		var err error
		if quoted[i], err = literal(s); err != nil {
			return "", err
		}
	}
	return "ARRAY[" + strings.Join(quoted, ", ") + "]::" + of + "[]", nil
}
