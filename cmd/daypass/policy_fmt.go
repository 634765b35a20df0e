//go:build !packed

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/daypass/daypass/policies/format"
)

// fmtOptions is what to do with a file that is laid out otherwise.
type fmtOptions struct{ write, check, diff bool }

func (p *program) policyFmtCommand() *cobra.Command {
	var o fmtOptions
	cmd := &cobra.Command{
		Use:   "fmt [PATH...]",
		Short: "Lay policy files out in one way",
		Long: `Fmt puts keys into the order of the documentation, two spaces before each level and one
blank line between sections. Comments stay with what they precede or follow; texts and
flow style stay as they are written. A file that wouldn't mean the same afterwards, or
lose a comment, is refused and not changed.

Without flags the result goes to standard output; "-" reads standard input.`,
		Example: `  daypass policy fmt -w policies/
  daypass policy fmt --check policies/       # names the files that aren't laid out, and fails
  daypass policy fmt --diff policies/payments.yaml
  daypass policy fmt - < payments.yaml`,
		RunE: func(_ *cobra.Command, args []string) error {
			if o.write && (o.check || o.diff) || o.check && o.diff {
				return usage("-w, --check and --diff go alone")
			}
			files, err := p.fmtFiles(args)
			if err != nil {
				return err
			}
			failed := 0
			for _, f := range files {
				differs, err := p.fmtFile(f, o)
				if err != nil {
					p.sayLines(err)
					failed++
				}
				if differs && (o.check || o.diff && !o.write) {
					failed++
				}
			}
			if failed > 0 {
				return &exit{exitFailed, nil}
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.write, "write", "w", false, "write the files")
	flags.BoolVar(&o.check, "check", false, "name the files that are laid out otherwise, and fail when there are any")
	flags.BoolVar(&o.diff, "diff", false, "show what would change, and fail when anything would")
	return cmd
}

// sayLines prints an error of several lines.
func (p *program) sayLines(err error) {
	for line := range strings.Lines(err.Error()) {
		p.say("%s", strings.TrimSpace(line))
	}
}

func (p *program) fmtFiles(args []string) ([]policyFile, error) {
	if len(args) == 1 && args[0] == "-" {
		var data bytes.Buffer
		if _, err := data.ReadFrom(p.stdin); err != nil {
			return nil, fmt.Errorf("reading standard input: %w", err)
		}
		return []policyFile{{"-", data.Bytes()}}, nil
	}
	s, err := openSources(args)
	if err != nil {
		return nil, err
	}
	defer s.close()
	return s.files()
}

// fmtFile lays one file out and says whether that changed it.
func (p *program) fmtFile(f policyFile, o fmtOptions) (differs bool, err error) {
	laid, err := format.Format(f.name, f.data)
	if err != nil {
		return false, err
	}
	differs = !bytes.Equal(laid, f.data)
	switch {
	case o.check && differs:
		_, err = fmt.Fprintln(p.stdout, clean(f.name))
	case o.diff && differs:
		_, err = cleaner{p.stdout}.Write([]byte(lineDiff(f.name, string(f.data), string(laid))))
	case o.write && f.name == "-":
		return false, usage("standard input can't be written to")
	case o.write && differs:
		err = replaceFile(f.name, laid)
	case !o.check && !o.diff && !o.write:
		_, err = p.stdout.Write(laid)
	}
	return differs, err
}

// replaceFile writes a file beside it and puts it in its place, so that nobody
// reads half of it, and with the same mode.
func replaceFile(name string, data []byte) error {
	target, err := filepath.EvalSymlinks(name)
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	info, err := os.Stat(target)
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	temporary, err := os.CreateTemp(filepath.Dir(target), ".daypass-fmt-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	defer os.Remove(temporary.Name()) //nolint:errcheck // it is gone when all went well
	_, err = temporary.Write(data)
	if err == nil {
		err = temporary.Chmod(info.Mode().Perm())
	}
	if closing := temporary.Close(); err == nil {
		err = closing
	}
	if err == nil {
		err = os.Rename(temporary.Name(), target)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

// maxDiff bounds the table of lineDiff.
const maxDiff = 4_000_000

// lineDiff shows the lines that differ, as diff -u does with all lines around.
func lineDiff(name, before, after string) string {
	a, b := strings.SplitAfter(before, "\n"), strings.SplitAfter(after, "\n")
	if len(a)*len(b) > maxDiff {
		return name + ": laid out otherwise, and too long to show how\n"
	}
	// common[i][j] is how many lines a[i:] and b[j:] have in common, in order.
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i, x := range slices.Backward(a) {
		for j, y := range slices.Backward(b) {
			if common[i][j] = max(common[i+1][j], common[i][j+1]); x == y {
				common[i][j] = common[i+1][j+1] + 1
			}
		}
	}
	var out strings.Builder
	out.WriteString("--- " + name + "\n+++ " + name + " (laid out)\n")
	put := func(sign, line string) {
		if line != "" {
			out.WriteString(sign + strings.TrimSuffix(line, "\n") + "\n")
		}
	}
	for i, j := 0, 0; i < len(a) || j < len(b); {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			put(" ", a[i])
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			put("-", a[i])
			i++
		default:
			put("+", b[j])
			j++
		}
	}
	return out.String()
}
