package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/daypass/daypass/e2e/bench/rows"
)

// A short run, to the file. How fast anything was is not looked at.
func TestRun(t *testing.T) {
	file := filepath.Join(t.TempDir(), "out", "bench-policy.json")
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-policies", "100", "-load", "10", "-rounds", "1", "-out", file}, &out); err != nil {
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
	units := map[string]string{}
	for _, row := range list {
		units[row.Name] = row.Unit
		if row.Value <= 0 || row.Ratio <= 0 || units[row.Baseline] == "" {
			t.Errorf("%+v: want a positive figure beside a baseline that was measured before", row)
		}
	}
	for name, unit := range map[string]string{
		"decide 10 policies": "µs", "decide 100 policies": "µs", "decide a grant of 1000 jobs": "µs", "load 10 policies": "s",
		"bare crypto/rsa check": "µs", "verify RS256 token": "µs", "verify RS256 token allocations": "allocations",
	} {
		if units[name] != unit {
			t.Errorf("row %q is in %q, want %q\n%s", name, units[name], unit, out.String())
		}
	}
}
