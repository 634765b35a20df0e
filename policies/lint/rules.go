package lint

import "slices"

// Rule is one rule of the linter.
type Rule struct {
	ID       string   // GEN-003
	Severity Severity // of most of its findings
	Title    string   // what it finds, in one line
	Why      string
	Fix      string
	Source   string
}

// Rules lists all rules in the order of their ids.
func Rules() []Rule { return nil }

// Lookup finds a rule by its id.
func Lookup(id string) (Rule, bool) {
	i := slices.IndexFunc(Rules(), func(r Rule) bool { return r.ID == id })
	if i < 0 {
		return Rule{}, false
	}
	return Rules()[i], true
}
