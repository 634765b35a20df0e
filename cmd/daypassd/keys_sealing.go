package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker/config"
	"github.com/daypass/daypass/broker/installation"
	"github.com/daypass/daypass/broker/instance"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/sealing"
)

// sealing opens the key that seals, and beside it those that open too.
func (s *keyStore) sealing(ctx context.Context, k config.Keys) (keys.Sealer, error) {
	current, err := s.sealer(ctx, k.Sealing)
	if err != nil {
		return nil, fmt.Errorf("keys.sealing: %w (hint: where the key is lost for good, see docs/key-recovery.md)", err)
	}
	others, err := s.opening(ctx, k)
	if err != nil {
		return nil, err
	}
	return keys.AlsoOpen(current, others...), nil
}

// opening opens the keys of keys.opening that there are. One that is missing is
// missed by whatever it wraps, if something is.
func (s *keyStore) opening(ctx context.Context, k config.Keys) ([]keys.Sealer, error) {
	var others []keys.Sealer
	for _, o := range k.Opening {
		store, err := s.store(ctx, o)
		if err != nil {
			return nil, fmt.Errorf("keys.opening: %w", err)
		}
		sealer, err := store.OpenSealer(ctx, o.Label)
		if errors.Is(err, keys.ErrNoKey) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("keys.opening: %w", err)
		}
		others = append(others, sealer)
	}
	return others, nil
}

func newKeysSealingStatus() *cobra.Command {
	var file configFile
	var output, label string
	cmd := &cobra.Command{
		Use: "sealing", Short: "Say what the sealing key wraps, and how far re-wrapping is; or make the next one", Args: noArguments,
		Example: `  daypassd keys sealing --config daypass.yaml
  daypassd keys sealing --config daypass.yaml --make daypass-sealing-2`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return usageError{fmt.Errorf("--output is text or json, not %q", output)}
			}
			if label != "" {
				return file.makeNextSealer(cmd, label)
			}
			base, closeBase, err := file.openBase(cmd.Context(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			defer closeBase()
			status, err := base.Wrapping().Status(cmd.Context())
			if err != nil {
				return err
			}
			if output == "json" {
				return encodeJSON(cmd.OutOrStdout(), status)
			}
			return writeSealing(cmd.OutOrStdout(), status)
		},
	}
	file.flag(cmd)
	cmd.Flags().StringVar(&output, "output", "text", "text or json")
	cmd.Flags().StringVar(&label, "make", "", "make a sealing key of this label where keys.sealing is, and do nothing with it")
	return cmd
}

// makeNextSealer makes a key that nothing is wrapped by yet.
func (f *configFile) makeNextSealer(cmd *cobra.Command, label string) (err error) {
	settings, err := f.load(cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	store := &keyStore{allowSoftware: settings.AllowSoftwareKeys, create: true}
	defer func() { err = errors.Join(err, store.Close()) }()
	place := settings.Keys.Sealing
	place.Label = label
	made, err := makeSealer(cmd.Context(), store, place)
	if err != nil {
		return fmt.Errorf("keys.sealing: %w", err)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "sealing key %s, labelled %s: name it under keys.opening of every broker, before one has it at keys.sealing\n", made.KeyID(), label)
	return err
}

func encodeJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

func writeSealing(out io.Writer, s *sealing.Status) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(table, "sealing key %s, taken up %s", s.Latest, s.AdoptedAt.UTC().Format(time.RFC3339))
	if s.Latest != s.SealingKey {
		_, _ = fmt.Fprintf(table, " (this configuration has %s)", s.SealingKey)
	}
	_, _ = fmt.Fprintf(table, "\n%s\n\nDATA KEY\tTENANT\tPURPOSE\tSTATE\tMADE\tSEALING KEY\n", progressText(s.Progress))
	for _, k := range s.DataKeys {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", k.ID, k.Tenant, k.Purpose, k.State, k.CreatedAt.UTC().Format(time.RFC3339), k.SealingKey)
	}
	return table.Flush()
}

func progressText(p sealing.Progress) string {
	text := fmt.Sprintf("wrapped by it: %d of %d", p.Done, p.Total)
	if p.Unreadable > 0 {
		text += fmt.Sprintf("; %d are wrapped by keys that aren't configured", p.Unreadable)
	}
	return text
}

func newKeysRewrap() *cobra.Command {
	var file configFile
	cmd := &cobra.Command{
		Use: "rewrap", Short: "Wrap everything by the configured sealing key now; running brokers do it by themselves", Args: noArguments,
		Long: `Wrap the root and all data keys by the key at keys.sealing. Former sealing keys stand under keys.opening until this says that all is done.
It may be interrupted, and run beside brokers: each of them needs to have the new key too, at keys.sealing or under keys.opening.`,
		Example: "  daypassd keys rewrap --config daypass.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			base, closeBase, err := file.openBase(cmd.Context(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			defer closeBase()
			return rewrap(cmd.Context(), base, cmd.OutOrStdout())
		},
	}
	file.flag(cmd)
	return cmd
}

func rewrap(ctx context.Context, base *instance.Base, out io.Writer) error {
	wrapping := base.Wrapping()
	if err := wrapping.Adopt(ctx, true); err != nil {
		return err
	}
	for {
		n, progress, err := wrapping.RunOnce(ctx)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(out, progressText(progress)); err != nil {
			return err
		}
		switch {
		case n > 0:
		case progress.Done < progress.Total:
			return fmt.Errorf("%d keys could not be wrapped anew (hint: name the former sealing keys under keys.opening; what is lost for good: `daypassd keys replace`)", progress.Total-progress.Done)
		default:
			return nil
		}
	}
}

func newKeysReplace() *cobra.Command {
	var file configFile
	var how replacing
	cmd := &cobra.Command{
		Use: "replace", Short: "Put a new sealing key in the place of one that is lost for good, or believed stolen", Args: noArguments,
		Long: `Put a new sealing key in the place of one that is lost for good, or (--compromised) believed stolen: write a new label at keys.sealing, and former
ones that may still open something under keys.opening. Without --yes it only says what it would do, and who has to be told; with it, it makes the
key in the HSM if it isn't there. No broker may run meanwhile. It may be interrupted, and run again.`,
		Example: `  daypassd keys replace --config daypass.yaml
  daypassd keys replace --config daypass.yaml --yes`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if how.output != "text" && how.output != "json" {
				return usageError{fmt.Errorf("--output is text or json, not %q", how.output)}
			}
			settings, err := file.load(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			report, err := how.run(cmd.Context(), settings)
			if err != nil {
				return err
			}
			if how.output == "json" {
				return encodeJSON(cmd.OutOrStdout(), report)
			}
			return writeReport(cmd.OutOrStdout(), report, how.yes)
		},
	}
	file.flag(cmd)
	cmd.Flags().BoolVar(&how.yes, "yes", false, "do it")
	cmd.Flags().BoolVar(&how.compromised, "compromised", false, "the former key may be in somebody's hands: seal everything anew, and end all tokens")
	cmd.Flags().StringVar(&how.output, "output", "text", "text or json")
	return cmd
}

// replacing is what `keys replace` was asked for.
type replacing struct {
	yes, compromised bool
	output           string
}

func (r *replacing) run(ctx context.Context, settings *config.Config) (_ *sealing.Report, err error) {
	database, err := databaseConfig(settings)
	if err != nil {
		return nil, err
	}
	// What is no broker goes by another name; and large tables take their time.
	database.ConnConfig.RuntimeParams["application_name"] = "daypassd keys replace"
	database.ConnConfig.RuntimeParams["statement_timeout"] = "60000"
	pool, err := pgxpool.NewWithConfig(ctx, database)
	if err != nil {
		return nil, fmt.Errorf("opening database: %w", err)
	}
	defer pool.Close()
	store, err := openKeyStore(ctx, settings, database)
	if err != nil {
		return nil, err
	}
	store.create = false // a first start makes keys; this command makes one, when it is asked to
	defer func() { err = errors.Join(err, store.Close()) }()
	what := &sealing.Replacement{
		Pool: pool, Tenant: instance.Tenant, Compromised: r.compromised, Lock: installation.ReplaceLock, Actor: "os user " + osUser(), Now: time.Now,
		Logger: slog.New(slog.DiscardHandler),
	}
	if what.Installation, err = installation.Check(ctx, pool); err != nil {
		return nil, err
	}
	if what.Opening, err = store.opening(ctx, settings.Keys); err != nil {
		return nil, err
	}
	if what.New, err = store.sealer(ctx, settings.Keys.Sealing); err != nil && !errors.Is(err, keys.ErrNoKey) {
		return nil, fmt.Errorf("keys.sealing: %w", err)
	}
	if err := overlooked(ctx, store, settings.Keys, what); err != nil {
		return nil, err
	}
	if !r.yes {
		return what.Plan(ctx)
	}
	if what.New == nil {
		making := &keyStore{allowSoftware: store.allowSoftware, create: true}
		defer func() { err = errors.Join(err, making.Close()) }()
		if what.New, err = makeSealer(ctx, making, settings.Keys.Sealing); err != nil {
			return nil, fmt.Errorf("keys.sealing: %w", err)
		}
	}
	return what.Apply(ctx)
}

func makeSealer(ctx context.Context, store *keyStore, k config.Key) (keys.Sealer, error) {
	place, err := store.store(ctx, k)
	if err != nil {
		return nil, err
	}
	return place.MakeSealer(ctx, k.Label)
}

// overlooked refuses to give a sealing key up for lost that is there, and was
// only left out of the configuration.
func overlooked(ctx context.Context, store *keyStore, k config.Keys, what *sealing.Replacement) error {
	rows, err := what.Pool.Query(ctx, `SELECT sealing_key FROM roots WHERE lost_at IS NULL UNION SELECT sealing_key FROM data_keys WHERE destroyed_at IS NULL AND lost_at IS NULL`)
	if err != nil {
		return fmt.Errorf("reading which sealing keys are needed: %w", err)
	}
	needed, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("reading which sealing keys are needed: %w", err)
	}
	var have []string
	for _, s := range what.Opening {
		have = append(have, s.KeyID())
	}
	if what.New != nil {
		have = append(have, what.New.KeyID())
	}
	for _, place := range append([]config.Key{k.Sealing}, k.Opening...) {
		keeper, err := store.store(ctx, place)
		if err != nil {
			return err
		}
		there, err := keeper.List(ctx)
		if errors.Is(err, errors.ErrUnsupported) {
			continue
		}
		if err != nil {
			return fmt.Errorf("listing keys: %w", err)
		}
		for _, key := range there {
			if key.Algorithm == "" && slices.Contains(needed, key.KeyID) && !slices.Contains(have, key.KeyID) {
				return fmt.Errorf("sealing key %s isn't lost: it is there, labelled %s (hint: name that label under keys.opening)", key.KeyID, key.Label)
			}
		}
	}
	return nil
}

func writeReport(out io.Writer, r *sealing.Report, done bool) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(table, format+"\n", args...) }
	key := r.SealingKey
	if key == "" {
		key = "(made with --yes)"
	}
	line("new sealing key\t%s", key)
	if r.Cutoff != nil {
		line("given up\twhat is older than %s, when that key was taken up", r.Cutoff.UTC().Format(time.RFC3339))
	}
	line("carried over\t%d roots and data keys", r.Rewrapped)
	line("sealed anew\t%d values (%d data keys destroyed)", r.Resealed, r.Destroyed)
	line("new root\t%t", r.NewRoot)
	line("lost\t%d roots and data keys, %d values; sealing keys that aren't there: %v", len(r.LostKeys), len(r.LostValues), r.Lost)
	for _, k := range r.LostKeys {
		line("  lost key\t%s\t%s\twrapped by %s", k.ID, k.Purpose, k.SealingKey)
	}
	for _, v := range r.LostValues {
		line("  lost value\t%s\t%s.%s\t%s", v.Row, v.Table, v.Column, v.What)
	}
	line("tokens that end\t%d of sessions, %d of admins; fingerprints that are void: %d", r.Sessions, len(r.AdminTokens), r.Prints)
	for _, who := range r.Tell {
		line("tell\t%s", who)
	}
	if !done {
		line("\nNothing was done. With --yes it is; stop every broker first.")
	}
	return table.Flush()
}
