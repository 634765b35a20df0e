package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/client"
)

// massRevoke is what `lease revoke` takes in place of an ID.
type massRevoke struct {
	filter    client.LeaseFilter
	expires   string
	all       bool
	dry, wait bool
}

func (m *massRevoke) flags(cmd *cobra.Command) {
	filterFlags(cmd, &m.filter)
	flags := cmd.Flags()
	flags.StringVar(&m.expires, "expires-before", "", "only those that end before a time (RFC 3339), or within a duration like 1h")
	flags.BoolVar(&m.all, "all", false, "every lease there is, in place of a filter")
	flags.BoolVar(&m.dry, "dry-run", false, "say how many, and revoke none")
	flags.BoolVar(&m.wait, "wait", false, "wait until all are taken back")
}

func (m *massRevoke) asked() bool {
	return m.all || m.expires != "" || m.filter != (client.LeaseFilter{})
}

func (p *program) revokeMany(ctx context.Context, m *massRevoke, reason string, out output) error {
	before, err := moment(m.expires, time.Now())
	if err != nil {
		return err
	}
	f := m.filter
	request := api.MassRevokeRequest{All: m.all, Reason: reason, DryRun: m.dry, Selector: api.LeaseSelector{
		Policy: f.Policy, Grant: f.Grant, Issuer: f.Issuer, Session: f.Session, Subject: f.Subject, Provider: f.Provider, State: f.State, Target: f.Target,
	}}
	if !before.IsZero() {
		request.Selector.ExpiresBefore = &before
	}
	if reason == "" && !m.dry {
		return usage("--reason is needed: it stands in the audit log (hint: --dry-run says how many it would be)")
	}
	c, token, err := p.withToken()
	if err != nil {
		return err
	}
	answer, err := c.RevokeMany(ctx, token, request)
	if err != nil {
		return err
	}
	switch {
	case m.wait && answer.Job != "":
		return p.waitForJob(ctx, lister{c, token}, answer.Job, out)
	case out == outputJSON:
		return p.printJSON(answer)
	case m.dry:
		_, err = fmt.Fprintf(p.stdout, "%s would be revoked\n", leasesOf(answer.Matched, answer.AtLeast))
	default:
		_, err = fmt.Fprintf(p.stdout, "%s are being revoked by %s\n", leasesOf(answer.Matched, answer.AtLeast), clean(answer.Job))
	}
	return err
}

func leasesOf(n int, atLeast bool) string {
	if atLeast {
		return fmt.Sprintf("more than %d leases", n)
	}
	return fmt.Sprintf("%d leases", n)
}

// jobInterval is how often is asked how far a job is.
const jobInterval = time.Second

func (p *program) waitForJob(ctx context.Context, l lister, id string, out output) error {
	for {
		job, err := l.Job(ctx, l.token, id)
		if err != nil {
			return err
		}
		if job.State != api.JobRunning {
			return p.printJob(job, out)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(jobInterval):
		}
	}
}

func (p *program) leaseJobCommand() *cobra.Command {
	return p.group("job", "Watch, pause and resume revocations of many leases", `  daypass lease job ls
  daypass lease job pause job_01J8Z3`,
		p.leaseJobListCommand(),
		p.oneJobCommand("show", "Show how far a job is", (*client.Client).Job),
		p.oneJobCommand("pause", "Let a job rest", (*client.Client).PauseJob),
		p.oneJobCommand("resume", "Let a paused job go on", (*client.Client).ResumeJob))
}

func (p *program) leaseJobListCommand() *cobra.Command {
	var limit int
	cmd := &cobra.Command{Use: "ls", Short: "List jobs, newest first", Example: "  daypass lease job ls", Args: exactly(0, "none")}
	out := outputFlag(cmd)
	limitFlag(cmd, &limit)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, token, err := p.withToken()
		if err != nil {
			return err
		}
		var list api.JobList
		list.Jobs, list.Next, err = collect(limit, func(cursor string, n int) ([]api.Job, string, error) {
			page, err := c.Jobs(cmd.Context(), token, cursor, n)
			if err != nil {
				return nil, "", err
			}
			return page.Jobs, page.Next, nil
		})
		if err != nil {
			return err
		}
		if *out == outputJSON {
			return p.printJSON(list)
		}
		return p.table(func(w io.Writer) {
			row(w, "ID", "STATE", "MATCHED", "BEGUN", "REVOKED", "CREATED", "ACTOR", "REASON")
			for _, j := range list.Jobs {
				row(w, j.ID, j.State, strconv.Itoa(j.Matched), strconv.Itoa(j.Begun), strconv.Itoa(j.Revoked), stamp(j.CreatedAt), j.Actor, j.Reason)
			}
		})
	}
	return cmd
}

func (p *program) oneJobCommand(verb, short string, do func(*client.Client, context.Context, string, string) (*api.Job, error)) *cobra.Command {
	cmd := &cobra.Command{Use: verb + " ID", Short: short, Example: "  daypass lease job " + verb + " job_01J8Z3", Args: exactly(1, "ID")}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, token, err := p.withToken()
		if err != nil {
			return err
		}
		job, err := do(c, cmd.Context(), token, args[0])
		if err != nil {
			return err
		}
		return p.printJob(job, *out)
	}
	return cmd
}

func (p *program) printJob(j *api.Job, out output) error {
	if out == outputJSON {
		return p.printJSON(j)
	}
	return p.table(func(w io.Writer) {
		row(w, "id", j.ID)
		row(w, "state", j.State)
		row(w, "matched", leasesOf(j.Matched, j.AtLeast))
		row(w, "begun", strconv.Itoa(j.Begun))
		row(w, "revoked", strconv.Itoa(j.Revoked))
		row(w, "failed so far", strconv.Itoa(j.Failed))
		row(w, "stuck", strconv.Itoa(j.Stuck))
		row(w, "created", stamp(j.CreatedAt))
		row(w, "ended", stampOf(j.EndedAt))
		row(w, "actor", j.Actor)
		row(w, "reason", j.Reason)
	})
}
