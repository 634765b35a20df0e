package strictyaml

import (
	"slices"
	"strings"
)

// compared is how many bytes of a word are compared.
const compared = 64

// Suggest is a hint that names the known word nearest to what was written, or
// else all known words where they are few; "" when there is nothing to say.
func Suggest(word string, known []string) string {
	if best := Nearest(word, known); best != "" {
		return "did you mean " + best + "?"
	}
	if len(known) == 0 || len(known) > 24 {
		return ""
	}
	sorted := slices.Sorted(slices.Values(known))
	return "known are " + strings.Join(sorted, ", ")
}

// Nearest is the known word nearest to what was written, whatever the case; ""
// when none is near.
func Nearest(word string, known []string) string {
	best, distance := "", 1+max(1, min(len(word), compared)/3)
	for _, candidate := range known {
		if d := editDistance(strings.ToLower(word), strings.ToLower(candidate)); d < distance {
			best, distance = candidate, d
		}
	}
	return best
}

// editDistance is how many letters have to be added, removed, changed or
// swapped with their neighbour to make b of a. Long words are compared by their
// beginnings, which keeps the work small whatever the file holds.
func editDistance(a, b string) int {
	a, b = a[:min(len(a), compared)], b[:min(len(b), compared)]
	var before, previous []int
	current := make([]int, len(b)+1)
	for j := range current {
		current[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, previous, current = previous, current, make([]int, len(b)+1)
		current[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			current[j] = min(previous[j]+1, current[j-1]+1, previous[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				current[j] = min(current[j], before[j-2]+1)
			}
		}
	}
	return current[len(b)]
}
