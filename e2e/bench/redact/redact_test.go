package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/daypass/daypass/e2e/bench/rows"
)

// A short run, to the file. How fast anything was is not looked at; that all that
// leaks is masked, the program itself looks at.
func TestRun(t *testing.T) {
	file := filepath.Join(t.TempDir(), "out", "bench-redact.json")
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-size", "3", "-rounds", "1", "-secrets", "10", "-out", file}, &out); err != nil {
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
		limitChunks: "MB/s CPU", "10 secrets, all forms, 32 KiB chunks": "MB/s CPU", "10 secrets, all forms, by line": "MB/s CPU",
		"1 secrets, strings.Replacer, bare values": "MB/s CPU", "first byte out": "ms", "prompt that ends as a secret begins": "ms",
	} {
		if units[name] != unit {
			t.Errorf("row %q is in %q, want %q\n%s", name, units[name], unit, out.String())
		}
	}
}
