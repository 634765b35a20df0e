package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Kind is what goes wrong.
type Kind string

// The kinds. Those of a broker are about one of the fleet.
const (
	KillBroker      Kind = "kill a broker"            // SIGKILL; another one takes its place at the end
	StopBroker      Kind = "stop a broker"            // SIGSTOP, and SIGCONT at the end
	DeployBroker    Kind = "deploy a broker"          // SIGTERM, and another one at once
	StepClock       Kind = "step a broker's clock"    // by By, and back at the end
	HangIssuer      Kind = "an issuer hangs"          //
	LyingIssuer     Kind = "an issuer lies"           // it did what it says that it couldn't do
	PanickingIssuer Kind = "an issuer panics"         //
	ForgetfulIssuer Kind = "an issuer forgets"        // it says that it took back what stands
	KillDatabase    Kind = "kill the database server" // as a crash would; started again at the end
	RestartDatabase Kind = "restart the database server"
	FailOver        Kind = "fail the database over"           // its primary dies for good, its standby is promoted and gets one of its own
	FillDisk        Kind = "fill the database's disk"         // until nothing more fits
	CloseDatabase   Kind = "close the database"               // nobody gets in
	FreezeDatabase  Kind = "make the database read-only"      //
	CutDatabase     Kind = "cut the database's connections"   //
	SlowDatabase    Kind = "slow the database's network"      // by By
	SilentDatabase  Kind = "silence the database's network"   // nothing passes, nothing closes
	DeafDatabase    Kind = "lose the database's answers"      // after the commit
	CloseTarget     Kind = "close the target"                 //
	CutTarget       Kind = "cut the target's connections"     //
	SlowTarget      Kind = "slow the target's network"        //
	SilentTarget    Kind = "silence the target's network"     //
	DeafTarget      Kind = "lose the target's answers"        //
	RefuseTarget    Kind = "refuse connections to the target" //
)

// Kinds are all of them.
func Kinds() []Kind {
	return append(Everywhere(), FailOver, FillDisk, ForgetfulIssuer)
}

// Everywhere are those that need no second server, no file system of their own, and
// no minute until the reconciler may take an orphan back.
func Everywhere() []Kind {
	return []Kind{
		KillBroker, StopBroker, DeployBroker, StepClock, HangIssuer, LyingIssuer, PanickingIssuer, KillDatabase, RestartDatabase, CloseDatabase, FreezeDatabase,
		CutDatabase, SlowDatabase, SilentDatabase, DeafDatabase, CloseTarget, CutTarget, SlowTarget, SilentTarget, DeafTarget, RefuseTarget,
	}
}

// place is what two faults can't have at once.
func (k Kind) place() string {
	switch k {
	case KillBroker, StopBroker, DeployBroker, StepClock, HangIssuer, LyingIssuer, PanickingIssuer, ForgetfulIssuer:
		return "broker"
	case KillDatabase, RestartDatabase, FailOver, FillDisk, CloseDatabase, FreezeDatabase:
		return "database"
	case CutDatabase, SlowDatabase, SilentDatabase, DeafDatabase:
		return "database's network"
	case CloseTarget:
		return "target"
	default:
		return "target's network"
	}
}

// deadline is how long those wait that it keeps waiting; zero: nobody does.
func (k Kind) deadline() time.Duration {
	switch k {
	case StopBroker, HangIssuer: // an issue, a transaction that stands still
		return 11 * time.Second
	case SilentDatabase, SilentTarget: // a statement
		return 6 * time.Second
	default:
		return 0
	}
}

// mending is how long it takes until another fault may have the same place.
func (k Kind) mending() time.Duration {
	switch k {
	case FailOver: // the new primary is copied
		return 8 * time.Second
	case FillDisk:
		return 2 * time.Second
	default:
		return 200 * time.Millisecond
	}
}

// Fault is one thing that goes wrong, from At until At+For after the beginning.
type Fault struct {
	At, For time.Duration
	Kind    Kind
	Broker  int           // which one
	By      time.Duration // how far a clock is off, how slow a network
}

// String implements fmt.Stringer.
func (f Fault) String() string {
	text := fmt.Sprintf("%8s  for %6s  %s", f.At, f.For, f.Kind)
	if f.Kind.place() == "broker" {
		text += fmt.Sprintf(" (%d)", f.Broker)
	}
	if f.By != 0 {
		text += fmt.Sprintf(" (by %s)", f.By)
	}
	return text
}

// Schedule is what goes wrong in one run, in the order in which it begins.
type Schedule []Fault

// String implements fmt.Stringer.
func (s Schedule) String() string {
	lines := make([]string, len(s))
	for i, f := range s {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// Setup is what a schedule is made from: the same one each time.
type Setup struct {
	Seed    uint64
	Length  time.Duration
	Brokers int
	Kinds   []Kind
}

const (
	// A long run has storms, each with a calm after it: it shows how fast all is well
	// again, and gives the fleet something to lose in the next one.
	stormEvery, stormFor = 24 * time.Second, 12 * time.Second
	shortRun             = time.Minute // one storm
)

// Plan makes the schedule of a seed. Kinds are dealt like cards, so that each
// comes once before one comes twice; no two faults have the same place at once,
// and faults in different places may meet.
func Plan(s Setup) Schedule {
	random := rand.New(rand.NewPCG(s.Seed, s.Seed)) //nolint:gosec // it is to be repeated
	between := func(from, to time.Duration) time.Duration {
		return (from + time.Duration(random.Int64N(int64(to-from)))).Round(time.Millisecond)
	}
	free := map[string]time.Duration{} // from when on a place is
	var deck []Kind
	var plan Schedule
	// In a short run too, each kind gets its turn.
	rest := min(time.Second, s.Length/time.Duration(len(s.Kinds)+2))
	for at := between(rest/2, rest); at < s.Length; at += between(rest/2, rest*3/2) {
		if s.Length >= shortRun && at%stormEvery > stormFor {
			at = at.Truncate(stormEvery) + stormEvery
			continue
		}
		if len(deck) == 0 {
			deck = slices.Clone(s.Kinds)
			random.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		}
		f := Fault{At: at, For: between(200*time.Millisecond, 1200*time.Millisecond), Broker: random.IntN(s.Brokers), Kind: deck[0]}
		deck = deck[1:]
		if f.Kind.place() == "broker" || random.IntN(8) == 0 {
			f.For *= 2 // the others go on; but sometimes nobody does for longer
		}
		if s.Length >= shortRun && random.IntN(4) == 0 {
			f.For += f.Kind.deadline()
		}
		switch f.Kind {
		case StepClock:
			f.By = []time.Duration{-time.Hour, -5 * time.Second, -1500 * time.Millisecond, 1500 * time.Millisecond, 5 * time.Second, time.Hour}[random.IntN(6)]
		case SlowDatabase, SlowTarget:
			f.By = between(5*time.Millisecond, 150*time.Millisecond)
		default: // it is there or it isn't
		}
		place := f.Kind.place()
		if place == "broker" {
			place = fmt.Sprint(place, f.Broker)
		}
		f.At = max(f.At, free[place])
		free[place] = f.At + f.For + f.Kind.mending()
		plan = append(plan, f)
	}
	slices.SortStableFunc(plan, func(a, b Fault) int { return int(a.At - b.At) })
	return plan
}
