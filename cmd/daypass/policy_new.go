//go:build !packed

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/daypass/daypass/policies/scaffold"
)

// newPolicy is what `policy new` was asked for.
type newPolicy struct {
	scaffold.Options

	claims          []string
	fromToken, file string
}

func (p *program) policyNewCommand() *cobra.Command {
	var n newPolicy
	cmd := &cobra.Command{
		Use:   "new",
		Short: "Write a first policy for a repository",
		Long: `New writes a policy for one repository: pinned by the provider's ids, to one branch,
with tests that let its job in and keep others out. What is written has been loaded and
has passed the linter. What flags don't say it asks for, where standard input is a
terminal.

--from-token FILE takes the repository and its ids from a token of one of its jobs. The
token is decoded and NOT verified: look at what it says.

The ids of a GitHub repository and of its owner:
  gh api repos/OWNER/REPO --jq '.id, .owner.id'`,
		Example: `  daypass policy new
  daypass policy new --provider github --repository acme/payments --repository-id 123456789 --owner-id 987654 \
      --grant deploy-db --issuer payments-db --role deployer --environment production \
      --owner payments-team@example.com --file policies/payments.yaml
  daypass policy new --from-token job.jwt --grant read --issuer payments-db --role reader \
      --environment staging --owner payments-team@example.com`,
		Args: exactly(0, "none"),
		RunE: func(cmd *cobra.Command, _ []string) error { return p.newPolicy(cmd.Context(), &n) },
	}
	flags := cmd.Flags()
	for _, f := range []struct {
		to          *string
		name, usage string
	}{
		{&n.Provider, "provider", "the provider, by its name in the server's configuration"},
		{&n.Type, "type", "its type (default: the name, where that is one)"},
		{&n.Name, "name", "the policy's name (default: the repository's)"},
		{&n.Repository, "repository", "the repository's name, like acme/payments"},
		{&n.RepositoryID, "repository-id", "its id: repository_id, project_id, pipeline_id …"},
		{&n.OwnerID, "owner-id", "the id of who has it: repository_owner_id, namespace_id, organization_id …"},
		{&n.Owner, "owner", "who answers for the policy: an address or a team"},
		{&n.Environment, "environment", "the policy's environment"},
		{&n.Grant, "grant", "the grant's name within the policy"},
		{&n.Issuer, "issuer", "what mints it, by its name in the server's configuration"},
		{&n.Role, "role", "one of the issuer's roles"},
		{&n.TTL, "ttl", "how long it lives (default 15m)"},
		{&n.fromToken, "from-token", `take repository and ids from this job token, "-" for standard input; it isn't verified`},
		{&n.file, "file", "write here, where nothing may be yet (default: standard output)"},
	} {
		flags.StringVar(f.to, f.name, "", f.usage)
	}
	flags.StringArrayVar(&n.claims, "claim", nil, "what else the job's token must say: name=text or name:=json; may be repeated")
	return cmd
}

func (p *program) newPolicy(ctx context.Context, n *newPolicy) error {
	claims, err := parseClaims(n.claims)
	if err != nil {
		return err
	}
	n.Claims = claims
	if n.fromToken != "" {
		token, err := p.readToken(n.fromToken)
		if err != nil {
			return err
		}
		read, err := unverified(token)
		if err != nil {
			return err
		}
		p.say("the token was decoded, not verified: look at the ids before you use them")
		if err := n.FromToken(read); err != nil {
			return usage("--from-token: %w", err)
		}
	}
	if err := p.askNew(n); err != nil {
		return err
	}
	text, err := n.Policy(ctx)
	if err != nil {
		return err
	}
	if n.file == "" {
		_, err = p.stdout.Write(text)
		return err
	}
	f, err := os.OpenFile(n.file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) //nolint:gosec // a policy is read by others: the server, a review
	if err != nil {
		return fmt.Errorf("writing policy: %w", err)
	}
	_, err = f.Write(text)
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return fmt.Errorf("writing policy: %w", err)
	}
	p.say("wrote %s (next: daypass policy lint %s)", n.file, n.file)
	return nil
}

// askNew asks for what is missing, or says what that is where nobody is there to ask.
func (p *program) askNew(n *newPolicy) error {
	open := n.Missing()
	if len(open) == 0 {
		return nil
	}
	if n.fromToken != "-" && terminal(p.stdin) {
		err := n.Ask(p.stdin, p.stderr)
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		fmt.Fprintln(p.stderr) //nolint:errcheck // nowhere left to say it
	}
	var flags []string
	hint := ""
	for _, q := range n.Missing() {
		flags = append(flags, "--"+q.Flag)
		if hint == "" && q.Hint != "" {
			hint = " (hint: " + q.Hint + ")"
		}
	}
	return usage("missing: %s%s", strings.Join(flags, ", "), hint)
}
