package disclosures

import (
	"context"
	"errors"
	"slices"

	"github.com/daypass/daypass/broker/leaks"
)

// MaxTokens is how many tokens one report may hold.
const MaxTokens = 1000

// Token is one that somebody else found, and where.
type Token struct{ Value, Source string }

// Report takes what the secret scanning of others found, puts it on record, and takes
// it back. It says of each token whether it is one that was given out here. The same
// report may come any number of times.
func (s *Service) Report(ctx context.Context, actor string, tokens []Token) (known []bool, err error) {
	end, err := s.place()
	if err != nil {
		return nil, err
	}
	defer end()
	anchors, err := s.known.get(ctx)
	if err != nil {
		return nil, err
	}
	search := &Search{Scope: Scope{Actor: actor}, Revoke: true}
	r := &run{service: s, search: search, ctx: ctx, report: &Report{}, reported: map[[33]byte]*Finding{}}
	finder := leaks.New(leaks.Config{Tokens: true, Encoded: true, Anchors: anchors})
	of := make([][]*Finding, len(tokens)) // what each token may be
	for i, token := range tokens {
		r.source = CleanSource(token.Source)
		whole := false
		note := func(h leaks.Hit) error {
			of[i] = append(of[i], r.hear(h))
			whole = whole || string(h.Value) == token.Value
			return nil
		}
		stream := finder.Stream(note)
		if _, err := stream.Write([]byte(token.Value)); err != nil {
			return nil, err
		}
		if err := stream.Close(); err != nil {
			return nil, err
		}
		if !whole { // what it is may be told by its fingerprint alone
			of[i] = append(of[i], r.hear(leaks.Hit{Value: []byte(token.Value), Length: len(token.Value)}))
		}
	}
	for batch := range slices.Chunk(r.waiting, perBatch) {
		r.waiting = batch
		if err := r.look(); err != nil && !errors.Is(err, errFull) {
			return nil, err
		}
	}
	known = make([]bool, len(tokens))
	for i := range of {
		known[i] = slices.ContainsFunc(of[i], func(f *Finding) bool { return f.identified() })
	}
	return known, nil
}

// hear notes one thing that a report may be about. What is reported from two places
// is looked up once.
func (r *run) hear(h leaks.Hit) *Finding {
	f, key := r.finding(h)
	if before := r.reported[key]; before != nil {
		if !slices.Contains(before.sources, r.source) {
			before.sources = append(before.sources, r.source)
		}
		return before
	}
	r.reported[key] = f
	r.waiting = append(r.waiting, f)
	return f
}
