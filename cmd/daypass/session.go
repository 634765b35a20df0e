package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/client"
	"github.com/daypass/daypass/issuers"
)

// variableSessionFile names a file in which exec leaves a token while the command
// runs that gives its session back: the revocation token, or where the broker has none
// the session's own. A CI system that kills a job gives exec no time to tidy up, and
// may have a step of its own for that (GitLab's after_script, Jenkins's post).
const variableSessionFile = "DAYPASS_SESSION_FILE"

// keepSession leaves the token in that file, and returns what removes it. That it
// can't is a warning: the credentials end by themselves all the same.
func (p *program) keepSession(session api.Session) (remove func()) {
	file, token := os.Getenv(variableSessionFile), cmp.Or(session.RevocationToken, session.Token)
	if file == "" {
		return func() {}
	}
	err := os.Remove(file) //nolint:gosec // G703: the file that the caller names
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = writeNew(file, token+"\n")
	}
	if err != nil {
		p.say("warning: keeping the session token: %v", err)
		return func() {}
	}
	return func() { _ = os.Remove(file) } //nolint:gosec // G703: the same; the token is worth nothing by now
}

// writeNew writes a file that wasn't there, for its owner alone: a link that
// somebody put in its place isn't followed.
func writeNew(file, text string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // the file that the caller names
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

func (p *program) sessionCommand() *cobra.Command {
	return p.group("session", "Show and give back what a session token obtained", `  daypass session show --token-file session.token
  daypass session revoke --token-env DAYPASS_SESSION_TOKEN`, p.sessionShowCommand(), p.sessionRevokeCommand())
}

func (p *program) sessionShowCommand() *cobra.Command {
	var out *output
	cmd := &cobra.Command{
		Use: "show", Short: "Show what a session token obtained",
		Long: `Show needs the session token (dps_…) that an exchange answered with. The revocation
token (dpr_…), which stands in the file that DAYPASS_SESSION_FILE names while exec
runs its command, gives back and shows nothing.`,
		Example: "  daypass session show --token-env DAYPASS_SESSION_TOKEN", Args: exactly(0, "none"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, token, err := p.withSession()
			if err != nil {
				return err
			}
			if kind, ok := issuers.IsGenerated(token); ok && kind == issuers.RevocationToken {
				return usage("this is a revocation token, which gives a session back and shows nothing (hint: name the session token, dps_…, with --token-file or --token-env)")
			}
			info, err := c.Session(cmd.Context(), token)
			if err != nil {
				return err
			}
			if *out == outputJSON {
				return p.printJSON(info)
			}
			return p.printLeases(&api.LeaseList{Leases: info.Leases})
		},
	}
	out = outputFlag(cmd)
	return cmd
}

func (p *program) sessionRevokeCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "revoke", Short: "Give back all that a session token obtained",
		Long: `Revoke gives back all that was obtained with a session token. It takes that, or the
revocation token that came with it: the one that --token-file or --token-env names,
else DAYPASS_SESSION_TOKEN, else the one in the file that DAYPASS_SESSION_FILE names,
where exec leaves it while its command runs. Without any there is nothing to give back, and that is no failure: a step that
tidies up can always call it.`,
		Example: `  daypass session revoke
  daypass session revoke --token-file session.token --reason "job cancelled"`,
		Args: exactly(0, "none"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, token, err := p.withSession()
			if errors.Is(err, errNoSession) {
				p.say("nothing to give back")
				return nil
			}
			if err != nil {
				return err
			}
			answer, err := c.RevokeSession(cmd.Context(), token, reason)
			if problem, refused := errors.AsType[*api.Problem](err); refused && problem.Code == api.CodeInvalidToken && problem.Reason != api.ReasonMalformed {
				p.say("nothing to give back: the session has ended")
				return nil
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(p.stdout, clean(answer.State))
			return err
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit log")
	return cmd
}

var errNoSession = errors.New("no session token given (hint: set --token-file, --token-env, DAYPASS_SESSION_TOKEN or " + variableSessionFile + ")")

// withSession connects and finds a session token.
func (p *program) withSession() (*client.Client, string, error) {
	token, err := p.givenToken()
	if err != nil {
		return nil, "", err
	}
	if token == "" {
		token = strings.TrimSpace(os.Getenv("DAYPASS_SESSION_TOKEN"))
	}
	if file := os.Getenv(variableSessionFile); token == "" && file != "" {
		if token, err = p.readToken(file); errors.Is(err, fs.ErrNotExist) {
			return nil, "", errNoSession
		} else if err != nil {
			return nil, "", err
		}
	}
	if token == "" {
		return nil, "", errNoSession
	}
	c, err := p.connect()
	return c, token, err
}
