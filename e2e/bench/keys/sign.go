package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/keys/pkcs11"
)

// signing measures each algorithm at 1, 4 and 16 callers.
func (b *bench) signing(token *pkcs11.Token) error {
	for _, pair := range []keys.Pair{
		{Label: "es256", Algorithm: keys.ES256}, {Label: "rs256", Algorithm: keys.RS256, Bits: 2048}, {Label: "eddsa", Algorithm: keys.EdDSA},
	} {
		signer, err := token.MakeSigner(b.ctx, pair)
		if errors.Is(err, pkcs11.ErrAlgorithm) {
			if _, err := fmt.Fprintf(b.out, "%s: %v\n", pair.Algorithm, err); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		for _, callers := range []int{1, 4, 16} {
			if err := b.signers(token, signer, callers); err != nil {
				return err
			}
		}
	}
	return nil
}

// signers lets so many callers sign, by turns through the pool and bare.
func (b *bench) signers(token *pkcs11.Token, signer keys.Signer, callers int) error {
	digest, opts := keys.Digest(signer.Algorithm(), make([]byte, 32))
	// Requests have a deadline, so the pool needs no timer of its own.
	ctx, cancel := context.WithTimeout(b.ctx, time.Hour)
	defer cancel()
	var bare, pooled []func() error
	for range callers {
		session, err := token.Bare(signer)
		if err != nil {
			return err
		}
		defer session.Close() //nolint:errcheck // the token is thrown away
		bare = append(bare, func() error {
			_, err := session.Sign(digest)
			return err
		})
		pooled = append(pooled, func() error {
			_, err := signer.SignContext(ctx, digest, opts)
			return err
		})
	}
	limit, pool, err := b.turns(bare, pooled)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("%s %d callers", signer.Algorithm(), callers)
	return errors.Join(
		b.add("C_Sign "+name, limit.rate, "1/s", "C_Sign "+name), b.add("pool "+name, pool.rate, "1/s", "C_Sign "+name),
		b.add("C_Sign "+name+" cpu", limit.cpu, "µs", "C_Sign "+name+" cpu"), b.add("pool "+name+" cpu", pool.cpu, "µs", "C_Sign "+name+" cpu"),
	)
}

// turns runs two sides in slices, which of them first alternating, and gives the
// medians of each.
func (b *bench) turns(one, two []func() error) (figures, figures, error) {
	var rates, cpu [2][]float64
	for i := range b.slices {
		for turn := range 2 {
			side := (i + turn) % 2
			got, err := b.measure([][]func() error{one, two}[side])
			if err != nil {
				return figures{}, figures{}, err
			}
			rates[side], cpu[side] = append(rates[side], got.rate), append(cpu[side], got.cpu)
		}
	}
	return figures{median(rates[0]), median(cpu[0])}, figures{median(rates[1]), median(cpu[1])}, nil
}

// figures are what a slice, or many, gave.
type figures struct {
	rate float64 // 1/s
	cpu  float64 // of this process, µs for each
}

// measure lets all callers work for a slice.
func (b *bench) measure(callers []func() error) (figures, error) {
	var group sync.WaitGroup
	counts, failed := make([]int, len(callers)), make([]error, len(callers))
	end := make(chan struct{})
	timer := time.AfterFunc(b.slice, func() { close(end) })
	defer timer.Stop()
	before := processCPU()
	start := time.Now()
	for i, call := range callers {
		group.Go(func() {
			for failed[i] == nil {
				select {
				case <-end:
					return
				default:
				}
				failed[i] = call()
				counts[i]++
			}
		})
	}
	group.Wait()
	took := time.Since(start)
	total := 0
	for _, n := range counts {
		total += n
	}
	spent := processCPU() - before
	return figures{rate: float64(total) / took.Seconds(), cpu: float64(spent.Microseconds()) / float64(total)}, errors.Join(failed...)
}

// processCPU is what the kernel counted for this process.
func processCPU() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0 // the figure is missing, which shows
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}
