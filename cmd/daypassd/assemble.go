package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"
	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker"
	"github.com/daypass/daypass/broker/config"
	"github.com/daypass/daypass/broker/installation"
	"github.com/daypass/daypass/broker/instance"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/leases"
	"github.com/daypass/daypass/broker/oidc"
	"github.com/daypass/daypass/broker/reloader"
	"github.com/daypass/daypass/broker/sealing"
	"github.com/daypass/daypass/broker/vaultapi"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/builtin"
	"github.com/daypass/daypass/issuers/jwt"
	"github.com/daypass/daypass/issuers/postgres"
	"github.com/daypass/daypass/issuers/ssh"
	"github.com/daypass/daypass/issuers/x509"
	"github.com/daypass/daypass/migrations"
	"github.com/daypass/daypass/policies"
)

const configVariable = "DAYPASSD_CONFIG"

// configFile is the --config flag.
type configFile struct{ path string }

func (f *configFile) flag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.path, "config", os.Getenv(configVariable), "the server's configuration file (or "+configVariable+")")
}

// load reads the configuration, or prints everything that is wrong with it.
func (f *configFile) load(out io.Writer) (*config.Config, error) {
	if f.path == "" {
		return nil, usageError{errors.New("--config is required (hint: daypass.example.yaml shows a whole one; `daypassd dev` needs none)")}
	}
	settings, mistakes := config.Load(f.path, slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, configVariable+"=") // ours, and no setting of the file
	}))
	for _, m := range mistakes {
		if _, err := fmt.Fprintln(out, m.String()); err != nil {
			return nil, err
		}
	}
	switch len(mistakes) {
	case 0:
	case 1:
		return nil, fmt.Errorf("%s has a mistake; nothing was done", f.path)
	default:
		return nil, fmt.Errorf("%s has %d mistakes; nothing was done", f.path, len(mistakes))
	}
	for _, w := range settings.Warnings {
		if _, err := fmt.Fprintln(out, "warning:", w.String()); err != nil {
			return nil, err
		}
	}
	return settings, nil
}

// openBase opens the database and the sealing key alone.
func (f *configFile) openBase(ctx context.Context, warnings io.Writer) (*instance.Base, func(), error) {
	settings, err := f.load(warnings)
	if err != nil {
		return nil, nil, err
	}
	database, err := databaseConfig(settings)
	if err != nil {
		return nil, nil, err
	}
	store, err := openKeyStore(ctx, settings, database)
	if err != nil {
		return nil, nil, err
	}
	sealer, err := store.sealing(ctx, settings.Keys)
	if err != nil {
		return nil, nil, errors.Join(err, store.Close())
	}
	if store.create {
		// From here on the installation isn't new: it gets all its keys now.
		if _, err := store.signer(ctx, settings.Keys.Signing); err != nil {
			return nil, nil, errors.Join(fmt.Errorf("keys.signing: %w", err), store.Close())
		}
		if _, err := store.auditKey(ctx, settings.Keys.Audit); err != nil {
			return nil, nil, errors.Join(err, store.Close())
		}
	}
	base, err := instance.OpenBase(ctx, database, sealer, time.Now)
	if err != nil {
		return nil, nil, errors.Join(err, store.Close())
	}
	return base, func() {
		base.Pool.Close()
		_ = store.Close() // the command has done its work
	}, nil
}

const databaseConnections = 24

// databaseConfig leads to the database itself, past any pooler: what the commands
// work with.
func databaseConfig(settings *config.Config) (*pgxpool.Config, error) {
	url, err := directURL(settings)
	if err != nil {
		return nil, err
	}
	parsed, err := pgxpool.ParseConfig(url.Reveal())
	if err != nil {
		// pgx's error repeats the URL, and with it the password.
		return nil, errors.New("database: the URL could not be read: it has the form postgres://user:password@host:5432/name")
	}
	parsed.MaxConns = max(parsed.MaxConns, databaseConnections)
	if most := settings.Database.MaxConnections; most > 0 {
		parsed.MaxConns = int32(most) //nolint:gosec // a thousand at the most
	}
	parsed.ConnConfig.RuntimeParams["application_name"] = sealing.BrokerApplication
	leases.Prepare(parsed)
	installation.Guard(parsed)
	guard := parsed.AfterConnect
	parsed.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		err := guard(ctx, conn)
		if err == nil {
			return nil
		}
		// A database that was never migrated has no installation to read: say that instead.
		if old := migrations.Check(ctx, conn); errors.Is(old, migrations.ErrTooOld) {
			return old
		}
		return err
	}
	return parsed, nil
}

// assemble turns a configuration into the parts of a broker.
func assemble(ctx context.Context, settings *config.Config, logger *slog.Logger) (_ *instance.Config, _ func(), err error) {
	began := time.Now()
	parts := &instance.Config{
		ExternalURL: settings.ExternalURL, Logger: logger, Now: clock(), Elapsed: func() time.Duration { return time.Since(began) }, Checkpoint: checkpoint(),
	}
	direct, err := databaseConfig(settings)
	if err != nil {
		return nil, nil, err
	}
	parts.Version, parts.Database, parts.Direct = version, direct, direct.ConnConfig
	store, err := openKeyStore(ctx, settings, direct)
	if err != nil {
		return nil, nil, err
	}
	store.logger = logger
	if parts.Database, err = pooledDatabase(ctx, settings, direct); err != nil {
		return nil, nil, errors.Join(err, store.Close())
	}
	closeParts := func() {
		if err := store.Close(); err != nil {
			logger.Warn("closing the key store failed", "error", err)
		}
	}
	defer func() {
		if err != nil {
			closeParts()
		}
	}()
	if parts.Sealer, err = store.sealing(ctx, settings.Keys); err != nil {
		return nil, nil, err
	}
	if parts.Signing, err = store.signing(ctx, settings.Keys.Signing); err != nil {
		return nil, nil, fmt.Errorf("keys.signing: %w", err)
	}
	if parts.AuditKey, err = store.auditKey(ctx, settings.Keys.Audit); err != nil {
		return nil, nil, err
	}
	parts.CheckpointFile = settings.Audit.CheckpointFile
	parts.IssuerKeys = map[string]keys.Signer{}
	for _, c := range settings.Issuers {
		if c.Key == nil {
			continue
		}
		// It isn't made here: those who are to trust it have to be told of it.
		if parts.IssuerKeys[c.Name], err = store.opened(ctx, *c.Key); err != nil {
			return nil, nil, fmt.Errorf("issuers.%s.key: %w (hint: `daypassd keys generate --issuer %s` makes it)", c.Name, err, c.Name)
		}
	}
	for _, p := range settings.Providers {
		parts.Providers = append(parts.Providers, oidc.Provider{
			Name: p.Name, Type: p.Type, Issuer: p.Issuer, Audience: p.Audience, AudienceAlone: p.AudienceAlone,
			Algorithms: p.Algorithms, MaxTokenAge: p.MaxTokenAge.Std(), SessionTTL: p.SessionTTL.Std(),
			CAFile: p.CAFile, AllowPrivateAddress: p.AllowPrivateAddress,
		})
	}
	parts.Once, parts.Limits = settings.Once(), limits(settings.Limits)
	parts.Retention = instance.Retention{Leases: settings.Retention.Leases.Std(), Audit: settings.Retention.Audit.Std(), Prints: settings.Redaction.Keep.Std(), Archive: settings.Retention.Archive}
	if parts.Redaction, err = redaction(settings); err != nil {
		return nil, nil, err
	}
	parts.RevokeGrace = settings.Revoker.Grace.Std()
	parts.OAuth = oauth(settings)
	for _, prefix := range settings.ProxyNetworks {
		network := &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
		parts.TrustedProxies = append(parts.TrustedProxies, echo.TrustIPRange(network))
	}
	if parts.SecretHooks, err = secretHooks(settings); err != nil {
		return nil, nil, err
	}
	parts.OpenIssuers = func(ctx context.Context, with instance.IssuerParts) (map[string]broker.Issuer, error) {
		return openIssuers(ctx, settings, with, parts)
	}
	folder := reloader.Folder{Path: settings.Policies.Dir, Still: stillTime, Now: time.Now}
	parts.LoadPolicies = func(ctx context.Context, open map[string]broker.Issuer) (*policies.Set, error) {
		return folder.Load(ctx, policyConfig(settings, &grantChecker{settings: settings, open: open}))
	}
	if settings.Policies.Watch {
		parts.WatchPolicies = reloader.Watch{Stamp: folder.Stamp, Digest: folder.Digest}
	}
	parts.Reconcile = instance.Reconcile{Every: settings.Reconcile.Every.Std(), Grace: settings.Reconcile.Grace.Std(), DryRunFirst: settings.Reconcile.DryRunFirst}
	parts.Vault = vaultMapping(&settings.Vault)
	parts.RevokeOnPolicyChange = settings.Policies.OnPolicyChange == config.OnPolicyChangeRevoke
	return parts, closeParts, nil
}

func vaultMapping(c *config.Vault) vaultapi.Mapping {
	out := vaultapi.Mapping{Paths: c.Paths}
	for _, m := range c.Mounts {
		roles := map[string][]string{}
		for name, role := range m.Roles {
			roles[name] = role.Grants
		}
		out.Mounts = append(out.Mounts, vaultapi.Mount{Path: m.Path, DefaultRole: m.DefaultRole, Roles: roles})
	}
	return out
}

// stillTime is how long a policy folder must not change before it counts.
const stillTime = 2 * time.Second

func limits(c config.Limits) instance.Limits {
	return instance.Limits{
		Limits: broker.Limits{
			TenantRequests: c.TenantRequests, JobRequests: c.JobRequests, TenantLeases: c.TenantLeases, JobLeases: c.JobLeases,
		},
		FailedTokens: c.FailedTokens,
	}
}

func policyConfig(settings *config.Config, checker policies.IssuerChecker) policies.Config {
	return policies.Config{Environments: settings.Environments, Providers: settings.PolicyProviders(), Issuers: checker, Now: time.Now()}
}

func openIssuers(ctx context.Context, settings *config.Config, with instance.IssuerParts, parts *instance.Config) (map[string]broker.Issuer, error) {
	open := map[string]broker.Issuer{}
	for _, c := range settings.Issuers {
		spec := builtin.Spec{
			Name: c.Name, Kind: c.Type, Installation: with.Installation, Epoch: with.Epoch, ExternalURL: settings.ExternalURL,
			Signer: with.Signer, Key: parts.IssuerKeys[c.Name],
		}
		target := settings.ExternalURL
		switch c.Type {
		case builtin.KindPostgres:
			spec.Postgres = postgresConfig(&c, parts)
			target = net.JoinHostPort(c.Target.Host, strconv.Itoa(orDefault(c.Target.Port, 5432))) + "/" + c.Target.Database
		case builtin.KindJWT:
			spec.JWT = jwtConfig(&c)
		case builtin.KindX509:
			spec.X509 = x509Config(&c, parts)
		case builtin.KindSealed:
			spec.Sealed = sealedConfig(&c, with.Vault)
		case builtin.KindSSH:
			spec.SSH = sshConfig(&c)
		case builtin.KindAPIToken:
			spec.APIToken = apitokenConfig(&c)
		}
		issuer, err := builtin.Open(ctx, spec)
		if err != nil {
			return nil, err
		}
		roles := slices.Sorted(maps.Keys(c.Roles))
		if len(roles) == 0 {
			roles = []string{""} // a kind whose grants name none
		}
		open[c.Name] = broker.Issuer{Issuer: unruly(issuer), Target: target, Roles: roles, Workers: c.MaxConnections}
	}
	return open, nil
}

func postgresConfig(c *config.Issuer, parts *instance.Config) *postgres.Config {
	return &postgres.Config{
		Target: postgres.Target{
			Host: c.Target.Host, Port: c.Target.Port, Database: c.Target.Database, Databases: c.Target.Databases, SSLMode: c.Target.SSLMode, CAFile: c.Target.CAFile,
		},
		PublicHost: c.Target.PublicHost, PublicPort: c.Target.PublicPort,
		Admin:  postgres.Admin{User: c.Admin.User, PasswordFile: c.Admin.PasswordFile, Password: c.Admin.Password},
		Schema: c.Schema, Roles: postgresRoles(c), MaxConnections: c.MaxConnections, DefaultTTL: time.Duration(c.DefaultTTL),
		Now: parts.Now, Logger: parts.Logger.With("issuer", c.Name), Checkpoint: parts.Checkpoint,
	}
}

func postgresRoles(c *config.Issuer) map[string]postgres.Role {
	roles := map[string]postgres.Role{}
	for name, r := range c.Roles {
		roles[name] = postgres.Role{
			MemberOf: r.MemberOf, Owner: r.Owner, Allow: r.Allow, SCRAMIterations: r.SCRAMIterations, ConnectionLimit: r.ConnectionLimit, Env: r.Env,
		}
	}
	return roles
}

func jwtConfig(c *config.Issuer) *jwt.Config {
	out := &jwt.Config{Roles: map[string]jwt.Role{}, DefaultTTL: time.Duration(c.DefaultTTL)}
	for name, r := range c.Roles {
		out.Roles[name] = jwt.Role{
			Audiences: r.Audiences, Profile: r.Profile, SessionTags: r.SessionTags, Env: r.Env, DefaultTTL: time.Duration(r.DefaultTTL),
		}
	}
	return out
}

func x509Config(c *config.Issuer, parts *instance.Config) *x509.Config {
	out := &x509.Config{
		ChainFile: c.ChainFile, Roles: map[string]x509.Role{}, DefaultTTL: c.DefaultTTL.Std(), Now: parts.Now, Logger: parts.Logger.With("issuer", c.Name),
	}
	for name, r := range c.Roles {
		out.Roles[name] = r.X509()
	}
	return out
}

func sshConfig(c *config.Issuer) *ssh.Config {
	out := &ssh.Config{Roles: map[string]ssh.Role{}, DefaultTTL: time.Duration(c.DefaultTTL), RevokedAuthorities: c.RevokedAuthorities}
	for name, r := range c.Roles {
		out.Roles[name] = ssh.Role{
			Type: r.Type, Principals: r.Principals, DefaultPrincipals: r.DefaultPrincipals, PublicKey: r.PublicKey, KeyTypes: r.KeyTypes, ForceCommands: r.ForceCommands,
			SourceAddresses: r.SourceAddresses, VerifyRequired: r.VerifyRequired, Extensions: r.Extensions, MaxTTL: time.Duration(r.MaxTTL), DefaultTTL: time.Duration(r.DefaultTTL), Env: r.Env,
		}
	}
	return out
}

func orDefault[T comparable](v, fallback T) T {
	var zero T
	if v == zero {
		return fallback
	}
	return v
}

// grantChecker tells the policies which issuers and roles there are, and who
// may use them: a policy file alone opens nothing.
type grantChecker struct {
	settings *config.Config
	open     map[string]broker.Issuer
}

// CheckGrant implements policies.IssuerChecker.
func (g *grantChecker) CheckGrant(use policies.GrantUse) error {
	if err := g.settings.CheckGrant(use); err != nil {
		return err
	}
	issuer := g.open[use.Issuer]
	known := issuer.Describe(use.Role).Values
	for value, name := range use.Env {
		if _, ok := known[value]; !ok {
			return fmt.Errorf("env: issuer %s has no value %q: it has %s", use.Issuer, value, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
		if err := issuers.CheckEnvName(name); err != nil {
			return fmt.Errorf("env: %w", err)
		}
	}
	if checker, can := issuer.Issuer.(issuers.GrantChecker); can {
		if err := checker.CheckGrant(issuers.Grant{
			Tenant: instance.Tenant, Policy: use.Policy, Name: use.Grant, Role: use.Role, TTL: use.TTL, Parameters: use.With,
		}); err != nil {
			return err
		}
	}
	if checker, can := issuer.Issuer.(issuers.ParameterChecker); can {
		return checker.CheckParameters(use.Role, use.With)
	}
	return nil
}
