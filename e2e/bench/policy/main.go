// Command policy measures what a policy decision, loading policies and checking a
// job token cost, each beside a limit of the same run:
//
//	go run ./e2e/bench/policy -out build/bench/bench-policy.json
//
// A decision's limit is the same with 10 policies: its cost must not grow with
// their number. Loading stands beside a plain YAML decoder that reads the same
// files on one core and checks nothing. Checking a token stands beside the bare
// crypto/rsa check of the same signature, with SHA-256 of what it covers.
//
// Each figure is the median of several rounds, which take the limit and what is
// held against it in turn. The garbage collector is set as daypassd sets it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/daypass/daypass/e2e/bench/rows"
)

func main() {
	debug.SetGCPercent(400) // as daypassd does
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench-policy:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("bench-policy", flag.ContinueOnError)
	file := flags.String("out", "", "file for the rows as JSON; its folder is made (empty: none)")
	most := flags.Int("policies", 100_000, "the largest set that is decided on")
	loads := flags.Int("load", 10_000, "how many policies are loaded for the row of loading")
	rounds := flags.Int("rounds", 5, "rounds of each row")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *most < 10 || *loads < 1 || *rounds < 1 {
		return errors.New("-policies is at least 10, -load and -rounds at least 1")
	}
	b := &bench{ctx: ctx, out: out, rounds: *rounds}
	for _, step := range []func() error{func() error { return b.decisions(*most) }, func() error { return b.loading(*loads) }, b.tokens} {
		if err := step(); err != nil {
			return err
		}
	}
	if *file == "" {
		return nil
	}
	return rows.Write(*file, b.rows)
}

// bench collects rows.
type bench struct {
	ctx    context.Context //nolint:containedctx // of the whole run
	out    io.Writer
	rounds int
	rows   []rows.Row
}

// add takes a figure and prints it.
func (b *bench) add(name string, value float64, unit, baseline string) error {
	row := rows.Row{Name: name, Value: value, Unit: unit, Baseline: baseline, Ratio: 1}
	for _, other := range b.rows {
		if other.Name == baseline && other.Value > 0 {
			row.Ratio = value / other.Value
		}
	}
	b.rows = append(b.rows, row)
	_, err := fmt.Fprintf(b.out, "%-48s %12.2f %-12s %6.2f × %s\n", name, value, unit, row.Ratio, baseline)
	return err
}
