package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/daypass/daypass/broker/redact"
)

// chunk is the size of the buffer through which the log goes.
const chunk = 32 << 10

// replaced is how much of the log strings.Replacer gets, in bytes: it is slow.
const replaced = 16_000_000

// drain counts what is written to it, and the masks.
type drain struct{ bytes, masks int }

func (d *drain) Write(p []byte) (int, error) {
	d.bytes += len(p)
	return len(p), nil
}

// counting is a drain that looks for masks.
type counting struct{ drain }

func (d *counting) Write(p []byte) (int, error) {
	d.masks += bytes.Count(p, []byte(redact.DefaultMask))
	return d.drain.Write(p)
}

// reader hides the methods by which io.Copy would go round the buffer.
type reader struct{ io.Reader }

type writer struct{ io.Writer }

// copyChunks passes the log on through the buffer.
func (b *bench) copyChunks(to io.Writer) error {
	_, err := io.CopyBuffer(writer{to}, reader{bytes.NewReader(b.log.text)}, make([]byte, chunk))
	return err
}

// copyLines passes the log on one line a write.
func (b *bench) copyLines(to io.Writer) error {
	for rest := b.log.text; len(rest) > 0; {
		n := bytes.IndexByte(rest, '\n') + 1
		if n == 0 {
			n = len(rest)
		}
		if _, err := to.Write(rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

const (
	limitChunks = "io.Copy, 32 KiB chunks"
	limitLines  = "lines to nowhere"
)

// limits measures what masks nothing.
func (b *bench) limits() error {
	if _, err := fmt.Fprintf(b.out, "%d bytes, %d lines, %d leaks\n", len(b.log.text), b.log.lines, b.log.leaks); err != nil {
		return err
	}
	for _, limit := range []struct {
		name string
		copy func(io.Writer) error
	}{{limitChunks, b.copyChunks}, {limitLines, b.copyLines}} {
		rate, err := b.rate(len(b.log.text), func() error { return limit.copy(&drain{}) })
		if err != nil {
			return err
		}
		if err := b.add(limit.name, rate, "MB/s CPU", limit.name); err != nil {
			return err
		}
	}
	return nil
}

// masking measures sets of secrets.
func (b *bench) masking() error {
	for n := 1; n <= len(b.secrets); n *= 10 {
		began := cpu()
		m, err := redact.New(redact.Config{Values: b.secrets[:n]})
		if err != nil {
			return err
		}
		name := fmt.Sprintf("%d secrets", n)
		if err := b.add(name+" prepared", (cpu()-began).Seconds()*1000, "ms CPU", name+" prepared"); err != nil {
			return err
		}
		if err := errors.Join(
			b.mask(m, name+", all forms, 32 KiB chunks", limitChunks, b.copyChunks),
			b.mask(m, name+", all forms, by line", limitLines, b.copyLines),
			b.replacer(n, name+", strings.Replacer, bare values"),
		); err != nil {
			return err
		}
	}
	return b.tokens()
}

// tokens measures looking for the broker's own tokens by shape as well.
func (b *bench) tokens() error {
	m, err := redact.New(redact.Config{Values: b.secrets[:1], Shape: true})
	if err != nil {
		return err
	}
	return errors.Join(
		b.mask(m, "1 secret and tokens by shape, 32 KiB chunks", limitChunks, b.copyChunks),
		b.mask(m, "1 secret and tokens by shape, by line", limitLines, b.copyLines),
	)
}

// mask measures one masker, after a look whether it masks all that it must.
func (b *bench) mask(m *redact.Masker, name, limit string, pass func(io.Writer) error) error {
	var seen counting
	w := m.Writer(&seen)
	if err := errors.Join(pass(w), w.Close()); err != nil {
		return err
	}
	if seen.masks != b.log.leaks {
		return fmt.Errorf("%s: %d masks for %d leaks", name, seen.masks, b.log.leaks)
	}
	rate, err := b.rate(len(b.log.text), func() error {
		w := m.Writer(&drain{})
		return errors.Join(pass(w), w.Close())
	})
	if err != nil {
		return err
	}
	return b.add(name, rate, "MB/s CPU", limit)
}

// replacer measures strings.Replacer, which is given the text in one piece.
func (b *bench) replacer(n int, name string) error {
	if n > 1000 {
		return nil
	}
	var pairs []string
	for _, secret := range b.secrets[:n] {
		pairs = append(pairs, secret, redact.DefaultMask)
	}
	text := string(b.log.text[:min(len(b.log.text), replaced)])
	replacer := strings.NewReplacer(pairs...)
	rate, err := b.rate(len(text), func() error {
		_, err := replacer.WriteString(&drain{}, text)
		return err
	})
	if err != nil {
		return err
	}
	return b.add(name, rate, "MB/s CPU", limitChunks)
}

// rate is the median of all rounds, in MB per second of CPU.
func (b *bench) rate(size int, f func() error) (float64, error) {
	var rates []float64
	for range b.rounds {
		if err := b.ctx.Err(); err != nil {
			return 0, err
		}
		began := cpu()
		if err := f(); err != nil {
			return 0, err
		}
		rates = append(rates, float64(size)/1e6/max(cpu()-began, time.Microsecond).Seconds())
	}
	slices.Sort(rates)
	return rates[len(rates)/2], nil
}

// cpu is the CPU time of this process, user and system.
func cpu() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err) // only for a wrong argument
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// prompt measures how soon the first byte is out, and the last one of a prompt
// that ends as a secret begins, which only the deadline lets go.
func (b *bench) prompt() error {
	m, err := redact.New(redact.Config{Values: b.secrets[:min(100, len(b.secrets))], Shape: true, FlushAfter: 20 * time.Millisecond})
	if err != nil {
		return err
	}
	out := make(chan int, 4)
	w := m.Writer(told(out))
	text := "Password of " + b.secrets[0][:2]
	began := time.Now()
	if _, err := io.WriteString(w, text); err != nil {
		return err
	}
	n := <-out
	if err := b.add("first byte out", ms(began), "ms", "first byte out"); err != nil {
		return err
	}
	for n < len(text) {
		n += <-out
	}
	return errors.Join(b.add("prompt that ends as a secret begins", ms(began), "ms", "first byte out"), w.Close())
}

func ms(since time.Time) float64 { return time.Since(since).Seconds() * 1000 }

// told says how many bytes it got.
type told chan int

func (c told) Write(p []byte) (int, error) {
	c <- len(p)
	return len(p), nil
}
