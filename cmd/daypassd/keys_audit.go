package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	auditlog "github.com/daypass/daypass/broker/audit/log"
	"github.com/daypass/daypass/broker/config"
	"github.com/daypass/daypass/broker/installation"
	"github.com/daypass/daypass/broker/keys"
)

func (k *openedKeys) listAudit(ctx context.Context, audit *config.Key) listedKey {
	l := listedKey{Use: "audit", Label: audit.Label, Algorithm: audit.Algorithm, State: "in use"}
	signer, err := k.store.opened(ctx, *audit)
	switch {
	case errors.Is(err, keys.ErrNoKey):
		l.State, l.Next = "missing", "daypassd keys generate --audit makes it"
	case err != nil:
		l.State, l.Reason = "doesn't open", err.Error()
	default:
		l.Key = signer.KeyID()
	}
	return l
}

func newKeysAudit() *cobra.Command {
	var file configFile
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Print the public key that verifies the audit log's checkpoints",
		Long: `Print the public key that verifies the audit log's checkpoints, as the verifier key of a signed note. It comes from where the key is, not from the
database: keep it where whoever can change the log can't change it, for daypass audit verify --key. Former keys, which verify what they signed, are
printed behind it as comments, as the database has them: compare them with what you kept.`,
		Example: "  daypassd keys audit --config daypass.yaml > audit.pub",
		Args:    noArguments,
		RunE:    func(cmd *cobra.Command, _ []string) error { return file.printAuditKey(cmd) },
	}
	file.flag(cmd)
	return cmd
}

func (f *configFile) printAuditKey(cmd *cobra.Command) error {
	return f.withKeys(cmd, func(ctx context.Context, k *openedKeys) error {
		if k.settings.Keys.Audit == nil {
			return fmt.Errorf("there is no keys.audit in %s: checkpoints are not signed", f.path)
		}
		signer, err := k.store.auditKey(ctx, k.settings.Keys.Audit)
		if err != nil {
			return err
		}
		id, err := installation.Check(ctx, k.pool)
		if err != nil {
			return err
		}
		key, err := auditlog.NewKey(auditlog.Origin(id), signer.Public())
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(cmd.OutOrStdout(), key); err != nil {
			return err
		}
		const former = `SELECT verifier_key, adopted_at FROM audit_keys WHERE kid <> $1 ORDER BY adopted_at DESC`
		rows, err := k.pool.Query(ctx, former, signer.KeyID())
		if err != nil {
			return fmt.Errorf("reading former audit keys: %w", err)
		}
		defer rows.Close()
		for rows.Next() {
			var text string
			var since time.Time
			if err := rows.Scan(&text, &since); err != nil {
				return fmt.Errorf("reading former audit keys: %w", err)
			}
			if _, err := fmt.Fprintf(cmd.OutOrStdout(), "# former, since %s: %s\n", since.UTC().Format(time.RFC3339), text); err != nil {
				return err
			}
		}
		return rows.Err()
	})
}

// makeAuditKey makes the key of an installation from before there was one: for
// `daypassd dev`, whose configuration is not its user's. A new installation gets it with its others.
func makeAuditKey(ctx context.Context, settings *config.Config) (err error) {
	database, err := databaseConfig(settings)
	if err != nil {
		return err
	}
	store, err := openKeyStore(ctx, settings, database)
	if err != nil || store.create {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	store.create = true
	_, err = store.auditKey(ctx, settings.Keys.Audit)
	return err
}
