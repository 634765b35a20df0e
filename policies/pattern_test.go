package policies

import (
	"errors"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/daypass/daypass/policies/pattern"
)

// The patterns of the property test, as they are written into the file.
type (
	globbed struct {
		Glob string `json:"glob"`
	}
	matching struct {
		Regex string `json:"regex"`
	}
	containing struct {
		Contains any `json:"contains"`
	}
)

func patterns(value *rapid.Generator[any]) *rapid.Generator[any] {
	return rapid.OneOf(
		rapid.Map(rapid.SampledFrom([]string{"a*", "*b", "a/*", "a**", "**/b", "a*b", "a**a", "a?*", "*a*", "[ab]*"}), func(s string) any { return globbed{s} }),
		rapid.Map(rapid.SampledFrom([]string{"a|b", "a", "[0-9]+", "a(?:/b)?", "^a.*$", "(?m)^ab$", "a|ab|a-b/a"}), func(s string) any { return matching{s} }),
		rapid.Map(value, func(v any) any { return containing{v} }),
	)
}

// naiveMatch is one line of a job entry, read by somebody with patience.
func naiveMatch(want, got any) bool {
	text, isText := got.(string)
	list, isList := got.([]any)
	switch w := want.(type) {
	case globbed:
		return isText && naiveGlob(w.Glob, text)
	case matching: // the longest match from the left, all of the text or nothing
		expression := regexp.MustCompile(w.Regex)
		expression.Longest()
		at := expression.FindStringIndex(text)
		return isText && at != nil && at[0] == 0 && at[1] == len(text)
	case containing:
		return isList && slices.Contains(list, w.Contains)
	default:
		return !isList && want == got
	}
}

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

func TestPatternsMatch(t *testing.T) {
	for _, tc := range []struct {
		pattern string
		yes, no []any
	}{
		{"{regex: 'A|B'}", []any{"A", "B"}, []any{"A-evil", "evil-B", "AB", "", "A\n", "\nB", int64(1), true, nil, []any{"A"}}},
		{"{regex: '^A|B$'}", []any{"A", "B"}, []any{"A-evil", "evil-B"}},
		{"{regex: '(?m)^A$'}", []any{"A"}, []any{"A\nevil", "evil\nA"}},
		{"{regex: '(?i)a'}", []any{"A", "a"}, []any{"aa"}},
		{"{regex: 'v[0-9]+\\.[0-9]+'}", []any{"v1.2"}, []any{"v1x2", "v1.2-evil", "xv1.2"}},
		{"{glob: refs/tags/v*}", []any{"refs/tags/v1", "refs/tags/v"}, []any{"refs/tags/v1/x", "refs/tags/w", "xrefs/tags/v1", "refs/tags/", nil, []any{"refs/tags/v1"}}},
		{"{glob: refs/heads/**}", []any{"refs/heads/a", "refs/heads/a/b/c"}, []any{"refs/head", "refs/tags/a"}},
		{"{glob: 'a?[b-c].*'}", []any{"a?[b-c].x"}, []any{"axb.x", "a?b.x", "a?[b-c]yx"}},
		{"{glob: '1*'}", []any{"1", "12"}, []any{int64(1), int64(12), 1.5, true}},
		{"{glob: 't*'}", []any{"true"}, []any{true, "a\xff", "t\xff", "t" + strings.Repeat("a", pattern.MaxText)}},
		{"{contains: a}", []any{[]any{"a"}, []any{int64(1), nil, map[string]any{}, []any{}, "a"}}, []any{"a", []any{}, []any{"ab"}, []any{[]any{"a"}}, map[string]any{"a": "a"}, nil}},
		{"{contains: 1}", []any{[]any{int64(1)}, []any{1.0}}, []any{[]any{"1"}, []any{true}, []any{1.5}, int64(1)}},
		{"{contains: true}", []any{[]any{true}}, []any{[]any{"true"}, true}},
		{"[main, {glob: release/*}, {regex: 'v[0-9]'}, {contains: x}, 7]", []any{"main", "release/1", "v1", []any{"x"}, int64(7)}, []any{"main2", "release/1/2", "v10", []any{"main"}, "x", "7"}},
	} {
		set := mustLoad(t, strings.NewReplacer("github", "oidc", `repository_id: "1"`, "x: "+tc.pattern).Replace(minimal))
		decide := func(value any) error {
			_, err := set.Decide(Identity{Provider: "oidc", Claims: map[string]any{"x": value}}, Request{Grant: "p/g"}, noon)
			return err
		}
		for _, value := range tc.yes {
			if err := decide(value); err != nil {
				t.Errorf("%s refuses %#v: %v", tc.pattern, value, err)
			}
		}
		for _, value := range tc.no {
			if decide(value) == nil {
				t.Errorf("%s lets %#v in", tc.pattern, value)
			}
		}
	}
}

// A pattern's claim is named as any other is, but a token that only fits a
// pattern for an id is a stranger still.
func TestPatternsInDenials(t *testing.T) {
	set := mustLoad(t, strings.Replace(minimal, `repository_id: "1"`, `repository_id: ["1", {glob: 2*}], repository_owner_id: "2", ref: {glob: refs/tags/*}`, 1))
	for id, want := range map[string][]string{"1": {"ref"}, "2": nil, "3": nil} {
		_, err := set.Decide(github("repository_id="+id), Request{Grant: "p/g"}, noon)
		var denial *Denial
		if !errors.As(err, &denial) || !reflect.DeepEqual(denial.Claims, want) {
			t.Errorf("id %s: %v, %+v, want claims %q", id, err, denial, want)
		}
		if _, err := set.Decide(github("repository_id="+id, "ref=refs/tags/v1"), Request{Grant: "p/g"}, noon); (err == nil) != (id != "3") {
			t.Errorf("id %s with a tag: %v", id, err)
		}
	}
}

func TestPatternsCompileOnce(t *testing.T) {
	text := strings.Replace(minimal, `repository_id: "1"`, `ref: {glob: refs/tags/*}, repository_id: "1"`, 1)
	set := mustLoad(t, text, strings.Replace(text, "policy: p", "policy: q", 1))
	if set.policies["p"].jobs[0].claims[0].patterns[0] != set.policies["q"].jobs[0].claims[0].patterns[0] {
		t.Error("one pattern was compiled twice")
	}
}
