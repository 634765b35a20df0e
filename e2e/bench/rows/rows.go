// Package rows is how every bench target writes its figures: a JSON list of
// rows, each beside what was measured in the same run.
package rows

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Row is one figure. Ratio is Value divided by the value of the row that
// Baseline names; a limit is its own baseline.
type Row struct {
	Name     string  `json:"name"`
	Value    float64 `json:"value"`
	Unit     string  `json:"unit"` // "1/s", "ms", "µs", "s", "allocations"
	Baseline string  `json:"baseline"`
	Ratio    float64 `json:"ratio"`
}

// Add is [Write] behind the rows that the file has, if it is there.
func Add(file string, list []Row) error {
	text, err := os.ReadFile(file) //nolint:gosec // G304: whoever runs the program names it
	if errors.Is(err, fs.ErrNotExist) {
		return Write(file, list)
	}
	if err != nil {
		return fmt.Errorf("reading the rows: %w", err)
	}
	var all []Row
	if err := json.Unmarshal(text, &all); err != nil {
		return fmt.Errorf("reading the rows of %s: %w", file, err)
	}
	return Write(file, append(all, list...))
}

// Write writes rows to a file, whose folder it makes.
func Write(file string, rows []Row) error {
	text, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil { //nolint:gosec // G301: figures are for everybody
		return fmt.Errorf("making the folder for %s: %w", file, err)
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil { //nolint:gosec // G306: figures are for everybody
		return fmt.Errorf("writing the rows: %w", err)
	}
	return nil
}
