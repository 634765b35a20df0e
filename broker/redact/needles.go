package redact

import "strings"

// newValues prepares what is looked for: all forms of all values, without line
// ends, which the scanner passes over.
func newValues(list []string) *values {
	var bare set
	v := &values{trie: newTrie()}
	for _, value := range list {
		for _, form := range forms(value).list {
			if needle := unbroken(form); len(needle) >= MinValue {
				bare.add(needle)
				v.trie.add(form)
			}
		}
	}
	if len(bare.list) == 0 {
		return nil
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
