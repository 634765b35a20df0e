package main

import (
	"runtime"
	"strconv"

	"golang.org/x/sync/errgroup"

	"github.com/daypass/daypass/broker/devkit"
)

const audience = "https://ci.daypass.example.com"

// tokens are job tokens that are ready to be sent: RS256 with 2048 bits, with
// the claims that GitHub sends, each with a jti and of a job of its own. They live
// for five minutes, so they are signed anew for every round.
type tokens struct {
	provider *devkit.Provider
	list     []string
}

func (t *tokens) sign(n int) error {
	t.list = make([]string, n)
	var signing errgroup.Group
	hands := runtime.GOMAXPROCS(0)
	for hand := range hands {
		signing.Go(func() error {
			for i := hand; i < n; i += hands {
				token, err := t.provider.Token(devkit.ProfileGitHub, audience, map[string]any{"check_run_id": strconv.Itoa(i)})
				if err != nil {
					return err
				}
				t.list[i] = token
			}
			return nil
		})
	}
	return signing.Wait()
}
