package e2e

import (
	"encoding/json"
	"slices"
	"syscall"
	"testing"
	"time"
)

// leads says whether a broker believes that it does what is done once in the
// fleet, by its log. One that stands still goes on believing.
func (b *broker) leads() bool {
	for _, line := range slices.Backward(b.lines()) {
		var entry struct{ Msg, Task string }
		if json.Unmarshal([]byte(line), &entry) != nil || entry.Task != "switches" {
			continue
		}
		switch entry.Msg {
		case "this broker does from now on what is done once in the fleet":
			return true
		case "this broker has stopped doing what is done once in the fleet":
			return false
		}
	}
	return false
}

// TestLeaderGone: when the broker that does what is done once is killed, or stands
// still, another of the fleet does it; and one that wakes up stops.
func TestLeaderGone(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	brokers := []*broker{f.start(), f.start(), f.start()}
	brokers[0].awaitProbe()
	leaderOf := func(among []*broker) (leader *broker) {
		t.Helper()
		began := time.Now()
		eventually(t, "one leads", func() bool {
			i := slices.IndexFunc(among, (*broker).leads)
			if i >= 0 {
				leader = among[i]
			}
			return i >= 0
		})
		t.Logf("after %s", time.Since(began).Round(100*time.Millisecond))
		return leader
	}
	without := func(gone *broker) []*broker {
		return slices.DeleteFunc(slices.Clone(brokers), func(b *broker) bool { return b == gone })
	}
	killed := leaderOf(brokers)
	killed.kill()
	brokers = without(killed)
	stopped := leaderOf(brokers)
	stopped.signal(syscall.SIGSTOP)
	last := leaderOf(without(stopped))
	last.mustExchange("15s", "app/db")
	stopped.signal(syscall.SIGCONT)
	eventually(t, "the one that stood still knows that it doesn't lead", func() bool { return !stopped.leads() })
	if !last.leads() {
		t.Error("its successor doesn't lead any more")
	}
	stopped.mustExchange("15s", "app/db")
	f.nothingLeft()
}
