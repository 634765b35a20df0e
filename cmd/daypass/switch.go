package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/daypass/daypass/broker/api"
)

func (p *program) switchCommand() *cobra.Command {
	return p.group("switch", "Turn a provider, policy, grant or issuer off for now, and on again", `  daypass switch off policy payments --reason "its log leaked" --revoke
  daypass switch ls
  daypass switch on policy payments`,
		p.switchOffCommand(), p.switchOnCommand(), p.switchListCommand())
}

func switchKinds() []string {
	return []string{api.SwitchProvider, api.SwitchPolicy, api.SwitchGrant, api.SwitchIssuer}
}

// switched wants the kind and name of a switch.
func switched(cmd *cobra.Command, args []string) error {
	if err := exactly(2, "KIND NAME")(cmd, args); err != nil {
		return err
	}
	if !slices.Contains(switchKinds(), args[0]) {
		return usage("no kind %q: it is provider, policy, grant or issuer", args[0])
	}
	return nil
}

func (p *program) switchOffCommand() *cobra.Command {
	var request api.SwitchRequest
	cmd := &cobra.Command{
		Use: "off KIND NAME", Short: "Turn one off at once: nothing is issued or renewed of it", Args: switched,
		Long: `Turn a provider, policy, grant or issuer off at once, for the whole fleet: nothing is issued or renewed of it until it is turned on again.
What was obtained before lives on to its end, unless --revoke takes it back. Giving back goes on.`,
		Example: `  daypass switch off grant payments/deploy-db --reason "INC-4711"
  daypass switch off provider github --reason "their keys leaked" --revoke`,
	}
	out := outputFlag(cmd)
	cmd.Flags().StringVar(&request.Reason, "reason", "", "why, for the audit log (required)")
	cmd.Flags().BoolVar(&request.Revoke, "revoke", false, "take back all that is alive of it, too")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if request.Reason == "" {
			return usage("--reason is required: it stands in the audit log")
		}
		request.Off = true
		return p.turn(cmd, args, request, *out)
	}
	return cmd
}

func (p *program) switchOnCommand() *cobra.Command {
	var request api.SwitchRequest
	cmd := &cobra.Command{
		Use: "on KIND NAME", Short: "Turn one on again", Args: switched,
		Example: `  daypass switch on grant payments/deploy-db --reason "INC-4711 is over"`,
	}
	out := outputFlag(cmd)
	cmd.Flags().StringVar(&request.Reason, "reason", "", "why, for the audit log")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return p.turn(cmd, args, request, *out) }
	return cmd
}

func (p *program) turn(cmd *cobra.Command, args []string, request api.SwitchRequest, out output) error {
	c, token, err := p.withToken()
	if err != nil {
		return err
	}
	request.Kind, request.Name = args[0], args[1]
	w, err := c.Turn(cmd.Context(), token, request)
	if err != nil {
		return err
	}
	if out == outputJSON {
		return p.printJSON(w)
	}
	state := "on"
	if w.Off {
		state = "off"
	}
	if w.Sweeping {
		state += "; its leases are being taken back (daypass switch ls)"
	}
	_, err = fmt.Fprintln(p.stdout, clean(fmt.Sprintf("%s %s is %s", w.Kind, w.Name, state)))
	return err
}

func (p *program) switchListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ls", Short: "List what is off, and what was", Args: exactly(0, "none"),
		Example: `  daypass switch ls
  daypass switch ls --output json`,
	}
	out := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, token, err := p.withToken()
		if err != nil {
			return err
		}
		list, err := c.Switches(cmd.Context(), token)
		if err != nil {
			return err
		}
		if *out == outputJSON {
			return p.printJSON(list)
		}
		return p.table(func(w io.Writer) {
			row(w, "KIND", "NAME", "STATE", "CHANGED", "REVOKED", "ACTOR", "REASON")
			for _, s := range list.Switches {
				state := "on"
				switch {
				case s.Sweeping:
					state = "off, revoking"
				case s.Off:
					state = "off"
				}
				row(w, s.Kind, s.Name, state, stamp(s.ChangedAt), strconv.FormatInt(s.Swept, 10), s.Actor, s.Reason)
			}
		})
	}
	return cmd
}
