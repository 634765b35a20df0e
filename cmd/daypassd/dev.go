package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker/config"
	"github.com/daypass/daypass/broker/devkit"
	"github.com/daypass/daypass/broker/installation"
	"github.com/daypass/daypass/broker/keys/pkcs11"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/postgres"
	"github.com/daypass/daypass/migrations"
)

func newDev() *cobra.Command {
	var dir string
	var ephemeral bool
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a broker to try, with nothing to configure: private Postgres, SoftHSM, a demo OIDC provider",
		Long: `Run a broker to try. It starts a private Postgres from the programs that this machine has, keeps its keys in SoftHSM where that is installed
(else sealed on disk), and runs a demo OIDC provider that gives job tokens to anybody on this machine. All of it listens on loopback only.
Data, keys, ports, policies and the generated configuration live in one folder and survive a restart.`,
		Example: `  daypassd dev
  daypassd dev --ephemeral      # in a folder that is thrown away
  daypassd dev --dir ~/daypass`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if ephemeral && !cmd.Flags().Changed("dir") {
				temporary, err := os.MkdirTemp("", "daypass-dev-")
				if err != nil {
					return err
				}
				defer os.RemoveAll(temporary) //nolint:errcheck // what is left is in the system's temporary folder
				dir = temporary
			}
			d := &dev{dir: dir, ephemeral: ephemeral, out: cmd.OutOrStdout()}
			return d.run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&dir, "dir", ".daypass", "where everything is kept")
	cmd.Flags().BoolVar(&ephemeral, "ephemeral", false, "keep nothing: everything is thrown away at the end (in a folder named with --dir: the databases alone)")
	return cmd
}

const devAudience = "daypass-dev"

// dev is what `daypassd dev` starts around a broker.
type dev struct {
	dir       string
	ephemeral bool
	out       io.Writer

	postgres *devkit.Postgres
	provider *devkit.Provider
	keys     devKeys
	address  string // of the broker
}

// devKeys says where the keys are: in SoftHSM, or on disk.
type devKeys struct {
	Module  string // "" for software keys
	Dir     string
	PINFile string
}

// Banner names the kind of keys.
func (k devKeys) Banner() string {
	if k.Module != "" {
		return "SoftHSM (" + k.Module + ")"
	}
	return "software, sealed on disk (install softhsm2 for keys in a PKCS#11 token)"
}

//go:embed dev
var devFiles embed.FS

func (d *dev) run(ctx context.Context) (err error) {
	if d.dir, err = filepath.Abs(d.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return fmt.Errorf("making the folder: %w", err)
	}
	logFile, err := os.OpenFile(d.path("daypassd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close() //nolint:errcheck // a log
	logger := slog.New(slog.NewJSONHandler(logFile, nil))

	if d.postgres, err = devkit.StartPostgres(ctx, devkit.PostgresConfig{Dir: d.path("postgres"), TCP: true, Ephemeral: d.ephemeral}); errors.Is(err, devkit.ErrInUse) {
		return fmt.Errorf("another `daypassd dev` runs in %s (hint: stop it, or give this one a folder of its own with --dir)", d.dir)
	} else if err != nil {
		return err
	}
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		err = errors.Join(err, d.postgres.Stop(stopping))
	}()
	// One that was killed has left its own: scripts wait for the file.
	if err := os.Remove(d.path("dev.env")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if d.provider, err = devkit.StartProvider(ctx, devkit.ProviderConfig{KeyDir: d.path("provider")}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.provider.Close()) }()
	if err := d.prepare(ctx); err != nil {
		return err
	}
	settings, mistakes := config.Load(d.path("daypass.yaml"), nil)
	if len(mistakes) > 0 {
		return fmt.Errorf("the generated configuration has a mistake: %s", mistakes[0].String())
	}
	if err := makeAuditKey(ctx, settings); err != nil {
		return err
	}
	defer os.Remove(d.path("dev.env")) //nolint:errcheck // it says that a broker is running
	running, stop := context.WithCancel(ctx)
	defer stop()
	var announced error
	err = serve(running, settings, serving{Logger: logger, Ready: func(string) {
		if announced = d.announce(); announced != nil {
			stop() // nobody would find it
		}
	}})
	return errors.Join(err, announced)
}

func (d *dev) path(name string) string { return filepath.Join(d.dir, name) }

// prepare makes what a broker needs before it starts: databases, keys, the
// target's set-up, policies and a configuration.
func (d *dev) prepare(ctx context.Context) (err error) {
	for _, name := range []string{"daypass", "payments"} {
		if err := d.postgres.CreateDatabase(ctx, name); err != nil {
			return err
		}
	}
	if err := writeSecret(d.path("database.url"), d.postgres.DSN("daypass")); err != nil {
		return err
	}
	connection, err := pgx.ParseConfig(d.postgres.DSN("daypass"))
	if err != nil {
		return errors.New("the private Postgres gave a URL that can't be read")
	}
	if _, err := migrations.Up(ctx, connection); err != nil {
		return err
	}
	if d.keys, err = d.prepareKeys(ctx); err != nil {
		return err
	}
	if d.address, err = d.chooseAddress(ctx); err != nil {
		return err
	}
	if err := d.writePolicies(); err != nil {
		return err
	}
	if err := d.writeConfig(); err != nil {
		return err
	}
	password, err := readOrMake(d.path("target.password"))
	if err != nil {
		return err
	}
	return d.prepareTarget(ctx, connection, password)
}

func (d *dev) prepareKeys(ctx context.Context) (devKeys, error) {
	k := devKeys{Dir: d.path("keys"), PINFile: d.path("pin")}
	pin, err := readOrMake(k.PINFile)
	if err != nil {
		return k, err
	}
	if module, found := pkcs11.FindSoftHSM(); found {
		k.Module = module
		return k, pkcs11.InitSoftHSM(ctx, pkcs11.SoftHSMConfig{Dir: k.Dir, Module: module, TokenLabel: "daypass", SOPIN: pin, PIN: pin})
	}
	return k, nil
}

// readOrMake reads a secret from its file, or makes it up.
func readOrMake(path string) (issuers.Secret, error) {
	if secret, err := readSecretFile(path); err == nil {
		return secret, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return secret, err
	}
	secret := issuers.NewSecret(rand.Text())
	return secret, writeSecret(path, secret.Reveal())
}

func writeSecret(path, value string) error {
	if err := os.WriteFile(path, []byte(value+"\n"), 0o600); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// chooseAddress keeps the port of the last run where it is free.
func (d *dev) chooseAddress(ctx context.Context) (string, error) {
	port := "0"
	if kept, err := os.ReadFile(d.path("port")); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(kept))); err == nil {
			port = strconv.Itoa(n)
		}
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:"+port)
	if err != nil {
		if listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0"); err != nil {
			return "", fmt.Errorf("looking for a free port: %w", err)
		}
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		return "", err
	}
	_, chosen, _ := net.SplitHostPort(address)
	return address, os.WriteFile(d.path("port"), []byte(chosen+"\n"), 0o600)
}

// writePolicies leaves what is there: it is the user's to change.
func (d *dev) writePolicies() error {
	if _, err := os.Stat(d.path("policies")); err == nil {
		return nil
	}
	if err := os.MkdirAll(d.path("policies"), 0o700); err != nil {
		return err
	}
	policy, err := devFiles.ReadFile("dev/payments.yaml")
	if err != nil {
		return err
	}
	return os.WriteFile(d.path("policies/payments.yaml"), policy, 0o600)
}

func (d *dev) writeConfig() error {
	text, err := template.ParseFS(devFiles, "dev/daypass.yaml.tmpl")
	if err != nil {
		return err
	}
	service, err := readOrMake(d.path("service.secret"))
	if err != nil {
		return err
	}
	hash := sha256.Sum256([]byte(service.Reveal()))
	f, err := os.OpenFile(d.path("daypass.yaml"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = text.Execute(f, map[string]any{
		"Address": d.address, "Dir": d.dir, "Keys": d.keys, "Audience": devAudience,
		"GitHub": d.provider.IssuerURL(devkit.ProfileGitHub), "GitLab": d.provider.IssuerURL(devkit.ProfileGitLab),
		"TargetPort": d.postgres.Port(), "ServiceHash": hex.EncodeToString(hash[:]),
	})
	return errors.Join(err, f.Close())
}

// prepareTarget runs what `daypassd target setup postgres` prints, as an admin
// would, and gives the broker's account a password.
func (d *dev) prepareTarget(ctx context.Context, brokerDatabase *pgx.ConnConfig, password issuers.Secret) error {
	settings, mistakes := config.Load(d.path("daypass.yaml"), nil)
	if len(mistakes) > 0 {
		return fmt.Errorf("the generated configuration has a mistake: %s", mistakes[0].String())
	}
	issuer, err := findIssuer(settings, "")
	if err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, brokerDatabase)
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // it was read from
	id, err := installation.Check(ctx, conn)
	if err != nil {
		return err
	}
	scripts, err := postgres.SetupSQL(postgres.SetupConfig{
		Installation: id, BrokerUser: issuer.Admin.User, Databases: []string{issuer.Target.Database}, Roles: postgresRoles(issuer), KeepConnect: true,
	})
	if err != nil {
		return err
	}
	demo, err := devFiles.ReadFile("dev/target.sql")
	if err != nil {
		return err
	}
	// The account's password, as SQL, goes to a server of our own whose log holds no statements.
	account := fmt.Sprintf("ALTER ROLE %s PASSWORD '%s'", pgx.Identifier{issuer.Admin.User}.Sanitize(), strings.ReplaceAll(password.Reveal(), "'", "''"))
	if err := d.runSQL(ctx, "payments", string(demo)); err != nil {
		return err
	}
	for _, script := range scripts {
		if err := d.runSQL(ctx, script.Database, script.SQL); err != nil {
			return fmt.Errorf("preparing the target: %w", err)
		}
	}
	return d.runSQL(ctx, "payments", account)
}

func (d *dev) runSQL(ctx context.Context, database, sql string) error {
	conn, err := pgx.Connect(ctx, d.postgres.DSN(database))
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // what was written is committed
	_, err = conn.PgConn().Exec(ctx, sql).ReadAll()
	return err
}

// announce prints all that one needs to try the broker, and leaves it in dev.env
// for scripts.
func (d *dev) announce() error {
	url := "http://" + d.address
	token := d.provider.URL() + "/token?audience=" + devAudience + "&format=raw&profile="
	var env strings.Builder
	for _, v := range []struct{ name, value string }{
		{"DAYPASS_URL", url},
		{"DAYPASS_DEV_TOKEN_URL", token},
		{"DAYPASS_DEV_CONFIG", d.path("daypass.yaml")},
		{"DAYPASS_DEV_KEYS", d.keys.Banner()},
		{"DAYPASS_DEV_PGHOST", "127.0.0.1"},
		{"DAYPASS_DEV_PGPORT", strconv.Itoa(d.postgres.Port())},
		{"DAYPASS_DEV_PGPASSWORD_FILE", d.path("postgres.password")},
	} {
		fmt.Fprintf(&env, "%s=%s\n", v.name, shellQuote(v.value))
	}
	if d.keys.Module != "" {
		fmt.Fprintf(&env, "export SOFTHSM2_CONF=%s\n", shellQuote(filepath.Join(d.keys.Dir, "softhsm2.conf")))
	}
	if err := writeSecret(d.path("postgres.password"), d.postgres.Password()); err != nil {
		return err
	}
	partial := d.path("dev.env.partial")
	if err := os.WriteFile(partial, []byte(env.String()), 0o600); err != nil {
		return err
	}
	if err := os.Rename(partial, d.path("dev.env")); err != nil {
		return err
	}
	text, err := template.ParseFS(devFiles, "dev/banner.txt.tmpl")
	if err != nil {
		return err
	}
	return text.Execute(d.out, map[string]any{
		"URL": url, "Token": token, "Dir": d.dir, "Keys": d.keys.Banner(), "Env": shellQuote(d.path("dev.env")), "Service": shellQuote(d.path("service.secret")), "Config": shellQuote(d.path("daypass.yaml")),
	})
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
