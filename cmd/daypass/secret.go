package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/client"
)

func (p *program) secretCommand() *cobra.Command {
	return p.group("secret", "Keep static secrets: those that can't be made for one job", `  daypass secret put payments/stripe-key --owner payments@example.com --file key.txt
  daypass secret verify payments/stripe-key 1
  daypass secret promote payments/stripe-key 1`,
		p.secretPutCommand(), p.secretListCommand(), p.secretShowCommand(), p.secretReadsCommand(),
		p.secretVerb(api.SecretVerify, "Say that a pending version works", "daypass secret verify payments/stripe-key 2"),
		p.secretVerb(api.SecretPromote, "Make a verified version the current one", "daypass secret promote payments/stripe-key 2"),
		p.secretVerb(api.SecretRollback, "Make a retired version current again", "daypass secret rollback payments/stripe-key 1"),
		p.secretDestroyCommand(), p.secretRotateCommand())
}

func (p *program) secretListCommand() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use: "ls", Short: "List static secrets by name, without their values", Args: exactly(0, "none"),
		Example: `  daypass secret ls
  daypass secret ls --limit 0 --output json`,
	}
	out := outputFlag(cmd)
	limitFlag(cmd, &limit)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, token, err := p.withToken()
		if err != nil {
			return err
		}
		var list api.SecretList
		list.Secrets, list.Next, err = collect(limit, func(cursor string, n int) ([]api.Secret, string, error) {
			page, err := c.Secrets(cmd.Context(), token, cursor, n)
			if err != nil {
				return nil, "", err
			}
			return page.Secrets, page.Next, nil
		})
		if err != nil {
			return err
		}
		if *out == outputJSON {
			return p.printJSON(list)
		}
		return p.table(func(w io.Writer) {
			row(w, "NAME", "CURRENT", "PENDING", "OWNER", "HOOK", "DUE", "LAST ERROR")
			for _, s := range list.Secrets {
				row(w, s.Name, number(s.Current), number(s.Pending), s.Owner, s.Hook, due(&s, time.Now()), s.LastError)
			}
		})
	}
	return cmd
}

func number(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func due(s *api.Secret, now time.Time) string {
	if s.DueAt != nil && !now.Before(*s.DueAt) {
		return stampOf(s.DueAt) + " (overdue)"
	}
	return stampOf(s.DueAt)
}

func (p *program) secretShowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show NAME", Short: "Show a static secret and its versions, without their values", Args: exactly(1, "NAME"),
		Example: `  daypass secret show payments/stripe-key
  daypass secret show payments/stripe-key --output json`,
	}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, token, err := p.withToken()
		if err != nil {
			return err
		}
		secret, err := c.Secret(cmd.Context(), token, args[0])
		if err != nil {
			return err
		}
		if *out == outputJSON {
			return p.printJSON(secret)
		}
		return p.printSecret(secret)
	}
	return cmd
}

func (p *program) printSecret(s *api.Secret) error {
	if err := p.table(func(w io.Writer) {
		for _, r := range [][]string{
			{"name", s.Name},
			{"id", s.ID},
			{"description", s.Description},
			{"owner", s.Owner},
			{"hook", s.Hook},
			{"rotated every", s.RotateEvery},
			{"rotated fields", strings.Join(s.RotateFields, ", ")},
			{"due", due(s, time.Now())},
			{"rotation goes on", stampOf(s.RotateAt)},
			{"failed attempts", number(s.Attempts)},
			{"last error", s.LastError},
		} {
			if r[1] != "" && r[1] != "-" {
				row(w, r...)
			}
		}
	}); err != nil {
		return err
	}
	if len(s.Versions) == 0 {
		return nil
	}
	if _, err := fmt.Fprintln(p.stdout); err != nil {
		return err
	}
	return p.table(func(w io.Writer) {
		row(w, "VERSION", "STATE", "FIELDS", "CREATED", "BY", "SET", "VERIFIED", "PROMOTED", "RETIRED", "DESTROYED")
		for _, v := range s.Versions {
			row(w, strconv.Itoa(v.Version), v.State, strings.Join(v.Fields, ","), stamp(v.CreatedAt), v.CreatedBy, stampOf(v.SetAt), stampOf(v.VerifiedAt),
				stampOf(v.PromotedAt), stampOf(v.RetiredAt), stampOf(v.DestroyedAt))
		}
	})
}

func (p *program) secretReadsCommand() *cobra.Command {
	var page client.SecretReadsPage
	var limit int
	cmd := &cobra.Command{
		Use: "reads NAME", Short: "List which leases read a static secret, newest first", Args: exactly(1, "NAME"),
		Example: `  daypass secret reads payments/stripe-key
  daypass secret reads payments/stripe-key --version 1 --limit 0`,
	}
	out := outputFlag(cmd)
	limitFlag(cmd, &limit)
	cmd.Flags().IntVar(&page.Version, "version", 0, "only of this version; 0 for all")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, token, err := p.withToken()
		if err != nil {
			return err
		}
		var list api.SecretReadList
		list.Reads, list.Next, err = collect(limit, func(cursor string, n int) ([]api.SecretRead, string, error) {
			page.Cursor, page.Limit = cursor, n
			some, err := c.SecretReads(cmd.Context(), token, args[0], page)
			if err != nil {
				return nil, "", err
			}
			return some.Reads, some.Next, nil
		})
		if err != nil {
			return err
		}
		if *out == outputJSON {
			return p.printJSON(list)
		}
		return p.table(func(w io.Writer) {
			row(w, "AT", "VERSION", "LEASE", "STATE", "GRANT", "PROVIDER", "SUBJECT")
			for _, r := range list.Reads {
				row(w, stamp(r.At), strconv.Itoa(r.Version), r.LeaseID, r.State, r.Grant, r.Provider, r.Subject)
			}
		})
	}
	return cmd
}

// secretVerb is a command that does something with a version.
func (p *program) secretVerb(verb, short, example string) *cobra.Command {
	cmd := &cobra.Command{Use: verb + " NAME VERSION", Short: short, Example: "  " + example, Args: exactly(2, "NAME VERSION")}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return p.changeSecret(cmd, verb, args, api.SecretChange{}, *out)
	}
	return cmd
}

func (p *program) changeSecret(cmd *cobra.Command, verb string, args []string, change api.SecretChange, out output) error {
	if len(args) > 1 {
		var err error
		if change.Version, err = strconv.Atoi(args[1]); err != nil || change.Version < 1 {
			return usage("%q is no version (hint: daypass secret show %s)", args[1], args[0])
		}
	}
	c, token, err := p.withToken()
	if err != nil {
		return err
	}
	secret, err := c.ChangeSecret(cmd.Context(), token, args[0], verb, change)
	if err != nil {
		return err
	}
	return p.printChanged(secret, out)
}

func (p *program) printChanged(secret *api.Secret, out output) error {
	if out == outputJSON {
		return p.printJSON(secret)
	}
	which := func(n int) string {
		if n == 0 {
			return "none"
		}
		return "version " + strconv.Itoa(n)
	}
	_, err := fmt.Fprintln(p.stdout, clean(fmt.Sprintf("%s: current %s, pending %s", secret.Name, which(secret.Current), which(secret.Pending))))
	return err
}

func (p *program) secretDestroyCommand() *cobra.Command {
	var change api.SecretChange
	cmd := &cobra.Command{
		Use: "destroy NAME VERSION", Short: "Take the value of a version away, for good", Args: exactly(2, "NAME VERSION"),
		Long: `Destroy takes the value of a version away. There is no way back. A version that is
current, or that live leases hold, is destroyed with --force alone: the jobs that
read it have it all the same, so rotate it where it opens something.`,
		Example: `  daypass secret destroy payments/stripe-key 1
  daypass secret destroy payments/stripe-key 2 --force`,
	}
	out := outputFlag(cmd)
	cmd.Flags().BoolVar(&change.Force, "force", false, "also what is current, or held by live leases")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return p.changeSecret(cmd, api.SecretDestroy, args, change, *out)
	}
	return cmd
}

func (p *program) secretRotateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "rotate NAME", Short: "Begin, or go on with, a rotation now", Args: exactly(1, "NAME"),
		Long: `Rotate has the broker make up a new value and hand it to the secret's hook, now.
It answers at once: "daypass secret show" tells how far it is.`,
		Example: "  daypass secret rotate payments/legacy/login",
	}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return p.changeSecret(cmd, api.SecretRotate, args, api.SecretChange{}, *out)
	}
	return cmd
}
