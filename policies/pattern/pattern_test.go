package pattern

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// naiveGlob tries all ways in which the stars could stand for something.
func naiveGlob(glob, text string) bool {
	if glob == "" {
		return text == ""
	}
	if rest, ok := strings.CutPrefix(glob, "**"); ok {
		return naiveGlob(rest, text) || text != "" && naiveGlob(glob, text[1:])
	}
	if rest, ok := strings.CutPrefix(glob, "*"); ok {
		return naiveGlob(rest, text) || text != "" && text[0] != '/' && naiveGlob(glob, text[1:])
	}
	return text != "" && text[0] == glob[0] && naiveGlob(glob[1:], text[1:])
}

func TestGlobAgreesWithNaive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		glob := rapid.StringMatching(`[ab/*?.+()\[\]\\^$|{}\n]{1,8}`).Draw(t, "glob")
		expression, err := globExpression(glob)
		if err != nil {
			if !strings.Contains(glob, "***") {
				t.Fatal(err)
			}
			return
		}
		compiled, err := anchored(expression)
		if err != nil {
			if !naiveGlob(glob, "") {
				t.Fatal(err)
			}
			return
		}
		near := rapid.Map(rapid.Just(glob), func(s string) string { return strings.ReplaceAll(s, "*", "a/b") })
		text := rapid.OneOf(rapid.StringMatching(`[ab/*?.\n]{0,8}`), near).Draw(t, "text")
		if got, want := compiled.MatchString(text), naiveGlob(glob, text); got != want {
			t.Fatalf("%q fits %q: %v, want %v", glob, text, got, want)
		}
	})
}

// FuzzPattern: whatever loads matches a text as a whole, and never the empty one.
func FuzzPattern(f *testing.F) {
	for _, seed := range []string{"A|B", "x)|(", `\Qx`, `\Qx\E`, "(?m)^a$", "(?s).+", "a{1000}", "[a-z]+", "(?:a", "[^]", "a**b*", "refs/tags/v*"} {
		f.Add(seed, "A-evil")
	}
	f.Fuzz(func(t *testing.T, expression, text string) {
		if len(expression) > Max {
			return
		}
		pattern, err := anchored(expression)
		if err != nil {
			return
		}
		if pattern.MatchString("") {
			t.Fatal("matches an empty text")
		}
		raw := regexp.MustCompile(expression)
		raw.Longest()
		if at := pattern.FindStringIndex(text); at != nil && (at[0] != 0 || at[1] != len(text) || !raw.MatchString(text)) {
			t.Fatalf("%q matches %q at %v, by itself %v", expression, text, at, raw.FindStringIndex(text))
		}
	})
}
