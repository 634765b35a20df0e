// Package e2e drives the built programs against real servers: what a crash, a
// stop, an outage or a second broker leaves behind, seen from outside.
package e2e

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/daypass/daypass/broker/devkit/devtest"
)

// programs are the binaries under test. daypassd has the checkpoints at which it
// can be stopped compiled in; released ones have not.
var programs string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "daypass-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir) //nolint:errcheck // the system's temporary folder
	programs = dir
	race := "-race"
	if os.Getenv("CHAOS") != "" {
		race = "-race=false" // a long run tries what is built to run, at its speed
	}
	// Nobody looks into them with a debugger: what one needs takes a third of the linking.
	for _, build := range [][]string{
		{"build", race, "-ldflags", "-s -w", "-tags", "checkpoints", "-o", dir + "/daypassd", "../cmd/daypassd"},
		{"build", "-ldflags", "-s -w", "-o", dir + "/", "../cmd/daypass", "./verifyjwt"},
	} {
		cmd := exec.Command("go", build...)
		if build[1] != race {
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as they are released
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building: %v\n%s", err, out)
			return 1
		}
	}
	// The tests wait for deadlines more than they work.
	if err := flag.Set("test.parallel", "8"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := devtest.Main(m)
	if found := leaks.search(); len(found) > 0 {
		fmt.Fprintf(os.Stderr, "FAIL: secrets that were issued in this run stand in its logs:\n%s\n", strings.Join(found, "\n"))
		return 1
	}
	return code
}

// leaks remembers every secret that was issued and every line that was logged.
var leaks leakSearch

type leakSearch struct {
	mu      sync.Mutex
	secrets map[string]string // value → what it was
	logs    bytes.Buffer
}

func (l *leakSearch) secret(what, value string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.secrets == nil {
		l.secrets = map[string]string{}
	}
	if len(value) >= 8 {
		l.secrets[value] = what
	}
}

func (l *leakSearch) line(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.logs.WriteString(line + "\n")
}

func (l *leakSearch) search() (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	logs := l.logs.String()
	for value, what := range l.secrets {
		if before, after, stands := strings.Cut(logs, value); stands {
			end, _, _ := strings.Cut(after, "\n")
			found = append(found, what+": "+before[strings.LastIndexByte(before, '\n')+1:]+"…THE SECRET…"+end)
		}
	}
	if len(l.secrets) == 0 {
		found = append(found, "no secret was issued: the search proves nothing")
	}
	return found
}
