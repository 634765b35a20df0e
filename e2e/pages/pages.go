// Package pages reads the examples of the documentation: what stands between ```
// and ``` in a page. Tests run them, so that a page can't say what isn't so; e2e
// demands of each that something does.
package pages

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Example is one fenced block of a page.
type Example struct {
	Page     string // from the repository's root: docs/ci.md
	Section  string // the nearest heading of the second level; "" before the first
	Language string // what stands behind the first ```; "" where nothing does
	Text     string // without the indentation that all its lines share
	Line     int    // of the first ```
	NotRun   string // the reason, where a comment `<!-- not run: REASON -->` stands above it
}

var (
	fence   = regexp.MustCompile("^( *)```+(.*)$")
	comment = regexp.MustCompile(`^ *<!-- not run: (.+) -->$`)
)

// All reads the examples of every page below the repository's root.
func All(root string) (found []Example, err error) {
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if slices.Contains([]string{".git", ".daypass", "build", "node_modules", "testdata"}, entry.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		page, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		of, err := Of(root, filepath.ToSlash(page))
		found = append(found, of...)
		return err
	})
	return found, err
}

// Of reads the examples of one page, by its path below the root.
func Of(root, page string) ([]Example, error) {
	text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(page))) //nolint:gosec // G304: a page of the repository
	if err != nil {
		return nil, err
	}
	return read(page, string(text)), nil
}

func read(page, text string) (found []Example) {
	var open *Example
	section, reason, indent, n := "", "", "", 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimRight(line, "\n")
		m := fence.FindStringSubmatch(line)
		switch {
		case open != nil && m != nil:
			found = append(found, *open)
			open, reason = nil, ""
		case open != nil:
			open.Text += strings.TrimPrefix(line, indent) + "\n"
		case m != nil:
			indent = m[1]
			open = &Example{Page: page, Section: section, Language: strings.TrimSpace(m[2]), Line: n, NotRun: reason}
		case strings.HasPrefix(line, "## "):
			section, reason = strings.TrimSpace(line[3:]), ""
		case comment.MatchString(line):
			reason = comment.FindStringSubmatch(line)[1]
		case strings.TrimSpace(line) != "":
			reason = ""
		}
	}
	return found
}
