package condition

import (
	"fmt"

	"cel.dev/cel-go/cel"
)

// Part is one term of a condition: what stands between its outermost &&.
type Part struct {
	Text string
	OK   bool
	// Why says what went wrong, where the term is neither true nor false.
	Why string
}

// Explain evaluates the terms of the condition one by one, each as a condition of
// its own. All of them are true exactly where Allow returns nil. It compiles
// anew, and so is for people alone.
func (c *Condition) Explain(claims map[string]any, req Request) ([]Part, error) {
	env, err := newEnv(cel.EnableMacroCallTracking())
	if err != nil {
		return nil, err
	}
	compiler := &Compiler{env: env}
	parsed, issues := env.Parse(c.text)
	if issues.Err() != nil {
		return nil, fmt.Errorf("parsing condition: %w", issues.Err())
	}
	whole := c.Allow(claims, req)
	var parts []Part
	all := true
	for _, term := range conjuncts(parsed.NativeRep().Expr()) {
		text, err := cel.ExprToString(term, parsed.NativeRep().SourceInfo())
		if err != nil {
			return nil, fmt.Errorf("writing condition: %w", err)
		}
		// `&& true` lets a has() stand alone, and a claim that is a truth value.
		alone, problems := compiler.build("(" + text + ") && true")
		if len(problems) > 0 {
			return []Part{c.part(c.text, whole)}, nil
		}
		part := c.part(text, alone.Allow(claims, req))
		parts, all = append(parts, part), all && part.OK
	}
	if all != (whole == nil) { // the verdict that counts is that of the whole
		return []Part{c.part(c.text, whole)}, nil
	}
	return parts, nil
}

func (c *Condition) part(text string, err error) Part {
	p := Part{Text: text, OK: err == nil}
	if err != nil && err != errFalse { //nolint:errorlint // it is never wrapped
		p.Why = firstLine(err.Error())
	}
	return p
}
