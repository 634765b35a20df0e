package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/config"
	"github.com/daypass/daypass/broker/installation"
	"github.com/daypass/daypass/broker/instance"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/builtin"
	"github.com/daypass/daypass/issuers/postgres"
	"github.com/daypass/daypass/migrations"
	"github.com/daypass/daypass/policies"
)

func newMigrate() *cobra.Command {
	var file configFile
	cmd := &cobra.Command{
		Use: "migrate", Short: "Bring the broker's database up to date; safe to run beside running brokers", Args: noArguments,
		Example: "  daypassd migrate --config daypass.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings, err := file.load(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			database, err := databaseConfig(settings)
			if err != nil {
				return err
			}
			if err := requireDirect(cmd.Context(), settings, database); err != nil {
				return err // goose's lock is one of a session
			}
			connection := database.ConnConfig.Copy()
			connection.RuntimeParams["statement_timeout"] = "0" // a large table takes its time
			applied, err := migrations.Up(cmd.Context(), connection)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "schema is at version %d (%d applied now)\n", migrations.Latest, len(applied))
			return err
		},
	}
	file.flag(cmd)
	return cmd
}

func newConfig() *cobra.Command {
	var file configFile
	check := &cobra.Command{
		Use: "check", Short: "Check the configuration and the policies without starting", Args: noArguments,
		Example: "  daypassd config check --config daypass.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings, err := file.load(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			open, err := openUnused(cmd.Context(), settings)
			if err != nil {
				return err
			}
			set, err := policies.LoadDir(cmd.Context(), settings.Policies.Dir, policyConfig(settings, &grantChecker{settings: settings, open: open}))
			if err != nil {
				return err
			}
			mapping := vaultMapping(&settings.Vault)
			for _, name := range mapping.Unknown(set.Grants()) {
				if _, err := fmt.Fprintf(cmd.ErrOrStderr(), "warning: vault: there is no grant %s in the policies\n", name); err != nil {
					return err
				}
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: ok; policies ok: %d grants, digest %s\n", file.path, len(set.Grants()), set.Digest())
			return err
		},
	}
	file.flag(check)
	return group("config", "The server's configuration", "  daypassd config check --config daypass.yaml", check)
}

// openUnused opens the issuers to ask them about roles and parameters only: with
// a key and an installation that are made up, and without reaching for a target.
func openUnused(ctx context.Context, settings *config.Config) (map[string]broker.Issuer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	signer, err := keys.NewSigner(key, keys.ES256)
	if err != nil {
		return nil, err
	}
	own := map[string]keys.Signer{}
	for _, c := range settings.Issuers {
		if c.Type != config.IssuerX509 { // its chain fits one key alone
			own[c.Name] = signer
		}
	}
	return openIssuers(ctx, settings,
		instance.IssuerParts{Installation: "000000000000", Signer: func() issuers.Signer { return signer }, Vault: noVault{}},
		&instance.Config{IssuerKeys: own, Logger: slog.New(slog.DiscardHandler), Now: time.Now})
}

func newTarget() *cobra.Command {
	var file configFile
	var name, owner, ownerRole string
	var keepConnect bool
	setup := &cobra.Command{
		Use:   "postgres",
		Short: "Print the SQL that prepares a PostgreSQL target by least privilege",
		Long: `Print the SQL that prepares a PostgreSQL target: a schema with the functions that make a job's user and take it away,
an account that can call them and do nothing else, and the table of roles that the account can't write. It holds no password, and may be run any number of times.`,
		Example: `  daypassd target setup postgres --config daypass.yaml --issuer payments-db | psql -h db.internal -U postgres
  psql -h db.internal -U postgres -c '\password daypass'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings, err := file.load(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			issuer, err := findIssuer(settings, name)
			if err != nil {
				return err
			}
			id, err := readInstallation(cmd, settings)
			if err != nil {
				return err
			}
			databases := issuer.Target.Databases
			if len(databases) == 0 {
				databases = []string{issuer.Target.Database}
			}
			script, err := postgres.SetupScript(postgres.SetupConfig{
				Installation: id, Schema: issuer.Schema, BrokerUser: issuer.Admin.User, Databases: databases, Roles: postgresRoles(issuer),
				Owner: postgres.OwnerMode(owner), OwnerRole: ownerRole, KeepConnect: keepConnect,
			})
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), script)
			return err
		},
	}
	file.flag(setup)
	setup.Flags().StringVar(&name, "issuer", "", "which issuer of the configuration (needed where there are several of type postgres)")
	setup.Flags().StringVar(&owner, "owner", string(postgres.OwnerSuperuser), "who owns the functions: superuser (stays fast with many users) or createrole (the lesser privilege)")
	setup.Flags().StringVar(&ownerRole, "owner-role", "", "name of the role that owns them")
	setup.Flags().BoolVar(&keepConnect, "keep-connect", false, "leave everybody's right to connect to databases that aren't listed")
	return group("target", "What the broker makes credentials on", "  daypassd target setup postgres --config daypass.yaml",
		group("setup", "Print what prepares a target", "  daypassd target setup postgres --config daypass.yaml", setup))
}

func findIssuer(settings *config.Config, name string) (*config.Issuer, error) {
	var found []*config.Issuer
	for i, c := range settings.Issuers {
		if c.Type == builtin.KindPostgres && (name == "" || name == c.Name) {
			found = append(found, &settings.Issuers[i])
		}
	}
	switch {
	case len(found) == 0 && name != "":
		return nil, fmt.Errorf("the configuration has no issuer %q of type postgres", name)
	case len(found) == 0:
		return nil, fmt.Errorf("the configuration has no issuer of type postgres")
	case len(found) > 1:
		return nil, usageError{fmt.Errorf("the configuration has several issuers of type postgres: say which with --issuer")}
	}
	return found[0], nil
}

// readInstallation reads who we are: the id stands in every name on the target.
func readInstallation(cmd *cobra.Command, settings *config.Config) (string, error) {
	database, err := databaseConfig(settings)
	if err != nil {
		return "", err
	}
	conn, err := pgx.ConnectConfig(cmd.Context(), database.ConnConfig)
	if err != nil {
		return "", fmt.Errorf("reaching the broker's database, which knows the installation's id: %w", err)
	}
	defer conn.Close(cmd.Context()) //nolint:errcheck // it was read from
	if err := migrations.Check(cmd.Context(), conn); err != nil {
		return "", err
	}
	return installation.Check(cmd.Context(), conn)
}
