package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/daypass/daypass/broker/config"
	"github.com/daypass/daypass/broker/instance"
	"github.com/daypass/daypass/broker/sealing"
	"github.com/daypass/daypass/issuers"
)

// databaseURL is how exchanges reach the database.
func databaseURL(settings *config.Config) (issuers.Secret, error) {
	if settings.Database.URLFile != "" {
		return readSecretFile(settings.Database.URLFile)
	}
	return settings.Database.URL, nil
}

// directURL is how everything else does: locks of a session, LISTEN, and what
// changes the schema.
func directURL(settings *config.Config) (issuers.Secret, error) {
	switch {
	case settings.Database.DirectURLFile != "":
		return readSecretFile(settings.Database.DirectURLFile)
	case settings.Database.Pooled():
		return settings.Database.DirectURL, nil
	}
	return databaseURL(settings)
}

// execMode stands in a URL that says how statements are sent.
const execMode = "default_query_exec_mode="

// pooledDatabase is what exchanges go through. Without a direct URL, that is the
// database itself. With one, a pooler may be in between: it refuses parameters
// that it doesn't know, so the account must have been given them; and a statement
// that was prepared may be looked for in a session that doesn't know it, so none
// is, unless the URL says that the pooler knows of them (PgBouncer from 1.21 on,
// with max_prepared_statements).
func pooledDatabase(ctx context.Context, settings *config.Config, direct *pgxpool.Config) (*pgxpool.Config, error) {
	if !settings.Database.Pooled() {
		return direct, nil
	}
	url, err := databaseURL(settings)
	if err != nil {
		return nil, err
	}
	parsed, err := pgxpool.ParseConfig(url.Reveal())
	if err != nil {
		return nil, errors.New("database: the URL could not be read: it has the form postgres://user:password@host:5432/name") // pgx's error repeats the password
	}
	parsed.MaxConns = max(parsed.MaxConns, databaseConnections)
	parsed.AfterConnect = direct.AfterConnect
	parsed.ConnConfig.ConnectTimeout = direct.ConnConfig.ConnectTimeout
	if !strings.Contains(url.Reveal(), execMode) {
		parsed.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	wanted := maps.Clone(direct.ConnConfig.RuntimeParams)
	delete(wanted, "application_name")
	parsed.ConnConfig.RuntimeParams["application_name"] = sealing.BrokerApplication
	return parsed, checkSettings(ctx, parsed.ConnConfig, wanted)
}

// requireDirect refuses a database that is reached through a pooler which gives
// each transaction another session.
func requireDirect(ctx context.Context, settings *config.Config, database *pgxpool.Config) error {
	setting := "database.url"
	if settings.Database.Pooled() {
		setting = "database.direct_url"
	}
	// With all that is asked of a session: some poolers refuse it already.
	conn, err := pgx.ConnectConfig(ctx, database.ConnConfig)
	if err != nil {
		return fmt.Errorf("reaching the broker's database: %w", hintOfPooler(err))
	}
	if err := conn.Close(ctx); err != nil {
		return fmt.Errorf("reaching the broker's database: %w", err)
	}
	return instance.RequireDirect(ctx, database.ConnConfig, setting)
}

// checkSettings looks whether sessions behind a pooler have the settings that
// the broker's own connections are opened with.
func checkSettings(ctx context.Context, database *pgx.ConnConfig, wanted map[string]string) error {
	conn, err := pgx.ConnectConfig(ctx, database)
	if err != nil {
		return fmt.Errorf("reaching the broker's database by database.url: %w", hintOfPooler(err))
	}
	defer conn.Close(ctx) //nolint:errcheck // it was read from
	rows, err := conn.Query(ctx, `SELECT name, setting, current_user::text, current_database()::text FROM pg_settings WHERE name = ANY($1)`, slices.Collect(maps.Keys(wanted)))
	if err != nil {
		return fmt.Errorf("reading the settings of database.url: %w", err)
	}
	var name, setting, user, in string
	var mend []string
	if _, err := pgx.ForEachRow(rows, []any{&name, &setting, &user, &in}, func() error {
		if setting != wanted[name] {
			mend = append(mend, fmt.Sprintf("ALTER ROLE %s IN DATABASE %s SET %s = %s;", pgx.Identifier{user}.Sanitize(), pgx.Identifier{in}.Sanitize(), name, wanted[name]))
		}
		return nil
	}); err != nil {
		return fmt.Errorf("reading the settings of database.url: %w", err)
	}
	if len(mend) == 0 {
		return nil
	}
	slices.Sort(mend)
	return fmt.Errorf("sessions behind database.url lack settings that a pooler doesn't pass on (hint: run this there, then let the pooler reconnect):\n%s", strings.Join(mend, "\n"))
}

// hintOfPooler adds what to do where a pooler refused to let us in.
func hintOfPooler(err error) error {
	refused, ok := errors.AsType[*pgconn.PgError](err)
	if ok && strings.Contains(refused.Message, "unsupported startup parameter") {
		return fmt.Errorf("%w (hint: PgBouncer stands in between: set database.direct_url_file to the URL of the server itself; exchanges go on through database.url)", err)
	}
	return err
}
