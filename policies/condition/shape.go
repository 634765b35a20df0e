package condition

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp/syntax"
	"slices"
	"strings"

	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
)

// shape checks which forms a condition uses, collects the claims it names, and
// rewrites its connectives. It works on the parsed expression, macros expanded.
type shape struct {
	tree     *ast.AST
	problems []Problem
	names    map[string]bool // claim → named outside of its own has(…) && …
	uses     []Use
	nextID   int64
}

func newShape(tree *ast.AST) *shape {
	s := &shape{tree: tree, names: make(map[string]bool)}
	for id := range tree.IDs() {
		s.nextID = max(s.nextID, id)
	}
	return s
}

func (s *shape) allNames() []string { return slices.Sorted(maps.Keys(s.names)) }

func (s *shape) requiredNames() []string {
	var list []string
	for _, name := range s.allNames() {
		if s.names[name] {
			list = append(list, name)
		}
	}
	return list
}

func (s *shape) add(e ast.Expr, hint, format string, args ...any) {
	where := s.tree.SourceInfo().GetStartLocation(e.ID())
	text := fmt.Sprintf(format, args...)
	s.problems = append(s.problems, Problem{fmt.Sprintf("condition, line %d, column %d: %s", where.Line(), where.Column()+1, text), hint})
}

const (
	claimsHint = `name the claim: claims.environment, or claims["a claim with odd characters"]`
	hasHint    = `write has(claims.x) && claims.x == "…", outside of !, ==, ?: and loops`
)

// check walks the whole expression.
func (s *shape) check() { s.positive(s.tree.Expr(), nil) }

// positive walks a part whose truth can only help to make the whole true: the
// root, and whatever && and || join there. has may stand here. guarded are the
// claims that a has to the left in the same conjunction speaks of.
func (s *shape) positive(e ast.Expr, guarded []string) {
	switch {
	case isCall(e, operators.LogicalOr):
		for _, arg := range e.AsCall().Args() {
			s.positive(arg, guarded)
		}
	case isCall(e, operators.LogicalAnd):
		terms := conjuncts(e)
		for i, term := range terms {
			operand, name, ok := presence(term)
			if !ok {
				s.positive(term, guarded)
				continue
			}
			if i == len(terms)-1 {
				s.add(term, hasHint, "has is not followed by && and a test")
			}
			s.presence(term, operand)
			if isClaims(operand) {
				s.mention(name, guarded, true)
				guarded = append(slices.Clone(guarded), name)
			}
		}
	default:
		s.walk(e, guarded)
	}
}

// presence checks what has() is asked about: claims.x, or claims.x.y.
func (s *shape) presence(e, operand ast.Expr) {
	for !isClaims(operand) {
		if operand.Kind() != ast.SelectKind || operand.AsSelect().IsTestOnly() {
			s.add(e, hasHint, "has is for claims alone")
			return
		}
		if inner := operand.AsSelect().Operand(); isClaims(inner) {
			s.mention(operand.AsSelect().FieldName(), nil, false)
			return
		}
		operand = operand.AsSelect().Operand()
	}
}

// mention records that a claim is named.
func (s *shape) mention(name string, guarded []string, byHas bool) {
	s.names[name] = s.names[name] || (!byHas && !slices.Contains(guarded, name))
}

// walk checks every other part.
func (s *shape) walk(e ast.Expr, guarded []string) {
	switch e.Kind() {
	case ast.IdentKind:
		if isClaims(e) {
			s.add(e, claimsHint, "claims stands here as a whole")
		}
	case ast.SelectKind:
		s.selection(e, guarded)
	case ast.CallKind:
		s.call(e, guarded)
	case ast.ListKind:
		for _, item := range e.AsList().Elements() {
			s.walk(item, guarded)
		}
	case ast.ComprehensionKind:
		s.loop(e, guarded)
	case ast.MapKind, ast.StructKind:
		s.add(e, "compare single claims", "mappings and messages can't be written in a condition")
	case ast.LiteralKind:
	case ast.UnspecifiedExprKind:
		s.add(e, "", "an empty expression")
	default:
		s.add(e, "", "an expression of an unknown kind")
	}
}

func (s *shape) selection(e ast.Expr, guarded []string) {
	sel := e.AsSelect()
	switch {
	case sel.IsTestOnly():
		s.add(e, hasHint, "has is accepted only as has(claims.x) && …")
	case isClaims(sel.Operand()):
		s.mention(sel.FieldName(), guarded, false)
	default:
		s.walk(sel.Operand(), guarded)
	}
}

func (s *shape) loop(e ast.Expr, guarded []string) {
	loop := e.AsComprehension()
	for _, name := range []string{loop.IterVar(), loop.IterVar2(), loop.AccuVar()} {
		if name == "claims" || name == "request" {
			s.add(e, "take another name", "the loop's variable hides %s", name)
		}
	}
	for _, part := range []ast.Expr{loop.IterRange(), loop.AccuInit(), loop.LoopCondition(), loop.LoopStep(), loop.Result()} {
		s.walk(part, guarded)
	}
}

func (s *shape) call(e ast.Expr, guarded []string) {
	call := e.AsCall()
	args := call.Args()
	if call.FunctionName() == operators.Index && len(args) == 2 && isClaims(args[0]) {
		if name, ok := literal(args[1]); ok {
			s.mention(name, guarded, false)
			return
		}
		s.add(e, claimsHint, "the name of a claim is computed")
		return
	}
	if strings.HasPrefix(call.FunctionName(), "@daypass") {
		s.add(e, "", "unknown function %s", call.FunctionName())
	}
	all := args
	if call.IsMemberFunction() {
		all = append([]ast.Expr{call.Target()}, args...)
	}
	s.use(call.FunctionName(), all)
	switch name := call.FunctionName(); {
	case name == "matches" && len(all) == 2:
		s.pattern(all[1])
	case name == "inCIDR" && len(args) == 1:
		s.network(args[0])
	case strings.HasPrefix(name, "get") && call.IsMemberFunction() && len(args) == 1:
		s.timezone(args[0])
	}
	for _, part := range all {
		s.walk(part, guarded)
	}
}

// use records as what a claim is used, where that shows without a token: compared
// with a literal, looked for in a list of them, or asked what only a text or a
// list can be.
func (s *shape) use(function string, all []ast.Expr) {
	if len(all) != 2 {
		return
	}
	switch function {
	case operators.Equals, operators.NotEquals, operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals:
		s.compared(all[0], all[1])
		s.compared(all[1], all[0])
	case operators.In:
		if all[1].Kind() == ast.ListKind {
			for _, item := range all[1].AsList().Elements() {
				s.compared(all[0], item)
			}
		}
		if name, ok := claimName(all[1]); ok {
			s.uses = append(s.uses, Use{name, AsList})
		}
	case "startsWith", "endsWith", "matches":
		if name, ok := claimName(all[0]); ok {
			s.uses = append(s.uses, Use{name, AsText})
		}
	}
}

func (s *shape) compared(claim, with ast.Expr) {
	name, ok := claimName(claim)
	if !ok || with.Kind() != ast.LiteralKind {
		return
	}
	switch with.AsLiteral().(type) {
	case types.String:
		s.uses = append(s.uses, Use{name, AsText})
	case types.Int, types.Uint, types.Double:
		s.uses = append(s.uses, Use{name, AsNumber})
	case types.Bool:
		s.uses = append(s.uses, Use{name, AsBool})
	default:
	}
}

// claimName is the name in claims.NAME or claims["NAME"].
func claimName(e ast.Expr) (string, bool) {
	switch {
	case e.Kind() == ast.SelectKind && !e.AsSelect().IsTestOnly() && isClaims(e.AsSelect().Operand()):
		return e.AsSelect().FieldName(), true
	case isCall(e, operators.Index) && len(e.AsCall().Args()) == 2 && isClaims(e.AsCall().Args()[0]):
		return literal(e.AsCall().Args()[1])
	default:
		return "", false
	}
}

// pattern refuses regular expressions that match a part of a text only: what
// looks like an exact match would let refs/heads/main-evil pass.
func (s *shape) pattern(e ast.Expr) {
	const hint = `write a literal '^(?:…)$'`
	text, ok := literal(e)
	if !ok {
		s.add(e, hint, "the pattern of matches is no literal")
		return
	}
	parsed, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		s.add(e, "", "the pattern is no RE2 regular expression: %v", err)
		return
	}
	if parsed.Op != syntax.OpConcat || parsed.Sub[0].Op != syntax.OpBeginText || parsed.Sub[len(parsed.Sub)-1].Op != syntax.OpEndText {
		s.add(e, hint, "the pattern is not anchored at both ends")
	}
}

// network checks a network when the policy is loaded.
func (s *shape) network(e ast.Expr) {
	text, ok := literal(e)
	if !ok {
		s.add(e, `write "10.0.0.0/8"`, "the network of inCIDR is no literal")
		return
	}
	if prefix, err := netip.ParsePrefix(text); err != nil || prefix != prefix.Masked() {
		s.add(e, `write "10.0.0.0/8", without bits behind the mask`, "%q is no network", text)
	}
}

// timezone checks a time zone when the policy is loaded: at decision time one
// that is misspelt would refuse everybody.
func (s *shape) timezone(e ast.Expr) {
	name, ok := literal(e)
	if !ok {
		s.add(e, `write "Europe/London"`, "the time zone is no literal")
		return
	}
	if _, err := parseZone(name); err != nil {
		s.add(e, "write a name of the IANA database, such as Europe/London, or an offset such as +05:30", "unknown time zone %q", name)
	}
}

// rewrite replaces && and || everywhere by functions that absorb nothing, and
// has(x) && rest by has(x) ? rest : false.
func (s *shape) rewrite() { s.strict(s.tree.Expr()) }

func (s *shape) strict(e ast.Expr) {
	switch e.Kind() {
	case ast.SelectKind:
		s.strict(e.AsSelect().Operand())
	case ast.ListKind:
		for _, item := range e.AsList().Elements() {
			s.strict(item)
		}
	case ast.ComprehensionKind:
		loop := e.AsComprehension()
		for _, part := range []ast.Expr{loop.IterRange(), loop.AccuInit(), loop.LoopCondition(), loop.LoopStep(), loop.Result()} {
			s.strict(part)
		}
	case ast.CallKind:
		s.strictCall(e)
	default:
	}
}

func (s *shape) strictCall(e ast.Expr) {
	call := e.AsCall()
	factory := ast.NewExprFactory()
	switch call.FunctionName() {
	case operators.LogicalAnd:
		e.SetKindCase(s.join(conjuncts(e)))
	case operators.LogicalOr:
		args := call.Args()
		joined := args[len(args)-1]
		s.strict(joined)
		for _, arg := range slices.Backward(args[:len(args)-1]) {
			s.strict(arg)
			joined = factory.NewCall(s.id(e), strictOr, arg, joined)
		}
		e.SetKindCase(joined)
	default:
		if call.IsMemberFunction() {
			s.strict(call.Target())
		}
		for _, arg := range call.Args() {
			s.strict(arg)
		}
	}
}

// join builds the strict conjunction of terms.
func (s *shape) join(terms []ast.Expr) ast.Expr {
	factory := ast.NewExprFactory()
	first := terms[0]
	if len(terms) == 1 {
		s.strict(first)
		return first
	}
	if _, _, ok := presence(first); ok {
		return factory.NewCall(s.id(first), operators.Conditional, first, s.join(terms[1:]), factory.NewLiteral(s.id(first), types.False))
	}
	s.strict(first)
	return factory.NewCall(s.id(first), strictAnd, first, s.join(terms[1:]))
}

// id is a new id, at the place of an old one.
func (s *shape) id(at ast.Expr) int64 {
	s.nextID++
	if offsets, ok := s.tree.SourceInfo().GetOffsetRange(at.ID()); ok {
		s.tree.SourceInfo().SetOffsetRange(s.nextID, offsets)
	}
	return s.nextID
}

// conjuncts are the terms of a chain of &&, from left to right.
func conjuncts(e ast.Expr) []ast.Expr {
	if !isCall(e, operators.LogicalAnd) {
		return []ast.Expr{e}
	}
	var list []ast.Expr
	for _, arg := range e.AsCall().Args() {
		list = append(list, conjuncts(arg)...)
	}
	return list
}

func isCall(e ast.Expr, function string) bool {
	return e.Kind() == ast.CallKind && e.AsCall().FunctionName() == function
}

func isClaims(e ast.Expr) bool {
	return e.Kind() == ast.IdentKind && strings.TrimPrefix(e.AsIdent(), ".") == "claims"
}

// presence takes has(operand.name) apart.
func presence(e ast.Expr) (operand ast.Expr, name string, ok bool) {
	if e.Kind() != ast.SelectKind || !e.AsSelect().IsTestOnly() {
		return nil, "", false
	}
	return e.AsSelect().Operand(), e.AsSelect().FieldName(), true
}

func literal(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	text, ok := e.AsLiteral().(types.String)
	return string(text), ok
}
