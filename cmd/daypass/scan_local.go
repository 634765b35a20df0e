package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sort"
	"strings"

	"github.com/daypass/daypass/broker/api"
	"github.com/daypass/daypass/broker/leaks"
	"github.com/daypass/daypass/issuers"
)

// localSearch finds tokens by their shape and checksum.
type localSearch struct {
	stream *leaks.Stream // of the text at hand
	text   scanText
	lines  lineCounter
}

func newLocalSearch(found func(scanText, int, leaks.Hit) error) *localSearch {
	l := &localSearch{}
	l.stream = leaks.New(leaks.Config{Tokens: true, Encoded: true}).Stream(func(hit leaks.Hit) error {
		return found(l.text, l.lines.line(hit.Offset), hit)
	})
	return l
}

func (l *localSearch) search(_ context.Context, text scanText, r io.Reader) error {
	l.stream.Reset()
	l.text, l.lines = text, lineCounter{ends: l.lines.ends[:0]}
	if _, err := l.stream.ReadFrom(io.TeeReader(r, &l.lines)); err != nil {
		return err
	}
	return l.stream.Close()
}

func (*localSearch) end(context.Context) error { return nil }

// lineCounter says in which line a byte stands that was written a while ago.
type lineCounter struct {
	bytes  int64
	before int     // lines that ended before those of ends
	ends   []int64 // where lines end
}

// reach is how far back a byte is asked for: what a stream may hold.
const reach = 1 << 20

// Write implements io.Writer.
func (l *lineCounter) Write(p []byte) (int, error) {
	if drop := sort.Search(len(l.ends), func(i int) bool { return l.ends[i] >= l.bytes-reach }); drop > len(l.ends)/2 {
		l.ends = l.ends[:copy(l.ends, l.ends[drop:])]
		l.before += drop
	}
	for i := 0; ; i++ {
		k := bytes.IndexByte(p[i:], '\n')
		if k < 0 {
			break
		}
		i += k
		l.ends = append(l.ends, l.bytes+int64(i))
	}
	l.bytes += int64(len(p))
	return len(p), nil
}

func (l *lineCounter) line(offset int64) int {
	return l.before + sort.Search(len(l.ends), func(i int) bool { return l.ends[i] >= offset }) + 1
}

// tellLocal notes a token of which only the shape is known.
func (s *scan) tellLocal(text scanText, line int, hit leaks.Hit) error {
	kind := map[byte]string{
		issuers.SessionToken: "session_token", issuers.APIToken: "api_token", issuers.Password: "password", issuers.AdminToken: "admin_token",
		issuers.VaultToken: "vault_token", issuers.RevocationToken: "revocation_token",
	}[hit.Token]
	if kind == "" {
		kind = "unknown_token"
	}
	s.leak(text, line, api.Leak{Kind: kind, Offset: hit.Offset, Length: hit.Length, Form: hit.Form})
	return nil
}

// tokenSearch finds tokens here and asks the broker whose they are.
type tokenSearch struct {
	*localSearch

	ask    *leakAsking
	scan   *scan
	tokens []string
	places map[string][]tokenPlace // by token
	stood  int
}

type tokenPlace struct {
	text   scanText
	line   int
	offset int64
	length int
	form   string
}

// maxStood bounds what is remembered of tokens.
const maxStood = 1 << 20

func newTokenSearch(ask *leakAsking, s *scan) *tokenSearch {
	t := &tokenSearch{ask: ask, scan: s, places: map[string][]tokenPlace{}}
	t.localSearch = newLocalSearch(t.note)
	return t
}

func (t *tokenSearch) note(text scanText, line int, hit leaks.Hit) error {
	if t.stood++; t.stood > maxStood {
		return fmt.Errorf("more than %d tokens: scan smaller parts", maxStood)
	}
	token := string(hit.Value)
	if t.places[token] == nil {
		t.tokens = append(t.tokens, token)
	}
	t.places[token] = append(t.places[token], tokenPlace{text, line, hit.Offset, hit.Length, hit.Form})
	return nil
}

// end asks about all tokens: one a line, each as long as the other.
func (t *tokenSearch) end(ctx context.Context) error {
	const atOnce = 5000
	for len(t.tokens) > 0 {
		some := t.tokens[:min(atOnce, len(t.tokens))]
		t.tokens = t.tokens[len(some):]
		answer, err := t.ask.leaks(ctx, strings.NewReader(strings.Join(some, "\n")+"\n"))
		if err != nil {
			return err
		}
		if answer.Truncated {
			t.scan.unread("some tokens", errTruncated)
		}
		for _, leak := range answer.Leaks {
			i := leak.Offset / (issuers.GeneratedLength + 1)
			if i < 0 || i >= int64(len(some)) {
				return errAnswer
			}
			for _, place := range t.places[some[i]] {
				leak.Offset, leak.Length, leak.Form = place.offset, place.length, place.form
				t.scan.leak(place.text, place.line, leak)
			}
		}
	}
	return nil
}
