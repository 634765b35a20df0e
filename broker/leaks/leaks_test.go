package leaks

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/daypass/daypass/issuers"
)

// failing is what a test and a property have in common.
type failing interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// told is a hit, as tests compare it.
type told struct {
	offset, length int
	form, value    string
	token          byte
	ref            uint64
}

// find runs a text through a finder, in pieces that next says the lengths of.
func find(t failing, f *Finder, text []byte, next func() int) []told {
	t.Helper()
	hits := []told{}
	s := f.Stream(func(h Hit) error {
		hits = append(hits, told{int(h.Offset), h.Length, h.Form, string(h.Value), h.Token, h.Ref})
		return nil
	})
	size := int64(len(text))
	for len(text) > 0 {
		k := min(max(next(), 1), len(text))
		if n, err := s.Write(text[:k]); n != k || err != nil {
			t.Fatalf("wrote %d of %d: %v", n, k, err)
		}
		text = text[k:]
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s.Bytes() != size {
		t.Fatalf("%d bytes, want %d", s.Bytes(), size)
	}
	slices.SortFunc(hits, func(a, b told) int {
		return strings.Compare(fmt.Sprintf("%012d %v", a.offset, a), fmt.Sprintf("%012d %v", b.offset, b))
	})
	return hits
}

func whole() int { return 1 << 30 }

func token(kind byte) string { return issuers.Generate(kind).Reveal() }

// jwt is a value of another shape, and an anchor for it.
func jwt(ref uint64) (string, Anchor) {
	const header, letters = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJkYXlwYXNzOm1haW4vcGF5bWVudHMvZGVwbG95In0.", "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	value := []byte(header)
	for range 86 {
		value = append(value, letters[rand.IntN(len(letters))])
	}
	return string(value), anchor(string(value), len(header)+rand.IntN(86-Window), ref)
}

func anchor(value string, offset int, ref uint64) Anchor {
	return Anchor{Window: [Window]byte([]byte(value[offset:])), Offset: offset, Length: len(value), Ref: ref}
}

func anchorsOf(t testing.TB, anchors ...Anchor) *Anchors {
	t.Helper()
	set := NewAnchors()
	if err := set.Add(anchors...); err != nil {
		t.Fatal(err)
	}
	return set
}

func TestWhatAdjoinsIsFound(t *testing.T) {
	one, two := token('s'), token('p')
	value, a := jwt(7)
	anchors := anchorsOf(t, a)
	text := []byte("xdp_dpd_" + one + two + value + value + one[:36])
	want := []told{
		{8, 37, "", one, 's', 0},
		{45, 37, "", two, 'p', 0},
		{82, len(value), "", value, 0, 7},
		{82 + len(value), len(value), "", value, 0, 7},
	}
	for n := 1; n < 50; n++ {
		for _, encoded := range []bool{false, true} {
			got := find(t, New(Config{Tokens: true, Encoded: encoded, Anchors: anchors}), text, func() int { return n })
			if !slices.Equal(got, want) {
				t.Fatalf("in pieces of %d: got %v, want %v", n, got, want)
			}
		}
	}
	anchors.Remove(a, a)
	if got := find(t, New(Config{Tokens: true, Anchors: anchors}), text, whole); len(got) != 2 || anchors.Len() != 0 {
		t.Errorf("after its removal: %v", got)
	}
	if got := find(t, New(Config{Anchors: anchors}), text, whole); len(got) != 0 {
		t.Errorf("asked for nothing: %v", got)
	}
}

// TestOverlap: the checksum of a token may end like the prefix of one.
func TestOverlap(t *testing.T) {
	one := token('s')
	for one[34:36] != "dp" || one[36] < 'a' || one[36] > 'z' { // one of 9,000
		one = token('s')
	}
	two := token(one[36])
	text := "=" + one + two[3:]
	want := []told{{1, 37, "", one, 's', 0}, {35, 37, "", two, one[36], 0}}
	if got := find(t, New(Config{Tokens: true}), []byte(text), whole); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// naive is what a finder of tokens and values must find, tried at every place.
func naive(text []byte, anchors []Anchor) []told {
	var want []told
	for i := range text {
		if i+tokenLength <= len(text) {
			if kind, ok := issuers.IsGenerated(string(text[i : i+tokenLength])); ok {
				want = append(want, told{i, tokenLength, "", string(text[i : i+tokenLength]), kind, 0})
			}
		}
		for _, a := range anchors {
			if at := i + a.Offset; i+a.Length <= len(text) && string(text[at:at+Window]) == string(a.Window[:]) {
				want = append(want, told{i, a.Length, "", string(text[i : i+a.Length]), 0, a.Ref})
			}
		}
	}
	slices.SortFunc(want, func(a, b told) int {
		return strings.Compare(fmt.Sprintf("%012d %v", a.offset, a), fmt.Sprintf("%012d %v", b.offset, b))
	})
	return want
}

// TestAgainstOracle: whatever the text, its cuts and the blocks, the same is found
// as by trying every place.
func TestAgainstOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var anchors []Anchor
		pieces := []string{"dp", "dps_", "_", "=", " ", "\n", "0", "ABCDEFGHIJ", "\x00", "\xff\xfe", token('s'), token('a')}
		for i := range rapid.IntRange(0, 4).Draw(t, "values") {
			value := rapid.StringMatching(`[ab]{8,40}`).Draw(t, "value")
			anchors = append(anchors, anchor(value, rapid.IntRange(0, len(value)-Window).Draw(t, "at"), uint64(i)))
			pieces = append(pieces, value, value[:len(value)/2])
		}
		pieces = append(pieces, pieces[10][:20], pieces[10][20:])
		text := []byte(strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 40).Draw(t, "text"), ""))
		set := NewAnchors()
		if err := set.Add(anchors...); err != nil {
			t.Fatal(err)
		}
		f := New(Config{Tokens: true, Anchors: set})
		f.block = rapid.IntRange(1, 300).Draw(t, "block")
		got := find(t, f, text, func() int { return rapid.IntRange(1, 100).Draw(t, "piece") })
		if want := naive(text, anchors); !slices.Equal(got, append([]told{}, want...)) {
			t.Fatalf("in blocks of %d: got %v, want %v", f.block, got, want)
		}
	})
}

func TestErrors(t *testing.T) {
	stop := errors.New("enough")
	s := New(Config{Tokens: true}).Stream(func(Hit) error { return stop })
	if n, err := s.ReadFrom(strings.NewReader(token('s'))); n != tokenLength || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if err := s.Close(); !errors.Is(err, stop) {
		t.Errorf("got %v, want what the caller said", err)
	}
	if _, err := s.Write([]byte("x")); !errors.Is(err, stop) {
		t.Errorf("a write after it: %v", err)
	}
	s = New(Config{}).Stream(nil)
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
	if _, err := s.Write([]byte("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("a write after Close: %v", err)
	}
	for _, a := range []Anchor{{Offset: -1, Length: 20}, {Offset: 13, Length: 20}, {Length: MaxValue + 1}, {}} {
		if err := NewAnchors().Add(a); !errors.Is(err, ErrAnchor) {
			t.Errorf("%+v: %v", a, err)
		}
	}
}

// TestAnchorsChangeWhileStreamsRun also shows that found may change them itself.
func TestAnchorsChangeWhileStreamsRun(t *testing.T) {
	value, a := jwt(1)
	set := anchorsOf(t, a)
	f := New(Config{Anchors: set})
	text := []byte(strings.Repeat(value+"\n", 4000))
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() {
			n := 0
			s := f.Stream(func(h Hit) error {
				n++
				set.Remove(Anchor{Length: 9})
				return nil
			})
			if _, err := s.Write(text); err != nil {
				t.Error(err)
			}
			if err := s.Close(); err != nil || n != 4000 {
				t.Errorf("%d hits, %v", n, err)
			}
		})
	}
	for i := range uint64(3000) {
		_, other := jwt(i)
		if err := set.Add(other); err != nil {
			t.Fatal(err)
		}
		if i%3 != 0 {
			set.Remove(other)
		}
	}
	group.Wait()
	if set.Len() != 1001 {
		t.Errorf("%d anchors", set.Len())
	}
}

// TestFlood: who knows a value can't make the caller hash without end.
func TestFlood(t *testing.T) {
	value := strings.Repeat("01234567", MaxValue/8)
	set := anchorsOf(t, anchor(value, 4000, 1))
	text := []byte(strings.Repeat("01234567", 1<<17))
	total := 0
	s := New(Config{Anchors: set}).Stream(func(h Hit) error {
		total += h.Length
		return nil
	})
	if _, err := s.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if total < len(text) || total > 9*len(text) || s.Dropped() == 0 {
		t.Errorf("%d bytes of candidates in %d, %d dropped", total, len(text), s.Dropped())
	}
}
