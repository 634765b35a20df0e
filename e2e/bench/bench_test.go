package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/daypass/daypass/broker/devkit"
	"github.com/daypass/daypass/e2e/bench/rows"
)

// A short run, from building the programs to the file. How fast anything was is
// not looked at.
func TestRun(t *testing.T) {
	temporary := t.TempDir()
	// PostgreSQL, run by somebody else than root, has to pass through both.
	for _, dir := range []string{temporary, filepath.Dir(temporary)} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("TMPDIR", temporary)
	file := filepath.Join(temporary, "out", "bench.json")
	var out bytes.Buffer
	err := run(t.Context(), []string{"-seconds", "0.2", "-leases", "-only", "^jwt 1 client|user 8 clients scram 1$|two brokers|half load|parts", "-scale", "0,100", "-out", file}, &out)
	if errors.Is(err, devkit.ErrNoPrograms) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var list []rows.Row
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	byName := map[string]rows.Row{}
	for _, row := range list {
		byName[row.Name] = row
	}
	left, err := filepath.Glob(filepath.Join(temporary, "daypass-bench-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	for _, name := range []string{"jwt 1 client", "user 8 clients scram 1"} {
		for suffix, unit := range map[string]string{"": "1/s", " p50": "ms", " p99": "ms", " cpu broker": "µs", " cpu database": "µs", " cpu load": "µs"} {
			row, found := byName[name+suffix]
			if !found || row.Unit != unit {
				t.Errorf("row %q = %+v (found: %t), want one in %s", name+suffix, row, found, unit)
			}
			if _, found := byName[row.Baseline]; !found {
				t.Errorf("row %q has the baseline %q, which is no row", row.Name, row.Baseline)
			}
			if isCPU := unit == "µs"; !isCPU && (row.Ratio <= 0 || row.Value <= 0) {
				t.Errorf("row %q = %+v, want a positive value and ratio", row.Name, row)
			}
		}
		if got, want := byName[name].Baseline, "limit "+name; got != want {
			t.Errorf("row %q has the baseline %q, want %q", name, got, want)
		}
		if !strings.Contains(out.String(), "\nlimit "+name+" ") {
			t.Errorf("the table lacks %q:\n%s", "limit "+name, out.String())
		}
	}
	for _, figure := range scaleFigures() {
		for _, live := range []int{0, 100} {
			name := (&level{live: live}).name(figure[0])
			row, found := byName[name]
			if !found || row.Unit != figure[1] || row.Value <= 0 || row.Ratio <= 0 || row.Baseline != (&level{}).name(figure[0]) {
				t.Errorf("row %q = %+v (found: %t)", name, row, found)
			}
		}
	}
	for name, baseline := range map[string]string{
		"two brokers jwt 32 clients": "one broker jwt 32 clients", "two brokers jwt 32 clients cpu broker": "one broker jwt 32 clients cpu broker",
		"jwt half load p99": "jwt half load p50", "limit jwt half load p99": "limit jwt half load p50", "parts: token check and signature cpu": "parts: token check and signature cpu",
	} {
		row, found := byName[name]
		if _, other := byName[baseline]; !found || !other || row.Baseline != baseline {
			t.Errorf("row %q = %+v (found: %t, baseline: %t), want one beside %q", name, row, found, other, baseline)
		}
	}
}

func TestRunRefuses(t *testing.T) {
	for want, args := range map[string][]string{
		"-seconds must be more than 0": {"-seconds", "0"},
		"reading -only":                {"-only", "("},
		"no number of leases":          {"-scale", "0,many"},
	} {
		if err := run(t.Context(), args, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("run(%q) = %v, want an error with %q", args, err, want)
		}
	}
}

func TestDriveStopsAtTheFirstFailure(t *testing.T) {
	failure := errors.New("refused")
	workers := []worker{
		func(_ context.Context, n int) error {
			if n >= 2 {
				return failure
			}
			return nil
		},
		func(ctx context.Context, _ int) error {
			<-ctx.Done() // one that is under way ends too
			return ctx.Err()
		},
	}
	if _, err := drive(t.Context(), workers, load{most: 100, during: time.Hour}); !errors.Is(err, failure) {
		t.Errorf("drive = %v, want %v", err, failure)
	}
}

func TestDriveUsesNothingTwice(t *testing.T) {
	const most = 50
	seen := make(chan int, 2*most)
	work := func(_ context.Context, n int) error {
		seen <- n
		return nil
	}
	result, err := drive(t.Context(), []worker{work, work, work}, load{most: most, during: time.Hour})
	if err != nil || len(result.took) != most {
		t.Fatalf("drive did %d operations, %v, want %d", len(result.took), err, most)
	}
	close(seen)
	used := map[int]bool{}
	for n := range seen {
		if used[n] || n >= most {
			t.Errorf("operation %d was begun twice, or is one too many", n)
		}
		used[n] = true
	}
}

func TestMedianAndSpread(t *testing.T) {
	rounds := []sample{{rate: 30}, {rate: 10}, {rate: 20}}
	if got := median(rounds, rate); got != 20 {
		t.Errorf("median = %v, want 20", got)
	}
	if got := spread(rounds); got != 1 {
		t.Errorf("spread = %v, want 1", got)
	}
}

func TestCPUTimes(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("there is no /proc here")
	}
	u, err := readUsage(os.Getpid())
	if err != nil || u.parent != os.Getppid() {
		t.Errorf("readUsage = %+v, %v, want parent %d", u, err, os.Getppid())
	}
	whole, err := familyTime(os.Getppid())
	if err != nil || whole < u.own {
		t.Errorf("the family of %d used %v, %v, less than its member's %v", os.Getppid(), whole, err, u.own)
	}
}
