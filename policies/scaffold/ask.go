package scaffold

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/daypass/daypass/policies/catalogue"
)

// Question asks for one thing that a policy needs.
type Question struct {
	Flag string // of `daypass policy new`, without --
	Text string // for people
	Hint string // may be empty

	to *string
}

// Missing are the questions that are still open.
func (o *Options) Missing() []Question {
	if o.Provider == "" {
		return []Question{{"provider", "Provider (" + strings.Join(catalogue.Types(), ", ") + ")", "its name in the server's configuration", &o.Provider}}
	}
	p, err := o.provider()
	if err != nil {
		return []Question{{"type", "Type of the provider " + o.Provider, "one of " + strings.Join(catalogue.Types(), ", "), &o.Type}}
	}
	var list []Question
	ask := func(to *string, flag, text, hint string) {
		if *to == "" {
			list = append(list, Question{flag, text, hint, to})
		}
	}
	if o.Name == "" {
		ask(&o.Repository, "repository", "Repository (acme/payments)", "")
	}
	for i, path := range Tenants(p) {
		to, flag := &o.RepositoryID, "repository-id"
		if i == 1 {
			to, flag = &o.OwnerID, "owner-id"
		}
		if _, given := o.Claims[path]; i < 2 && !given {
			ask(to, flag, "Its "+strings.ReplaceAll(path, "|", "."), o.Hint())
		}
	}
	ask(&o.Grant, "grant", "Name of the grant (deploy-db)", "")
	ask(&o.Issuer, "issuer", "Issuer", "its name in the server's configuration")
	ask(&o.Environment, "environment", "Environment (production)", "")
	ask(&o.Owner, "owner", "Who answers for the policy (payments-team@example.com)", "")
	return list
}

// Ask asks until nothing is missing. io.ErrUnexpectedEOF wraps what is missing
// where the answers end before.
func (o *Options) Ask(in io.Reader, out io.Writer) error {
	answers := bufio.NewScanner(in)
	answers.Buffer(nil, 4096)
	role := o.Role == ""
	for {
		open := o.Missing()
		if len(open) == 0 {
			if !role {
				return nil
			}
			open = []Question{{"role", "Role (empty where the issuer has none)", "", &o.Role}}
		}
		q := open[0]
		hint := ""
		if q.Hint != "" {
			hint = " [" + q.Hint + "]"
		}
		if _, err := fmt.Fprintf(out, "%s%s: ", q.Text, hint); err != nil {
			return err
		}
		if !answers.Scan() {
			if err := answers.Err(); err != nil {
				return fmt.Errorf("reading answers: %w", err)
			}
			return fmt.Errorf("no answer for --%s: %w", q.Flag, io.ErrUnexpectedEOF)
		}
		*q.to = strings.TrimSpace(answers.Text())
		if q.to == &o.Role {
			return nil
		}
	}
}
