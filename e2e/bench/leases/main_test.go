package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/daypass/daypass/broker/devkit"
	"github.com/daypass/daypass/e2e/bench/rows"
)

// A short run of what needs a target. How fast anything was is not looked at.
func TestUsers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "leases.json")
	var out bytes.Buffer
	err := run(t.Context(), []string{"-only", "users", "-n", "20", "-slices", "2", "-out", file}, &out)
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
	for _, name := range []string{"revoking database users", "revoking database users, 20 alive"} {
		row, found := byName[name]
		limit, beside := byName[row.Baseline]
		if !found || !beside || row.Value <= 0 || row.Ratio <= 0 || limit.Ratio != 1 {
			t.Errorf("row %q = %+v beside %+v, in:\n%s", name, row, limit, out.String())
		}
	}
}
