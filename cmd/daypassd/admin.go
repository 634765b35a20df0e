package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker/admin"
)

func newAdmin() *cobra.Command {
	tokens := group("token", "Tokens of people who may look at leases and end them", "  daypassd admin token create --config daypass.yaml --role viewer --owner ana@example.com --ttl 8h",
		newTokenCreate(), newTokenList(), newTokenRevoke())
	return group("admin", "Who may use the lease and audit calls", "  daypassd admin token list --config daypass.yaml", tokens)
}

func newTokenCreate() *cobra.Command {
	var role, owner, ttl string
	var file configFile
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make an admin token; it is printed once, and kept as a hash",
		Example: `  daypassd admin token create --config daypass.yaml --role operator --owner ana@example.com --ttl 8h > token
  DAYPASS_TOKEN_FILE=token daypass lease ls`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			lifetime, err := parseLifetime(ttl)
			if err != nil {
				return usageError{err}
			}
			if roles := []admin.Role{admin.Viewer, admin.Operator, admin.Redactor}; !slices.Contains(roles, admin.Role(role)) {
				return usageError{fmt.Errorf("--role is viewer, operator or redactor, not %q", role)}
			}
			base, closeBase, err := file.openBase(cmd.Context(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			defer closeBase()
			secret, token, err := base.Tokens.Create(cmd.Context(), admin.Request{Role: admin.Role(role), Owner: owner, OSUser: osUser(), TTL: lifetime})
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s for %s, until %s\n", token.ID, token.Role, token.Owner, token.ExpiresAt.Format(time.RFC3339)); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), secret.Reveal())
			return err
		},
	}
	file.flag(cmd)
	cmd.Flags().StringVar(&role, "role", "", "viewer, operator or redactor")
	cmd.Flags().StringVar(&owner, "owner", "", "name or address of the person who holds it")
	cmd.Flags().StringVar(&ttl, "ttl", "", "how long it lives: 8h, 30d; at most 366d")
	return required(cmd, "role", "owner", "ttl")
}

// parseLifetime reads s, m, h and d.
func parseLifetime(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.Atoi(days)
		if err != nil || n < 1 || n > 10_000 {
			return 0, fmt.Errorf("--ttl %q is no duration: write 8h or 30d", s)
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("--ttl %q is no duration: write 8h or 30d", s)
	}
	return d, nil
}

// osUser names who runs this command, and who they were before sudo.
func osUser() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if before := os.Getenv("SUDO_USER"); before != "" {
		name += " (sudo by " + before + ")"
	}
	return name
}

func newTokenList() *cobra.Command {
	var output string
	var file configFile
	cmd := &cobra.Command{
		Use: "list", Short: "List admin tokens, those that have ended included", Args: noArguments,
		Example: "  daypassd admin token list --config daypass.yaml --output json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return usageError{fmt.Errorf("--output is text or json, not %q", output)}
			}
			base, closeBase, err := file.openBase(cmd.Context(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			defer closeBase()
			list, err := base.Tokens.List(cmd.Context())
			if err != nil {
				return err
			}
			return writeTokens(cmd.OutOrStdout(), list, output)
		},
	}
	file.flag(cmd)
	cmd.Flags().StringVar(&output, "output", "text", "text or json")
	return cmd
}

func writeTokens(out io.Writer, list []admin.Token, output string) error {
	if output == "json" {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(map[string]any{"tokens": list})
	}
	// A tabwriter keeps what fails for Flush.
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "ID\tROLE\tOWNER\tMADE BY\tMADE\tENDS\tREVOKED")
	for _, t := range list {
		revoked := "-"
		if t.RevokedAt != nil {
			revoked = t.RevokedAt.UTC().Format(time.RFC3339)
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", t.ID, t.Role, t.Owner, t.OSUser, t.CreatedAt.UTC().Format(time.RFC3339), t.ExpiresAt.UTC().Format(time.RFC3339), revoked)
	}
	return table.Flush()
}

func newTokenRevoke() *cobra.Command {
	var file configFile
	cmd := &cobra.Command{
		Use: "revoke ID", Short: "End an admin token now", Args: oneArgument("token id"),
		Example: "  daypassd admin token revoke --config daypass.yaml adm_01J…",
		RunE: func(cmd *cobra.Command, args []string) error {
			base, closeBase, err := file.openBase(cmd.Context(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			defer closeBase()
			return base.Tokens.Revoke(cmd.Context(), args[0], osUser())
		},
	}
	file.flag(cmd)
	return cmd
}

func required(cmd *cobra.Command, flags ...string) *cobra.Command {
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		for _, name := range flags {
			if !cmd.Flags().Changed(name) {
				return usageError{fmt.Errorf("--%s is required (hint: add --help)", name)}
			}
		}
		return run(cmd, args)
	}
	return cmd
}
