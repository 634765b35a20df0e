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
//     Rows "by the function" stand beside the function that the broker's account
//     may call instead, called by nobody else.
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
// leases.go and scale.go are the lease engine's, drive.go is the load, measure.go the rounds, report.go the table and the JSON.
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
	"strconv"
	"strings"
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
// three minutes, one with ten million leases half an hour.
const limitOfRun = time.Hour

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	file := flags.String("out", "", "file for the rows as JSON; its folder is made (empty: none)")
	seconds := flags.Float64("seconds", 5, "seconds for each row, split into the rounds")
	only := flags.String("only", "", "regular expression: measure only rows whose name it matches, such as 'jwt'")
	engine := flags.Bool("leases", false, "measure the lease engine: more clients, half load, two brokers, many users alive")
	scale := flags.String("scale", "", "numbers of live leases, such as 0,1000000: what grows with them, held against the first")
	if err := flags.Parse(args); err != nil {
		return err
	}
	levels, err := readLevels(*scale)
	if err != nil {
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
	if err := stage.describe(out); err != nil {
		return err
	}
	each := time.Duration(*seconds * float64(time.Second))
	var list []rows.Row
	if *engine {
		list, err = stage.leases(ctx, wanted, each, out)
	} else if len(levels) == 0 || *only != "" {
		list, err = stage.exchanges(ctx, newTable(out), each, stage.plan(wanted)...)
	}
	if err != nil {
		return err
	}
	if len(list) == 0 && len(levels) == 0 {
		return fmt.Errorf("no row matches %q (hint: rows are called 'jwt 8 clients' or 'user 8 clients scram 4096')", *only)
	}
	if len(levels) > 0 {
		grown, err := stage.scale(ctx, levels, each, out)
		if err != nil {
			return err
		}
		list = append(list, grown...)
	}
	if *file == "" {
		return nil
	}
	return rows.Write(*file, list)
}

// exchanges measures pairs, and prints each when it has been.
func (s *stage) exchanges(ctx context.Context, t *table, each time.Duration, pairs ...pair) ([]rows.Row, error) {
	var list []rows.Row
	for _, p := range pairs {
		measured, err := p.measure(ctx, each)
		if err != nil {
			return nil, fmt.Errorf("measuring %s: %w", p.ours.name, err)
		}
		if err := t.add(measured); err != nil {
			return nil, err
		}
		list = append(list, measured.rows()...)
	}
	return list, nil
}

// readLevels reads numbers with commas between them.
func readLevels(text string) (levels []int, err error) {
	if text == "" {
		return nil, nil
	}
	for number := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(number)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("reading -scale: %q is no number of leases", number)
		}
		levels = append(levels, n)
	}
	return levels, nil
}
