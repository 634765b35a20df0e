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
	load := processTime(selfPID())
	database := s.databaseTime
	for _, clients := range crowds {
		name := "jwt " + crowd(clients)
		add(pair{
			clients: clients, tokens: s.tokens,
			ours: side{
				name: name, connect: s.http(s.broker.address, "/v1/exchange", `{"grants":["bench/jwt"]}`),
				cpu: map[string]func() (time.Duration, error){cpuBroker: processTime(s.broker.pid()), cpuDatabase: database, cpuLoad: load},
			},
			limit: side{
				name: "limit " + name, connect: s.http(s.thin.address, "/exchange", `{"grants":["bench/jwt"]}`),
				cpu: map[string]func() (time.Duration, error){cpuBroker: processTime(s.thin.pid()), cpuDatabase: database, cpuLoad: load},
			},
		})
	}
	for _, iterations := range []int{4096, 1} {
		for _, clients := range crowds {
			name := fmt.Sprintf("user %s scram %d", crowd(clients), iterations)
			body := fmt.Sprintf(`{"grants":["bench/user-%d"]}`, iterations)
			add(pair{
				clients: clients, tokens: s.tokens,
				ours: side{
					name: name, connect: s.http(s.broker.address, "/v1/exchange", body),
					cpu: map[string]func() (time.Duration, error){cpuBroker: processTime(s.broker.pid()), cpuDatabase: database, cpuLoad: load},
				},
				limit: side{
					name: "limit " + name, connect: s.bare(iterations), tidy: s.dropBare,
					cpu: map[string]func() (time.Duration, error){cpuDatabase: database, cpuLoad: load},
				},
			})
		}
	}
	return pairs
}

func crowd(clients int) string {
	if clients == 1 {
		return "1 client"
	}
	return fmt.Sprintf("%d clients", clients)
}
