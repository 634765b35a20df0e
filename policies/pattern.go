package policies

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/daypass/daypass/policies/strictyaml"
)

// The limits of one pattern. Together they bound the work of a match: RE2 takes
// at most as many steps as the pattern has instructions, for each character.
const (
	maxPattern      = 256  // bytes as written
	maxInstructions = 1000 // of the compiled pattern: x{1000} is short to write
	maxMatched      = 1024 // bytes of a claim; a longer one fits no pattern
)

const patternHint = "write {glob: refs/tags/v*}, {regex: '…'} or {contains: …}"

// anchored compiles a regular expression that has to match the whole of a text.
// It is the one place where patterns of claims are anchored: as a group, since
// ^A|B$ would let A-evil in. The expression is compiled alone first, since x)|(
// would close the group, and match everything.
func anchored(expression string) (*regexp.Regexp, error) {
	if _, err := regexp.Compile(expression); err != nil {
		return nil, fmt.Errorf("the pattern is no RE2 regular expression: %w", err)
	}
	whole := "^(?:" + expression + ")$"
	parsed, err := syntax.Parse(whole, syntax.Perl)
	if err != nil { // such as \Q without its \E
		return nil, fmt.Errorf("the pattern doesn't end where it should: %w", err)
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return nil, fmt.Errorf("compiling the pattern: %w", err)
	}
	if len(program.Inst) > maxInstructions {
		return nil, fmt.Errorf("the pattern is too large: it has %d steps, more than %d", len(program.Inst), maxInstructions)
	}
	pattern, err := regexp.Compile(whole)
	if err != nil {
		return nil, fmt.Errorf("compiling the pattern: %w", err)
	}
	return pattern, checkReach(pattern)
}

// globExpression writes a glob as a regular expression: * is any characters but
// /, ** any characters, everything else itself.
func globExpression(glob string) (string, error) {
	var b strings.Builder
	for rest := glob; rest != ""; {
		star := strings.IndexByte(rest, '*')
		if star < 0 {
			b.WriteString(regexp.QuoteMeta(rest))
			break
		}
		b.WriteString(regexp.QuoteMeta(rest[:star]))
		tail := strings.TrimLeft(rest[star:], "*")
		switch len(rest) - star - len(tail) {
		case 1:
			b.WriteString(`[^/]*`)
		case 2:
			b.WriteString(`(?s:.*)`)
		default:
			return "", errors.New("more than two * in a row: * stops at /, ** does not")
		}
		rest = tail
	}
	return b.String(), nil
}

// checkReach refuses a pattern that says nothing. One that fits all of a few
// texts which have nothing in common fits about everything: .+, \S+, .{3,}.
func checkReach(pattern *regexp.Regexp) error {
	if pattern.MatchString("") {
		return errors.New("the pattern matches an empty text: let it ask for at least one character of its own")
	}
	for _, text := range []string{
		"refs/heads/main", "0123456789", "_ABCDEFGH-", "~!@#$%^&()+=:;", "日本語のテキスト。です", strings.Repeat("-", 64), "a.b-c_d/e@f:g",
	} {
		if !pattern.MatchString(text) {
			return nil
		}
	}
	return errors.New("the pattern matches everything: let it ask for something")
}

// fits says whether one of the patterns matches the text, all of it.
func (c *claim) fits(text string) bool {
	if len(c.patterns) == 0 || len(text) > maxMatched || !utf8.ValidString(text) {
		return false
	}
	return slices.ContainsFunc(c.patterns, func(p *regexp.Regexp) bool { return p.MatchString(text) })
}

// holds says whether the list has one of the elements, by type and value.
func (c *claim) holds(list []any) bool {
	if len(c.elements) == 0 {
		return false
	}
	return slices.ContainsFunc(list, func(item any) bool { return slices.Contains(c.elements, canonical(item)) })
}

// pattern reads {glob: …}, {regex: …} or {contains: …} into the claim.
func (l *loader) pattern(c *claim, v strictyaml.Value, mapping map[string]strictyaml.Value) {
	for _, key := range []string{"glob", "regex", "contains"} {
		operand, found := mapping[key]
		if !found {
			continue
		}
		if len(mapping) > 1 {
			l.add(v.Pos, "write a list: each of its items is one of the ways to match", "claim %s: %s stands alone in its mapping", c.name, key)
			return
		}
		if key == "contains" {
			l.element(c, operand)
			return
		}
		l.expression(c, key, operand)
		return
	}
	_, hasID := mapping["id"]
	_, hasName := mapping["name"]
	if hasID || hasName {
		l.add(v.Pos, "write the id as the claim of that name", "claim %s: pairs of name and id are not enforced by this version", c.name)
		return
	}
	if !l.reportedInLine(v.Pos) {
		l.add(v.Pos, patternHint, "claim %s: a mapping can't be matched", c.name)
	}
}

// element reads what a list must have.
func (l *loader) element(c *claim, operand strictyaml.Value) {
	switch operand.Raw.(type) {
	case map[string]strictyaml.Value, []strictyaml.Value:
		l.add(operand.Pos, "write [{contains: a}, {contains: b}] for any of several", "claim %s: contains takes one value", c.name)
		return
	}
	if value, ok := l.claimValue(c.name, operand); ok {
		c.elements = append(c.elements, l.once(c.elements, value, operand)...)
	}
}

// expression reads a glob or a regular expression.
func (l *loader) expression(c *claim, kind string, operand strictyaml.Value) {
	text, ok := operand.Raw.(string)
	if !ok {
		l.add(operand.Pos, "quote it", "claim %s: %s takes a text", c.name, kind)
		return
	}
	if len(text) > maxPattern {
		l.add(operand.Pos, "", "claim %s: the pattern is longer than %d bytes", c.name, maxPattern)
		return
	}
	l.noBraces(operand.Pos, text)
	pattern, err := l.compilePattern(kind, text)
	if err != nil {
		l.add(operand.Pos, "", "claim %s: %v", c.name, err)
		return
	}
	if slices.Contains(c.patterns, pattern) {
		l.add(operand.Pos, "", "the value stands in the list twice")
		return
	}
	c.patterns = append(c.patterns, pattern)
}

// compilePattern compiles each pattern once, however many policies have it.
func (l *loader) compilePattern(kind, text string) (*regexp.Regexp, error) {
	expression := text
	if kind == "glob" {
		var err error
		if expression, err = globExpression(text); err != nil {
			return nil, err
		}
	}
	if pattern, found := l.patterns[expression]; found {
		return pattern, nil
	}
	pattern, err := anchored(expression)
	if err != nil {
		return nil, err
	}
	l.patterns[expression] = pattern
	return pattern, nil
}
