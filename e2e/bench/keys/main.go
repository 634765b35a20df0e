// Command keys measures what the keys of an HSM cost, each beside a limit of the
// same run:
//
//	go run ./e2e/bench/keys -out build/bench/bench-keys.json
//
// Signing by callers who share the session pool, as the broker does it, stands
// beside bare C_SignInit and C_Sign by as many callers, each with a session of its
// own, in the same SoftHSM and the same process. The two take turns in short slices,
// and each figure is the median of its slices, since a shared machine is never
// quiet for long. Sealing and opening a row, which needs no HSM, stands beside
// sealing and opening the same value inside the token.
//
// The garbage collector is set as daypassd sets it.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/daypass/daypass/broker/keys/pkcs11"
	"github.com/daypass/daypass/e2e/bench/rows"
	"github.com/daypass/daypass/issuers"
)

func main() {
	debug.SetGCPercent(400) // as daypassd does
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench-keys:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("bench-keys", flag.ContinueOnError)
	file := flags.String("out", "", "file for the rows as JSON; its folder is made (empty: none)")
	slices := flags.Int("slices", 15, "slices of each side of a row")
	slice := flags.Duration("slice", 300*time.Millisecond, "how long one slice takes")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *slices < 1 || *slice <= 0 {
		return errors.New("-slices is at least 1, -slice above 0")
	}
	token, end, err := openToken(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	b := &bench{ctx: ctx, out: out, slices: *slices, slice: *slice}
	for _, step := range []func(*pkcs11.Token) error{b.signing, b.sealing} {
		if err := step(token); err != nil {
			return err
		}
	}
	if *file == "" {
		return nil
	}
	return rows.Write(*file, b.rows)
}

// openToken makes a SoftHSM token that lives as long as the run.
func openToken(ctx context.Context) (*pkcs11.Token, func() error, error) {
	dir, err := os.MkdirTemp("", "daypass-bench-keys-*")
	if err != nil {
		return nil, nil, err
	}
	remove := func() error { return os.RemoveAll(dir) }
	pin := issuers.NewSecret(rand.Text())
	module, _ := pkcs11.FindSoftHSM()
	err = pkcs11.InitSoftHSM(ctx, pkcs11.SoftHSMConfig{Dir: filepath.Join(dir, "keys"), Module: module, TokenLabel: "bench", SOPIN: pin, PIN: pin})
	if err != nil {
		return nil, nil, errors.Join(err, remove())
	}
	token, err := pkcs11.Open(ctx, pkcs11.Config{Module: module, TokenLabel: "bench", PIN: pin})
	if err != nil {
		return nil, nil, errors.Join(err, remove())
	}
	return token, func() error { return errors.Join(token.Close(), remove()) }, nil
}

// bench collects rows.
type bench struct {
	ctx    context.Context //nolint:containedctx // of the whole run
	out    io.Writer
	slices int
	slice  time.Duration
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
	_, err := fmt.Fprintf(b.out, "%-36s %12.2f %-4s %6.2f × %s\n", name, value, unit, row.Ratio, baseline)
	return err
}
