package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker/config"
	"github.com/daypass/daypass/broker/instance"
	"github.com/daypass/daypass/broker/keyring"
	"github.com/daypass/daypass/broker/restore"
	"github.com/daypass/daypass/issuers"
	"github.com/daypass/daypass/issuers/builtin"
	"github.com/daypass/daypass/migrations"
)

// restoring is what `restore` was asked for.
type restoring struct {
	file                                configFile
	promote, anew, dryRun               bool
	revokeSigningKeys, dropSealed, json bool
}

func newRestore() *cobra.Command {
	var r restoring
	var output string
	cmd := &cobra.Command{
		Use: "restore", Short: "Make a restored or cloned database one that brokers may work with", Args: noArguments,
		Long: `A database that was restored from a backup, or cloned, is inert: no broker works with it until somebody says what it is to be.

--promote: the original is gone for good, and the same installation goes on here. Sessions, admin tokens and job tokens from before are void, what
lives is taken back, and the brokers aren't ready until every target that can list was compared with what is on record.
--new-installation: the original lives on. This one gets an id of its own, touches nothing that is the original's, and keeps static secrets and policies.

No broker may run meanwhile. It may be interrupted, and run again. See docs/restore.md.`,
		Example: `  daypassd restore --config daypass.yaml --promote --dry-run
  daypassd restore --config daypass.yaml --promote
  daypassd restore --config daypass.yaml --new-installation`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case r.promote == r.anew:
				return usageError{errors.New("say what the database is to be: --promote (the original is gone) or --new-installation (it lives on)")}
			case r.anew && r.revokeSigningKeys:
				return usageError{errors.New("--revoke-signing-keys goes with --promote: the keys are the original's")}
			case r.promote && r.dropSealed:
				return usageError{errors.New("--drop-sealed goes with --new-installation (hint: `daypassd keys replace` is for a sealing key that is lost)")}
			case output != "text" && output != "json":
				return usageError{fmt.Errorf("--output is text or json, not %q", output)}
			}
			r.json = output == "json"
			return r.run(cmd)
		},
	}
	r.file.flag(cmd)
	cmd.Flags().BoolVar(&r.promote, "promote", false, "the original is gone: the same installation goes on here")
	cmd.Flags().BoolVar(&r.anew, "new-installation", false, "the original lives on: this one becomes another installation")
	cmd.Flags().BoolVar(&r.dryRun, "dry-run", false, "say what would be done, and do nothing")
	cmd.Flags().BoolVar(&r.revokeSigningKeys, "revoke-signing-keys", false, "with --promote: end all that the signing keys signed now, rather than let it run out")
	cmd.Flags().BoolVar(&r.dropSealed, "drop-sealed", false, "with --new-installation: give up static secrets that the configured sealing keys don't open")
	cmd.Flags().StringVar(&output, "output", "text", "text or json")
	return cmd
}

func (r *restoring) run(cmd *cobra.Command) error {
	settings, err := r.file.load(cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	report, err := r.restore(cmd.Context(), settings)
	if err != nil {
		return err
	}
	if r.json {
		err = encodeJSON(cmd.OutOrStdout(), report)
	} else {
		err = r.write(cmd.OutOrStdout(), report)
	}
	if err != nil || !r.revokeSigningKeys || r.dryRun {
		return err
	}
	return r.revokeKeys(cmd, report)
}

func (r *restoring) restore(ctx context.Context, settings *config.Config) (_ *restore.Report, err error) {
	database, err := databaseConfig(settings)
	if err != nil {
		return nil, err
	}
	// What is no broker goes by another name, and may see a copy; and large tables
	// take their time.
	database.AfterConnect = nil
	database.ConnConfig.RuntimeParams["application_name"] = "daypassd restore"
	database.ConnConfig.RuntimeParams["statement_timeout"] = "60000"
	database.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = "60000"
	pool, err := pgxpool.NewWithConfig(ctx, database)
	if err != nil {
		return nil, fmt.Errorf("opening database: %w", err)
	}
	defer pool.Close()
	if err := migrations.Check(ctx, pool); err != nil {
		return nil, err
	}
	store, err := openKeyStore(ctx, settings, database)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	what := restore.Config{
		Pool: pool, Tenant: instance.Tenant, Actor: actor(), Mode: restore.Promote, DropSealed: r.dropSealed, Now: time.Now,
		OpenTargets: func(ctx context.Context, id string, epoch int64) (restore.Targets, func(), error) {
			return openTargets(ctx, settings, id, epoch)
		},
	}
	if r.anew {
		what.Mode = restore.NewInstallation
	}
	if what.Sealer, err = store.sealing(ctx, settings.Keys); err != nil {
		return nil, err
	}
	doing, err := restore.New(what)
	if err != nil {
		return nil, err
	}
	if r.dryRun {
		return doing.Plan(ctx)
	}
	return doing.Apply(ctx)
}

// openTargets opens the issuers that make something outside. Those that sign or
// read alone need keys, and are left aside.
func openTargets(ctx context.Context, settings *config.Config, id string, epoch int64) (restore.Targets, func(), error) {
	outside := *settings
	outside.Issuers = slices.DeleteFunc(slices.Clone(settings.Issuers), func(c config.Issuer) bool {
		return slices.Contains([]string{builtin.KindJWT, builtin.KindX509, builtin.KindSSH, builtin.KindSealed, builtin.KindAPIToken}, c.Type)
	})
	open, err := openIssuers(ctx, &outside,
		instance.IssuerParts{Installation: id, Epoch: epoch, Signer: func() issuers.Signer { return nil }, Vault: noVault{}},
		&instance.Config{Logger: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		return nil, nil, err
	}
	targets := restore.Targets{}
	for name, issuer := range open {
		targets[name] = issuer.Issuer
	}
	return targets, func() {
		for _, issuer := range targets {
			if closer, ok := issuer.(io.Closer); ok {
				_ = closer.Close() // it has done its work
			}
		}
	}, nil
}

// revokeKeys takes out the keys that may have signed what isn't on record, the
// latest first: what signs next must not be one of them.
func (r *restoring) revokeKeys(cmd *cobra.Command, report *restore.Report) error {
	err := r.file.withKeys(cmd, func(ctx context.Context, k *openedKeys) error {
		for _, key := range slices.Backward(report.SigningKeys) {
			revoked, err := k.ring.RevokeKey(ctx, keyring.Revoke{Key: key, Actor: actor(), Reason: "the broker's database was restored"})
			if err != nil {
				return fmt.Errorf("key %s: %w", key, err)
			}
			if r.json {
				continue
			}
			if err := writeRevocation(cmd.OutOrStdout(), revoked); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("the database is promoted, and not all of its signing keys are revoked: %w (hint: `daypassd keys revoke-key` does it)", err)
	}
	return nil
}

func (r *restoring) write(out io.Writer, p *restore.Report) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(table, format+"\n", args...) }
	line("installation\t%s", p.Installation)
	if p.Was != "" {
		line("was a copy of\t%s", p.Was)
	}
	if r.dryRun {
		line("the database\t%s", map[bool]string{true: "is a copy", false: "is the original, or a copy of its files"}[p.Copy])
		line("epoch\t%d, and will be raised", p.FormerEpoch)
	} else {
		line("epoch\t%d (was %d)", p.Epoch, p.FormerEpoch)
		line("void\tall sessions, admin tokens and job tokens from before %s", p.At.Format(time.RFC3339))
	}
	for _, t := range p.AdminTokens {
		line("admin token ends\t%s\t%s", t.ID, t.Owner)
	}
	if r.anew {
		r.writeAnew(line, p)
	} else {
		r.writePromoted(line, p)
	}
	if r.dryRun {
		line("\nNothing was done. Without --dry-run it is; stop every broker first.")
	}
	return table.Flush()
}

func (r *restoring) writePromoted(line func(string, ...any), p *restore.Report) {
	line("leases\t%d that lived are taken back by the brokers, as are %d that were on their way", p.Leases, p.Revoking)
	if p.RunsOut != nil {
		line("self-contained\tthe last JWT or certificate on record runs out %s", p.RunsOut.UTC().Format(time.RFC3339))
	}
	if !r.revokeSigningKeys && len(p.SigningKeys) > 0 {
		line("\twhat was signed after the backup isn't on record: it runs out after the longest ttl that a policy gives, or ends now with --revoke-signing-keys")
	}
	for _, t := range p.Targets {
		compared := "the brokers are ready once it was compared with what is on record"
		if !t.Lists {
			compared = "can't say what stands on it: look there for what was made after the backup"
		}
		line("target\t%s\tepoch: %s\t%s", t.Issuer, t.Epoch, compared)
	}
	line("next\tstart the brokers; make admin tokens anew: daypassd admin token create")
}

func (r *restoring) writeAnew(line func(string, ...any), p *restore.Report) {
	line("leases\t%d are forgotten, and nothing of them is touched: they are the original's", p.Leases+p.Revoking)
	line("static secrets\t%d versions are kept, sealed anew", p.Secrets)
	for _, lost := range p.Lost {
		line("  lost\t%s", lost)
	}
	if len(p.SigningKeys) > 0 {
		line("signing keys\tthose of the original are let go: %s", strings.Join(p.SigningKeys, ", "))
	}
	line("next\tgive it an external_url, key labels and target accounts of its own, and run daypassd target setup for each target; its signing key is made at the first start")
}
