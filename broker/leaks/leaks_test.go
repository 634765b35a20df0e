package leaks

import (
	"fmt"
	"testing"

	"github.com/daypass/daypass/issuers"
)

// find runs a text through a finder in pieces of n bytes.
func find(t testing.TB, f *Finder, text []byte, n int) []string {
	t.Helper()
	var hits []string
	s := f.Stream(func(h Hit) error {
		hits = append(hits, fmt.Sprintf("%d+%d %s %s %c %d", h.Offset, h.Length, h.Form, h.Value, max(h.Token, '-'), h.Ref))
		return nil
	})
	for len(text) > 0 {
		k := min(n, len(text))
		if _, err := s.Write(text[:k]); err != nil {
			t.Fatal(err)
		}
		text = text[k:]
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return hits
}

func token(kind byte) string { return issuers.Generate(kind).Reveal() }

func TestTokensAndAnchorsAsTheyAre(t *testing.T) {
	one, two := token('s'), token('p')
	value := "eyJhbGciOiJ9.eyJzdWIi.c2lnbmF0dXJlLXJhbmRvbQ"
	anchors := NewAnchors()
	a := Anchor{Window: [8]byte([]byte(value[30:38])), Offset: 30, Length: len(value), Ref: 7}
	if err := anchors.Add(a); err != nil {
		t.Fatal(err)
	}
	text := []byte("x" + one + two + " " + value)
	want := []string{
		fmt.Sprintf("1+37  %s s 0", one), fmt.Sprintf("38+37  %s p 0", two), fmt.Sprintf("76+%d  %s - 7", len(value), value),
	}
	for n := 1; n < 50; n++ {
		if got := find(t, New(Config{Tokens: true, Anchors: anchors}), text, n); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("in pieces of %d: got %q, want %q", n, got, want)
		}
	}
	anchors.Remove(a)
	if got := find(t, New(Config{Tokens: true, Anchors: anchors}), text, 9); len(got) != 2 {
		t.Errorf("after its removal: %q", got)
	}
}
