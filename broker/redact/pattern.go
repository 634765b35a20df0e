package redact

import (
	"errors"
	"fmt"
	"regexp/syntax"
	"unicode/utf8"
)

// program is all patterns as one: a match of it is a match of any of them.
type program struct {
	*syntax.Prog
	first [256]bool // bytes with which a match may begin; true for all that aren't ASCII
}

// compile parses each pattern by itself, so that none can reach into the next,
// and joins the parsed trees.
func compile(patterns []string) (*program, error) {
	either := &syntax.Regexp{Op: syntax.OpAlternate}
	for i, pattern := range patterns {
		re, err := syntax.Parse(pattern, syntax.Perl)
		if err != nil {
			return nil, fmt.Errorf("%w: pattern %d: %w", ErrPattern, i, withoutExpression(err))
		}
		either.Sub = append(either.Sub, re)
	}
	if len(either.Sub) == 1 {
		either = either.Sub[0]
	}
	prog, err := syntax.Compile(either.Simplify())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPattern, err)
	}
	p := &program{Prog: prog}
	p.findFirst()
	return p, nil
}

// withoutExpression keeps the kind of a syntax error and drops the text: a
// pattern may have been made from a secret.
func withoutExpression(err error) error {
	if s, ok := errors.AsType[*syntax.Error](err); ok {
		return errors.New(s.Code.String())
	}
	return err
}

// findFirst fills first: what the instructions accept that can be reached
// before any rune is read, taking every assertion (^, \b) as met.
func (p *program) findFirst() {
	seen := make([]bool, len(p.Inst))
	todo := []uint32{uint32(p.Start)} //nolint:gosec // an index of Inst
	for len(todo) > 0 {
		pc := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[pc] {
			continue
		}
		seen[pc] = true
		switch inst := &p.Inst[pc]; inst.Op {
		case syntax.InstAlt, syntax.InstAltMatch:
			todo = append(todo, inst.Out, inst.Arg)
		case syntax.InstCapture, syntax.InstNop, syntax.InstEmptyWidth:
			todo = append(todo, inst.Out)
		case syntax.InstRune, syntax.InstRune1, syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
			for b := range p.first {
				if b >= utf8.RuneSelf || inst.MatchRune(rune(b)) {
					p.first[b] = true
				}
			}
		case syntax.InstMatch, syntax.InstFail:
		}
	}
}

// thread is one way in which the bytes since start may become a match.
type thread struct {
	pc    uint32
	start int64 // position in the stream
}

// threads is a set of threads, one for each instruction, in ascending order of
// start. Where two ways meet, the one that began first covers what the other does.
type threads struct {
	list []thread // only those at instructions that wait for a rune or for what follows
	seen []uint64 // by instruction: the round in which it was reached
	now  uint64
}

func (t *threads) clear() {
	t.list = t.list[:0]
	t.now++
}

// run is the state of a program beside one stream.
type run struct {
	*program
	cur, met, next threads
	prev           rune   // before the next rune; -1 at the beginning of a line
	partial        []byte // the beginning of a rune
	at             int64  // position in the stream of partial
	found          func(start, end int64)
}

// newRun begins a stream; found is told of every match, perhaps one rune late.
func newRun(p *program, found func(start, end int64)) *run {
	r := &run{program: p, prev: -1, partial: make([]byte, 0, utf8.UTFMax), found: found}
	for _, t := range []*threads{&r.cur, &r.met, &r.next} {
		t.seen = make([]uint64, len(p.Inst))
		t.clear()
	}
	return r
}

// scan takes a piece of the stream.
func (r *run) scan(p []byte) {
	for i := 0; i < len(p); i++ {
		if r.idle() {
			k := i
			for k < len(p) && !r.first[p[k]] {
				k++
			}
			if k > i {
				r.skip(p[i:k])
			}
			if i = k; i == len(p) {
				return
			}
		}
		r.step(p[i])
	}
}

// idle says that no match has begun and no rune is incomplete.
func (r *run) idle() bool { return len(r.cur.list) == 0 && len(r.partial) == 0 }

// skip tells of ASCII bytes with which no match can begin. Only while idle.
func (r *run) skip(b []byte) {
	r.at += int64(len(b))
	if r.prev = rune(b[len(b)-1]); r.prev == '\n' {
		r.prev = -1
	}
}

// live is the position from which bytes may still become part of a match.
func (r *run) live() int64 {
	if len(r.cur.list) > 0 {
		// A match may be told of one rune late, so a rune more than MaxMatch is kept.
		return max(r.cur.list[0].start, r.at-MaxMatch-utf8.UTFMax)
	}
	return r.at
}

// step takes one byte.
func (r *run) step(b byte) {
	r.partial = append(r.partial, b)
	for len(r.partial) > 0 && utf8.FullRune(r.partial) {
		r.stepRune()
	}
}

// end takes the end of the stream.
func (r *run) end() {
	for len(r.partial) > 0 {
		r.stepRune()
	}
	r.endLine()
}

// stepRune takes the first rune of partial; a byte that isn't UTF-8 counts as
// U+FFFD, as in package regexp.
func (r *run) stepRune() {
	c, size := utf8.DecodeRune(r.partial)
	r.partial = r.partial[:copy(r.partial, r.partial[size:])]
	if c == '\n' {
		r.endLine()
		r.at += int64(size)
		return
	}
	context := syntax.EmptyOpContext(r.prev, c)
	r.meet(context)
	r.add(&r.met, thread{uint32(r.Start), r.at}, context) //nolint:gosec // an index of Inst
	r.at += int64(size)
	r.next.clear()
	for _, t := range r.met.list {
		if inst := &r.Inst[t.pc]; inst.MatchRune(c) {
			r.add(&r.next, thread{inst.Out, t.start}, unknown)
		}
	}
	r.cur, r.next = r.next, r.cur
	r.prev = c
}

// endLine settles what waits for the end of a line and forgets the rest.
func (r *run) endLine() {
	r.meet(syntax.EmptyOpContext(r.prev, -1))
	r.cur.clear()
	r.prev = -1
}

// unknown is the context of a position whose next rune has not come yet.
const unknown syntax.EmptyOp = 1 << 7

// meet fills met with the current threads, now that the rune that follows is
// known: those that wait at an assertion go on or end.
func (r *run) meet(context syntax.EmptyOp) {
	r.met.clear()
	for _, t := range r.cur.list {
		r.add(&r.met, t, context)
	}
}

// add enters a thread into a set, following what needs no rune.
func (r *run) add(set *threads, t thread, context syntax.EmptyOp) {
	if set.seen[t.pc] == set.now {
		return
	}
	set.seen[t.pc] = set.now
	switch inst := &r.Inst[t.pc]; inst.Op {
	case syntax.InstAlt, syntax.InstAltMatch:
		r.add(set, thread{inst.Out, t.start}, context)
		r.add(set, thread{inst.Arg, t.start}, context)
	case syntax.InstCapture, syntax.InstNop:
		r.add(set, thread{inst.Out, t.start}, context)
	case syntax.InstEmptyWidth:
		if context == unknown {
			set.list = append(set.list, t)
		} else if syntax.EmptyOp(inst.Arg)&^context == 0 { //nolint:gosec // eight bits by definition
			r.add(set, thread{inst.Out, t.start}, context)
		}
	case syntax.InstMatch:
		if t.start < r.at {
			r.found(max(t.start, r.at-MaxMatch), r.at)
		}
	case syntax.InstRune, syntax.InstRune1, syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
		set.list = append(set.list, t)
	case syntax.InstFail:
	}
}
