package main

import (
	"context"
	"fmt"
	"regexp"
	"time"
)

// side is one of the two that are compared: the broker, or its limit.
type side struct {
	name string // of its row
	// connect opens one worker for each client, outside of what is measured.
	connect func(ctx context.Context, clients int) ([]worker, func(), error)
	// tidy undoes what a measurement left on the target; nil: nothing to do.
	tidy func(ctx context.Context) error
	pace float64 // operations a second; 0: as many as there can be
	// cpu says how much CPU has been used so far, by whom. "load" is this program.
	cpu map[string]func() (time.Duration, error)
}

// pair is a row and its limit, measured turn by turn.
type pair struct {
	ours, limit side
	clients     int
	tokens      *tokens
}

// The names under which CPU is told.
const (
	cpuBroker   = "broker" // of a limit: its thin program
	cpuDatabase = "database"
	cpuLoad     = "load"
)

// plan lists the pairs whose rows are wanted.
func (s *stage) plan(wanted *regexp.Regexp) []pair {
	var pairs []pair
	add := func(p pair) {
		if wanted.MatchString(p.ours.name) {
			pairs = append(pairs, p)
		}
	}
	crowds := []int{1, 8, 32}
	for _, clients := range crowds {
		add(s.jwt(clients))
	}
	for _, iterations := range []int{4096, 1} {
		for _, clients := range crowds {
			add(s.user(clients, iterations, ""))
		}
		add(s.userByFunction(8, iterations))
	}
	return pairs
}

// jwt is the exchange for a signed JWT beside the thin program.
func (s *stage) jwt(clients int) pair {
	name := "jwt " + crowd(clients)
	return pair{
		clients: clients, tokens: s.tokens,
		ours: side{name: name, connect: s.http(s.broker.address, "/v1/exchange", jwtBody), cpu: s.cpuOf(s.broker)},
		limit: side{
			name: "limit " + name, connect: s.http(s.thin.address, "/exchange", jwtBody), cpu: s.cpuOf(s.thin),
		},
	}
}

// user is the exchange for a database user beside the bare statement.
func (s *stage) user(clients, iterations int, where string) pair {
	name := fmt.Sprintf("user %s scram %d%s", crowd(clients), iterations, where)
	return pair{
		clients: clients, tokens: s.tokens,
		ours: side{
			name: name, connect: s.http(s.broker.address, "/v1/exchange", fmt.Sprintf(`{"grants":["bench/user-%d"]}`, iterations)), cpu: s.cpuOf(s.broker),
		},
		limit: side{name: "limit " + name, connect: s.bare(iterations), tidy: s.dropBare, cpu: s.cpuOf()},
	}
}

// userByFunction is the same beside the target's function, called without a broker:
// what is left to the broker once its account on the target may do nothing else.
func (s *stage) userByFunction(clients, iterations int) pair {
	p := s.user(clients, iterations, byFunction)
	p.limit.connect = s.function(iterations)
	p.limit.tidy = func(context.Context) error { return nil } // its users stay, as the broker's do
	return p
}

const byFunction = ", by the function"

const jwtBody = `{"grants":["bench/jwt"]}`

// cpuOf says whose CPU is counted as the broker's, besides the database's and our own.
func (s *stage) cpuOf(brokers ...*child) map[string]func() (time.Duration, error) {
	counted := map[string]func() (time.Duration, error){cpuDatabase: s.databaseTime, cpuLoad: processTime(selfPID())}
	if len(brokers) > 0 {
		counted[cpuBroker] = func() (sum time.Duration, err error) {
			for _, b := range brokers {
				used, err := processTime(b.pid())()
				if err != nil {
					return 0, err
				}
				sum += used
			}
			return sum, nil
		}
	}
	return counted
}

func crowd(clients int) string {
	if clients == 1 {
		return "1 client"
	}
	return fmt.Sprintf("%d clients", clients)
}
