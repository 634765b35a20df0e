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
	"runtime/debug"
	"strings"
	"syscall"
	_ "time/tzdata" // policies name time zones, and a small image has none
	_ "time/tzdata" // policies name time zones, and mean the same on every machine

	"github.com/spf13/cobra"
)

// version is set when a release is built: -ldflags "-X main.version=…".
var version = "dev"

// Exit codes of the contract.
const (
	exitFailed = 1
	exitUsage  = 2
)

// usageError is a mistake in the command line, not in what it asks for.
type usageError struct{ error }

func main() { os.Exit(run()) }

func run() int {
	hardenProcess()
	if os.Getenv("GOGC") == "" {
		// The heap is a few megabytes, and most of it lives as long as one request:
		// collecting it at four times that costs little memory and saves much time.
		debug.SetGCPercent(400)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the first signal asks; the second one is the kernel's to answer, and ends us at once
	if err := newRoot().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "daypassd:", err)
		if _, usage := errors.AsType[usageError](err); usage {
			return exitUsage
		}
		return exitFailed
	}
	return 0
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
	root.AddCommand(newServe(), newDev(), newMigrate(), newConfig(), newTarget(), newAdmin(), newKeys(), newFsck(), newRestore(), newVersion(), newModuleHost())
	root.SetHelpCommand(newHelp())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() == "completion" {
			finishCompletion(cmd)
		}
	}
	return root
}

// finishCompletion gives cobra's own commands what ours have: an example, and
// an error of usage for arguments that they don't take.
func finishCompletion(completion *cobra.Command) {
	completion.Example = "  daypassd completion bash > /etc/bash_completion.d/daypassd"
	completion.Args = noArguments
	completion.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	for _, shell := range completion.Commands() {
		shell.Example = "  daypassd completion " + shell.Name()
		shell.Args = noArguments
	}
}

func newHelp() *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]", Short: "Help about any command", Example: "  daypassd help admin token create",
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return usageError{fmt.Errorf("there is no command %q (hint: daypassd --help lists them)", strings.Join(args, " "))}
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
	}
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
