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

// execution is what exec is asked for.
type execution struct {
	request  api.ExchangeRequest
	args     []string
	tty      bool // the command may get a terminal
	keepOIDC bool
	files    []fileWish
	expiry   expiry
}

// execFlags are the flags of exec as they are written.
type execFlags struct {
	grants, files                    []string
	ttl, publicKey, onExpiry, signal string
	noPTY, keepOIDC                  bool
	grace                            time.Duration
}

func (p *program) execCommand() *cobra.Command {
	var flags execFlags
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
means to ask for another, unless --keep-oidc leaves it the means of the CI system.

While the command runs, its credentials are renewed. --on-expiry says what to do
about one that can't be renewed any further:
  warn      say so, and go on (the default)
  stop      end the command before it: SIGTERM, after --stop-grace SIGKILL
  restart   get all credentials anew, end the command in the same way, start it again
  reissue   get those anew that stand in files, and replace the files' contents

--file gives the command a value in a file of mode 0600, and the file's path in
VARIABLE. It is replaced at once, and removed at the end.

Beside the command runs a watchdog: a second process of this program, which gives
the credentials back should this one be killed before it can. It holds a token that
is good for that alone, and ends half a minute after this program at the latest. A
command that outlives this program goes on, without what its credentials open.

The exit code is the command's, 128 and the signal's number when a signal ended
it, 126 when it can't be run, 127 when there is none; 1 when --on-expiry ended it,
whatever its own was.`,
		Example: `  daypass exec --grant payments/deploy-db -- ./migrate.sh
  daypass exec --grant payments/deploy-db --grant payments/registry --ttl 10m -- make deploy
  daypass exec --grant payments/deploy-db --on-expiry stop --stop-grace 30s -- ./long-import.sh
  daypass exec --grant payments/deploy-db --on-expiry restart -- ./worker
  daypass exec --grant ci/aws --file AWS_WEB_IDENTITY_TOKEN_FILE=ci/aws:token --on-expiry reissue -- ./upload.sh
  daypass exec --grant ci/tls --file TLS_CERT=ci/tls:certificate --file TLS_KEY=ci/tls:private_key --on-expiry reissue --reissue-signal HUP -- nginx -g 'daemon off;'
  daypass exec --keep-oidc --grant ci/registry -- cosign sign registry.example.com/app`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("no command given (hint: %s --help)", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			what, err := flags.parse(args)
			if err != nil {
				return err
			}
			return p.exec(cmd.Context(), what)
		},
	}
	flags.define(p, cmd)
	return cmd
}

func (f *execFlags) define(p *program, cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SetInterspersed(false) // the command's flags are its own
	flags.StringArrayVar(&f.grants, "grant", nil, "a grant, POLICY/GRANT; may be repeated")
	flags.StringVar(&f.ttl, "ttl", "", "how long the credentials live at most, like 10m (default: what the policy says)")
	flags.StringVar(&f.publicKey, "public-key", "", "file with an OpenSSH public key of the job's, for a grant that certifies it")
	flags.BoolVar(&f.noPTY, "no-pty", false, "give the command pipes even where standard output is a terminal")
	flags.StringVar(&f.onExpiry, "on-expiry", onExpiryWarn, "what to do when a credential can't be renewed any further: warn, stop, restart or reissue")
	flags.DurationVar(&f.grace, "stop-grace", 10*time.Second, "how long a command that is ended by --on-expiry has between SIGTERM and SIGKILL")
	flags.StringArrayVar(&f.files, "file", nil, "VARIABLE=POLICY/GRANT:FIELD: a value in a file, whose path the command gets in VARIABLE; may be repeated")
	flags.StringVar(&f.signal, "reissue-signal", "", "HUP, USR1 or USR2: what the command is sent when its files were replaced (default: nothing)")
	flags.BoolVar(&p.dpop, "dpop", false, "bind the session, and API tokens, to a key in this program's memory (RFC 9449)")
	flags.BoolVar(&p.noWatchdog, "no-watchdog", false, "start no second process that gives the credentials back should this one be killed")
	flags.BoolVar(&f.keepOIDC, "keep-oidc", false, "leave the command what gets it job tokens from the CI system")
}

func (f *execFlags) parse(args []string) (*execution, error) {
	if len(f.grants) == 0 || len(f.grants) > api.MaxGrants {
		return nil, usage("%d grants, want --grant 1 to %d times", len(f.grants), api.MaxGrants)
	}
	what := &execution{request: grantsOf(f.grants, f.ttl), args: args, tty: !f.noPTY, keepOIDC: f.keepOIDC}
	var err error
	if what.files, err = parseFiles(f.files, f.grants); err != nil {
		return nil, err
	}
	if what.expiry, err = parseExpiry(f.onExpiry, f.grace, f.signal, len(f.files)); err != nil {
		return nil, err
	}
	return what, attachPublicKey(&what.request, f.publicKey)
}

// exec runs a command with the credentials of grants, in a terminal of its own if
// this program is in one.
func (p *program) exec(ctx context.Context, what *execution) error {
	path, err := exec.LookPath(what.args[0]) // before a token is spent on it
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
	held := &holdings{p: p, c: c, request: what.request}
	defer held.giveAllBack(context.WithoutCancel(ctx))
	first, err := held.begin(asking)
	if err != nil {
		return err
	}
	if asking.Err() != nil {
		return errors.New("interrupted before the command began")
	}
	stop()

	k := &keeper{holdings: held, path: path, what: what, files: &fileSet{wishes: what.files}, signals: signals}
	defer func() {
		if err := k.files.remove(); err != nil {
			p.say("warning: removing the files of --file: %v", err)
		}
	}()
	return k.run(ctx, first)
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

// masker masks the secret values of some generations, their tokens, the broker's
// shape and the patterns that came with them; what --keep-oidc leaves the command,
// too. What can't be masked of the first generation is said.
func (p *program) masker(generations []*generation, keepOIDC bool) (*redact.Masker, error) {
	config := redact.Config{Shape: true, FlushAfter: showAfter}
	add := func(value string) bool {
		if redact.Common(value) {
			return false
		}
		if !slices.Contains(config.Values, value) {
			config.Values = append(config.Values, value)
		}
		return true
	}
	for _, g := range generations {
		for _, pattern := range g.answer.Redaction.Patterns {
			if !slices.Contains(config.Patterns, pattern) {
				config.Patterns = append(config.Patterns, pattern)
			}
		}
		add(g.job)
		add(g.answer.Session.Token)
		add(g.answer.Session.RevocationToken)
		for _, credential := range g.answer.Credentials {
			for _, name := range credential.Secret {
				if value := credential.Values[name]; !add(value) && value != "" && len(generations) == 1 {
					p.say("warning: the value %s of %s is too short or too common to be masked: it is not masked", name, credential.Grant)
				}
			}
		}
	}
	if keepOIDC {
		for _, entry := range os.Environ() {
			if name, value, _ := strings.Cut(entry, "="); leadsToToken(name) && name != githubURL {
				add(value)
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
func (p *program) childEnv(own []string, credentials []api.Credential, keepOIDC bool) ([]string, error) {
	env := slices.DeleteFunc(slices.Clone(own), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return p.withheld(name, keepOIDC)
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

// withheld says that a variable holds a token or leads to one. What the CI system
// gives to get job tokens with is kept if it is to be: another audience's may be what
// the command is for. The tokens of this program never are.
func (p *program) withheld(name string, keepOIDC bool) bool {
	for _, prefix := range []string{"DAYPASS_TOKEN", "DAYPASS_ADMIN_TOKEN", "DAYPASS_SESSION_TOKEN"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	if p.tokenEnv != "" && name == p.tokenEnv || name == variableJobToken || name == variableSessionFile {
		return true
	}
	return !keepOIDC && leadsToToken(name)
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
