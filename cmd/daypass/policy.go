//go:build !packed

package main

import (
	"io"
	"os"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // policies name time zones, and mean the same on every machine
	"unicode"

	"github.com/spf13/cobra"
)

func (p *program) policyCommand() *cobra.Command {
	return p.group("policy", policyShort, `  daypass policy new --provider github --repository acme/payments --grant deploy-db > payments.yaml
  daypass policy lint --config daypass.yaml policies/
  daypass policy test --coverage policies/
  daypass policy explain --grant payments/deploy-db --token job.jwt --provider github policies/
  daypass policy diff main/policies/ policies/`,
		p.policyLintCommand(), p.policyTestCommand(), p.policyExplainCommand(), p.policyReplayCommand(),
		p.policyDiffCommand(), p.policySchemaCommand(), p.policyFmtCommand(), p.policyNewCommand())
}

// now is the time of this machine.
func (*program) now() time.Time { return time.Now() }

func configFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "config", "", "the server's configuration, to check issuers, roles, providers and environments against; its secrets aren't needed")
}

// skipping says what was not checked.
func (p *program) skipping(list []string) {
	for _, what := range list {
		p.say("not checked: %s", what)
	}
}

// cleaner writes text of several lines whose characters can't move a terminal's
// cursor.
type cleaner struct{ w io.Writer }

// Write implements io.Writer.
func (c cleaner) Write(data []byte) (int, error) {
	text := strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, string(data))
	if _, err := io.WriteString(c.w, text); err != nil {
		return 0, err
	}
	return len(data), nil
}

// terminal says whether somebody reads or writes there.
func terminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// colours says whether to print in colour.
func (p *program) colours() bool {
	return terminal(p.stdout) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// choice is the value of a flag that is one of a few words.
type choice struct {
	value string
	words []string
}

func (c *choice) String() string { return c.value }

// Type implements pflag.Value.
func (c *choice) Type() string { return strings.Join(c.words, "|") }

// Set implements pflag.Value.
func (c *choice) Set(text string) error {
	if !slices.Contains(c.words, text) {
		return usage("want one of %s", strings.Join(c.words, ", "))
	}
	c.value = text
	return nil
}
