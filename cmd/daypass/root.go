package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/client"
)

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
	exitDenied = 3
	// exitUnproven is what `audit verify` says of an export that contradicts itself
	// nowhere, and for which no key from elsewhere vouches.
	exitUnproven = 4
)

// policyShort is what `daypass policy` is for, wherever its commands are.
const policyShort = "Check, test, explain, compare and write policies"

// program is what the commands share.
type program struct {
	stdin          *os.File
	stdout, stderr io.Writer

	url, audience, caCert string
	tokenFile, tokenEnv   string

	dpop       bool   // session tokens are bound to a key in this program's memory
	self       string // where this program can be started from; "": it can't
	noWatchdog bool
}

// exit is an error with an exit code of its own. Without an error beneath,
// nothing is printed.
type exit struct {
	code int
	err  error
}

func (e *exit) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exit) Unwrap() error { return e.err }

// usage is the error of a command line or a setting that can't be right.
func usage(format string, args ...any) error {
	return &exit{exitUsage, fmt.Errorf(format, args...)}
}

// main runs one command line and returns the exit code.
func (p *program) main(ctx context.Context, args []string) int {
	root := p.root(args)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[*exit](err); !ok || e.err != nil {
		p.say("%v", err)
	}
	return exitCode(err)
}

func exitCode(err error) int {
	if e, ok := errors.AsType[*exit](err); ok {
		return e.code
	}
	if errors.Is(err, client.ErrURL) {
		return exitUsage
	}
	problem, ok := errors.AsType[*api.Problem](err)
	switch {
	case !ok || problem.Code == client.CodeUnexpected:
		return exitFailed
	case problem.Status == 401, problem.Status == 403, problem.Code == api.CodeNoSuchGrant:
		return exitDenied
	}
	return exitFailed
}

// say prints one line for people. What comes from elsewhere can't break out of
// it: CI systems take lines that begin with "::" or "##" for commands.
func (p *program) say(format string, args ...any) {
	fmt.Fprintf(p.stderr, "daypass: %s\n", clean(fmt.Sprintf(format, args...))) //nolint:errcheck // nowhere left to say it
}

// clean replaces what could move a terminal's cursor or begin a new line.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
}

// command is one of the first level.
type command struct {
	name string
	make func() *cobra.Command
}

func (p *program) commands() []command {
	return []command{
		{"exchange", p.exchangeCommand},
		{"exec", p.execCommand},
		{"lease", p.leaseCommand},
		{"session", p.sessionCommand},
		{"audit", p.auditCommand},
		{"secret", p.secretCommand},
		{"policy", p.policyCommand},
		{"switch", p.switchCommand},
		{"redact", p.redactCommand},
		{"scan", p.scanCommand},
		{"doctor", p.doctorCommand},
		{"version", p.versionCommand},
	}
}

// root makes the commands for one command line. Where that begins with the name of
// one, it is the only one: to make them all takes longer than most of them run.
func (p *program) root(args []string) *cobra.Command {
	alone := len(args) > 0 && slices.ContainsFunc(p.commands(), func(c command) bool { return c.name == args[0] })
	root := &cobra.Command{
		Use:   "daypass",
		Short: "Short-lived credentials for CI jobs",
		Long: `daypass gives a job's OIDC token to a broker and gets credentials that live for
minutes: database users, tokens, signed JWTs.

The job's token comes from the first of
  --token-file FILE        a file, "-" for standard input
  --token-env NAME         an environment variable (GitLab: the name under id_tokens)
  DAYPASS_TOKEN_FILE       a file
  DAYPASS_JOB_TOKEN        the token itself
  the CI system            by itself on GitHub (with "permissions: id-token: write"),
                           Buildkite, CircleCI, Bitbucket ("oidc: true") and Azure
                           DevOps (SYSTEM_ACCESSTOKEN handed to the step)
  SIGSTORE_ID_TOKEN, AWS_WEB_IDENTITY_TOKEN_FILE

"daypass doctor" says which of them it sees, and what the broker says to it.

Exit codes: 0 ok, 1 failed, 2 usage, 3 denied by the broker.`,
		Example: `  # in a GitHub Actions job
  export DAYPASS_URL=https://daypass.example.com DAYPASS_AUDIENCE=https://ci.daypass.example.com
  daypass exec --grant payments/deploy-db -- ./migrate.sh

  # in a GitLab job with "id_tokens: {DAYPASS_JOB_TOKEN: {aud: https://ci.daypass.example.com}}"
  daypass exec --grant payments/deploy-db -- ./migrate.sh`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: alone},
		Args:              p.subcommand,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(p.stdin)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage("%w (hint: %s --help)", err, cmd.CommandPath())
	})
	flags := root.PersistentFlags()
	flags.StringVar(&p.url, "url", "", "URL of the broker (default $DAYPASS_URL)")
	flags.StringVar(&p.audience, "audience", "", "audience of the token that the CI system is asked for (default $DAYPASS_AUDIENCE)")
	flags.StringVar(&p.caCert, "cacert", "", "PEM file of certificates to trust besides the system's (default $DAYPASS_CACERT)")
	flags.StringVar(&p.tokenFile, "token-file", "", `read the token from a file, "-" for standard input`)
	flags.StringVar(&p.tokenEnv, "token-env", "", "read the token from the environment variable of this name")
	for _, c := range p.commands() {
		if !alone || c.name == args[0] {
			root.AddCommand(c.make())
		}
	}
	return root
}

// subcommand refuses what is no command of a group.
func (p *program) subcommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usage("no such command: %s %q (hint: %s --help)", cmd.CommandPath(), args[0], cmd.CommandPath())
}

// group makes a command that only holds others.
func (p *program) group(name, short, example string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: name, Short: short, Example: example, Args: p.subcommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(commands...)
	return cmd
}

// exactly wants n arguments of the given name.
func exactly(n int, name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return usage("%d arguments, want %s (hint: %s --help)", len(args), name, cmd.CommandPath())
		}
		return nil
	}
}

func (p *program) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Example: "  daypass version", Args: exactly(0, "none"),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(p.stdout, "daypass %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

// connect makes the client of the API.
func (p *program) connect() (*client.Client, error) {
	url := p.setting(p.url, "DAYPASS_URL")
	if url == "" {
		return nil, usage("no broker given (hint: set --url or DAYPASS_URL)")
	}
	return client.New(client.Config{
		URL: url, CAFile: p.setting(p.caCert, "DAYPASS_CACERT"), UserAgent: "daypass/" + version, DPoP: p.dpop, Now: time.Now,
	})
}

// setting is a flag's value, or else the environment's.
func (p *program) setting(flag, name string) string {
	if flag != "" {
		return flag
	}
	return os.Getenv(name)
}

// output is the value of --output.
type output string

const (
	outputText output = "text"
	outputJSON output = "json"
)

func (o *output) String() string { return string(*o) }

// Type implements pflag.Value.
func (*output) Type() string { return "text|json" }

// Set implements pflag.Value.
func (o *output) Set(text string) error {
	switch output(text) {
	case outputText, outputJSON:
		*o = output(text)
		return nil
	}
	return errors.New("want text or json")
}

// outputFlag adds --output to a command.
func outputFlag(cmd *cobra.Command) *output {
	o := outputText
	cmd.Flags().VarP(&o, "output", "o", "how to print the result")
	return &o
}

func (p *program) printJSON(v any) error {
	encoder := json.NewEncoder(p.stdout)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// stamp is how times are printed.
func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}
