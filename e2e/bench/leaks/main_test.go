package main

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/daypass/daypass/e2e/bench/rows"
)

// TestRows runs it all, on a log of a megabyte: what is planted is found.
func TestRows(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rows.json")
	if err := run([]string{"-mb", "1", "-known", "100", "-rounds", "1", "-out", file}, io.Discard); err != nil {
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
	if len(list) != 5 {
		t.Errorf("%d rows", len(list))
	}
	for _, row := range list {
		if row.Value <= 0 || row.Ratio <= 0 || row.Baseline != limitRow {
			t.Errorf("%+v", row)
		}
	}
}
