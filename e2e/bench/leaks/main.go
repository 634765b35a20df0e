// Command leaks measures how fast credentials are found in a log, each figure
// beside a limit of the same run:
//
//	go run ./e2e/bench/leaks -out build/bench/bench-redact.json
//
// The text is a made CI log. Its limit is bytes.IndexByte over the same pieces
// for a byte that isn't in it: nothing that looks at every byte is faster. What
// is found is looked up, by a keyed hash, in a map that stands for the broker's
// table. Figures are MB per second of CPU, on one core, the median of several
// rounds. Rows go behind those that the file has.
package main

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/daypass/daypass/broker/leaks"
	"github.com/daypass/daypass/e2e/bench/rows"
	"github.com/daypass/daypass/issuers"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench-leaks:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("bench-leaks", flag.ContinueOnError)
	file := flags.String("out", "", "file for the rows as JSON; its folder is made (empty: none)")
	size := flags.Int("mb", 256, "size of the log in MB")
	most := flags.Int("known", 1_000_000, "the largest number of known tokens")
	rounds := flags.Int("rounds", 5, "rounds of each row")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *size < 1 || *most < 100 || *rounds < 1 {
		return errors.New("-mb and -rounds are at least 1, -known at least 100")
	}
	b := &bench{out: out, rounds: *rounds, text: makeLog(*size<<20, 1)}
	rand.Read(b.key[:])
	for _, step := range []func() error{b.limit, func() error { return b.tokens(*most) }, b.values} {
		if err := step(); err != nil {
			return err
		}
	}
	if *file == "" {
		return nil
	}
	return rows.Add(*file, b.rows)
}

type bench struct {
	out    io.Writer
	rounds int
	text   []byte
	key    [32]byte
	rows   []rows.Row
}

// piece is how much is written at a time.
const piece = 32 << 10

const limitRow = "bytes.IndexByte over the log"

func (b *bench) limit() error {
	return b.row(limitRow, 0, func() (int, error) {
		found := 0
		for rest := b.text; len(rest) > 0; rest = rest[min(piece, len(rest)):] {
			if bytes.IndexByte(rest[:min(piece, len(rest))], 0) >= 0 {
				found++
			}
		}
		return found, nil
	})
}

// planted is how many of the known stand in the log.
const planted = 100

// tokens measures own tokens, as they are and encoded.
func (b *bench) tokens(most int) error {
	known := map[[32]byte]struct{}{}
	var secrets []string
	for n := 100; n <= most; n *= 100 {
		for len(known) < n {
			token := issuers.Generate(issuers.APIToken).Reveal()
			known[b.hash([]byte(token))] = struct{}{}
			if len(secrets) < planted {
				secrets = append(secrets, token)
			}
		}
		if n == 100 {
			plant(b.text, secrets)
		}
		for _, encoded := range []bool{false, true} {
			name := fmt.Sprintf("own tokens, %d known", n)
			if encoded {
				name += ", encoded too"
			}
			if err := b.find(name, leaks.Config{Tokens: true, Encoded: encoded}, known); err != nil {
				return err
			}
		}
	}
	return nil
}

// values measures values of other shapes, and everything at once.
func (b *bench) values() error {
	const n = 10_000
	known, anchors := map[[32]byte]struct{}{}, leaks.NewAnchors()
	var secrets []string
	for i := range n {
		var random [96]byte
		rand.Read(random[:])
		value := base64.RawURLEncoding.EncodeToString(random[:])
		at := int(random[0]) % (len(value) - leaks.Window)
		err := anchors.Add(leaks.Anchor{Window: [leaks.Window]byte([]byte(value[at:])), Offset: at, Length: len(value), Ref: uint64(i)})
		if err != nil {
			return err
		}
		known[b.hash([]byte(value))] = struct{}{}
		if len(secrets) < planted {
			secrets = append(secrets, value)
		}
	}
	plant(b.text, secrets)
	if err := b.find(fmt.Sprintf("values of other shapes, %d known", n), leaks.Config{Anchors: anchors}, known); err != nil {
		return err
	}
	return b.find(fmt.Sprintf("values of other shapes, %d known, and own tokens, encoded too", n), leaks.Config{Tokens: true, Encoded: true, Anchors: anchors}, known)
}

// find measures one finder; what is planted must be found.
func (b *bench) find(name string, config leaks.Config, known map[[32]byte]struct{}) error {
	finder := leaks.New(config)
	return b.row(name, planted, func() (int, error) {
		found := 0
		s := finder.Stream(func(h leaks.Hit) error {
			if _, ok := known[b.hash(h.Value)]; ok {
				found++
			}
			return nil
		})
		for rest := b.text; len(rest) > 0; rest = rest[min(piece, len(rest)):] {
			if _, err := s.Write(rest[:min(piece, len(rest))]); err != nil {
				return 0, err
			}
		}
		return found, s.Close()
	})
}

func (b *bench) hash(value []byte) (sum [32]byte) {
	mac := hmac.New(sha256.New, b.key[:])
	mac.Write(value)
	mac.Sum(sum[:0])
	return sum
}

// row measures what work does with the text, in MB per second of CPU.
func (b *bench) row(name string, want int, work func() (int, error)) error {
	speeds := make([]float64, 0, b.rounds)
	for range b.rounds {
		runtime.GC()
		before, err := cpu()
		if err != nil {
			return err
		}
		found, err := work()
		if err != nil {
			return err
		}
		if found != want {
			return fmt.Errorf("%s: %d were found, want %d", name, found, want)
		}
		after, err := cpu()
		if err != nil {
			return err
		}
		speeds = append(speeds, float64(len(b.text))/1e6/max(after-before, time.Microsecond).Seconds())
	}
	slices.Sort(speeds)
	row := rows.Row{Name: name, Value: speeds[len(speeds)/2], Unit: "MB/s of CPU", Baseline: limitRow, Ratio: 1}
	if len(b.rows) > 0 {
		row.Ratio = row.Value / cmp.Or(b.rows[0].Value, 1)
	}
	b.rows = append(b.rows, row)
	_, err := fmt.Fprintf(b.out, "%-72s %9.0f %s, %5.3f × %s\n", name, row.Value, row.Unit, row.Ratio, row.Baseline)
	return err
}

// cpu is the CPU time of this process so far.
func cpu() (time.Duration, error) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0, fmt.Errorf("reading the CPU time: %w", err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), nil
}
