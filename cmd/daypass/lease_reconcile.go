package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/client"
)

func (p *program) leaseReconcileCommand() *cobra.Command {
	var target string
	var how api.ReconcileRequest
	cmd := &cobra.Command{
		Use:   "reconcile",
		Short: "Compare what stands on a target with the leases",
		Long: `Reconcile compares what stands on an issuer's target with the leases, by an
operator's token, and prints what differs:

  orphans  credentials of this installation that no live lease knows: taken back,
           unless --dry-run. More than ten, or than a tenth of what stands there,
           are left alone without --yes: a wrong configuration, or a database
           restored from an old backup, looks like this.
  missing  live leases whose credential is gone from the target: told, no more.

Without --target it lists the targets and how each was compared the last time.

Exit codes: 0 nothing differs, 1 something was found (also where it was taken
back) or the comparison failed, 2 usage, 3 denied by the broker.`,
		Example: `  daypass lease reconcile --target payments-db --dry-run
  daypass lease reconcile --target payments-db
  daypass lease reconcile`,
		Args: exactly(0, "none"),
	}
	out := outputFlag(cmd)
	flags := cmd.Flags()
	flags.StringVar(&target, "target", "", "the issuer whose target it is, as in the server's configuration")
	flags.BoolVar(&how.DryRun, "dry-run", false, "take nothing back")
	flags.BoolVar(&how.Force, "yes", false, "take orphans back however many there are")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if target == "" && (how.DryRun || how.Force) {
			return usage("--target is required (hint: `daypass lease reconcile` lists them)")
		}
		if how.DryRun && how.Force {
			return usage("--dry-run takes nothing back, and --yes all")
		}
		c, token, err := p.withToken()
		if err != nil {
			return err
		}
		if target == "" {
			return p.listTargets(cmd.Context(), c, token, *out)
		}
		report, err := reconcile(cmd.Context(), c, token, target, how)
		if err != nil {
			return err
		}
		return p.printTargetReport(report, *out)
	}
	return cmd
}

// reconcilePoll is how often a comparison that takes its time is asked for.
const reconcilePoll = time.Second

// reconcile begins a comparison and waits for its end.
func reconcile(ctx context.Context, c *client.Client, token, target string, how api.ReconcileRequest) (*api.TargetReport, error) {
	report, err := c.Reconcile(ctx, token, target, how)
	if err != nil {
		return nil, err
	}
	if report.Reconciliation == nil {
		return nil, errors.New("the broker's answer has no reconciliation")
	}
	for began := report.Reconciliation.ID; report.Reconciliation.EndedAt == nil; {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(reconcilePoll):
		}
		if report, err = c.Target(ctx, token, target); err != nil {
			return nil, err
		}
		if report.Reconciliation == nil || report.Reconciliation.ID != began {
			return nil, errors.New("another comparison of this target began after this one (hint: ask once more)")
		}
	}
	return report, nil
}

func (p *program) listTargets(ctx context.Context, c *client.Client, token string, out output) error {
	list, err := c.Targets(ctx, token)
	if err != nil {
		return err
	}
	if out == outputJSON {
		return p.printJSON(list)
	}
	return p.table(func(w io.Writer) {
		row(w, "ISSUER", "ADDRESS", "LISTS", "COMPARED", "DRY", "LISTED", "ORPHANS", "REVOKED", "MISSING", "ERROR")
		for _, t := range list.Targets {
			lists := "no"
			if t.CanList {
				lists = "yes"
			}
			r := t.Reconciliation
			if r == nil {
				row(w, t.Issuer, t.Address, lists, "never", "", "", "", "", "", "")
				continue
			}
			row(w, t.Issuer, t.Address, lists, stampOf(r.EndedAt), strconv.FormatBool(r.DryRun),
				strconv.Itoa(r.Listed), strconv.Itoa(r.Orphans), strconv.Itoa(r.Revoked), strconv.Itoa(r.Missing), r.Error)
		}
	})
}

// printTargetReport prints what differs; where something does, the exit code says so.
func (p *program) printTargetReport(report *api.TargetReport, out output) error {
	r := report.Reconciliation
	if err := p.printDifferences(report, out); err != nil {
		return err
	}
	switch {
	case r.Error != "":
		return fmt.Errorf("comparing %s: %s", report.Issuer, r.Error)
	case report.OrphansTotal+report.MissingTotal+r.Alien > 0:
		return &exit{code: exitFailed}
	}
	return nil
}

func (p *program) printDifferences(report *api.TargetReport, out output) error {
	if out == outputJSON {
		return p.printJSON(report)
	}
	r := report.Reconciliation
	if len(report.Orphans) > 0 {
		if err := p.table(func(w io.Writer) {
			row(w, "ORPHAN", "LEASE", "CREATED", "REVOKED", "WHY", "LAST ERROR")
			for _, o := range report.Orphans {
				row(w, o.Name, o.LeaseID, stampOf(o.CreatedAt), strconv.FormatBool(o.Revoked), o.Why, o.LastError)
			}
		}); err != nil {
			return err
		}
	}
	if len(report.Missing) > 0 {
		if err := p.table(func(w io.Writer) {
			row(w, "MISSING", "SINCE")
			for _, m := range report.Missing {
				row(w, m.LeaseID, stamp(m.Since))
			}
		}); err != nil {
			return err
		}
	}
	what := "compared"
	if r.DryRun {
		what = "compared, dry"
	}
	text := fmt.Sprintf("%s %s: %d credentials stand there, %d orphans (%d taken back), %d leases without their credential",
		report.Issuer, what, r.Listed, r.Orphans, r.Revoked, r.Missing)
	if r.Young > 0 {
		text += fmt.Sprintf("; %d without a live lease for too short a time to be sure", r.Young)
	}
	if r.Alien > 0 {
		text += fmt.Sprintf("; %d that aren't this installation's, left alone", r.Alien)
	}
	_, err := fmt.Fprintln(p.stdout, clean(text))
	return err
}
