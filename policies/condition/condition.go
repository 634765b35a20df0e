// Package condition compiles and evaluates the conditions of policies: CEL in
// which absence never passes.
package condition

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"
)

// The limits of one condition. Costs are CEL's own units: about one per step of
// the evaluation, and one per ten characters that a function reads.
const (
	maxCondition     = 4096      // characters
	maxEstimatedCost = 2_000_000 // of the worst token that conditionSizes allows
	maxActualCost    = 50_000    // of one evaluation: about a millisecond
	maxClaimSize     = 512       // characters of a text, entries of a list, that the estimate reckons with
	maxLoops         = 2         // comprehensions within one another
)

// The names of the two functions that && and || are turned into. No expression
// can call them: @ stands in no name that the parser accepts.
const (
	strictAnd = "@daypass_and"
	strictOr  = "@daypass_or"
)

// Request is what a condition sees besides the claims.
type Request struct {
	Grant string        // POLICY/GRANT
	TTL   time.Duration // that was asked for; 0 when none was
	Time  time.Time
	IP    netip.Addr // of whoever sent the token; the zero Addr when it isn't known
}

// A Condition is a CEL expression over `claims` (the token), `request.time`,
// `request.ip`, `request.grant` and `request.ttl` (zero when none was asked). It
// is true or the job is refused.
//
// CEL lets absence pass: `claims.environment == "prod" || claims.actor_id == "7"`
// is true with no environment in sight, since || absorbs the error of its other
// side, and a side that isn't reached is never missed. Here it doesn't:
//
//   - Every claim that a condition names must be in the token and not null,
//     whether or not that part would have been evaluated. The exception is a claim
//     named behind its own `has(claims.x) && …`: without it, that conjunction is
//     false. has stands nowhere else, and never where a negation, a comparison or
//     ?: could turn its false into a true.
//   - && and || are rewritten into functions that absorb no error, in macros too.
//     So whatever goes wrong anywhere (a key absent in a nested object, a text that
//     is no number, two types that can't be compared) refuses.
//   - claims is only ever followed by .name or ["name"]: its size, its keys, a
//     comparison of all of it, or a name that is itself computed can't be asked for.
//     Nested objects answer to .name alone in the same way.
//
// A pattern of matches() is a literal that is anchored at both ends, and a network
// of inCIDR() a literal too.
type Condition struct {
	text     string
	program  cel.Program
	required []string // top-level claims that must be there
	names    []string // all top-level claims that it speaks of
	uses     []Use
	timed    bool   // it reads request.time
	placed   bool   // it reads request.ip
	estimate uint64 // CEL's estimate of the worst case
}

// String is the condition as it is written.
func (c *Condition) String() string { return c.text }

// Names lists the claims that the condition speaks of, in the order of the alphabet.
func (c *Condition) Names() []string { return c.names }

// Required lists those without which it refuses.
func (c *Condition) Required() []string { return c.required }

// As is what a claim has to be for a use of it to make sense.
type As string

// What a claim can be used as.
const (
	AsText   As = "text"
	AsNumber As = "number"
	AsBool   As = "truth value"
	AsList   As = "list"
)

// Use is one use of a top-level claim.
type Use struct {
	Claim string
	As    As
}

// Uses lists as what claims are used, as far as that shows without a token.
func (c *Condition) Uses() []Use { return c.uses }

// ReadsTime says that it reads request.time.
func (c *Condition) ReadsTime() bool { return c.timed }

// ReadsIP says that it reads request.ip.
func (c *Condition) ReadsIP() bool { return c.placed }

// Compiler compiles conditions, each text once. It is safe for concurrent use.
type Compiler struct {
	env *cel.Env

	mu   sync.Mutex
	done map[string]*compiled
}

type compiled struct {
	once      sync.Once
	condition *Condition
	problems  []Problem
}

// Problem is something wrong within a condition.
type Problem struct{ Text, Hint string }

// NewCompiler prepares CEL.
func NewCompiler() (*Compiler, error) {
	env, err := newEnv()
	if err != nil {
		return nil, err
	}
	return &Compiler{env: env, done: make(map[string]*compiled)}, nil
}

func newEnv(more ...cel.EnvOption) (*cel.Env, error) {
	env, err := cel.NewEnv(append([]cel.EnvOption{
		cel.CustomTypeAdapter(adapter{}),
		cel.Variable("claims", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("request.time", cel.TimestampType),
		cel.Variable("request.ip", cel.StringType),
		cel.Variable("request.grant", cel.StringType),
		cel.Variable("request.ttl", cel.DurationType),
		strictFunction(strictAnd, func(a, b types.Bool) types.Bool { return a && b }),
		strictFunction(strictOr, func(a, b types.Bool) types.Bool { return a || b }),
		inCIDR(),
		cel.DefaultUTCTimeZone(true),
		cel.ParserExpressionSizeLimit(maxCondition),
		cel.ParserRecursionLimit(32),
		cel.ASTValidators(
			cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateRegexLiterals(),
			cel.ValidateComprehensionNestingLimit(maxLoops)),
	}, append((&zones{}).accessors(), more...)...)...)
	if err != nil {
		return nil, fmt.Errorf("preparing CEL: %w", err)
	}
	return env, nil
}

// Compile compiles a condition, or says everything that is wrong with it.
func (c *Compiler) Compile(text string) (*Condition, []Problem) {
	c.mu.Lock()
	found, ok := c.done[text]
	if !ok {
		found = &compiled{}
		c.done[text] = found
	}
	c.mu.Unlock()
	found.once.Do(func() { found.condition, found.problems = c.build(text) })
	return found.condition, found.problems
}

func (c *Compiler) build(text string) (*Condition, []Problem) {
	if len(text) > maxCondition {
		return nil, []Problem{{fmt.Sprintf("the condition is longer than %d bytes", maxCondition), "split the job entry in two"}}
	}
	parsed, issues := c.env.Parse(text)
	if issues.Err() != nil {
		return nil, celProblems(issues)
	}
	shape := newShape(parsed.NativeRep())
	shape.check()
	if len(shape.problems) > 0 {
		return nil, shape.problems
	}
	shape.rewrite()
	checked, issues := c.env.Check(parsed)
	if issues.Err() != nil {
		return nil, celProblems(issues)
	}
	if out := checked.OutputType(); !out.IsExactType(cel.BoolType) {
		return nil, []Problem{{fmt.Sprintf("the condition is not true or false, but %s", out), `compare it: claims.x == "…"`}}
	}
	estimate, err := c.env.EstimateCost(checked, conditionSizes{})
	if err != nil {
		return nil, []Problem{{"the cost of the condition can't be estimated: " + firstLine(err.Error()), ""}}
	}
	if estimate.Max > maxEstimatedCost {
		return nil, []Problem{{fmt.Sprintf("the condition could cost %d steps, more than %d", estimate.Max, maxEstimatedCost), "use fewer loops within one another"}}
	}
	program, err := c.env.Program(checked, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(maxActualCost))
	if err != nil {
		return nil, []Problem{{firstLine(err.Error()), ""}}
	}
	built := &Condition{text: text, program: program, required: shape.requiredNames(), names: shape.allNames(), uses: shape.uses, estimate: estimate.Max}
	for _, reference := range checked.NativeRep().ReferenceMap() {
		built.timed = built.timed || reference.Name == "request.time"
		built.placed = built.placed || reference.Name == "request.ip"
	}
	return built, nil
}

var errFalse = errors.New("condition: false")

// Allow evaluates the condition for one token. Anything but nil refuses.
func (c *Condition) Allow(claims map[string]any, req Request) error {
	if name, missing := c.missing(claims); missing {
		return fmt.Errorf("condition: the token has no claim %s", name)
	}
	out, _, err := c.program.Eval(&activation{claims: claims, req: req})
	if err != nil {
		return fmt.Errorf("evaluating condition: %w", err)
	}
	if out != types.True {
		return errFalse
	}
	return nil
}

// missing is the first claim that has to be in the token and isn't.
func (c *Condition) missing(claims map[string]any) (string, bool) {
	for _, name := range c.required {
		if v, ok := claims[name]; !ok || v == nil {
			return name, true
		}
	}
	return "", false
}

// celProblems turns CEL's errors into ours: one line each.
func celProblems(issues *cel.Issues) []Problem {
	var list []Problem
	for _, e := range issues.Errors() {
		text := firstLine(e.Message)
		text = strings.NewReplacer(strictAnd, "&&", strictOr, "||").Replace(text)
		list = append(list, Problem{fmt.Sprintf("condition, line %d, column %d: %s", e.Location.Line(), e.Location.Column()+1, text), ""})
	}
	return list
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// conditionSizes tells CEL's estimate how large claims get.
type conditionSizes struct{}

// EstimateSize bounds whatever comes from the token; literals are measured by CEL.
func (conditionSizes) EstimateSize(node cost.AstNode) *cost.SizeEstimate {
	if path := node.Path(); len(path) > 0 {
		return &cost.SizeEstimate{Min: 0, Max: maxClaimSize}
	}
	if node.ComputedSize() != nil {
		return nil
	}
	return &cost.SizeEstimate{Min: 0, Max: maxClaimSize}
}

// EstimateCallCost prices the strict connectives; CEL knows the others.
func (conditionSizes) EstimateCallCost(function, _ string, _ *cost.AstNode, _ []cost.AstNode) *cost.CallEstimate {
	if function == strictAnd || function == strictOr {
		return &cost.CallEstimate{CostEstimate: cost.FixedCostEstimate(1)}
	}
	return nil
}
