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
	file := filepath.Join(t.TempDir(), "out", "bench-keys.json")
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-slices", "1", "-slice", "20ms", "-out", file}, &out); err != nil {
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
		"C_Sign ES256 1 callers": "1/s", "pool ES256 1 callers": "1/s", "pool ES256 4 callers": "1/s", "pool ES256 16 callers": "1/s",
		"pool RS256 16 callers": "1/s", "token seal 200 bytes": "µs", "row seal 200 bytes": "µs", "row open 200 bytes": "µs",
	} {
		if units[name] != unit {
			t.Errorf("row %q is in %q, want %q\n%s", name, units[name], unit, out.String())
		}
	}
}
