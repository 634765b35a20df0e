package policies

import (
	"context"
	"maps"
	"slices"
)

// Size is how many policies and grants a set has.
func (s *Set) Size() (policies, grants int) { return len(s.policies), len(s.grants) }

// Changes are the policies, by name and in order, in which two sets differ.
type Changes struct {
	Added, Removed []string
	// Changed are those of both sets whose files differ: what they mean may, or may not.
	Changed []string
}

// Compare says what another set changes of this one. Both must have been loaded
// with the same Config.
func (s *Set) Compare(next *Set) Changes {
	var c Changes
	for _, name := range slices.Sorted(maps.Keys(s.policies)) {
		switch p, found := next.policies[name]; {
		case !found:
			c.Removed = append(c.Removed, name)
		case p.sum != s.policies[name].sum:
			c.Changed = append(c.Changed, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(next.policies)) {
		if _, found := s.policies[name]; !found {
			c.Added = append(c.Added, name)
		}
	}
	return c
}

// Digest reads a source's files once and returns the digest that a set of them
// would have, whether they are right or not.
func Digest(ctx context.Context, src Source) (string, error) {
	files, err := readFiles(ctx, src)
	if err != nil {
		return "", err
	}
	return digest(files), nil
}
