// Command redact measures masking on a made CI log, in MB per second of CPU on one
// core:
//
//	go run ./e2e/bench/redact -out build/bench/bench-redact.json
//
// The masker has 1, 10, 100, 1,000 and 10,000 secrets of 40 characters, with all
// their forms, and gets the log in chunks of 32 KiB and one line a write. Beside it stand io.Copy through the same buffer, which masks
// nothing, the same lines written to nowhere, and strings.Replacer with the bare
// secrets, which knows no forms and can't be given a text in pieces.
//
// Each figure is the median of several rounds, and the CPU time of the whole
// process: what the garbage collector does for it is in it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/daypass/daypass/e2e/bench/rows"
)

func main() {
	debug.SetGCPercent(400) // as daypassd does
	runtime.GOMAXPROCS(1)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench-redact:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("bench-redact", flag.ContinueOnError)
	file := flags.String("out", "", "file for the rows as JSON; its folder is made (empty: none)")
	size := flags.Int("size", 256, "size of the log in MB")
	rounds := flags.Int("rounds", 5, "rounds of each row")
	most := flags.Int("secrets", 10_000, "the largest set of secrets")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *size < 1 || *rounds < 1 || *most < 1 {
		return errors.New("-size, -rounds and -secrets are at least 1")
	}
	b := &bench{ctx: ctx, out: out, rounds: *rounds, secrets: makeSecrets(*most)}
	b.log = makeLog(*size*1_000_000, b.secrets[0])
	for _, step := range []func() error{b.limits, b.masking, b.prompt} {
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
	ctx     context.Context //nolint:containedctx // of the whole run
	out     io.Writer
	rounds  int
	secrets []string
	log     log
	rows    []rows.Row
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
	_, err := fmt.Fprintf(b.out, "%-48s %12.3f %-12s %6.3f × %s\n", name, value, unit, row.Ratio, baseline)
	return err
}
