package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/client"
)

// pageSize is how many entries are asked for at a time.
const pageSize = 100

func (p *program) leaseCommand() *cobra.Command {
	return p.group("lease", "Show, renew and revoke what was issued", `  daypass lease ls --state active
  daypass lease revoke lse_01J8Z3 --reason "laptop lost"`,
		p.leaseListCommand(), p.leaseShowCommand(), p.leaseRenewCommand(), p.leaseRevokeCommand(), p.leaseReconcileCommand(), p.leaseJobCommand())
}

// withToken connects and reads the token of an admin or a session.
func (p *program) withToken() (*client.Client, string, error) {
	c, err := p.connect()
	if err != nil {
		return nil, "", err
	}
	token, err := p.adminToken()
	return c, token, err
}

func (p *program) leaseListCommand() *cobra.Command {
	var (
		filter  client.LeaseFilter
		expires string
		limit   int
		stuck   bool
	)
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List leases, newest first",
		Long: `Ls lists leases, newest first: those that the filters choose, with an admin's
token; those obtained with it, with a session's.`,
		Example: `  daypass lease ls --policy payments --state active
  daypass lease ls --expires-before 1h --output json
  daypass lease ls --stuck`,
		Args: exactly(0, "none"),
	}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if filter.ExpiresBefore, err = moment(expires, time.Now()); err != nil {
			return err
		}
		if stuck {
			if filter.State != "" {
				return usage("--stuck and --state say two things: use one of them")
			}
			filter.State = api.StateStuck
		}
		c, token, err := p.withToken()
		if err != nil {
			return err
		}
		list, err := leases(cmd.Context(), lister{c, token}, filter, limit)
		if err != nil {
			return err
		}
		if *out == outputJSON {
			return p.printJSON(list)
		}
		return p.printLeases(list)
	}
	flags := cmd.Flags()
	filterFlags(cmd, &filter)
	flags.BoolVar(&stuck, "stuck", false, "only those whose revocation waits for a person")
	flags.StringVar(&expires, "expires-before", "", "only those that end before a time (RFC 3339), or within a duration like 1h")
	limitFlag(cmd, &limit)
	return cmd
}

func filterFlags(cmd *cobra.Command, filter *client.LeaseFilter) {
	for _, f := range []struct {
		name string
		to   *string
	}{
		{"policy", &filter.Policy},
		{"grant", &filter.Grant},
		{"issuer", &filter.Issuer},
		{"session", &filter.Session},
		{"subject", &filter.Subject},
		{"provider", &filter.Provider},
		{"state", &filter.State},
		{"target", &filter.Target},
	} {
		cmd.Flags().StringVar(f.to, f.name, "", "only of this "+f.name)
	}
}

func limitFlag(cmd *cobra.Command, limit *int) {
	cmd.Flags().IntVar(limit, "limit", pageSize, "how many to list at most; 0 for all")
}

// moment reads a time, or a duration from now on; the zero time when text is empty.
func moment(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		return now.Add(d), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, usage("%q is no time and no duration (hint: 2026-11-23T10:00:00Z or 1h)", text)
	}
	return t, nil
}

// lister asks with one token.
type lister struct {
	*client.Client

	token string
}

// leases reads pages until there are limit leases or no more.
func leases(ctx context.Context, l lister, filter client.LeaseFilter, limit int) (*api.LeaseList, error) {
	if strings.HasPrefix(l.token, "dps_") { // a session token sees its own session alone
		if filter != (client.LeaseFilter{}) {
			return nil, usage("filters need an admin's token: a session's lists all that it obtained")
		}
		info, err := l.Session(ctx, l.token)
		if err != nil {
			return nil, err
		}
		return &api.LeaseList{Leases: info.Leases}, nil
	}
	var list api.LeaseList
	var err error
	list.Leases, list.Next, err = collect(limit, func(cursor string, n int) ([]api.Lease, string, error) {
		filter.Limit = n
		page, err := l.Leases(ctx, l.token, filter, cursor)
		if err != nil {
			return nil, "", err
		}
		return page.Leases, page.Next, nil
	})
	return &list, err
}

// collect reads pages until there are limit entries, or all of them where limit
// is 0, and returns the cursor of what it left.
func collect[T any](limit int, page func(cursor string, n int) ([]T, string, error)) ([]T, string, error) {
	all, cursor := []T{}, ""
	for {
		n := pageSize
		if limit > 0 {
			n = min(n, limit-len(all))
		}
		some, next, err := page(cursor, n)
		if err != nil {
			return nil, "", err
		}
		all = append(all, some...)
		switch {
		case next == "" || limit > 0 && len(all) >= limit:
			return all, next, nil
		case next == cursor:
			return nil, "", errors.New("the broker's list goes in circles")
		}
		cursor = next
	}
}

func (p *program) printLeases(list *api.LeaseList) error {
	return p.table(func(w io.Writer) {
		row(w, "ID", "STATE", "GRANT", "KIND", "REVOCATION", "ISSUED", "EXPIRES", "SUBJECT")
		for _, l := range list.Leases {
			row(w, l.ID, stateOf(&l), l.Policy+"/"+l.Grant, l.Kind, l.Revocation, stamp(l.IssuedAt), stamp(l.ExpiresAt), l.Subject)
		}
	})
}

func stateOf(l *api.Lease) string {
	if l.Stuck {
		return l.State + " (stuck)"
	}
	return l.State
}

// table prints columns.
func (p *program) table(rows func(w io.Writer)) error {
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	rows(w)
	return w.Flush() // keeps the first error of all rows
}

func row(w io.Writer, cells ...string) {
	for i, cell := range cells {
		if cells[i] = clean(cell); cells[i] == "" {
			cells[i] = "-"
		}
	}
	fmt.Fprintln(w, strings.Join(cells, "\t")) //nolint:errcheck // table reports it
}

func (p *program) leaseShowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show ID", Short: "Show one lease", Args: exactly(1, "ID"),
		Example: `  daypass lease show lse_01J8Z3
  daypass lease show lse_01J8Z3 --output json`,
	}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, token, err := p.withToken()
		if err != nil {
			return err
		}
		lease, err := c.Lease(cmd.Context(), token, args[0])
		if err != nil {
			return err
		}
		return p.printLease(lease, *out)
	}
	return cmd
}

func (p *program) printLease(l *api.Lease, out output) error {
	if out == outputJSON {
		return p.printJSON(l)
	}
	return p.table(func(w io.Writer) {
		for _, r := range [][]string{
			{"id", l.ID},
			{"state", stateOf(l)},
			{"grant", l.Policy + "/" + l.Grant},
			{"issuer", l.Issuer},
			{"kind", l.Kind},
			{"target", l.Target},
			{"revocation", l.Revocation},
			{"session", l.Session},
			{"provider", l.Provider},
			{"subject", l.Subject},
			{"issued", stamp(l.IssuedAt)},
			{"expires", stamp(l.ExpiresAt)},
			{"ended", stampOf(l.EndedAt)},
			{"renewable until", stampOf(l.MaxExpiresAt)},
			{"valid elsewhere until", stampOf(l.ValidElsewhereUntil)},
			{"policy digest", l.PolicyDigest},
			{"last error", l.LastError},
		} {
			if r[1] != "" && r[1] != "-" {
				row(w, r...)
			}
		}
	})
}

func stampOf(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return stamp(*t)
}

func (p *program) leaseRenewCommand() *cobra.Command {
	var ttl string
	cmd := &cobra.Command{
		Use: "renew ID", Short: "Give a lease a later end", Args: exactly(1, "ID"),
		Example: "  daypass lease renew lse_01J8Z3 --ttl 30m",
	}
	out := outputFlag(cmd)
	cmd.Flags().StringVar(&ttl, "ttl", "", "how long from now on, like 30m (default: the grant's own)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, token, err := p.withToken()
		if err != nil {
			return err
		}
		lease, err := c.Renew(cmd.Context(), token, args[0], ttl)
		if err != nil {
			return err
		}
		if *out == outputJSON {
			return p.printJSON(lease)
		}
		_, err = fmt.Fprintf(p.stdout, "%s ends at %s\n", clean(lease.ID), stamp(lease.ExpiresAt))
		return err
	}
	return cmd
}

func (p *program) leaseRevokeCommand() *cobra.Command {
	var how api.RevokeRequest
	var many massRevoke
	cmd := &cobra.Command{
		Use: "revoke [ID]", Short: "Take a lease back now, or many",
		Long: `Revoke takes a lease back, or all that the filters choose. It may be repeated.
"revoking" means that the broker has not finished yet and goes on by itself.
Many are revoked by a job in the background: daypass lease job shows how far it is.`,
		Example: `  daypass lease revoke lse_01J8Z3 --reason "laptop lost"
  daypass lease revoke lse_01J8Z3 --job --reason "its log leaked"
  daypass lease revoke --policy payments --dry-run
  daypass lease revoke --policy payments --reason "the runner was broken into" --wait
  daypass lease revoke --all --reason "all of them"`,
	}
	out := outputFlag(cmd)
	cmd.Flags().StringVar(&how.Reason, "reason", "", "why, for the audit log; needed for many")
	cmd.Flags().BoolVar(&how.Job, "job", false, "all that the job of this lease holds, by an operator's token")
	many.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if many.asked() {
			if len(args) > 0 || how.Job {
				return usage("filters choose many leases, an ID one: use one of them")
			}
			return p.revokeMany(cmd.Context(), &many, how.Reason, *out)
		}
		if many.dry || many.wait {
			return usage("--dry-run and --wait are for many leases (hint: choose them by --policy, --issuer …, or --all)")
		}
		if err := exactly(1, "ID")(cmd, args); err != nil {
			return err
		}
		return p.revokeOne(cmd.Context(), args[0], how, *out)
	}
	return cmd
}

func (p *program) revokeOne(ctx context.Context, id string, how api.RevokeRequest, out output) error {
	c, token, err := p.withToken()
	if err != nil {
		return err
	}
	answer, err := c.Revoke(ctx, token, id, how)
	if err != nil {
		return err
	}
	if out == outputJSON {
		return p.printJSON(answer)
	}
	line := id + " is " + answer.State
	if how.Job {
		line = fmt.Sprintf("all that the job of %s held (%d) is %s", id, len(answer.Leases), answer.State)
	}
	if answer.ValidElsewhereUntil != nil {
		line += "; whoever verifies it without asking the broker accepts it until " + stampOf(answer.ValidElsewhereUntil)
	}
	_, err = fmt.Fprintln(p.stdout, clean(line))
	return err
}
