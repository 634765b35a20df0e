package redact

import "strings"

// needles are what is looked for: all forms of all values, without line ends,
// which the scanner passes over.
func needles(values []string) []string {
	var all set
	for _, value := range values {
		for _, form := range forms(value).list {
			all.add(unbroken(form))
		}
	}
	return all.list
}

func unbroken(s string) string {
	return strings.NewReplacer("\r", "", "\n", "").Replace(s)
}

func newValues(list []string) *values {
	all := needles(list)
	if len(all) == 0 {
		return nil
	}
	v := &values{trie: newTrie(), filter: newFilter(all)}
	for _, needle := range all {
		v.trie.add(needle)
	}
	v.trie.link()
	return v
}
