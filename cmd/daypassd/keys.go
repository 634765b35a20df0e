package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker/config"
	"github.com/daypass/daypass/broker/instance"
	"github.com/daypass/daypass/broker/keyring"
	"github.com/daypass/daypass/broker/keys"
)

func newKeys() *cobra.Command {
	return group("keys", "The keys that sign and seal: which there are, rotation, and an emergency", "  daypassd keys ls --config daypass.yaml",
		newKeysList(), newKeysGenerate(), newKeysRotate(), newKeysRetire(), newKeysRevoke(), newKeysCSR(), newKeysAudit(),
		newKeysSealingStatus(), newKeysRewrap(), newKeysReplace())
}

// openedKeys is what the commands on keys work with.
type openedKeys struct {
	settings *config.Config
	store    *keyStore
	sealer   keys.Sealer
	ring     *keyring.Ring
	pool     *pgxpool.Pool
}

// withKeys opens the database, the sealing key and the keys that sign.
func (f *configFile) withKeys(cmd *cobra.Command, do func(context.Context, *openedKeys) error) (err error) {
	ctx := cmd.Context()
	settings, err := f.load(cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	database, err := databaseConfig(settings)
	if err != nil {
		return err
	}
	opened := &openedKeys{settings: settings}
	if opened.store, err = openKeyStore(ctx, settings, database); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, opened.store.Close()) }()
	if opened.sealer, err = opened.store.sealing(ctx, settings.Keys); err != nil {
		return err
	}
	signing, err := opened.store.signing(ctx, settings.Keys.Signing)
	if err != nil {
		return fmt.Errorf("keys.signing: %w", err)
	}
	base, err := instance.OpenBase(ctx, database, opened.sealer, time.Now)
	if err != nil {
		return err
	}
	defer base.Pool.Close()
	ring, closeRing, err := base.OpenRing(ctx, signing, time.Now)
	if err != nil {
		return err
	}
	defer closeRing()
	opened.ring, opened.pool = ring, base.Pool
	return do(ctx, opened)
}

func newKeysList() *cobra.Command {
	var output string
	var file configFile
	cmd := &cobra.Command{
		Use: "ls", Short: "List the keys: what each one does, and what happens to it next", Args: noArguments,
		Example: `  daypassd keys ls --config daypass.yaml
  daypassd keys ls --config daypass.yaml --output json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return usageError{fmt.Errorf("--output is text or json, not %q", output)}
			}
			return file.withKeys(cmd, func(ctx context.Context, k *openedKeys) error {
				list, err := k.list(ctx)
				if err != nil {
					return err
				}
				if output == "json" {
					return writeIndented(cmd.OutOrStdout(), list)
				}
				return list.write(cmd.OutOrStdout())
			})
		},
	}
	file.flag(cmd)
	cmd.Flags().StringVar(&output, "output", "text", "text or json")
	return cmd
}

func writeIndented(out io.Writer, v any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// listedKey is a key as `keys ls` shows it.
type listedKey struct {
	Use       string     `json:"use"`              // signing, sealing, audit, issuer
	Issuer    string     `json:"issuer,omitempty"` // whose it is
	Key       string     `json:"key"`              // id; "" while there is none
	Label     string     `json:"label"`
	Algorithm string     `json:"algorithm,omitempty"`
	State     string     `json:"state"`
	Since     *time.Time `json:"since,omitempty"`
	Next      string     `json:"next,omitempty"`
	NextAt    *time.Time `json:"next_at,omitempty"`
	Reason    string     `json:"reason,omitempty"`
}

type listedKeys struct {
	Keys []listedKey `json:"keys"`
}

func (k *openedKeys) list(ctx context.Context) (*listedKeys, error) {
	signing, err := k.ring.List(ctx)
	if err != nil {
		return nil, err
	}
	out := &listedKeys{}
	for _, s := range signing {
		l := listedKey{Use: "signing", Key: s.KeyID, Label: s.Label, Algorithm: s.Algorithm, State: string(s.State), Since: &s.Since, Next: s.Next, Reason: s.Reason}
		if !s.NextAt.IsZero() {
			l.NextAt = &s.NextAt
		}
		out.Keys = append(out.Keys, l)
	}
	out.Keys = append(out.Keys, listedKey{Use: "sealing", Key: k.sealer.KeyID(), Label: k.settings.Keys.Sealing.Label, State: "in use"})
	if audit := k.settings.Keys.Audit; audit != nil {
		out.Keys = append(out.Keys, k.listAudit(ctx, audit))
	}
	for _, issuer := range k.settings.Issuers {
		if issuer.Key == nil {
			continue
		}
		l := listedKey{Use: "issuer", Issuer: issuer.Name, Label: issuer.Key.Label, Algorithm: issuer.Key.Algorithm, State: "in use"}
		signer, err := k.store.opened(ctx, *issuer.Key)
		switch {
		case errors.Is(err, keys.ErrNoKey):
			l.State, l.Next = "missing", "daypassd keys generate --issuer "+issuer.Name+" makes it"
		case err != nil:
			l.State, l.Reason = "doesn't open", err.Error()
		default:
			l.Key = signer.KeyID()
		}
		out.Keys = append(out.Keys, l)
	}
	return out, nil
}

func (l *listedKeys) write(out io.Writer) error {
	// A tabwriter keeps what fails for Flush.
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "USE\tKEY\tLABEL\tALGORITHM\tSTATE\tSINCE\tNEXT")
	for _, k := range l.Keys {
		use, next, since := k.Use, k.Next, "-"
		if k.Issuer != "" {
			use += " " + k.Issuer
		}
		if k.Since != nil {
			since = k.Since.UTC().Format(time.RFC3339)
		}
		if k.NextAt != nil {
			next = k.NextAt.UTC().Format(time.RFC3339) + " " + next
		}
		if k.Reason != "" {
			next = strings.TrimPrefix(next+" ("+k.Reason+")", "- ")
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", use, orDefault(k.Key, "-"), k.Label, orDefault(k.Algorithm, "-"), k.State, since, orDefault(next, "-"))
	}
	return table.Flush()
}

func newKeysGenerate() *cobra.Command {
	var issuer string
	var signing, audit bool
	var file configFile
	cmd := &cobra.Command{
		Use:   "generate",
		Short: "Make the key of an issuer that certifies, the next signing key, or the one that signs the audit log",
		Long: `Make a key inside the HSM: that of an issuer that certifies (its public half is printed, for those who are to trust it), or the next one that
signs JWTs, which is published at once and signs a day later; or, with --audit, the one of keys.audit, where an installation has none yet or is to have another.`,
		Example: `  daypassd keys generate --config daypass.yaml --issuer ssh > ca.pem
  daypassd keys generate --config daypass.yaml --signing
  daypassd keys generate --config daypass.yaml --audit`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case signing && audit || (signing || audit) == (issuer != ""):
				return usageError{errors.New("one of --issuer NAME, --signing and --audit is required (hint: add --help)")}
			case signing:
				return file.rotate(cmd, false)
			}
			return file.generate(cmd, issuer)
		},
	}
	file.flag(cmd)
	cmd.Flags().StringVar(&issuer, "issuer", "", "the issuer whose key it is")
	cmd.Flags().BoolVar(&signing, "signing", false, "the next key that signs JWTs, as `daypassd keys rotate`")
	cmd.Flags().BoolVar(&audit, "audit", false, "the key of keys.audit")
	return cmd
}

// generate makes an issuer's key, or with "" that of keys.audit, without the database's
// part in anything.
func (f *configFile) generate(cmd *cobra.Command, name string) (err error) {
	settings, err := f.load(cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	key, owner, err := madeFor(settings, name, f.path)
	if err != nil {
		return err
	}
	store := &keyStore{allowSoftware: settings.AllowSoftwareKeys, create: true}
	defer func() { err = errors.Join(err, store.Close()) }()
	place, err := store.store(cmd.Context(), *key)
	if err != nil {
		return err
	}
	signer, err := place.MakeSigner(cmd.Context(), keys.Pair{Label: key.Label, Algorithm: key.Algorithm, Bits: key.Bits})
	if errors.Is(err, keys.ErrKeyExists) {
		return fmt.Errorf("%w: %s (hint: `daypassd keys ls` shows it; to replace it, configure another label)", err, key.Label)
	}
	if err != nil {
		return err
	}
	if err := keys.SelfTest(signer); err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(cmd.ErrOrStderr(), "made key %s for %s: %s, label %s\n", signer.KeyID(), owner, signer.Algorithm(), key.Label); err != nil {
		return err
	}
	return pem.Encode(cmd.OutOrStdout(), &pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// madeFor is the key that `keys generate` makes, and whose it is.
func madeFor(settings *config.Config, name, path string) (*config.Key, string, error) {
	if name == "" {
		if settings.Keys.Audit == nil {
			return nil, "", fmt.Errorf("there is no keys.audit in %s (hint: write audit: {label: daypass-audit} below keys)", path)
		}
		return settings.Keys.Audit, "the audit log", nil
	}
	issuer := settings.Issuer(name)
	switch {
	case issuer == nil:
		return nil, "", fmt.Errorf("there is no issuer %q in %s", name, path)
	case issuer.Key == nil:
		return nil, "", fmt.Errorf("issuer %s has no key of its own: it certifies nothing", name)
	}
	return issuer.Key, "issuer " + name, nil
}

func actor() string { return "os user " + osUser() }

func newKeysRotate() *cobra.Command {
	var now bool
	var file configFile
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Make and publish the next signing key, ahead of its schedule",
		Long: `Make the next key that signs JWTs and publish it. It signs when verifiers that keep the JWKS can know it: 25 hours later, on all brokers, which
need nothing else. With --now it signs at once; verifiers that kept the JWKS, and don't ask again for a key id that they don't know, refuse its JWTs for up
to 5 minutes. Where a key has to go at once because somebody else may have it, use revoke-key.`,
		Example: `  daypassd keys rotate --config daypass.yaml
  daypassd keys rotate --config daypass.yaml --now`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return file.rotate(cmd, now) },
	}
	file.flag(cmd)
	cmd.Flags().BoolVar(&now, "now", false, "let it sign at once, before verifiers know it")
	return cmd
}

func (f *configFile) rotate(cmd *cobra.Command, now bool) error {
	return f.withKeys(cmd, func(ctx context.Context, k *openedKeys) error {
		key, err := k.ring.Rotate(ctx, actor(), now)
		if err != nil {
			return err
		}
		if !now {
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "key %s (%s) is published, and signs from %s\n", key.KeyID, key.Label, key.SignsFrom.Format(time.RFC3339))
			return err
		}
		if _, err := fmt.Fprintf(cmd.ErrOrStderr(), "warning: verifiers that kept the key set refuse what it signs until they ask again: up to %s\n", keys.JWKSMaxAge); err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "key %s (%s) signs, on each broker within %s\n", key.KeyID, key.Label, keyring.RefreshInterval)
		return err
	})
}

func newKeysRetire() *cobra.Command {
	var file configFile
	cmd := &cobra.Command{
		Use: "retire KEY", Short: "Take a signing key out of the JWKS with which nothing has to be verified", Args: oneArgument("key id or label"),
		Long: `Take a signing key out of the JWKS, and destroy it: one that signs no longer and whose JWTs have run out, or one that never signed. The brokers do
it by themselves; this command does it now, or says from when on it can be done.`,
		Example: "  daypassd keys retire --config daypass.yaml daypass-signing-2",
		RunE: func(cmd *cobra.Command, args []string) error {
			return file.withKeys(cmd, func(ctx context.Context, k *openedKeys) error {
				key, err := k.ring.Retire(ctx, actor(), args[0])
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "key %s (%s) is retired and destroyed\n", orDefault(key.KeyID, "-"), key.Label)
				return err
			})
		},
	}
	file.flag(cmd)
	return cmd
}

const maxReason = 500

func newKeysRevoke() *cobra.Command {
	var file configFile
	var output string
	q := keyring.Revoke{}
	cmd := &cobra.Command{
		Use: "revoke-key KEY", Short: "Emergency: take a signing key out of the JWKS now, and end all that it signed", Args: oneArgument("key id or label"),
		Long: `Take a key out of the JWKS now, let another one sign where it did, destroy it in the HSM, and end every lease that it signed. It tells until when
verifiers that kept the JWKS may still accept what it signed. It can be run again after an interruption; the brokers end what is left by themselves.`,
		Example: `  daypassd keys revoke-key --config daypass.yaml daypass-signing-2 --reason leaked`,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case output != "text" && output != "json":
				return usageError{fmt.Errorf("--output is text or json, not %q", output)}
			case strings.TrimSpace(q.Reason) == "" || len(q.Reason) > maxReason || strings.ContainsFunc(q.Reason, unicode.IsControl):
				return usageError{fmt.Errorf("--reason is a line of at most %d bytes that says why", maxReason)}
			}
			q.Key, q.Actor = args[0], actor()
			return file.withKeys(cmd, func(ctx context.Context, k *openedKeys) error {
				out, err := k.ring.RevokeKey(ctx, q)
				if err != nil {
					return err
				}
				if output == "json" {
					return writeIndented(cmd.OutOrStdout(), out)
				}
				return writeRevocation(cmd.OutOrStdout(), out)
			})
		},
	}
	file.flag(cmd)
	cmd.Flags().StringVar(&q.Reason, "reason", "", "why; it stays in the audit log")
	cmd.Flags().StringVar(&output, "output", "text", "text or json")
	cmd.Flags().BoolVar(&q.WithoutReplacement, "without-replacement", false, "revoke the key that signs even where no other can be made: no JWT is signed then")
	return required(cmd, "reason")
}

func writeRevocation(out io.Writer, r *keyring.Revocation) error {
	lines := []string{
		fmt.Sprintf("key %s is out of the JWKS, on each broker within %s", r.Key, keyring.RefreshInterval),
		fmt.Sprintf("%d leases that it signed were ended", r.Leases),
		fmt.Sprintf("verifiers that kept the JWKS may accept what it signs, by whomever, until %s", r.Until.UTC().Format(time.RFC3339)),
	}
	if r.LastEnd != nil {
		lines = append(lines, fmt.Sprintf("the last token that the brokers signed with it runs out at %s", r.LastEnd.UTC().Format(time.RFC3339)))
	}
	if r.Replacement != "" {
		lines = append(lines, fmt.Sprintf("key %s signs now", r.Replacement))
	}
	if r.Undestroyed != "" {
		lines = append(lines, "the private key is NOT destroyed yet, and the brokers try again: "+r.Undestroyed)
	}
	_, err := fmt.Fprintln(out, strings.Join(lines, "\n"))
	return err
}
