// Package compare says what differs between two sets of policy files in the terms
// of who may have what: which grants widen, which narrow.
//
// It judges by claims, lists of jobs, lifetimes and limits, where one can be told
// to be more than the other. A condition that changed is shown and never judged,
// nor is a pattern that isn't provably more or less than what it replaces.
package compare

import (
	"cmp"
	"maps"
	"slices"

	"github.com/daypass/daypass/policies/document"
	"github.com/daypass/daypass/policies/strictyaml"
)

// Effect is what a change does to who may have a grant, and for how long.
type Effect string

// The effects.
const (
	Widens  Effect = "widens"  // more jobs, or for longer
	Narrows Effect = "narrows" // fewer, or for less long
	Both    Effect = "both"    // of a grant: some of its changes widen it, others narrow it
	Changed Effect = "changed" // can't be ordered
	Same    Effect = "same"    // the file says it differently, and means as much
)

// Change is one difference.
type Change struct {
	Effect Effect
	Text   string         // for people
	At     strictyaml.Pos // in the new file; in the old one for what was removed
}

// Grant is what differs about one grant.
type Grant struct {
	Name   string // POLICY/GRANT
	Status string // added, removed or changed
	Effect Effect
	// Unordered says that, whatever Effect says, some of its changes can't be ordered.
	Unordered bool
	Changes   []Change
}

// Policy is what differs about a policy as a whole.
type Policy struct {
	Name    string
	Status  string // added, removed or changed
	Changes []Change
}

// The values of Status.
const (
	StatusAdded   = "added"
	StatusRemoved = "removed"
	StatusChanged = "changed"
)

// Report is all that differs, in the order of names.
type Report struct {
	Policies []Policy
	Grants   []Grant
}

// MayWiden says whether somebody might get something after the change who didn't
// before: some grant widens, or changes in a way that can't be ordered.
func (r *Report) MayWiden() bool {
	return slices.ContainsFunc(r.Grants, func(g Grant) bool {
		return g.Effect == Widens || g.Effect == Both || g.Unordered
	})
}

// Compare compares two sets of files that were read without a mistake.
func Compare(before, after []*document.File) *Report {
	olds, news := byName(before), byName(after)
	names := maps.Clone(olds)
	maps.Copy(names, news)
	report := &Report{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		report.policy(name, olds[name], news[name])
	}
	slices.SortStableFunc(report.Grants, func(a, b Grant) int { return cmp.Compare(a.Name, b.Name) })
	return report
}

func byName(files []*document.File) map[string]*document.Policy {
	policies := make(map[string]*document.Policy, len(files))
	for _, f := range files {
		policies[f.Policy.Name] = &f.Policy
	}
	return policies
}

// policy compares one policy; before or after is nil where it isn't there.
func (r *Report) policy(name string, before, after *document.Policy) {
	switch {
	case before == nil:
		r.Policies = append(r.Policies, Policy{Name: name, Status: StatusAdded, Changes: []Change{{Widens, "the policy is new", after.At.Of("policy")}}})
		before = &document.Policy{}
	case after == nil:
		r.Policies = append(r.Policies, Policy{Name: name, Status: StatusRemoved, Changes: []Change{{Narrows, "the policy is gone", before.At.Of("policy")}}})
		after = &document.Policy{}
	default:
		c := &changes{}
		c.head(before, after)
		if len(c.list) > 0 {
			r.Policies = append(r.Policies, Policy{Name: name, Status: StatusChanged, Changes: c.list})
		}
	}
	for i := range before.Grants {
		old := &before.Grants[i]
		next := grantOf(after, old.Name)
		if next == nil {
			r.add(Grant{Name: name + "/" + old.Name, Status: StatusRemoved, Changes: []Change{{Narrows, "the grant is gone", old.At.Pos}}})
			continue
		}
		c := &changes{}
		c.grant(old, next)
		c.jobs(jobsOf(before, old), jobsOf(after, next))
		c.exceptions(exceptionsOf(before, old.Name), exceptionsOf(after, old.Name))
		if before.Session != after.Session {
			c.session(before, after)
		}
		if before.Environment != after.Environment {
			c.add(Changed, after.At.Of("environment"), "environment %s is %s now", before.Environment, after.Environment)
		}
		r.add(Grant{Name: name + "/" + old.Name, Status: StatusChanged, Changes: c.list})
	}
	for i := range after.Grants {
		if next := &after.Grants[i]; grantOf(before, next.Name) == nil {
			c := &changes{}
			c.add(Widens, next.At.Pos, "the grant is new")
			for _, j := range jobsOf(after, next) {
				c.add(Widens, j.At.Pos, "job %s may have it", j.Name)
			}
			c.exceptions(nil, exceptionsOf(after, next.Name))
			r.add(Grant{Name: name + "/" + next.Name, Status: StatusAdded, Changes: c.list})
		}
	}
}

// add judges a grant by its changes and takes it in, unless there are none.
func (r *Report) add(g Grant) {
	if len(g.Changes) == 0 {
		return
	}
	widens, narrows := false, false
	for _, c := range g.Changes {
		switch c.Effect {
		case Widens:
			widens = true
		case Narrows:
			narrows = true
		case Changed:
			g.Unordered = true
		default:
		}
	}
	switch {
	case widens && narrows:
		g.Effect = Both
	case widens:
		g.Effect = Widens
	case narrows:
		g.Effect = Narrows
	case g.Unordered:
		g.Effect = Changed
	default:
		g.Effect = Same
	}
	r.Grants = append(r.Grants, g)
}

func grantOf(p *document.Policy, name string) *document.Grant {
	i := slices.IndexFunc(p.Grants, func(g document.Grant) bool { return g.Name == name })
	if i < 0 {
		return nil
	}
	return &p.Grants[i]
}

// jobsOf are the job entries that may have a grant.
func jobsOf(p *document.Policy, g *document.Grant) []*document.Job {
	var list []*document.Job
	for i := range p.Jobs {
		if !g.At.Has("jobs") || slices.Contains(g.Jobs, p.Jobs[i].Name) {
			list = append(list, &p.Jobs[i])
		}
	}
	return list
}

func exceptionsOf(p *document.Policy, grant string) []*document.Exception {
	var list []*document.Exception
	for i := range p.Exceptions {
		if p.Exceptions[i].Grant == grant {
			list = append(list, &p.Exceptions[i])
		}
	}
	return list
}
