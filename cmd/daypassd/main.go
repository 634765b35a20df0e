// Command daypassd is the Daypass server: it turns the OIDC tokens of CI jobs
// into credentials that expire by themselves, and takes them back.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	_ "time/tzdata" // policies name time zones, and a small image has none

	"github.com/spf13/cobra"
)

// version is set when a release is built: -ldflags "-X main.version=…".
var version = "dev" //nolint:gochecknoglobals // set by the linker

// Exit codes of the contract.
const (
	exitFailed = 1
	exitUsage  = 2
)

// usageError is a mistake in the command line, not in what it asks for.
type usageError struct{ error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	hardenProcess()
	root := newRoot()
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "daypassd:", err)
		var usage usageError
		if errors.As(err, &usage) {
			os.Exit(exitUsage)
		}
		os.Exit(exitFailed)
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "daypassd",
		Short: "The Daypass server: job tokens in, credentials that expire by themselves out",
		Example: `  daypassd dev                            a broker to try, with nothing to configure
  daypassd config check --config daypass.yaml
  daypassd migrate --config daypass.yaml
  daypassd serve --config daypass.yaml`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noArguments,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w (hint: add --help)", err)}
	})
	root.AddCommand(newServe(), newDev(), newMigrate(), newConfig(), newTarget(), newAdmin(), newVersion())
	return root
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Example: "  daypassd version", Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "daypassd %s %s\n", version, runtime.Version())
			return err
		},
	}
}

// group is a command that only holds others.
func group(use, short, example string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Example: example, Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(commands...)
	return cmd
}

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s takes no %q (hint: add --help)", cmd.CommandPath(), args[0])}
	}
	return nil
}

func oneArgument(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usageError{fmt.Errorf("%s takes one %s (hint: add --help)", cmd.CommandPath(), name)}
		}
		return nil
	}
}
