package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"time"

	"github.com/daypass/daypass/broker/devkit"
	"github.com/daypass/daypass/broker/keys"
	"github.com/daypass/daypass/broker/keys/pkcs11"
	"github.com/daypass/daypass/broker/oidc"
	"github.com/daypass/daypass/e2e/bench/rows"
	"github.com/daypass/daypass/issuers"
)

// usersAlive is how many users live on the target in the rows that say so.
const usersAlive = 10_000

// leases measures the lease engine: what exchanges cost beside their limits with
// few and with many clients, at half load, by two brokers, and with many users
// alive. Rows whose name wanted doesn't match are left out.
func (s *stage) leases(ctx context.Context, wanted *regexp.Regexp, each time.Duration, out io.Writer) ([]rows.Row, error) {
	var list []rows.Row
	t := newTable(out)
	run := func(pairs ...pair) error {
		pairs = slices.DeleteFunc(pairs, func(p pair) bool { return !wanted.MatchString(p.ours.name) })
		more, err := s.exchanges(ctx, t, each, pairs...)
		list = append(list, more...)
		return err
	}
	if err := run(s.jwt(1), s.jwt(8), s.jwt(32), s.jwt(128), s.user(8, 4096, ""), s.user(8, 1, ""), s.userByFunction(8, 4096), s.userByFunction(8, 1)); err != nil {
		return nil, err
	}
	if wanted.MatchString("two brokers") {
		p, err := s.twoBrokers(ctx)
		if err != nil {
			return nil, err
		}
		if err := run(p); err != nil {
			return nil, err
		}
	}
	for _, step := range []struct {
		name string
		do   func(context.Context, time.Duration, io.Writer) ([]rows.Row, error)
	}{{"half load", s.halfLoad}, {"parts", s.parts}} {
		if !wanted.MatchString(step.name) {
			continue
		}
		more, err := step.do(ctx, each, out)
		if err != nil {
			return nil, fmt.Errorf("measuring %s: %w", step.name, err)
		}
		list = append(list, more...)
	}
	alive := fmt.Sprintf(", %d alive", usersAlive)
	crowded := []pair{s.user(8, 4096, alive), s.user(8, 1, alive)}
	if !wanted.MatchString(crowded[0].ours.name) && !wanted.MatchString(crowded[1].ours.name) {
		return list, nil
	}
	if err := s.makeUsers(ctx); err != nil {
		return nil, err
	}
	return list, run(crowded...)
}

// twoBrokers is the load of 32 clients over two brokers on one database, beside
// one broker with all of it. On the same cores it can't be faster: what counts is
// the CPU of an exchange.
func (s *stage) twoBrokers(ctx context.Context) (pair, error) {
	second, err := s.startBroker(ctx, "daypass.yaml", "second.log")
	if err != nil {
		return pair{}, err
	}
	const clients = 32
	to := func(b *child) func(context.Context, int) ([]worker, func(), error) {
		return s.http(b.address, "/v1/exchange", jwtBody)
	}
	return pair{
		clients: clients, tokens: s.tokens,
		ours: side{name: "two brokers jwt 32 clients", cpu: s.cpuOf(s.broker, second), connect: func(ctx context.Context, clients int) ([]worker, func(), error) {
			one, closeOne, err := to(s.broker)(ctx, clients/2)
			if err != nil {
				return nil, nil, err
			}
			two, closeTwo, err := to(second)(ctx, clients-clients/2)
			if err != nil {
				closeOne()
				return nil, nil, err
			}
			return append(one, two...), func() { closeOne(); closeTwo() }, nil
		}},
		limit: side{name: "one broker jwt 32 clients", cpu: s.cpuOf(s.broker), connect: to(s.broker)},
	}, nil
}

// halfLoad sends half as many exchanges as the broker answers at most, evenly, to
// the broker and to the thin program. An answer's time counts from when its request
// was due. What a saturated broker left to do, it does before the rounds.
func (s *stage) halfLoad(ctx context.Context, each time.Duration, out io.Writer) ([]rows.Row, error) {
	p := s.jwt(32)
	full, err := p.measure(ctx, each)
	if err != nil {
		return nil, err
	}
	pace := median(full.oursIn, rate) / 2
	p.ours.pace, p.limit.pace = pace, pace
	p.ours.name, p.limit.name = "jwt half load", "limit jwt half load"
	// A round of its own is thrown away.
	if _, err := p.measure(ctx, each); err != nil {
		return nil, err
	}
	half, err := p.measure(ctx, each)
	if err != nil {
		return nil, err
	}
	var list []rows.Row
	for _, side := range []struct {
		name string
		in   []sample
	}{{p.limit.name, half.limitIn}, {p.ours.name, half.oursIn}} {
		p50, p99 := median(side.in, func(s sample) float64 { return s.p50 }), median(side.in, func(s sample) float64 { return s.p99 })
		if _, err := fmt.Fprintf(out, "%-34s %7.0f of %.0f a second, p50 %.2f ms, p99 %.2f ms: %.2f times\n", side.name, median(side.in, rate), median(full.oursIn, rate), p50, p99, p99/p50); err != nil {
			return nil, err
		}
		list = append(list,
			rows.Row{Name: side.name + " p50", Value: p50, Unit: "ms", Baseline: side.name + " p50", Ratio: 1},
			rows.Row{Name: side.name + " p99", Value: p99, Unit: "ms", Baseline: side.name + " p50", Ratio: p99 / p50})
	}
	return list, nil
}

// parts is the CPU of what an exchange can't do without, one after the other in
// one thread: the check of a job token, and a signature in the HSM.
func (s *stage) parts(ctx context.Context, each time.Duration, out io.Writer) ([]rows.Row, error) {
	if s.module == "" {
		_, err := fmt.Fprintln(out, "parts: left out, there is no SoftHSM here")
		return nil, err
	}
	verifier, err := oidc.New(ctx, oidc.Config{Providers: []oidc.Provider{{Name: "github", Type: "github", Issuer: s.provider.IssuerURL(devkit.ProfileGitHub), Audience: audience}}})
	if err != nil {
		return nil, err
	}
	raw, err := s.provider.Token(devkit.ProfileGitHub, audience, nil)
	if err != nil {
		return nil, err
	}
	pin, err := os.ReadFile(s.path("pin"))
	if err != nil {
		return nil, err
	}
	token, err := pkcs11.Open(ctx, pkcs11.Config{Module: s.module, TokenLabel: tokenLabel, PIN: issuers.NewSecret(string(pin))})
	if err != nil {
		return nil, err
	}
	defer token.Close() //nolint:errcheck // it is thrown away with the stage
	signer, err := token.MakeSigner(ctx, keys.Pair{Label: "parts", Algorithm: keys.ES256})
	if err != nil {
		return nil, err
	}
	digest, opts := keys.Digest(signer.Algorithm(), make([]byte, 32))
	whole, err := cpuOfEach(each, func() error {
		if _, err := verifier.Verify(ctx, raw); err != nil {
			return err
		}
		_, err := signer.SignContext(ctx, digest, opts)
		return err
	})
	if err != nil {
		return nil, err
	}
	const name = "parts: token check and signature cpu"
	_, err = fmt.Fprintf(out, "%-34s %7.0f µs\n", name, whole)
	return []rows.Row{{Name: name, Value: whole, Unit: "µs", Baseline: name, Ratio: 1}}, err
}

// cpuOfEach is what doing something takes, in microseconds of this process's CPU.
func cpuOfEach(during time.Duration, do func() error) (float64, error) {
	own := processTime(selfPID())
	before, err := own()
	if err != nil {
		return 0, err
	}
	n := 0
	for begin := time.Now(); n == 0 || time.Since(begin) < during; n++ {
		if err := do(); err != nil {
			return 0, err
		}
	}
	after, err := own()
	return float64((after - before).Microseconds()) / float64(n), err
}

// makeUsers fills the target with users of the broker.
func (s *stage) makeUsers(ctx context.Context) error {
	workers, closeAll, err := s.http(s.broker.address, "/v1/exchange", `{"grants":["bench/user-1"]}`)(ctx, 8)
	if err != nil {
		return err
	}
	defer closeAll()
	for made := 0; made < usersAlive; made += usersAlive / 5 { // job tokens live for five minutes
		if err := s.tokens.sign(usersAlive / 5); err != nil {
			return err
		}
		if _, err := drive(ctx, workers, load{most: usersAlive / 5, during: time.Hour}); err != nil {
			return err
		}
	}
	return nil
}
