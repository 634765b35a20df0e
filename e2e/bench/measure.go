package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

const (
	rounds = 3
	// enough is how many more job tokens are signed than the last rate would use.
	enough = 1.4
	// warmUp bounds what is thrown away before the rounds.
	warmUp = 500 * time.Millisecond
	// Database users are not bounded by tokens; neither is the bare statement.
	mostBare = 1 << 20
)

// sample is one side in one round.
type sample struct {
	rate     float64            // operations a second
	p50, p99 float64            // milliseconds
	cpu      map[string]float64 // microseconds per operation, by whom
}

// measured is a pair with its samples, one for each round.
type measured struct {
	pair
	oursIn, limitIn []sample
}

// measure runs both sides in turn. Which goes first alternates, so that neither
// always finds the warmer machine.
func (p pair) measure(ctx context.Context, whole time.Duration) (*measured, error) {
	each := whole / rounds
	need, err := p.warm(ctx, min(each, warmUp), each)
	if err != nil {
		return nil, err
	}
	m := &measured{pair: p}
	for round := range rounds {
		if err := p.tokens.sign(need); err != nil {
			return nil, err
		}
		turns := []func() error{
			func() error { return p.limit.sample(ctx, p, each, &m.limitIn) },
			func() error { return p.ours.sample(ctx, p, each, &m.oursIn) },
		}
		if round%2 == 1 {
			slices.Reverse(turns)
		}
		for _, turn := range turns {
			if err := turn(); err != nil {
				return nil, err
			}
		}
		fastest := max(m.oursIn[round].rate, m.limitIn[round].rate)
		if p.limit.tidy != nil { // bare statements need no token
			fastest = m.oursIn[round].rate
		}
		need = max(need, p.need(fastest, each))
	}
	return m, nil
}

// warm opens pools and fills caches, and learns how many job tokens a round needs.
func (p pair) warm(ctx context.Context, d, each time.Duration) (need int, err error) {
	if err := p.tokens.sign(100 + 20*p.clients); err != nil {
		return 0, err
	}
	var ours, limit []sample
	if err := p.limit.sample(ctx, p, d, &limit); err != nil {
		return 0, err
	}
	if err := p.ours.sample(ctx, p, d, &ours); err != nil {
		return 0, err
	}
	fastest := ours[0].rate
	if p.limit.tidy == nil {
		fastest = max(fastest, limit[0].rate)
	}
	return p.need(fastest, each), nil
}

func (p pair) need(rate float64, d time.Duration) int {
	return int(rate*d.Seconds()*enough) + 4*p.clients
}

// sample measures one side once and appends to list.
func (s *side) sample(ctx context.Context, p pair, d time.Duration, list *[]sample) error {
	workers, closeAll, err := s.connect(ctx, p.clients)
	if err != nil {
		return fmt.Errorf("connecting for %s: %w", s.name, err)
	}
	defer closeAll()
	most := len(p.tokens.list)
	if s.tidy != nil {
		most = mostBare
	}
	before, err := s.cpuTimes()
	if err != nil {
		return err
	}
	result, err := drive(ctx, workers, load{most: most, during: d, pace: s.pace})
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	after, err := s.cpuTimes()
	if err != nil {
		return err
	}
	n := len(result.took)
	taken := sample{
		rate: float64(n) / result.elapsed.Seconds(), p50: milliseconds(result.took[n/2]), p99: milliseconds(result.took[min(n-1, n*99/100)]),
		cpu: map[string]float64{},
	}
	for who, used := range after {
		taken.cpu[who] = float64((used - before[who]).Microseconds()) / float64(n)
	}
	*list = append(*list, taken)
	if s.tidy != nil {
		return s.tidy(ctx)
	}
	return nil
}

func (s *side) cpuTimes() (map[string]time.Duration, error) {
	times := map[string]time.Duration{}
	for who, read := range s.cpu {
		used, err := read()
		if err != nil {
			return nil, fmt.Errorf("reading the CPU time of the %s: %w", who, err)
		}
		times[who] = used
	}
	return times, nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// median of one figure over the rounds.
func median(samples []sample, figure func(sample) float64) float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = figure(s)
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// spread is how far the rounds' rates lie apart, as a part of their median.
func spread(samples []sample) float64 {
	low, high := samples[0].rate, samples[0].rate
	for _, s := range samples {
		low, high = min(low, s.rate), max(high, s.rate)
	}
	return (high - low) / median(samples, rate)
}

func rate(s sample) float64 { return s.rate }
