// Command bench measures what the broker costs, beside what it could cost at
// best, in one run and by one load program:
//
//	go run ./e2e/bench -out build/bench/bench.json
//
// Everything stands on loopback, in a temporary folder, and is gone at the end:
// a private PostgreSQL that syncs to disk, a demo OIDC provider, keys in SoftHSM
// where that is installed, the built `daypassd serve`, and the limits:
//
//   - For signed JWTs, the thin program (package main in thin): echo, the check
//     of an RS256 job token by go-oidc, a compiled CEL condition, one ES256
//     signature by the same SoftHSM, and one durable row by group commit. It does
//     the work that can't be left out, and nothing else.
//   - For database users, the bare CREATE ROLE on the same server, over as many
//     connections of a superuser as there are clients, with ready-made verifiers.
//
// Absolute figures are of one machine and its neighbours. So each round measures
// the limit and the broker one right after the other, each row is the median of
// three rounds, and what counts is the ratio. The load program runs on the same
// cores as what it measures; what it takes itself is told as well.
//
// A client is one connection that sends the next request when it has the answer
// to the last. Every exchange has a job token of its own, signed before the
// measurement begins, so every one opens a session, as in a pipeline.
//
// How it is laid out: plan.go names the rows, stage.go starts what they need,
// drive.go is the load, measure.go the rounds, report.go the table and the JSON.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"

	"github.com/daypass/daypass/e2e/bench/rows"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// limitOfRun is when a run that hangs is given up; a default one takes about
// three minutes.
const limitOfRun = 10 * time.Minute

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	file := flags.String("out", "", "file for the rows as JSON; its folder is made (empty: none)")
	seconds := flags.Float64("seconds", 5, "seconds for each row, split into the rounds")
	only := flags.String("only", "", "regular expression: measure only rows whose name it matches, such as 'jwt'")
	if err := flags.Parse(args); err != nil {
		return err
	}
	wanted, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("reading -only: %w", err)
	}
	if *seconds <= 0 {
		return errors.New("-seconds must be more than 0")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limitOfRun, fmt.Errorf("the run took longer than %s", limitOfRun))
	defer cancel()

	stage, err := openStage(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stage.close(context.WithoutCancel(ctx))) }()
	pairs := stage.plan(wanted)
	if len(pairs) == 0 {
		return fmt.Errorf("no row matches %q (hint: rows are called 'jwt 8 clients' or 'user 8 clients scram 4096')", *only)
	}
	if err := stage.describe(out); err != nil {
		return err
	}
	t := newTable(out)
	var list []rows.Row
	for _, p := range pairs {
		measured, err := p.measure(ctx, time.Duration(*seconds*float64(time.Second)))
		if err != nil {
			return fmt.Errorf("measuring %s: %w", p.ours.name, err)
		}
		if err := t.add(measured); err != nil {
			return err
		}
		list = append(list, measured.rows()...)
	}
	if *file == "" {
		return nil
	}
	return rows.Write(*file, list)
}
