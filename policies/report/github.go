package report

import (
	"fmt"
	"io"
	"strings"

	"github.com/daypass/daypass/policies/lint"
)

// GitHub writes findings as workflow commands, which GitHub Actions shows beside
// the lines of a pull request. The escapes are those of actions/toolkit
// (packages/core/src/command.ts), so that nothing in a file can begin a command.
func GitHub(w io.Writer, findings []lint.Finding) error {
	data := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	property := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	for _, f := range findings {
		command := "notice"
		switch f.Severity {
		case lint.Error:
			command = "error"
		case lint.Warning:
			command = "warning"
		default:
		}
		text := f.Text
		if f.Hint != "" {
			text += "\nhint: " + f.Hint
		}
		at := "file=" + property.Replace(f.File)
		if f.Line > 0 {
			at += fmt.Sprintf(",line=%d,col=%d", f.Line, f.Col)
		}
		if _, err := fmt.Fprintf(w, "::%s %s,title=%s::%s\n", command, at, property.Replace("["+f.Rule+"]"), data.Replace(text)); err != nil {
			return err
		}
	}
	return nil
}
