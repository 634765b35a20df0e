package lint

import (
	"regexp/syntax"
)

// maxBranches is how many beginnings of a regular expression are told apart.
const maxBranches = 64

// reading is what can be said of a regular expression without a text.
type reading struct {
	finite bool     // the texts that it fits can be listed: starts are they
	starts []string // with which everything begins that it fits
	dots   bool     // a . stands between letters, where a full stop was meant
	wide   bool     // it begins or ends with something that fits any text
}

// reading reads a regular expression. Of one that doesn't parse nothing is known:
// the loader refuses it.
func (j *judge) reading(text string) *reading {
	if r, ok := j.readings[text]; ok {
		return r
	}
	r := &reading{}
	if parsed, err := syntax.Parse(text, syntax.Perl); err == nil {
		r.starts, r.finite = begin(parsed, []string{""})
		r.dots = hasDots(parsed)
		r.wide = wideEnds(parsed)
	}
	j.readings[text] = r
	return r
}

// begin appends to each of the beginnings what the expression goes on with, as
// far as that can be listed; closed says whether that was all of it.
func begin(re *syntax.Regexp, starts []string) (longer []string, closed bool) {
	switch re.Op {
	case syntax.OpEmptyMatch, syntax.OpBeginText, syntax.OpEndText, syntax.OpBeginLine, syntax.OpEndLine:
		return starts, true
	case syntax.OpLiteral:
		return extend(starts, string(re.Rune)), re.Flags&syntax.FoldCase == 0
	case syntax.OpCharClass:
		return beginClass(re, starts)
	case syntax.OpCapture:
		return begin(re.Sub[0], starts)
	case syntax.OpQuest:
		more, closed := begin(re.Sub[0], starts)
		return limit(append(append([]string{}, starts...), more...), starts, closed)
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			if starts, closed = begin(sub, starts); !closed {
				return starts, false
			}
		}
		return starts, true
	case syntax.OpAlternate:
		var all []string
		closed = true
		for _, sub := range re.Sub {
			more, done := begin(sub, starts)
			all, closed = append(all, more...), closed && done
		}
		return limit(all, starts, closed)
	default:
		return starts, false
	}
}

func beginClass(re *syntax.Regexp, starts []string) ([]string, bool) {
	var all []string
	for i := 0; i < len(re.Rune); i += 2 {
		if re.Rune[i+1]-re.Rune[i] >= maxBranches {
			return starts, false
		}
		for r := re.Rune[i]; r <= re.Rune[i+1]; r++ {
			all = append(all, extend(starts, string(r))...)
			if len(all) > maxBranches {
				return starts, false
			}
		}
	}
	return all, true
}

func extend(starts []string, text string) []string {
	longer := make([]string, len(starts))
	for i, start := range starts {
		longer[i] = start + text
	}
	return longer
}

// limit gives up where there are too many.
func limit(all, before []string, closed bool) ([]string, bool) {
	if len(all) > maxBranches {
		return before, false
	}
	return all, closed
}

// hasDots says whether a . that stands for one character has letters on both sides.
func hasDots(re *syntax.Regexp) bool {
	for i, sub := range re.Sub {
		if re.Op == syntax.OpConcat && isDot(sub) && i > 0 && i+1 < len(re.Sub) && re.Sub[i-1].Op == syntax.OpLiteral && re.Sub[i+1].Op == syntax.OpLiteral {
			return true
		}
		if hasDots(sub) {
			return true
		}
	}
	return false
}

func isDot(re *syntax.Regexp) bool {
	return re.Op == syntax.OpAnyChar || re.Op == syntax.OpAnyCharNotNL
}

// wideEnds says whether the expression begins or ends with .* or the like.
func wideEnds(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpConcat:
		return wideEnds(re.Sub[0]) || wideEnds(re.Sub[len(re.Sub)-1])
	case syntax.OpAlternate:
		for _, sub := range re.Sub {
			if wideEnds(sub) {
				return true
			}
		}
		return false
	case syntax.OpCapture:
		return wideEnds(re.Sub[0])
	case syntax.OpStar, syntax.OpPlus, syntax.OpRepeat:
		return isDot(re.Sub[0]) || re.Sub[0].Op == syntax.OpCharClass
	default:
		return isDot(re)
	}
}
