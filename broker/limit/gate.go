package limit

import (
	"context"
	"fmt"
	"net/netip"
	"time"
)

// Error says that somebody asked too often.
type Error struct {
	Limit string // its name in the configuration
	After time.Duration
}

// Error implements error.
func (e *Error) Error() string { return "too many requests (" + e.Limit + ")" }

// FailedTokens is the limit that a Gate is.
const FailedTokens = "failed_tokens"

// Gate stands before the check of tokens. An address whose tokens failed too
// often pays for it in two ways: its next failures are told that it asked too
// often, and its checks wait for each other, so that they never take all cores.
// A good token from such an address passes all the same: many senders share one.
type Gate struct {
	failed *Rate
	turns  chan struct{}
}

// NewGate lets so many tokens of an address fail a minute (0: any number), and
// checks so many at once of those that had more.
func NewGate(failuresPerMinute, atOnce int, now func() time.Time) *Gate {
	return &Gate{failed: NewRate(failuresPerMinute, now), turns: make(chan struct{}, max(atOnce, 1))}
}

// Check runs check, which returns an error that atFault accepts for a token that
// is bad. Where the check has to wait for its turn it is told to be quick: it
// waits for nothing else while it has it.
func (g *Gate) Check(ctx context.Context, address string, check func(quick bool) error, atFault func(error) bool) error {
	from := network(address)
	over := g.failed.Left(from) > 0
	if over {
		select {
		case g.turns <- struct{}{}:
			defer func() { <-g.turns }()
		case <-ctx.Done():
			return fmt.Errorf("waiting for a turn: %w", ctx.Err())
		}
	}
	err := check(over)
	if err == nil || !atFault(err) {
		return err
	}
	if wait := g.failed.Take(from); wait > 0 && over {
		return &Error{Limit: FailedTokens, After: wait}
	}
	return err
}

// network is what one sender can hardly have more than one of: an IPv4 address,
// or an IPv6 /64.
func network(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return address
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	prefix, _ := ip.Prefix(64) // of an IPv6 address it always can be made
	return prefix.String()
}
