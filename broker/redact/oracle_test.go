package redact

import (
	"regexp"
	"strings"

	"github.com/daypass/daypass/issuers"
)

// oracle masks a whole text the slow way: it tries everything everywhere.
func oracle(config Config, text string) string { return masked(text, covers(config, text, true)) }

// covers says which bytes lie in a match; with the beginning of a value with which
// a text is cut off, if that is asked for.
func covers(config Config, text string, cut bool) []bool {
	covered := make([]bool, len(text))
	cover := func(start, end int) {
		for i := start; i < end; i++ {
			covered[i] = true
		}
	}
	needles := needlesOf(config.Values)
	for _, escapes := range []bool{false, true} {
		views := viewsOf(text, escapes)
		for i, v := range views {
			v.cover(needles, cut && i == len(views)-1, cover)
		}
	}
	for i := 0; config.Shape && i+issuers.GeneratedLength <= len(text); i++ {
		if _, ok := issuers.IsGenerated(text[i : i+issuers.GeneratedLength]); ok {
			cover(i, i+issuers.GeneratedLength)
		}
	}
	for _, pattern := range config.Patterns {
		coverPattern(pattern, text, cover)
	}
	return covered
}

func masked(text string, covered []bool) string {
	var out strings.Builder
	for i := range len(text) {
		switch {
		case !covered[i]:
			out.WriteByte(text[i])
		case i == 0 || !covered[i-1]:
			out.WriteString(DefaultMask)
		}
	}
	return out.String()
}

// needlesOf are all forms of all values, without line ends.
func needlesOf(values []string) []string {
	var all set
	for _, value := range values {
		for _, form := range forms(value).list {
			all.add(unbroken(form))
		}
	}
	return all.list
}

// view is a text without what a terminal puts into it.
type view struct {
	text string
	at   []int // where each byte stands
	line []int // how many line ends stand before it, those that follow each other counted as one
	more bool  // one stands behind the last byte
}

var sequence = regexp.MustCompile(`^\x1b(\[[ -?]*[@-~]|[ -/]+[0-~]|[0-Z\\-~]|\[[ -?]*|[ -/]*)`)

// viewsOf leaves out line ends and, if asked for, escape sequences. Where too many
// of these come together, a new view begins.
func viewsOf(text string, escapes bool) []view {
	views := []view{{}}
	gap, line := 0, 0
	for i := 0; i < len(text); {
		skip := 0
		if lineEnd(text[i]) {
			skip = 1
		} else if escapes {
			skip = len(sequence.FindString(text[i:]))
		}
		if gap += skip; skip == 0 {
			if gap > MaxBreak {
				views = append(views, view{})
			}
			gap, skip = 0, 1
			v := &views[len(views)-1]
			v.text += text[i : i+1]
			v.at = append(v.at, i)
			v.line = append(v.line, line)
			v.more = false
		} else if v := &views[len(views)-1]; lineEnd(text[i]) && !v.more {
			v.more = true
			line++
		}
		i += skip
	}
	if gap > MaxBreak {
		views = append(views, view{})
	}
	return views
}

func (v view) cover(needles []string, last bool, cover func(start, end int)) {
	for _, needle := range needles {
		for i := range len(v.text) {
			end := i + len(needle)
			rest := v.text[i:]
			cut := last && len(rest) >= MinValue && len(rest) < len(needle) && strings.HasPrefix(needle, rest)
			if cut {
				end = len(v.text) // the stream was cut off
			} else if !strings.HasPrefix(rest, needle) {
				continue
			}
			// What is cut off behind a line end would have gone on in the next line.
			if v.whole(i, end, cut && v.more) {
				cover(v.at[i], v.at[end-1]+1)
			}
		}
	}
}

// whole says that no line within is too short; the last one is within where it goes on.
func (v view) whole(start, end int, on bool) bool {
	count := map[int]int{}
	for i := start; i < end; i++ {
		count[v.line[i]]++
	}
	delete(count, v.line[start])
	if !on {
		delete(count, v.line[end-1])
	}
	for _, n := range count {
		if n < MinPiece {
			return false
		}
	}
	return true
}

// coverPattern tries a pattern without assertions on every piece of every line.
func coverPattern(pattern, text string, cover func(start, end int)) {
	whole := regexp.MustCompile(`^(?:` + pattern + `)$`)
	at := 0
	for line := range strings.SplitSeq(text, "\n") {
		for i := range line {
			for j := i + 1; j <= len(line); j++ {
				if whole.MatchString(line[i:j]) {
					cover(at+i, at+j)
				}
			}
		}
		at += len(line) + 1
	}
}
