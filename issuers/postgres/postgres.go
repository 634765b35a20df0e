// Package postgres makes and takes away users of PostgreSQL databases.
//
// The broker's account on the target can do one thing: call the functions that
// `daypassd target setup postgres` printed and an admin installed ([SetupSQL]).
// They make the users' names, look up what a role may do in a table that the
// account can't write, and act only on users that they made.
//
// A password never travels: the server gets a SCRAM-SHA-256 verifier. A user is
// taken away in three steps, each a commit of its own, since less goes wrong in
// worse ways:
//
//  1. bar: NOLOGIN, and a tombstone, behind which no create lands.
//  2. cut: its sessions end, in every database, also those that said SET ROLE
//     and would survive DROP ROLE; its prepared transactions are rolled back.
//  3. hand over and drop: what it owns goes to the heir that its role declares,
//     rows and all, unless it would act with the heir's rights; then the rest of
//     its privileges goes, and the user.
package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/issuers"
)

// Kind is this issuer's name in the configuration.
const Kind = "postgres"

// commitSlack is what a commit may take beyond the statement timeout, which
// doesn't count it.
const commitSlack = 5 * time.Second

// Issuer makes users on one target. It implements [issuers.Issuer],
// [issuers.Renewer], [issuers.ParameterChecker], [issuers.Lister], [issuers.EpochKeeper]
// and io.Closer.
type Issuer struct {
	config   Config
	password *passwordSource
	pools    map[string]*pgxpool.Pool // by database
	home     *pgxpool.Pool            // the first database, with the record of users
	sql      statements
	creating creations
}

// statements are the calls, with the schema filled in.
type statements struct {
	create, createAll, renew, bar, cut, handOver, drop, list, raise string
}

// New prepares an issuer. It makes no connection: a target that is down keeps
// nobody from starting.
func New(ctx context.Context, config Config) (*Issuer, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	schema := pgx.Identifier{config.Schema}.Sanitize()
	i := &Issuer{
		config: config,
		pools:  make(map[string]*pgxpool.Pool, len(config.Target.Databases)),
		sql: statements{
			create:    "SELECT " + schema + ".create_user($1, $2, $3, $4, $5, $6)",
			createAll: "SELECT " + schema + ".create_users($1, $2, $3, $4, $5, $6)",
			renew:     "SELECT " + schema + ".renew_user($1, $2, $3)",
			bar:       "SELECT existed, coalesce(user_name, '') FROM " + schema + ".bar_user($1, $2)",
			cut:       "SELECT sessions, prepared, prepared_in, present_in FROM " + schema + ".cut_user($1, $2)",
			handOver:  "SELECT " + schema + ".hand_over_user($1, $2, $3)",
			drop:      "SELECT " + schema + ".drop_user($1, $2)",
			list:      "SELECT lease_id, user_name, created_at, stands, more FROM " + schema + ".list_page($1, $2, $3)",
			raise:     "SELECT " + schema + ".raise_epoch($1, $2)",
		},
	}
	i.password = &passwordSource{admin: config.Admin, warn: func(file string) {
		config.Logger.LogAttrs(context.WithoutCancel(ctx), slog.LevelWarn, "the target's admin password changed in its file: read again",
			slog.String("host", config.Target.Host), slog.String("user", config.Admin.User), slog.String("file", file))
	}}
	for n, database := range config.Target.Databases {
		size := min(config.MaxConnections, otherMaxConnections)
		if n == 0 {
			size = config.MaxConnections
		}
		// The pool outlives the call that makes it.
		if i.pools[database], err = i.pool(context.WithoutCancel(ctx), database, size); err != nil {
			_ = i.Close()
			return nil, err
		}
	}
	i.home = i.pools[config.Target.Databases[0]]
	return i, nil
}

// Close ends the connections. Calls under way are waited for.
func (i *Issuer) Close() error {
	for _, pool := range i.pools {
		if pool != nil {
			pool.Close()
		}
	}
	return nil
}

// Describe implements [issuers.Issuer].
func (i *Issuer) Describe(role string) issuers.Description {
	return issuers.Description{
		Kind:         Kind,
		Revocation:   issuers.Immediate,
		DefaultTTL:   i.config.DefaultTTL,
		IssueTimeout: i.config.StatementTimeout + commitSlack,
		Env:          i.config.Roles[role].Env,
		Values:       map[string]bool{"username": false, "password": true, "host": false, "port": false, "database": false, "url": true},
	}
}

// CheckParameters implements [issuers.ParameterChecker]: the role must exist,
// and there are no parameters.
func (i *Issuer) CheckParameters(role string, parameters json.RawMessage) error {
	if _, ok := i.config.Roles[role]; !ok {
		return fmt.Errorf("there is no role %q on this target", role)
	}
	if len(parameters) > 0 {
		var none map[string]json.RawMessage
		if err := json.Unmarshal(parameters, &none); err != nil || len(none) > 0 {
			return errors.New("a database user has no parameters: what it may do stands with the role in the server's configuration")
		}
	}
	return nil
}

// Issue implements [issuers.Issuer]: one round trip, unless the connection is new.
// Calls that come together may share it.
func (i *Issuer) Issue(ctx context.Context, req *issuers.IssueRequest) (*issuers.IssueResponse, error) {
	lease := req.Lease
	if err := i.CheckParameters(lease.Role, req.Parameters); err != nil {
		return nil, errorf(issuers.ErrRejected, "%v", err)
	}
	if err := i.own(lease); err != nil {
		return nil, errorf(issuers.ErrRejected, "%v", err)
	}
	password := issuers.Generate(issuers.Password)
	secret, err := verifier(password, i.config.Roles[lease.Role].SCRAMIterations)
	if err != nil {
		return nil, errorf(issuers.ErrRejected, "%v", err)
	}
	i.config.Checkpoint(StepIssueBefore)
	user, err := i.create(ctx, &creation{lease: lease, verifier: secret})
	if err != nil {
		return nil, classify(ctx, "creating the user", err)
	}
	i.config.Checkpoint(StepIssueAfter)
	handle, err := json.Marshal(map[string]string{"user": user})
	if err != nil {
		return nil, errorf(issuers.ErrRejected, "writing the handle: %v", err)
	}
	return &issuers.IssueResponse{Values: i.values(user, password), Handle: handle}, nil
}

// own refuses leases that were made by another installation: a row of a cloned
// database must not reach what the original made.
func (i *Issuer) own(lease issuers.Lease) error {
	if lease.Installation != i.config.Installation {
		return fmt.Errorf("lease %s belongs to installation %q, and this is %q", lease.ID, lease.Installation, i.config.Installation)
	}
	return nil
}

func (i *Issuer) values(user string, password issuers.Secret) []issuers.Value {
	port := strconv.Itoa(i.config.PublicPort)
	open := func(name, value string) issuers.Value {
		return issuers.Value{Name: name, Value: issuers.NewSecret(value)}
	}
	return []issuers.Value{
		open("username", user),
		{Name: "password", Value: password, Sensitive: true, RandomBits: issuers.GeneratedBits},
		open("host", i.config.PublicHost),
		open("port", port),
		open("database", i.config.Target.Database),
		{Name: "url", Value: issuers.NewSecret(i.url(user, password, port)), Sensitive: true, RandomBits: issuers.GeneratedBits},
	}
}

func (i *Issuer) url(user string, password issuers.Secret, port string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(user, password.Reveal()), Path: "/" + i.config.Target.Database}
	query := url.Values{"sslmode": {i.config.Target.SSLMode}}
	if filepath.IsAbs(i.config.PublicHost) {
		query.Set("host", i.config.PublicHost)
		query.Set("port", port)
	} else {
		u.Host = net.JoinHostPort(i.config.PublicHost, port)
	}
	u.RawQuery = query.Encode()
	return u.String()
}

// Renew implements [issuers.Renewer].
func (i *Issuer) Renew(ctx context.Context, req *issuers.RenewRequest) error {
	if err := i.own(req.Lease); err != nil {
		return errorf(issuers.ErrRejected, "%v", err)
	}
	var done *bool
	if err := i.home.QueryRow(ctx, i.sql.renew, req.Lease.ID, req.Lease.Installation, req.ExpiresAt).Scan(&done); err != nil {
		return classify(ctx, "moving the user's end", err)
	}
	return nil
}
