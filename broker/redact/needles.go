package redact

import "strings"

// newValues prepares what is looked for: all forms of all values, without line
// ends, which the scanner passes over.
func newValues(list []string) *values {
	var whole, bare set
	size := 0
	for _, value := range list {
		for _, form := range forms(value).list {
			if needle := unbroken(form); len(needle) >= MinValue {
				whole.add(form)
				bare.add(needle)
				size += len(needle)
			}
		}
	}
	if size == 0 {
		return nil
	}
	v := &values{trie: newTrie(size)}
	for _, form := range whole.list {
		v.trie.add(form)
	}
	v.trie.link()
	v.filter = newFilter(bare.list)
	return v
}

func unbroken(s string) string {
	if !strings.ContainsAny(s, "\r\n") {
		return s
	}
	return strings.NewReplacer("\r", "", "\n", "").Replace(s)
}
