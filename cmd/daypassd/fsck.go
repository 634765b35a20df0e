package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker/audit"
	"github.com/daypass/daypass/broker/config"
	"github.com/daypass/daypass/broker/fsck"
	"github.com/daypass/daypass/broker/installation"
	"github.com/daypass/daypass/broker/instance"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/issuers"
)

func newFsck() *cobra.Command {
	var output string
	var grace time.Duration
	var file configFile
	cmd := &cobra.Command{
		Use:   "fsck",
		Short: "Look whether leases, sessions, events and targets fit together",
		Long: `Look whether leases, sessions, audit events, fingerprints and what stands on the
targets fit together. It only reads, in small steps, beside running brokers. What
looks wrong is looked at once more before it is reported.

It exits with 0 when all is well, and with 1 when something was found or could not
be looked at.`,
		Args: noArguments,
		Example: `  daypassd fsck --config daypass.yaml
  daypassd fsck --config daypass.yaml --output json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return usageError{fmt.Errorf("--output is text or json, not %q", output)}
			}
			settings, err := file.load(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			report, err := examine(cmd.Context(), settings, grace)
			if report != nil {
				err = errors.Join(writeFsck(cmd.OutOrStdout(), report, output), err)
			}
			if err == nil && !report.Clean() {
				err = fmt.Errorf("%d findings", len(report.Findings))
			}
			return err
		},
	}
	file.flag(cmd)
	cmd.Flags().StringVar(&output, "output", "text", "text or json")
	cmd.Flags().DurationVar(&grace, "grace", time.Minute, "how late the revoker may be")
	return cmd
}

// examine opens what a look needs: the database for reading, the keys of the
// audit log, and the targets that can say what stands on them.
func examine(ctx context.Context, settings *config.Config, grace time.Duration) (_ *fsck.Report, err error) {
	database, err := databaseConfig(settings)
	if err != nil {
		return nil, err
	}
	store, err := openKeyStore(ctx, settings, database)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if store.create {
		return nil, errors.New("this installation has never been started: there is nothing to look at")
	}
	sealer, err := store.sealing(ctx, settings.Keys)
	if err != nil {
		return nil, err
	}
	// What is no broker goes by another name.
	database.ConnConfig.RuntimeParams["application_name"] = "daypassd fsck"
	database.MaxConns = 2
	readOnly(database)
	pool, err := pgxpool.NewWithConfig(ctx, database)
	if err != nil {
		return nil, fmt.Errorf("opening database: %w", err)
	}
	defer pool.Close()
	who, err := installation.Original(ctx, pool)
	if err != nil {
		return nil, err
	}
	what := fsck.Config{
		Pool: pool, Tenant: instance.Tenant, Grace: grace, KeptRows: settings.Retention.Leases.Std(), KeptEvents: settings.Retention.Audit.Std(),
		Chain: func(ctx context.Context) error { return chain(ctx, pool, who.ID) },
	}
	if what.Verify, err = verifier(ctx, pool, sealer, who.ID); err != nil {
		return nil, err
	}
	open, closeTargets, err := openTargets(ctx, settings, who.ID, who.Epoch)
	if err != nil {
		return nil, err
	}
	defer closeTargets()
	what.Targets, what.Unlisted = listers(settings, who.ID, open)
	return fsck.Run(ctx, what)
}

// readOnly makes connections that write nothing. Only once they are there: of
// several hosts the one that takes writes is chosen, and a session that was
// begun as one that doesn't would be taken for a standby's.
func readOnly(database *pgxpool.Config) {
	prepare := database.AfterConnect
	database.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		if prepare != nil {
			if err := prepare(ctx, conn); err != nil {
				return err
			}
		}
		_, err := conn.Exec(ctx, `SET default_transaction_read_only = on`)
		return err
	}
}

// verifier checks events by the root that there was when they were written.
func verifier(ctx context.Context, pool *pgxpool.Pool, sealer keys.Sealer, name string) (func(audit.Event) error, error) {
	current, err := installation.OpenRoot(ctx, pool, sealer, name)
	if err != nil {
		return nil, err
	}
	retired, err := installation.RetiredRoots(ctx, pool, sealer, name)
	if err != nil {
		return nil, err
	}
	recorders := map[string]*audit.Recorder{}
	var otherwise *audit.Recorder
	for _, root := range append(retired, current) {
		hasher := root.Hasher(keys.AuditMACs)
		recorder, err := audit.New(audit.Config{Installation: name, Tenant: instance.Tenant, MAC: hasher})
		if err != nil {
			return nil, err
		}
		recorders[hasher.KeyID()], otherwise = recorder, recorder
	}
	return func(e audit.Event) error {
		if recorder, known := recorders[e.KeyID]; known {
			return recorder.Verify(e)
		}
		return otherwise.Verify(e)
	}, nil
}

// listers are the issuers that can say what stands on their targets, and of the
// others why not.
func listers(settings *config.Config, id string, open map[string]issuers.Issuer) (map[string]fsck.Lister, map[string]string) {
	can, not := map[string]fsck.Lister{}, map[string]string{}
	for _, c := range settings.Issuers {
		lister, ok := open[c.Name].(issuers.Lister)
		if !ok {
			not[c.Name] = "issuers of type " + c.Type + " can't list what they made"
			continue
		}
		can[c.Name] = func(ctx context.Context, yield func(fsck.Existing) error) error {
			for page := (&issuers.ListRequest{Installation: id, Limit: 1000}); ; {
				listed, err := lister.List(ctx, page)
				if err != nil {
					return err
				}
				for _, e := range listed.Found {
					if err := yield(fsck.Existing{LeaseID: e.LeaseID, Name: e.Name}); err != nil {
						return err
					}
				}
				if listed.Next == "" {
					return nil
				}
				page.After = listed.Next
			}
		}
	}
	return can, not
}

func writeFsck(out io.Writer, report *fsck.Report, output string) error {
	if output == "json" {
		return writeIndented(out, report)
	}
	for _, f := range report.Findings {
		if _, err := fmt.Fprintf(out, "%s: %s: %s\n  hint: %s\n", f.Check, f.Where, f.What, f.Hint); err != nil {
			return err
		}
	}
	for _, w := range report.Walks {
		said := fmt.Sprintf("%s: looked at %d", w.Name, w.Rows)
		switch {
		case w.Skipped != "":
			said = fmt.Sprintf("%s: not looked at: %s", w.Name, w.Skipped)
		case w.Cut:
			said += ", and stopped: there is more"
		}
		if _, err := fmt.Fprintln(out, said); err != nil {
			return err
		}
	}
	return nil
}
