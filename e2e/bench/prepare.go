package main

import (
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/template"

	"github.com/jackc/pgx/v5"

	"github.com/daypass/daypass/broker/devkit"
	"github.com/daypass/daypass/broker/installation"
	"github.com/daypass/daypass/issuers/postgres"
	"github.com/daypass/daypass/migrations"
)

//go:embed files
var files embed.FS

const (
	brokerAccount = "daypass"
	targetGroup   = "bench_deploy"
	targetOwner   = "bench_owner"
)

// prepareBroker writes the configuration and the policy, and makes the schema.
func (s *stage) prepareBroker(ctx context.Context) error {
	if err := os.Mkdir(s.path("policies"), 0o700); err != nil {
		return err
	}
	for from, to := range map[string]string{"bench.yaml.tmpl": "policies/bench.yaml", "condition.cel": "condition.cel"} {
		if err := s.fill(from, to, ""); err != nil {
			return err
		}
	}
	return s.prepareDatabase(ctx, brokerDatabase, "daypass.yaml")
}

// prepareDatabase makes the schema, and the configuration of a broker on it.
func (s *stage) prepareDatabase(ctx context.Context, name, config string) error {
	url := name + ".url"
	if err := errors.Join(s.fill("daypass.yaml.tmpl", config, url), s.write(url, s.postgres.DSN(name))); err != nil {
		return err
	}
	connection, err := pgx.ParseConfig(s.postgres.DSN(name))
	if err != nil {
		return fmt.Errorf("reading the database's URL: %w", err)
	}
	_, err = migrations.Up(ctx, connection)
	return err
}

// fill writes a file of the broker from its template.
func (s *stage) fill(from, to, urlFile string) error {
	condition, err := files.ReadFile("files/condition.cel")
	if err != nil {
		return err
	}
	values := map[string]any{
		"URLFile": urlFile,
		"Dir":     s.dir, "Module": s.module, "Token": tokenLabel, "Issuer": s.provider.IssuerURL(devkit.ProfileGitHub), "Audience": audience,
		"Port": s.postgres.Port(), "Database": targetDatabase, "Account": brokerAccount, "Group": targetGroup, "Owner": targetOwner,
		"Condition": strings.Join(strings.Fields(string(condition)), " "),
	}
	text, err := template.ParseFS(files, "files/"+from)
	if err != nil {
		return err
	}
	var filled strings.Builder
	if err := text.Execute(&filled, values); err != nil {
		return err
	}
	return s.write(to, filled.String())
}

// prepareTarget runs what `daypassd target setup postgres` prints.
func (s *stage) prepareTarget(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.postgres.DSN(brokerDatabase))
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // it was read from
	id, err := installation.Check(ctx, conn)
	if err != nil {
		return err
	}
	s.installation = id
	groups := "CREATE ROLE " + targetOwner + " NOLOGIN; CREATE ROLE " + targetGroup + " NOLOGIN; GRANT " + targetOwner + " TO " + targetGroup
	if err := s.runSQL(ctx, groups); err != nil {
		return err
	}
	role := func(iterations int) postgres.Role {
		return postgres.Role{MemberOf: []string{targetGroup}, Owner: targetOwner, SCRAMIterations: iterations}
	}
	scripts, err := postgres.SetupSQL(postgres.SetupConfig{
		Installation: id, BrokerUser: brokerAccount, Databases: []string{targetDatabase}, KeepConnect: true,
		Roles: map[string]postgres.Role{"careful": role(4096), "fast": role(1)},
	})
	if err != nil {
		return err
	}
	for _, script := range scripts {
		if err := s.runSQL(ctx, script.SQL); err != nil {
			return fmt.Errorf("preparing the target: %w", err)
		}
	}
	password := rand.Text()
	if err := s.write("target.password", password); err != nil {
		return err
	}
	return s.runSQL(ctx, fmt.Sprintf("ALTER ROLE %s PASSWORD '%s'", brokerAccount, password))
}

// runSQL runs statements on the target as its superuser.
func (s *stage) runSQL(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, s.postgres.DSN(targetDatabase))
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // what was written is committed
	_, err = conn.PgConn().Exec(ctx, sql).ReadAll()
	return err
}
