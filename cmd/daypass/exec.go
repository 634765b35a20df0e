package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/client"
	"github.com/daypass/daypass/broker/redact"
)

// Exit codes of shells.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
	exitSignal        = 128 // and the signal's number
)

// revokeTimeout bounds giving the session back.
const revokeTimeout = 10 * time.Second

func (p *program) execCommand() *cobra.Command {
	var (
		grants    []string
		ttl       string
		publicKey string
		noPTY     bool
	)
	cmd := &cobra.Command{
		Use:   "exec --grant GRANT [--grant GRANT] -- COMMAND [ARG...]",
		Short: "Run a command with credentials that are given back when it ends",
		Long: `Exec gets credentials, runs the command with them in its environment, and gives
them back when it ends, however it ends.

The command's output is passed on with secrets masked. Where standard output is a
terminal, the command gets one of its own in its place (on Linux): it has the same
size, what is typed reaches it, ^C, ^\ and ^Z work, and the output of standard
error stays apart where it goes elsewhere. Otherwise, and with --no-pty, it gets
pipes. Signals are passed on. The command gets neither the job's token nor the
means to ask for another.

Beside the command runs a watchdog: a second process of this program, which gives
the credentials back should this one be killed before it can. It holds a token that
is good for that alone, and ends half a minute after this program at the latest. A
command that outlives this program goes on, without what its credentials open.

The exit code is the command's, 128 and the signal's number when a signal ended
it, 126 when it can't be run, 127 when there is none.`,
		Example: `  daypass exec --grant payments/deploy-db -- ./migrate.sh
  daypass exec --grant payments/deploy-db --grant payments/registry --ttl 10m -- make deploy`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("no command given (hint: %s --help)", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(grants) == 0 || len(grants) > api.MaxGrants {
				return usage("%d grants, want --grant 1 to %d times", len(grants), api.MaxGrants)
			}
			request := grantsOf(grants, ttl)
			if err := attachPublicKey(&request, publicKey); err != nil {
				return err
			}
			return p.exec(cmd.Context(), request, args, !noPTY)
		},
	}
	cmd.Flags().SetInterspersed(false) // the command's flags are its own
	cmd.Flags().StringArrayVar(&grants, "grant", nil, "a grant, POLICY/GRANT; may be repeated")
	cmd.Flags().StringVar(&ttl, "ttl", "", "how long the credentials live at most, like 10m (default: what the policy says)")
	cmd.Flags().StringVar(&publicKey, "public-key", "", "file with an OpenSSH public key of the job's, for a grant that certifies it")
	cmd.Flags().BoolVar(&p.dpop, "dpop", false, "bind the session, and API tokens, to a key in this program's memory (RFC 9449)")
	cmd.Flags().BoolVar(&p.noWatchdog, "no-watchdog", false, "start no second process that gives the credentials back should this one be killed")
	cmd.Flags().BoolVar(&noPTY, "no-pty", false, "give the command pipes even where standard output is a terminal")
	return cmd
}

// exec runs args with the credentials of the grants, in a terminal of its own if
// this program is in one and tty says so.
func (p *program) exec(ctx context.Context, grants api.ExchangeRequest, args []string, tty bool) error {
	path, err := exec.LookPath(args[0]) // before a token is spent on it
	if err != nil {
		return startError(err)
	}
	c, err := p.connect()
	if err != nil {
		return err
	}
	// From here on no signal ends this program by itself: a session must be given
	// back. SIGPIPE is among them, since Go's runtime dies of it when standard
	// output is gone.
	signals := make(chan os.Signal, 16)
	passed := wanted(append(ending(), syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH))
	signal.Notify(signals, append(passed, syscall.SIGPIPE)...)
	defer signal.Stop(signals)

	asking, stop := ctx, func() {}
	if s := wanted(ending()); len(s) > 0 { // none would mean all
		asking, stop = signal.NotifyContext(ctx, s...)
	}
	defer stop()
	token, err := p.jobToken(asking)
	if err != nil {
		return err
	}
	answer, err := c.Exchange(asking, token, grants)
	if err != nil {
		return err
	}
	watching := p.startWatchdog(answer.Session)
	defer p.keepSession(answer.Session)()
	defer func() { watching.end(p.giveBack(context.WithoutCancel(ctx), c, answer)) }()
	if asking.Err() != nil {
		return errors.New("interrupted before the command began")
	}
	stop()

	masker, err := p.masker(answer, token)
	if err != nil {
		return err
	}
	env, err := p.childEnv(os.Environ(), answer.Credentials)
	if err != nil {
		return err
	}
	child := exec.CommandContext(context.WithoutCancel(ctx), path) //nolint:gosec // running what the caller names is the purpose
	child.Args, child.Env, child.Stdin = args, env, p.stdin
	var t *console
	if tty {
		t = p.openConsole()
	}
	return p.runChild(child, masker, t, signals)
}

// ending are the signals that ask a program to end.
func ending() []os.Signal {
	return []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}
}

// wanted leaves out what whoever started this program has it ignore (nohup, a
// shell's background jobs): the command is to ignore it as well, and would not
// inherit that from a program that listens.
func wanted(signals []os.Signal) []os.Signal { return slices.DeleteFunc(signals, signal.Ignored) }

// startError gives a command that can't be run the exit code of shells.
func startError(err error) error {
	code := exitNotExecutable
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		code = exitNotFound
	}
	return &exit{code, fmt.Errorf("starting command: %w", err)}
}

// masker masks the secret values, both tokens, the broker's shape and the
// patterns that came with the answer.
func (p *program) masker(answer *api.ExchangeResponse, token string) (*redact.Masker, error) {
	config := redact.Config{Patterns: answer.Redaction.Patterns, Shape: true, FlushAfter: showAfter}
	for _, value := range []string{token, answer.Session.Token, answer.Session.RevocationToken} {
		if !redact.Common(value) {
			config.Values = append(config.Values, value)
		}
	}
	for _, credential := range answer.Credentials {
		for _, name := range credential.Secret {
			switch value := credential.Values[name]; {
			case !redact.Common(value):
				config.Values = append(config.Values, value)
			case value != "":
				p.say("warning: the value %s of %s is too short or too common to be masked: it is not masked", name, credential.Grant)
			}
		}
	}
	masker, err := redact.New(config)
	if err != nil {
		return nil, fmt.Errorf("preparing to mask output: %w", err)
	}
	return masker, nil
}

// childEnv is the environment of the command: the credentials, and of this
// program's own what doesn't lead to more of them.
func (p *program) childEnv(own []string, credentials []api.Credential) ([]string, error) {
	env := slices.DeleteFunc(slices.Clone(own), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return p.withheld(name)
	})
	for _, credential := range credentials {
		for name, value := range credential.Env {
			if !validName(name) || strings.ContainsRune(value, 0) {
				return nil, fmt.Errorf("the broker's answer for %s sets an environment variable that can't be set", credential.Grant)
			}
			env = append(env, name+"="+value) // the last one of a name wins
		}
	}
	return env, nil
}

// withheld says that a variable holds a token or leads to one.
func (p *program) withheld(name string) bool {
	for _, prefix := range []string{githubPrefix, "DAYPASS_TOKEN", "DAYPASS_ADMIN_TOKEN", "DAYPASS_SESSION_TOKEN"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return leadsToToken(name) || p.tokenEnv != "" && name == p.tokenEnv
}

// validName says whether a variable's name is one that a broker may set: ^[A-Z][A-Z0-9_]*$.
func validName(name string) bool {
	for i, r := range name {
		if (r < 'A' || r > 'Z') && (i == 0 || r != '_' && (r < '0' || r > '9')) {
			return false
		}
	}
	return name != ""
}

// giveBack revokes the session. That it failed is a warning, not an error: the
// command's work is done, the watchdog tries on, and the credentials end by
// themselves.
func (p *program) giveBack(ctx context.Context, c *client.Client, answer *api.ExchangeResponse) (given bool) {
	ctx, cancel := context.WithTimeoutCause(ctx, revokeTimeout, fmt.Errorf("no answer within %v", revokeTimeout))
	defer cancel()
	_, err := c.RevokeSession(ctx, answer.Session.Token, "command ended")
	if err == nil {
		return true
	}
	var end time.Time
	for _, credential := range answer.Credentials {
		if credential.ExpiresAt.After(end) {
			end = credential.ExpiresAt
		}
	}
	p.say("warning: the credentials could not be given back: %v; they end by themselves at %s", err, stamp(end))
	return false
}
