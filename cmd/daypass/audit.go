package main

import (
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/client"
)

func (p *program) auditCommand() *cobra.Command {
	return p.group("audit", "Read the audit log, and verify that nobody changed it", "  daypass audit ls --limit 20",
		p.auditListCommand(), p.auditExportCommand(), p.auditVerifyCommand(), p.auditCheckpointCommand())
}

func (p *program) auditListCommand() *cobra.Command {
	var (
		filter client.EventFilter
		limit  int
	)
	cmd := &cobra.Command{
		Use: "ls", Short: "List events, newest first", Args: exactly(0, "none"),
		Example: `  daypass audit ls --limit 20
  daypass audit ls --subject lse_01J8Z3
  daypass audit ls --limit 0 --output json`,
	}
	out := outputFlag(cmd)
	cmd.Flags().StringVar(&filter.Subject, "subject", "", "only about the lease, session or token of this id")
	limitFlag(cmd, &limit)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, token, err := p.withToken()
		if err != nil {
			return err
		}
		var list api.EventList
		list.Events, list.Next, err = collect(limit, func(cursor string, n int) ([]api.Event, string, error) {
			filter.Limit = n
			page, err := c.Audit(cmd.Context(), token, filter, cursor)
			if err != nil {
				return nil, "", err
			}
			return page.Events, page.Next, nil
		})
		if err != nil {
			return err
		}
		if *out == outputJSON {
			return p.printJSON(list)
		}
		return p.table(func(w io.Writer) {
			row(w, "AT", "TYPE", "SUBJECT", "COUNT", "ACTOR")
			for _, e := range list.Events {
				row(w, stamp(e.At), e.Type, e.Subject, strconv.Itoa(e.Count), e.Actor)
			}
		})
	}
	return cmd
}
