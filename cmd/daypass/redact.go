package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker/client"
	"github.com/daypass/daypass/broker/redact"
)

const (
	// maxKnown bounds files of values and patterns, in bytes.
	maxKnown = 16 << 20
	// showAfter is how long the beginning of what may become a secret is waited on.
	showAfter = 50 * time.Millisecond
)

// redaction is what the flags of `redact` say.
type redaction struct {
	offline, follow, fromEnd bool
	patterns                 []string
	patternsFile, valuesFile string

	job, jobLog, out string
	revoke, erase    bool
	report           *output
}

func (p *program) redactCommand() *cobra.Command {
	var r redaction
	cmd := &cobra.Command{
		Use:   "redact [FILE]",
		Short: "Mask secrets in a text, a log that grows, or a finished job's log",
		Long: `Redact reads standard input, or a file, and writes it with secrets masked.

What is masked:
  always            tokens that a broker made up, by their shape and checksum, the
                    tokens that this command uses itself, and what --pattern,
                    --patterns-file and --values-file name
  with a broker     (--url or DAYPASS_URL, and a token) besides: the values of
                    credentials and the patterns of policies, by the broker, to which
                    the text is sent: with a session's token those of its own
                    leases, with a redactor's or operator's all
  with --follow     besides: the patterns of policies and of the server, here; not
                    the values, which a broker gives to nobody
Without a broker, or with --offline, nothing is sent.

The token is that of --token-file, --token-env, DAYPASS_ADMIN_TOKEN_FILE,
DAYPASS_SESSION_TOKEN or DAYPASS_TOKEN_FILE; a job's own token is for exchanges only.

When a broker stops answering, what it has not masked is not passed on, and the exit
code is 1. With --follow, which is for logs that never end, the last known patterns
stay in force until it is back; nothing is passed on before it has told them once. A
FILE is then followed like "tail -F" does: over rotation and truncation.

With --job, the log of a finished job is read from its provider (GITHUB_TOKEN or
GITLAB_TOKEN) or from --job-log, written masked, and what stood in it is reported. No
provider lets a log be replaced; --erase has it deleted once the copy is written.`,
		Example: `  daypass redact < build.log > clean.log
  daypass redact --offline --values-file secrets.txt build.log
  daypass redact --follow /var/log/runner.log | vector --config vector.yaml
  daypass redact --job https://github.com/acme/payments/actions/runs/4711 --out clean.log
  daypass redact --job https://gitlab.com/acme/payments/-/jobs/4711 --out clean.log --revoke --erase`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage("%d files, want one or standard input (hint: %s --help)", len(args), cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := r.check(args); err != nil {
				return err
			}
			return p.redact(cmd.Context(), &r, strings.Join(args, ""))
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&r.offline, "offline", false, "ask no broker: mask by shape and what the flags name")
	flags.BoolVar(&r.follow, "follow", false, "for logs that grow: mask here by patterns that the broker keeps up to date, and never end because of it")
	flags.BoolVar(&r.fromEnd, "from-end", false, "with --follow FILE: begin at its end")
	flags.StringArrayVar(&r.patterns, "pattern", nil, "mask what this regular expression (RE2) matches within a line; may be repeated")
	flags.StringVar(&r.patternsFile, "patterns-file", "", "mask what these regular expressions match, one a line")
	flags.StringVar(&r.valuesFile, "values-file", "", "mask these values, one a line, in all their forms; a file that others can read is refused")
	flags.StringVar(&r.job, "job", "", "a finished job: the URL of its page, github:OWNER/REPO/RUN or gitlab:GROUP/PROJECT/JOB")
	flags.StringVar(&r.jobLog, "job-log", "", "with --job: its log, instead of asking the provider")
	flags.StringVar(&r.out, "out", "", "with --job: the file that the masked log is written to, instead of standard output")
	flags.BoolVar(&r.revoke, "revoke", false, "with --job: take back what stood in the log")
	flags.BoolVar(&r.erase, "erase", false, "with --job and --out: delete the log at the provider once the masked copy is written")
	r.report = outputFlag(cmd)
	return cmd
}

// check refuses flags that don't go together.
func (r *redaction) check(args []string) error {
	switch {
	case r.job == "" && (r.jobLog != "" || r.out != "" || r.revoke || r.erase):
		return usage("--job-log, --out, --revoke and --erase go with --job")
	case r.job != "" && (len(args) > 0 || r.follow):
		return usage("--job goes without a file (hint: --job-log) and without --follow")
	case r.job != "" && r.offline && r.revoke:
		return usage("--revoke needs a broker: leave --offline out")
	case r.erase && (r.out == "" || r.jobLog != ""):
		return usage("--erase deletes what was read from the provider, after the copy was written to a file: use it with --out and without --job-log")
	case r.fromEnd && (!r.follow || len(args) == 0):
		return usage("--from-end goes with --follow FILE")
	}
	return nil
}

func (p *program) redact(ctx context.Context, r *redaction, file string) error {
	c, token, err := p.redactingBroker(r, file)
	if err != nil {
		return err
	}
	config, err := p.known(r, token)
	if err != nil {
		return err
	}
	masker, err := redact.New(config)
	if err != nil {
		return usage("preparing to mask: %w", err)
	}
	switch {
	case r.job != "":
		return p.redactJob(ctx, r, c, token, masker)
	case r.follow:
		return p.followLog(ctx, r, file, &following{masker: masker, client: c, token: token})
	}
	var in io.Reader = p.stdin
	if file != "" {
		f, err := os.Open(file) //nolint:gosec // who runs this names the file
		if err != nil {
			return fmt.Errorf("reading the text: %w", err)
		}
		defer f.Close() //nolint:errcheck // it was only read
		in = f
	}
	return maskAll(ctx, c, token, masker, in, p.stdout)
}

// maskAll masks a text by a broker, if there is one, and then here.
func maskAll(ctx context.Context, c *client.Client, token string, masker *redact.Masker, in io.Reader, out io.Writer) error {
	if c != nil {
		stream, err := c.Redact(ctx, token, in)
		if err != nil {
			return err
		}
		defer stream.Close() //nolint:errcheck // it was only read
		in = stream
	}
	w := masker.Writer(out)
	n, err := io.Copy(w, in)
	if err != nil {
		// W isn't closed: what it holds back may be the beginning of a secret.
		return fmt.Errorf("masking ended after %d bytes, and nothing behind them was passed on: %w", n, err)
	}
	return w.Close()
}

// redactingBroker is the broker that masks and the token for it; nil when what is
// known here is to do.
func (p *program) redactingBroker(r *redaction, file string) (*client.Client, string, error) {
	if r.offline {
		return nil, "", nil
	}
	if p.tokenFile == "-" && file == "" && r.job == "" {
		return nil, "", usage("the token and the text can't both come from standard input")
	}
	token, err := p.redactorToken()
	if err != nil {
		return nil, "", err
	}
	switch broker := p.setting(p.url, "DAYPASS_URL"); {
	case broker == "" && token == "":
		p.say("no broker is configured: masking by shape and what the flags name (--offline says that this is meant)")
		return nil, "", nil
	case broker == "":
		return nil, "", usage("no broker given (hint: set --url or DAYPASS_URL, or --offline to do without)")
	case token == "":
		return nil, "", usage("no token given (hint: set --token-file, DAYPASS_ADMIN_TOKEN_FILE or DAYPASS_SESSION_TOKEN, or --offline to do without)")
	}
	c, err := p.connect()
	return c, token, err
}

// redactorToken finds the token of an admin or a session; "" when there is none.
func (p *program) redactorToken() (string, error) {
	token, err := p.givenToken("DAYPASS_ADMIN_TOKEN_FILE")
	if token != "" || err != nil {
		return token, err
	}
	if token = strings.TrimSpace(os.Getenv("DAYPASS_SESSION_TOKEN")); token != "" {
		return token, nil
	}
	return p.givenToken("DAYPASS_TOKEN_FILE")
}

// known is what can be masked without a broker.
func (p *program) known(r *redaction, token string) (redact.Config, error) {
	config := redact.Config{Shape: true, Patterns: r.patterns, FlushAfter: showAfter}
	for _, own := range []string{token, os.Getenv("GITHUB_TOKEN"), os.Getenv("GITLAB_TOKEN")} {
		if own != "" && !redact.Common(own) {
			config.Values = append(config.Values, own)
		}
	}
	if r.patternsFile != "" {
		lines, err := readLines(r.patternsFile, false)
		if err != nil {
			return config, err
		}
		config.Patterns = append(config.Patterns, filled(lines)...)
	}
	if r.valuesFile == "" {
		return config, nil
	}
	lines, err := readLines(r.valuesFile, true)
	if err != nil {
		return config, err
	}
	for i, value := range lines {
		switch {
		case value == "":
		case redact.Common(value):
			p.say("warning: line %d of %s is too short or too common to be masked: it is not masked", i+1, r.valuesFile)
		default:
			config.Values = append(config.Values, value)
		}
	}
	return config, nil
}

func filled(lines []string) []string {
	var kept []string
	for _, line := range lines {
		if line != "" {
			kept = append(kept, line)
		}
	}
	return kept
}

// readLines reads a file's lines without their ends. A secret one that others can
// read is refused: whoever made it thinks that they can't.
func readLines(file string, secret bool) ([]string, error) {
	f, err := os.Open(file) //nolint:gosec // who runs this names the file
	if err != nil {
		return nil, fmt.Errorf("reading what to mask: %w", err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading what to mask: %w", err)
	}
	if secret && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return nil, usage("others can read %s, which holds secrets (hint: chmod 600 %s)", file, file)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKnown+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading what to mask: %w", err)
	case len(data) > maxKnown:
		return nil, fmt.Errorf("reading what to mask: %s has more than %d bytes", file, maxKnown)
	}
	lines := strings.Split(string(data), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimSuffix(line, "\r")
	}
	return lines, nil
}

// following is what a log is masked by that never ends.
type following struct {
	masker *redact.Masker // what is known here and doesn't change
	client *client.Client // whose rules are followed; nil: nobody's
	token  string
}

// followLog masks a log that grows, until it ends or a signal says so.
func (p *program) followLog(ctx context.Context, r *redaction, file string, f *following) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	out := p.stdout
	rules := &ruleWriter{dst: p.stdout}
	if f.client != nil {
		if err := p.followRules(ctx, f, rules); err != nil {
			return err
		}
		out = rules
	}
	var in io.Reader = p.stdin
	if file != "" {
		in = &tail{ctx: ctx, path: file, every: tailPause, fromEnd: r.fromEnd} //nolint:contextcheck // the reader's own
	}
	w := f.masker.Writer(out)
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(w, in)
		ended <- err
	}()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		stop() // a second signal ends a program whose output is stuck
	}
	return errors.Join(err, w.Close(), rules.Close())
}
