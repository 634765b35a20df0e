package redact

import "strings"

// newValues prepares what is looked for: all forms of all values, without line
// ends, which the scanner passes over.
func newValues(list []string) *values {
	var all set
	size := 0
	for _, value := range list {
		for _, form := range forms(value).list {
			if needle := unbroken(form); len(needle) >= MinValue {
				all.add(needle)
				size += len(needle)
			}
		}
	}
	if size == 0 {
		return nil
	}
	v := &values{trie: newTrie(size)}
	for _, needle := range all.list {
		v.trie.add(needle)
	}
	v.trie.link()
	v.filter = newFilter(all.list)
	return v
}

func unbroken(s string) string {
	if !strings.ContainsAny(s, "\r\n") {
		return s
	}
	return strings.NewReplacer("\r", "", "\n", "").Replace(s)
}
