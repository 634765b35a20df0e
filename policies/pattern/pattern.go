// Package pattern compiles the patterns that a policy may write for a claim. It
// is the one place where they are anchored, at both ends and as a group.
package pattern

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"sync"
	"unicode/utf8"
)

// The limits of one pattern. Together they bound the work of a match: RE2 takes
// at most as many steps as the pattern has instructions, for each character.
const (
	Max             = 256  // bytes as written
	maxInstructions = 1000 // of the compiled pattern: x{1000} is short to write
	MaxText         = 1024 // bytes of a claim; a longer one fits no pattern
)

// Kind is how a pattern is written.
type Kind string

// The kinds.
const (
	Glob  Kind = "glob"  // * is any characters but /, ** any characters, everything else itself
	Regex Kind = "regex" // RE2
)

// Pattern matches the whole of a text, or not.
type Pattern struct {
	kind   Kind
	text   string
	regexp *regexp.Regexp
}

// Kind is how it is written.
func (p *Pattern) Kind() Kind { return p.kind }

// String is the pattern as it is written.
func (p *Pattern) String() string { return p.text }

// Match says whether the pattern matches the text, all of it. A text of more than
// MaxText bytes, or one that is not UTF-8, fits no pattern.
func (p *Pattern) Match(text string) bool {
	return len(text) <= MaxText && utf8.ValidString(text) && p.regexp.MatchString(text)
}

// Compiler compiles each pattern once, however many policies have it. The zero
// value is ready, and safe for concurrent use.
type Compiler struct {
	mu   sync.Mutex
	done map[string]*Pattern // by kind and text
}

// Compile compiles a pattern. The error is for people.
func (c *Compiler) Compile(kind Kind, text string) (*Pattern, error) {
	key := string(kind) + " " + text
	c.mu.Lock()
	defer c.mu.Unlock()
	if found, ok := c.done[key]; ok {
		return found, nil
	}
	compiled, err := compile(kind, text)
	if err != nil {
		return nil, err
	}
	if c.done == nil {
		c.done = make(map[string]*Pattern)
	}
	c.done[key] = compiled
	return compiled, nil
}

func compile(kind Kind, text string) (*Pattern, error) {
	if len(text) > Max {
		return nil, fmt.Errorf("the pattern is longer than %d bytes", Max)
	}
	expression := text
	if kind == Glob {
		var err error
		if expression, err = globExpression(text); err != nil {
			return nil, err
		}
	}
	compiled, err := anchored(expression)
	if err != nil {
		return nil, err
	}
	return &Pattern{kind: kind, text: text, regexp: compiled}, nil
}

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
