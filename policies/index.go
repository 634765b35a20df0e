package policies

import (
	"slices"

	"github.com/daypass/daypass/policies/catalogue"
	"github.com/daypass/daypass/policies/condition"
)

// fewJobs is up to how many job entries are looked at one by one.
const fewJobs = 8

// index finds the job entries of a grant that could have anything to do with a
// token: those that name one of its ids, and those that name none. The others
// can't match it, aren't its own, and have no half of a pair in common with it.
type index struct {
	byID   map[idKey][]int
	paths  map[string][]string // provider → paths that byID knows
	always []int
}

type idKey struct {
	provider, path string
	value          any // string or int64
}

// newIndex returns nil where there are few jobs.
func newIndex(jobs []*job) *index {
	if len(jobs) <= fewJobs {
		return nil
	}
	x := &index{byID: make(map[idKey][]int), paths: make(map[string][]string)}
	for n, j := range jobs {
		if len(j.tenants) == 0 || !j.tenants[0].exact {
			x.always = append(x.always, n)
			continue
		}
		x.add(n, j.provider, j.tenants[0].path, j.tenants[0].values)
		for i := range j.claims { // the other halves of pairs
			for _, p := range j.claims[i].pairs {
				x.add(n, j.provider, j.claims[i].path, []any{p.name})
				x.add(n, j.provider, j.claims[i].idPath, []any{p.id})
			}
		}
	}
	return x
}

func (x *index) add(n int, provider, path string, values []any) {
	if !slices.Contains(x.paths[provider], path) {
		x.paths[provider] = append(x.paths[provider], path)
	}
	for _, value := range values {
		key := idKey{provider, path, value}
		if !slices.Contains(x.byID[key], n) {
			x.byID[key] = append(x.byID[key], n)
		}
	}
}

// candidates are the jobs to look at for this token, in their order.
func (g *grant) candidates(id *Identity) []*job {
	x := g.index
	if x == nil {
		return g.jobs
	}
	found := slices.Clone(x.always)
	for _, path := range x.paths[id.Provider] {
		switch value := condition.Canonical(catalogue.Value(id.Claims, path)).(type) {
		case string, int64:
			found = append(found, x.byID[idKey{id.Provider, path, value}]...)
		default:
		}
	}
	slices.Sort(found)
	found = slices.Compact(found)
	list := make([]*job, len(found))
	for i, n := range found {
		list[i] = g.jobs[n]
	}
	return list
}
